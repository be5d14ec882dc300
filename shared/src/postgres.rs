//! Connections to Postgres: TLS, secrets in files, and a pooler in transaction mode in between
//! (docs/decisions/0025-tls-and-poolers.md).

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::{future::BoxFuture, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, Connection, Describe, Either, Execute, Executor, PgConnection, PgPool, Postgres, SqlStr,
    Transaction,
    postgres::{PgArguments, PgConnectOptions, PgQueryResult, PgRow, PgSslMode, PgStatement, PgTypeInfo},
};
use tokio::time::sleep;

use crate::{
    settings::{DatabaseSettings, Pooler},
    tasks, tls,
};

/// How often the files of the URL and the password are looked at.
const FILES_EVERY: Duration = Duration::from_secs(5);

/// How a program connects to Postgres, and how its statements run there.
#[derive(Clone, Debug)]
pub struct Database {
    settings: DatabaseSettings,
    program: &'static str,
    session: Session,
    parameters: &'static [(&'static str, &'static str)],
}

impl Database {
    /// `parameters` are Postgres's settings in each session of `program`.
    #[must_use]
    pub fn new(
        settings: &DatabaseSettings,
        program: &'static str,
        parameters: &'static [(&'static str, &'static str)],
    ) -> Self {
        let session = match settings.database_pooler {
            Pooler::None => Session::default(),
            Pooler::Transaction => Session::behind_a_pooler(parameters),
        };
        Self { settings: settings.clone(), program, session, parameters }
    }

    /// How statements run on connections with [`Self::options`].
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Reads the files of the settings and returns how to connect.
    ///
    /// # Errors
    /// One sentence that names the setting that is wrong.
    pub fn options(&self) -> Result<PgConnectOptions, String> {
        let options = self.plain_options()?;
        // A pooler takes few start-up parameters, and hands its server connections from client to client.
        Ok(if self.session.is_pooled() { options } else { options.options(self.parameters.iter().copied()) })
    }

    /// [`Self::options`] without the session's parameters: for a migration.
    ///
    /// # Errors
    /// As [`Self::options`].
    pub fn plain_options(&self) -> Result<PgConnectOptions, String> {
        tls::install_crypto_provider();
        let options = connect_options(&self.settings)?.application_name(self.program);
        Ok(if self.session.is_pooled() {
            options.extra_float_digits(None).statement_cache_capacity(0)
        } else {
            options
        })
    }

    /// Logs what the connection's TLS leaves open, unless the server is on this machine.
    pub fn log_what_is_not_protected(&self) {
        let Ok(options) = connect_options(&self.settings) else { return };
        if options.get_socket().is_some() || is_loopback(options.get_host()) {
            return;
        }
        match options.get_ssl_mode() {
            PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => tracing::warn!(
                "connections to Postgres may be plain text; set PARTYLINE_DATABASE_CA_FILE or sslmode=verify-full"
            ),
            PgSslMode::Require => tracing::warn!(
                "the certificate of Postgres is not checked (sslmode=require); set PARTYLINE_DATABASE_CA_FILE or \
                 sslmode=verify-full"
            ),
            PgSslMode::VerifyCa | PgSslMode::VerifyFull => {}
        }
    }

    /// Keeps the pool's way to connect as the files say, if the settings name files, which may be replaced at any time.
    /// Connections that stand stay.
    pub fn follow_files(&self, pool: &PgPool) {
        if self.settings.has_files() {
            let (database, pool) = (self.clone(), pool.clone());
            tokio::spawn(tasks::restarting("database_files", move || database.clone().reread_files(pool.clone())));
        }
    }

    async fn reread_files(self, pool: PgPool) {
        let files = [&self.settings.database_url_file, &self.settings.database_password_file];
        let read = || files.map(|path| path.as_ref().and_then(|path: &PathBuf| std::fs::read(path).ok()));
        let mut known = read();
        loop {
            sleep(FILES_EVERY).await;
            let found = read();
            if found == known {
                continue;
            }
            match self.options() {
                Ok(options) => {
                    pool.set_connect_options(options);
                    tracing::info!("the settings of new connections to Postgres were read again");
                }
                Err(error) => tracing::warn!(error, "the settings of connections to Postgres stay"),
            }
            known = found;
        }
    }
}

/// Returns how to connect by the settings alone.
///
/// # Errors
/// One sentence that names the setting that is wrong; no part of the URL, which may hold a password.
pub(crate) fn connect_options(settings: &DatabaseSettings) -> Result<PgConnectOptions, String> {
    let url = settings.url()?;
    let url = url.reveal();
    let name = settings.url_name();
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(format!("{name}: not a Postgres URL (postgres://user@host:port/database)"));
    }
    let parsed = url.parse::<PgConnectOptions>();
    let mut options = parsed.map_err(|error| format!("{name}: not a Postgres URL: {}", cause(&error)))?;
    if let Some(password) = settings.password().read()? {
        options = options.password(password.reveal());
    }
    let files = settings.tls();
    if let Some(ca) = files.ca {
        options = options.ssl_root_cert(ca);
        if !names_sslmode(url) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        if !matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
            return Err(format!(
                "PARTYLINE_DATABASE_CA_FILE: {name} has an sslmode that checks no certificate; \
                 leave sslmode out, or use verify-full"
            ));
        }
    }
    if let (Some(cert), Some(key)) = (files.cert, files.key) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
        if matches!(options.get_ssl_mode(), PgSslMode::Disable | PgSslMode::Allow) {
            return Err(format!("PARTYLINE_DATABASE_CERT_FILE: {name} has an sslmode without TLS"));
        }
    }
    Ok(options)
}

