//! Trying again until Postgres has taken it.

use std::time::Duration;

use tokio::time::sleep;

use crate::{metrics, store::Failure};

/// Growing waits: 100 ms, doubled each time, up to 5 s.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// How long to wait now.
    pub fn pause(&mut self) -> Duration {
        let wait = Duration::from_millis(100 << self.0.min(6)).min(Duration::from_secs(5));
        self.0 = self.0.saturating_add(1);
        wait
    }
}

/// Why something was not written, and is not tried again as it is.
#[derive(Debug)]
pub enum NotTaken {
    Refused(Refused),
    /// Postgres lacks what JetStream has been told is there.
    Behind,
}

/// A row that Postgres will never take.
#[derive(Debug, thiserror::Error)]
#[error("{code} {message}")]
pub struct Refused {
    pub code: String,
    pub message: String,
}

/// Repeats `attempt` for as long as it is Postgres that is not well, not the data. Meanwhile JetStream is not told
/// that work goes on: if only this process has lost Postgres, another should get the batch. That both write it in the
/// end is harmless.
///
/// # Errors
/// [`NotTaken`].
pub async fn until_taken<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, NotTaken>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut backoff = Backoff::default();
    loop {
        match attempt().await {
            Ok(done) => {
                metrics::postgres_up(true);
                return Ok(done);
            }
            Err(Failure::Refused { code, message }) => {
                return Err(NotTaken::Refused(Refused { code, message }));
            }
            Err(Failure::Behind) => return Err(NotTaken::Behind),
            Err(Failure::Conflict(error)) => {
                metrics::retried("conflict");
                tracing::debug!(%error, "in another's way; once more");
            }
            Err(error) => {
                metrics::retried("postgres_away");
                metrics::postgres_up(false);
                tracing::warn!(%error, "Postgres takes nothing; trying on");
            }
        }
        sleep(backoff.pause()).await;
    }
}
