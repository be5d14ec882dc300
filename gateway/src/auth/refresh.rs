//! Keeps the keys of a JWKS fresh. One task reads them; everything that waits for a reading shares its result, so that
//! a hanging endpoint costs each handshake one bounded wait, however many wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use partyline_shared::admin::Latch;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    kept::KeptKeys,
    keys::{KeySet, Source},
};
use crate::{metrics, tasks};

/// From the end of one reading to the next: unknown key ids cause one at most this often, and so does a failure.
const READING_GAP: Duration = Duration::from_secs(5);

/// How a reading of the keys ended.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    /// Counts up from 1; 0 before the first one.
    number: u64,
    failed: bool,
}

/// What a finished reading means for a token whose key is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It began before the token came: the key may have been published since.
    BegunBefore,
    /// It began after the token came: a key that it did not find is not published.
    Current,
    Failed,
}

/// Asks the reading task for new keys and waits for it.
pub(super) struct Refresher {
    wanted: Notify,
    /// The number of the reading that began last.
    begun: AtomicU64,
    ended: watch::Sender<Reading>,
}

/// One token's wait for new keys.
pub(super) struct Readings {
    asked: u64,
    ended: watch::Receiver<Reading>,
}

impl Refresher {
    /// Starts the reading task, which lasts until `shutdown`, and waits for the end of its first reading. `up` is set
    /// once there are keys.
    pub(super) async fn start(
        source: Source,
        keys: Arc<ArcSwap<KeySet>>,
        kept: Option<KeptKeys>,
        every: Duration,
        up: Latch,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let (ended, mut first) = watch::channel(Reading::default());
        let refresher = Arc::new(Self { wanted: Notify::new(), begun: AtomicU64::new(0), ended });
        let reader = Reader { source, keys, kept, up };
        let task = refresher.clone().run(reader, every);
        let end = shutdown.clone();
        tokio::spawn(shutdown.run_until_cancelled_owned(tasks::essential_until("jwks", task, end)));
        let _ = first.wait_for(|reading| reading.number > 0).await;
        refresher
    }

    /// Asks for a reading.
    pub(super) fn ask(&self) -> Readings {
        let mut ended = self.ended.subscribe();
        ended.mark_unchanged();
        let asked = self.begun.load(Ordering::Acquire);
        self.wanted.notify_one();
        Readings { asked, ended }
    }

    async fn run(self: Arc<Self>, mut reader: Reader, every: Duration) {
        loop {
            let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            let failed = !reader.read().await;
            // The gap begins with the end: an endpoint that hangs is not asked again at once.
            let now = Instant::now();
            self.ended.send_replace(Reading { number, failed });
            let regular = if failed { READING_GAP.min(every) } else { every };
            tokio::select! {
                () = self.wanted.notified() => sleep_until(now + READING_GAP).await,
                () = sleep_until(now + regular) => {}
            }
        }
    }
}

impl Readings {
    /// Waits for the end of a reading.
    pub(super) async fn next(&mut self) -> Outcome {
        // The sender lives as long as the verifier; without it nothing comes any more.
        if self.ended.changed().await.is_err() {
            return Outcome::Failed;
        }
        let reading = *self.ended.borrow_and_update();
        match reading {
            Reading { failed: true, .. } => Outcome::Failed,
            Reading { number, .. } if number > self.asked => Outcome::Current,
            Reading { .. } => Outcome::BegunBefore,
        }
    }
}

/// Reads the keys and puts them in force.
struct Reader {
    source: Source,
    keys: Arc<ArcSwap<KeySet>>,
    kept: Option<KeptKeys>,
    up: Latch,
}

impl Reader {
    /// Reads the keys once.
    ///
    /// # Returns
    /// Whether they could be read.
    async fn read(&mut self) -> bool {
        let read = self.source.load().await;
        metrics::jwks_read(read.is_ok());
        match read {
            Ok(Some(keys)) => {
                tracing::debug!(keys = keys.len(), "keys of tokens read");
                if let Some(kept) = self.kept.take() {
                    self.kept = Some(kept.keep(&keys).await);
                }
                self.keys.store(Arc::new(keys));
                self.up.set(true);
                true
            }
            Ok(None) => true,
            Err(error) => {
                let error = format!("{error:#}");
                if self.up.is_up() {
                    tracing::warn!(error, "keys of tokens not read; the old ones stay in force");
                } else {
                    tracing::warn!(error, "keys of tokens not read; none are known: not ready until they are");
                }
                false
            }
        }
    }
}
