//! The conversations' logs in JetStream: append with a permit, read after a place. All publishing that waits for JetStream's
//! acknowledgement goes through this module.

mod append;
mod progress;
mod publisher;
mod read;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_nats::{
    Client,
    connection::State,
    jetstream::{Context, consumer::PullConsumer, context::ContextBuilder},
};
use bytes::Bytes;
use parking_lot::Mutex;
use partyline_shared::{
    ids::{ConversationId, Seq},
    settings::NatsSettings,
    streams::{self, LogStream},
    subjects,
    wire::Refusal,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::{
    append::Appended,
    progress::{Floors, Watermark},
    publisher::Traffic,
    read::{End, Rest},
};
use self::{progress::Progress, publisher::Publisher};
use crate::tasks;

/// How long JetStream may take to answer a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One stored event.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: Seq,
    /// The event before it in the conversation; 0 if there was none in the log.
    pub prev_seq: Seq,
    /// The event's JSON ([`partyline_shared::event::Event`]).
    pub payload: Bytes,
}

struct Partition {
    state: ArcSwap<PartitionState>,
    progress: Mutex<Progress>,
    refresh: tokio::sync::Mutex<()>,
    /// A look at the progress is under way that nobody waits for.
    looking: AtomicBool,
}

struct PartitionState {
    log: LogStream,
    persister: PullConsumer,
}

/// The log of every conversation.
pub struct Log {
    client: Client,
    js: Context,
    publisher: Arc<Publisher>,
    settings: NatsSettings,
    node: String,
    partitions: Vec<Partition>,
    /// A stream may be gone, or may be another one by now.
    doubt: Notify,
}

impl Log {
    /// Makes or finds the streams. `floor` tells the highest `seq` in Postgres, if a stream must be made. Keeps a
    /// connection for appending until `end`.
    ///
    /// # Errors
    /// If JetStream or `floor` fails.
    pub async fn open<F, R>(
        client: Client,
        settings: &NatsSettings,
        node: &str,
        floor: F,
        end: CancellationToken,
    ) -> anyhow::Result<Arc<Self>>
    where
        F: Fn() -> R,
        R: Future<Output = anyhow::Result<u64>>,
    {
        let js = ContextBuilder::new().timeout(ANSWER_TIMEOUT).ack_timeout(ANSWER_TIMEOUT).build(client.clone());
        let mut partitions = Vec::new();
        for state in load(&js, settings, floor).await? {
            partitions.push(Partition {
                state: ArcSwap::from_pointee(state),
                progress: Mutex::default(),
                refresh: tokio::sync::Mutex::new(()),
                looking: AtomicBool::new(false),
            });
        }
        let publisher = Publisher::new();
        let name = format!("partyline-gateway-{node}-append");
        let run = publisher.clone().run(settings.clone(), name, end.clone());
        tasks::until(end.clone(), [tokio::spawn(tasks::essential_until("append_connection", run, end))]);
        Ok(Arc::new(Self {
            client,
            js,
            publisher,
            settings: settings.clone(),
            node: node.to_owned(),
            partitions,
            doubt: Notify::new(),
        }))
    }

    /// The JetStream context, for buckets.
    #[must_use]
    pub fn jetstream(&self) -> &Context {
        &self.js
    }

    /// Checks that both connections to NATS stand: what needs an answer of NATS is refused at once without them.
    ///
    /// # Errors
    /// `unavailable`.
    pub fn check_link(&self) -> Result<(), Refusal> {
        let stands = self.client.connection_state() == State::Connected && self.publisher.context().is_some();
        if stands { Ok(()) } else { Err(Refusal::unavailable("the log")) }
    }

    /// Waits until the connection for appending comes or goes.
    pub async fn append_changed(&self) {
        self.publisher.changed.notified().await;
    }

    /// What went over both connections so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let traffic = Traffic::default();
        traffic.add(&self.client.statistics());
        self.publisher.add_traffic(&traffic);
        traffic
    }

    /// There is reason to look at the streams again.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Waits until there is reason to look at the streams again: JetStream did not answer as it should, or told of
    /// another epoch.
    pub async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Looks at the streams again.
    ///
    /// # Returns
    /// Whether a log was lost and begun again.
    ///
    /// # Errors
    /// If JetStream or `floor` fails.
    pub async fn reload<F, R>(&self, floor: F) -> anyhow::Result<bool>
    where
        F: Fn() -> R,
        R: Future<Output = anyhow::Result<u64>>,
    {
        let mut restarted = false;
        for state in load(&self.js, &self.settings, floor).await? {
            let partition = &self.partitions[usize::from(state.log.partition)];
            let is_new = partition.state.load().log.epoch != state.log.epoch;
            restarted |= is_new;
            partition.state.store(Arc::new(state));
            // The looks at an old log go on counting: without them every message would be searched for in the tail.
            if is_new {
                *partition.progress.lock() = Progress::default();
            }
        }
        Ok(restarted)
    }

    /// The epoch of a conversation's log.
    #[must_use]
    pub fn epoch(&self, conversation: ConversationId) -> String {
        self.partition(conversation).state.load().log.epoch.clone()
    }

    fn number(&self, conversation: ConversationId) -> u16 {
        subjects::partition(conversation, self.settings.partitions)
    }

    fn partition(&self, conversation: ConversationId) -> &Partition {
        &self.partitions[usize::from(self.number(conversation))]
    }

    fn subject(&self, conversation: ConversationId) -> String {
        subjects::log(self.number(conversation), conversation)
    }
}

async fn load<F, R>(js: &Context, settings: &NatsSettings, floor: F) -> anyhow::Result<Vec<PartitionState>>
where
    F: Fn() -> R,
    R: Future<Output = anyhow::Result<u64>>,
{
    let mut states = Vec::new();
    for log in streams::ensure_log(js, settings, floor).await? {
        let persister = streams::ensure_persister(&log.stream).await?;
        states.push(PartitionState { log, persister });
    }
    streams::ensure_dead_letters(js, settings).await?;
    streams::ensure_seen(js, settings).await?;
    Ok(states)
}