fn names_sslmode(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter_map(|pair| pair.split('=').next());
    names.into_iter().any(|name| matches!(name, "sslmode" | "ssl-mode")) || std::env::var_os("PGSSLMODE").is_some()
}

fn cause(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(cause) => cause.to_string(),
        error => error.to_string(),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || host.starts_with('/') || address.is_ok_and(|address| address.is_loopback())
}

/// How statements run on a connection: one by one and prepared, or, behind a pooler in transaction mode, unnamed and in
/// transactions. Such a pooler may give each transaction another server connection: a named statement would be missing
/// there or be another client's, and so would an unnamed one, which sqlx parses and executes in two steps.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Begins a transaction behind a pooler, and sets in it what the session's parameters are without one.
    begin: Option<Arc<str>>,
}

impl Session {
    fn behind_a_pooler(parameters: &[(&str, &str)]) -> Self {
        let settings = parameters.iter().map(|(name, value)| format!("; SET LOCAL {name} = '{value}'"));
        Self { begin: Some(std::iter::once("BEGIN".to_owned()).chain(settings).collect::<String>().into()) }
    }

    /// Whether there is a pooler in transaction mode in between.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.begin.is_some()
    }

    /// Runs statements that need no transaction of their own.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn statements<'c>(&self, connection: &'c mut PgConnection) -> sqlx::Result<Statements<'c>> {
        if self.is_pooled() { self.transaction(connection).await } else { Ok(Statements::Single(connection)) }
    }

    /// Runs statements in a transaction.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn transaction<'c>(&self, connection: &'c mut PgConnection) -> sqlx::Result<Statements<'c>> {
        let (transaction, named) = match &self.begin {
            None => (connection.begin().await?, true),
            Some(begin) => (connection.begin_with(AssertSqlSafe(begin.clone())).await?, false),
        };
        Ok(Statements::Transaction { transaction, named })
    }
}

/// Where statements run; dropped, a transaction is undone.
#[derive(Debug)]
pub enum Statements<'c> {
    /// Each by itself.
    Single(&'c mut PgConnection),
    Transaction {
        transaction: Transaction<'c, Postgres>,
        named: bool,
    },
}

impl Statements<'_> {
    /// Ends them; commits if they are a transaction.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn commit(self) -> sqlx::Result<()> {
        match self {
            Self::Single(_) => Ok(()),
            Self::Transaction { transaction, .. } => transaction.commit().await,
        }
    }

    fn parts(&mut self) -> (&mut PgConnection, bool) {
        match self {
            Self::Single(connection) => (connection, true),
            Self::Transaction { transaction, named } => (&mut **transaction, *named),
        }
    }
}

impl<'c> Executor<'c> for &'c mut Statements<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (connection, named) = self.parts();
        connection.fetch_many(Prepared { query, named })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (connection, named) = self.parts();
        connection.fetch_optional(Prepared { query, named })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.parts().0.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        self.parts().0.describe(sql)
    }
}

/// A query whose statement gets a name only if `named`.
struct Prepared<E> {
    query: E,
    named: bool,
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Prepared<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.named && self.query.persistent()
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn settings(args: &[&str]) -> DatabaseSettings {
        let command = DatabaseSettings::augment_args(clap::Command::new("test").no_binary_name(true));
        DatabaseSettings::from_arg_matches(&command.get_matches_from(args)).unwrap()
    }

    #[test]
    fn an_authority_means_that_its_certificates_are_checked() {
        let ca = ["--database-ca-file", "/ca.pem"];
        let mode = |url: &str| {
            let args = [&ca[..], &["--database-url", url]].concat();
            connect_options(&settings(&args)).map(|options| options.get_ssl_mode())
        };
        assert!(matches!(mode("postgres://u@h/d"), Ok(PgSslMode::VerifyFull)));
        assert!(matches!(mode("postgres://u@h/d?sslmode=verify-ca"), Ok(PgSslMode::VerifyCa)));
        for unchecked in ["disable", "prefer", "require"] {
            let error = mode(&format!("postgres://u:secret@h/d?sslmode={unchecked}")).unwrap_err();
            assert!(error.starts_with("PARTYLINE_DATABASE_CA_FILE: ") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_url_that_sqlx_would_not_take_is_named_without_its_password() {
        for wrong in ["postgres://u:secret@h:port/d", "postgres://u:secret@h/d?sslmode=maybe", "mysql://u:secret@h"] {
            let error = connect_options(&settings(&["--database-url", wrong])).unwrap_err();
            assert!(error.starts_with("PARTYLINE_DATABASE_URL: ") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn behind_a_pooler_parameters_are_set_in_each_transaction() {
        let args = ["--database-url", "postgres://u@h/d", "--database-pooler", "transaction"];
        let parameters: &[(&str, &str)] = &[("statement_timeout", "10000"), ("enable_hashjoin", "off")];
        let pooled = Database::new(&settings(&args), "test", parameters);
        let begin = "BEGIN; SET LOCAL statement_timeout = '10000'; SET LOCAL enable_hashjoin = 'off'";
        assert_eq!(pooled.session().begin.as_deref(), Some(begin));
        assert_eq!(pooled.options().unwrap().get_options(), None);
        let direct = Database::new(&settings(&args[..2]), "test", parameters);
        assert!(!direct.session().is_pooled());
        assert!(direct.options().unwrap().get_options().unwrap().contains("statement_timeout=10000"));
    }
}
