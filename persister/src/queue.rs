//! What is pulled from: a partition of the log, or the last-seen notes.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{Context, consumer::PullConsumer, context::ContextBuilder},
};
use partyline_shared::{nats, settings::NatsSettings, streams, subjects};

use crate::{config::Config, metrics, store::Store};

/// How long JetStream may take to answer.
pub const NATS_TIMEOUT: Duration = Duration::from_secs(5);

/// A durable consumer that all persisters share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Log(u16),
    Seen,
}

impl Queue {
    /// The partition, if it is one of the log.
    #[must_use]
    pub fn partition(self) -> Option<u16> {
        match self {
            Self::Log(partition) => Some(partition),
            Self::Seen => None,
        }
    }
}

/// Makes or finds queues. Another process may have lost and remade the streams at any time.
#[derive(Clone, Debug)]
pub struct Queues {
    pub js: Context,
    pub settings: NatsSettings,
    pub store: Store,
}

impl Queues {
    #[must_use]
    pub fn new(client: Client, settings: &NatsSettings, store: Store) -> Self {
        Self { js: ContextBuilder::new().timeout(NATS_TIMEOUT).build(client), settings: settings.clone(), store }
    }

    /// Connects to NATS, waiting for it for any length of time, for an operator's command; to Postgres once it is needed.
    ///
    /// # Errors
    /// If the settings are not valid.
    pub async fn connect(config: &Config, name: &str) -> anyhow::Result<Self> {
        let store = Store::connect_lazy(&config.database)?;
        let (client, _) = nats::connect(&config.nats, name).await?;
        Ok(Self::new(client, &config.nats, store))
    }

    /// Makes or finds everything that the persister needs.
    ///
    /// # Errors
    /// If JetStream can't be reached or refuses; or Postgres doesn't answer and the log has to be made.
    pub async fn open_all(&self) -> anyhow::Result<Vec<(Queue, PullConsumer)>> {
        let mut queues = self.open_logs().await?;
        streams::ensure_dead_letters(&self.js, &self.settings).await?;
        queues.push((Queue::Seen, streams::ensure_seen(&self.js, &self.settings).await?));
        Ok(queues)
    }

    /// Makes or finds the partitions of the log, also those that the layout does not have: what is in them has to reach
    /// Postgres, whoever made them.
    ///
    /// # Errors
    /// As [`Queues::open_all`].
    pub async fn open_logs(&self) -> anyhow::Result<Vec<(Queue, PullConsumer)>> {
        let log = self.ensure_log().await?;
        let strays = log.streams.iter().filter(|it| it.partition >= log.layout.partitions()).count();
        metrics::partitions(log.layout.partitions(), strays);
        if strays > 0 {
            tracing::error!(
                partitions = log.layout.partitions(),
                strays,
                "there are more streams than the log has partitions: the log is being grown, or a process with another \
                 PARTYLINE_PARTITIONS made them"
            );
        }
        let mut queues = Vec::new();
        for log in log.streams {
            queues.push((Queue::Log(log.partition), streams::ensure_persister(&log.stream).await?));
        }
        Ok(queues)
    }

    /// Makes or finds one queue again.
    ///
    /// # Errors
    /// As [`Queues::open_all`].
    pub async fn open(&self, queue: Queue) -> anyhow::Result<PullConsumer> {
        let Queue::Log(partition) = queue else { return streams::ensure_seen(&self.js, &self.settings).await };
        if let Ok(stream) = self.js.get_stream(subjects::log_stream(partition)).await {
            return streams::ensure_persister(&stream).await;
        }
        let logs = self.ensure_log().await?.streams;
        let log = logs.iter().find(|log| log.partition == partition);
        let log = log.ok_or_else(|| anyhow::anyhow!("no partition {partition}"))?;
        streams::ensure_persister(&log.stream).await
    }

    /// Makes or finds the streams of the log.
    ///
    /// # Errors
    /// As [`Queues::open_all`].
    pub async fn ensure_log(&self) -> anyhow::Result<streams::LogStreams> {
        streams::ensure_log(&self.js, &self.settings, || self.floor()).await
    }

    /// Returns the highest `seq` that Postgres holds, above which a new stream of the log begins.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn floor(&self) -> anyhow::Result<u64> {
        Ok(self.store.highest_seq().await?)
    }
}
