//! Why a write did not happen, and so what to do about it.

use partyline_migrations::MigrateError;

/// Why a write did not happen. Nothing of it did.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A row breaks a rule of the schema or of a type: no repeat will help it.
    #[error("refused: {code} {message}")]
    Refused { code: String, message: String },
    /// Another transaction was in the way: at once again.
    #[error("conflict: {0}")]
    Conflict(#[source] sqlx::Error),
    /// Postgres is not there, not well, or not as it should be: later again.
    #[error("{0}")]
    Away(#[source] sqlx::Error),
    /// No answer in time.
    #[error("Postgres gives no answer")]
    Silent,
    /// Postgres lacks what was in it when JetStream was told so: it was restored, or a standby that lagged was promoted.
    #[error("Postgres is behind the log's acknowledgements")]
    Behind,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Encode(source) = &error {
            return Self::Refused { code: "encode".into(), message: source.to_string() };
        }
        let Some(database) = error.as_database_error() else { return Self::Away(error) };
        let code = database.code().unwrap_or_default().into_owned();
        match code.as_bytes() {
            // serialization_failure, deadlock_detected
            b"40001" | b"40P01" => Self::Conflict(error),
            // Data exception, integrity violation, check option, program limit (a value too long for an index),
            // an exception raised by somebody's trigger.
            [b'2', b'2' | b'3', ..] | [b'4', b'4', ..] | [b'5', b'4', ..] | [b'P', b'0', ..] => {
                Self::Refused { code, message: database.message().to_owned() }
            }
            _ => Self::Away(error),
        }
    }
}

/// Whether waiting may mend what kept the migrations from running: Postgres is not there yet, starting, or full, or a lock
/// was not free.
pub(super) fn may_pass(error: &MigrateError) -> bool {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else { return false };
    is_passing(cause)
}

/// Whether waiting may mend it.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    use sqlx::Error;
    match error {
        // TLS: a certificate may be replaced, and a server may learn to speak it.
        Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::Protocol(_) => true,
        Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            // Connection, operator intervention, out of resources, object in use, rolled back.
            ["08", "57", "53", "55", "40"].iter().any(|class| code.starts_with(class))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_no_refusal() {
        let broken = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(Failure::from(broken), Failure::Away(_)));
        assert!(matches!(Failure::from(sqlx::Error::PoolTimedOut), Failure::Away(_)));
    }
}
