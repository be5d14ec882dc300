//! The conversations' logs in JetStream: append with a permit, read after a place. All publishing that waits for JetStream's
//! acknowledgement goes through this module.

mod append;
mod progress;
mod publisher;
mod read;
mod verify;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_nats::{
    Client,
    connection::State,
    jetstream::{Context, consumer::PullConsumer, context::ContextBuilder, stream::Config},
};
use bytes::Bytes;
use parking_lot::Mutex;
use partyline_shared::{
    ids::{ConversationId, Seq},
    settings::NatsSettings,
    streams::{self, Layout, LogStream},
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
    verify::{Behind, NotVerified},
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
    epoch: Arc<EpochState>,
}

/// The persister has not said yet how long it keeps events.
const NOT_SAID: u64 = u64::MAX;

/// What this node knows of an epoch of a partition.
struct EpochState {
    /// The highest place that the log was seen to have.
    highest: AtomicU64,
    /// Up to here events were counted that left the log before Postgres had them.
    counted: Mutex<Seq>,
    /// For how many seconds the persister keeps events, or [`NOT_SAID`].
    keeps: AtomicU64,
}

/// The partitions, and which conversation is in which.
struct Table {
    layout: Layout,
    partitions: BTreeMap<u16, Arc<Partition>>,
}

/// The log of every conversation.
pub struct Log {
    client: Client,
    js: Context,
    publisher: Arc<Publisher>,
    settings: NatsSettings,
    node: String,
    table: ArcSwap<Table>,
    /// The log was once compared with Postgres.
    compared: AtomicBool,
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
        let (layout, states) = load(&js, settings, floor).await?;
        let partitions = states.into_iter().map(|state| (state.log.partition, Partition::new(state))).collect();
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
            table: ArcSwap::from_pointee(Table { layout, partitions }),
            compared: AtomicBool::new(false),
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
        let stands = self.client.connection_state() == State::Connected && self.publisher.is_connected();
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
        let (layout, states) = load(&self.js, &self.settings, floor).await?;
        let old = self.table.load_full();
        let mut partitions = BTreeMap::new();
        // Conversations may have moved if all streams were lost and another process made them with another number.
        let mut restarted = !layout.extends(&old.layout);
        for state in states {
            let number = state.log.partition;
            let Some(partition) = old.partitions.get(&number) else {
                partitions.insert(number, Partition::new(state));
                continue;
            };
            let known = partition.state.load_full();
            let is_new = known.log.epoch != state.log.epoch;
            restarted |= is_new;
            let epoch = if is_new { state.epoch } else { known.epoch.clone() };
            partition.state.store(Arc::new(PartitionState { epoch, ..state }));
            // The looks at an old log go on counting: without them every message would be searched for in the tail.
            if is_new {
                *partition.progress.lock() = Progress::default();
            }
            partitions.insert(number, partition.clone());
        }
        self.table.store(Arc::new(Table { layout, partitions }));
        Ok(restarted)
    }

    /// Returns an id for a new conversation.
    #[must_use]
    pub fn new_conversation(&self) -> ConversationId {
        self.table.load().layout.new_conversation()
    }

    /// The epoch of a conversation's log; empty if its stream is not known here yet.
    #[must_use]
    pub fn epoch(&self, conversation: ConversationId) -> String {
        self.partition(conversation).map(|it| it.state.load().log.epoch.clone()).unwrap_or_default()
    }

    fn number(&self, conversation: ConversationId) -> u16 {
        self.table.load().layout.partition(conversation)
    }

    /// The partition of a conversation. Another gateway may have put it into a stream that is not known here yet: that is
    /// looked up, and the command is refused meanwhile.
    fn partition(&self, conversation: ConversationId) -> Result<Arc<Partition>, Refusal> {
        let table = self.table.load();
        table.partitions.get(&table.layout.partition(conversation)).cloned().ok_or_else(|| {
            self.doubt();
            Refusal::unavailable("the log")
        })
    }

    fn subject(&self, conversation: ConversationId) -> String {
        subjects::log(self.number(conversation), conversation)
    }
}

impl EpochState {
    fn note_retention(&self, config: &Config) {
        if let Some(keep) = streams::retention(config) {
            self.keeps.store(keep.as_secs(), Ordering::Release);
        }
    }
}

impl Partition {
    fn new(state: PartitionState) -> Arc<Self> {
        Arc::new(Self {
            state: ArcSwap::from_pointee(state),
            progress: Mutex::default(),
            refresh: tokio::sync::Mutex::new(()),
            looking: AtomicBool::new(false),
        })
    }
}

async fn load<F, R>(js: &Context, settings: &NatsSettings, floor: F) -> anyhow::Result<(Layout, Vec<PartitionState>)>
where
    F: Fn() -> R,
    R: Future<Output = anyhow::Result<u64>>,
{
    let mut states = Vec::new();
    let log = streams::ensure_log(js, settings, floor).await?;
    for log in log.streams {
        let persister = streams::ensure_persister(&log.stream).await?;
        let epoch = Arc::new(EpochState {
            highest: AtomicU64::default(),
            counted: Mutex::default(),
            keeps: AtomicU64::new(NOT_SAID),
        });
        epoch.note_retention(&log.stream.cached_info().config);
        states.push(PartitionState { log, persister, epoch });
    }
    streams::ensure_dead_letters(js, settings).await?;
    streams::ensure_seen(js, settings).await?;
    Ok((log.layout, states))
}
