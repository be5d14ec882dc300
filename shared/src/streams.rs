//! Every stream, consumer and bucket: made, or brought up to date, by whichever process comes first.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_nats::jetstream::{
    self, Context,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    kv,
    stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType, Stream},
};
use futures_util::TryStreamExt;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{ids::ConversationId, settings::NatsSettings, subjects};

/// Where the stream's metadata keeps its epoch.
const EPOCH_KEY: &str = "partyline.epoch";
/// Where the stream's metadata keeps the place at which the present epoch begins, if it began in a stream that was
/// there already.
const BEGIN_KEY: &str = "partyline.begin";
/// How far above all known places an epoch begins: beyond what the lost end of the log can have held and a persister may
/// still have in hand.
const BEGIN_MARGIN: u64 = 100_000;
/// Looks, a second apart, at which a log with several copies must end too low: a new leader may lag for a moment.
const CONFIRMATIONS: u32 = 10;
/// Where the stream's metadata keeps for how many seconds the persister keeps events.
const KEEP_KEY: &str = "partyline.keep_seconds";
/// What dead letters may take at most, a copy; beyond it the events stay in the log.
const DEAD_BYTES: i64 = 256 << 20;
/// What last-seen notes may take at most, a copy; beyond it the oldest go.
const SEEN_BYTES: i64 = 128 << 20;
/// Where the stream's metadata keeps the [`Layout`].
const PARTITIONS_KEY: &str = "partyline.partitions";
/// How long a node's lease lasts without renewal.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often a node renews its lease.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(4);
/// How long a marker of a removed presence key lasts, for watchers that are behind. One that is further behind lists the
/// keys anew: it has not heard its own lease for [`LEASE`], which is shorter.
pub const PRESENCE_MARKER_TTL: Duration = Duration::from_secs(30);
/// How long the persister has for a batch before JetStream hands its events to another.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// A partition of the log.
#[derive(Clone, Debug)]
pub struct LogStream {
    pub partition: u16,
    pub stream: Stream,
    /// Changes only if the log was lost and begun again.
    pub epoch: String,
}

impl LogStream {
    /// Whether the stream has several copies, of which some may lag behind.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.stream.cached_info().config.num_replicas > 1
    }
}

/// The log: its streams, and how conversations are spread over them.
#[derive(Clone, Debug)]
pub struct LogStreams {
    pub layout: Layout,
    /// By partition. More than the layout has, if `persister partitions --grow` is under way, or if a process of an older
    /// version made them.
    pub streams: Vec<LogStream>,
}

/// How conversations are spread over partitions. It is kept in the metadata of every log stream, so that all processes
/// agree, and only ever grows (docs/decisions/0023-partitions.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The numbers of partitions that the log has had, first and smallest first. Never empty.
    numbers: Vec<u16>,
}

impl Layout {
    fn new(partitions: u16) -> Self {
        Self { numbers: vec![partitions] }
    }

    /// The layout in a stream's metadata. Streams of older versions have none.
    fn recorded(config: &Config) -> Option<Self> {
        Self::parse(config.metadata.get(PARTITIONS_KEY)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u16> = text.split(',').map(|it| it.parse().ok()).collect::<Option<_>>()?;
        let grows = numbers[0] > 0 && numbers.is_sorted_by(|one, next| one < next);
        grows.then_some(Self { numbers })
    }

    fn text(&self) -> String {
        self.numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
    }

    fn grown(&self, to: u16) -> Self {
        let mut grown = self.clone();
        grown.numbers.push(to);
        grown
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.numbers.last().copied().unwrap_or(1)
    }

    /// The partition of a conversation. It never changes.
    #[must_use]
    pub fn partition(&self, conversation: ConversationId) -> u16 {
        let first = self.numbers.first().copied().unwrap_or(1);
        conversation.named_partition().unwrap_or_else(|| subjects::partition(conversation, first))
    }

    /// An id for a new conversation, in one of the partitions at random.
    #[must_use]
    pub fn new_conversation(&self) -> ConversationId {
        if self.numbers.len() == 1 {
            // Processes of older versions find these, too.
            return ConversationId::generate();
        }
        let random = Uuid::new_v4().as_u128() % u128::from(self.partitions());
        ConversationId::generate_in(u16::try_from(random).unwrap_or(0))
    }

    /// Whether every conversation is in the partition where `other` had it.
    #[must_use]
    pub fn extends(&self, other: &Self) -> bool {
        self.numbers.first() == other.numbers.first()
    }

    /// Checks the setting `PARTYLINE_PARTITIONS`. Numbers from before the log grew are taken, so that a process can be
    /// started again with its old settings; the log's own number holds.
    fn check(&self, setting: Option<u16>) -> Result<(), PartitionsDiffer> {
        match setting {
            Some(set) if !self.numbers.contains(&set) => Err(PartitionsDiffer { set, recorded: self.partitions() }),
            _ => Ok(()),
        }
    }
}

/// `PARTYLINE_PARTITIONS` is not the number that the log has: the process must not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "PARTYLINE_PARTITIONS is {set}, but the log has {recorded} partition(s): leave the setting out or set {recorded}; \
     `persister partitions --grow <number>` makes it larger"
)]
pub struct PartitionsDiffer {
    pub set: u16,
    pub recorded: u16,
}

/// Finds the log's streams, and makes those that are missing. `floor` is asked only if a stream has to be made: the
/// highest `seq` that Postgres holds, above which the new stream begins.
///
/// # Errors
/// [`PartitionsDiffer`]; if JetStream can't be reached, or refuses; or if `floor` fails.
pub async fn ensure_log<F, R>(js: &Context, settings: &NatsSettings, floor: F) -> anyhow::Result<LogStreams>
where
    F: Fn() -> R,
    R: Future<Output = anyhow::Result<u64>>,
{
    let (layout, found) = layout(js, settings, &floor).await?;
    layout.check(settings.partitions)?;
    let mut streams = Vec::with_capacity(found.len());
    for partition in found {
        let stream = ensure_stream(js, settings, partition, &layout, &floor).await?;
        let epoch = epoch(&stream.cached_info().config).to_owned();
        streams.push(LogStream { partition, stream, epoch });
    }
    Ok(LogStreams { layout, streams })
}

/// Makes streams for more partitions, in which new conversations are put from now on; old ones stay where they are.
/// `announce` is called once the streams are there and before conversations may be put into them.
///
/// # Errors
/// If the log has as many already, or as [`ensure_log`].
pub async fn grow_log<F, R, A>(
    js: &Context,
    settings: &NatsSettings,
    to: u16,
    floor: F,
    announce: impl FnOnce() -> A,
) -> anyhow::Result<Layout>
where
    F: Fn() -> R,
    R: Future<Output = anyhow::Result<u64>>,
    A: Future<Output = ()>,
{
    // The number to grow to may be set already.
    let settings = NatsSettings { partitions: None, ..settings.clone() };
    let old = ensure_log(js, &settings, &floor).await?.layout;
    anyhow::ensure!(to > old.partitions(), "the log has {} partition(s) already", old.partitions());
    // Their layout is still the old one, but not their part of the log's bytes.
    let part = settings.log_bytes / u64::from(to) * u64::from(old.partitions());
    let new = NatsSettings { log_bytes: part, ..settings.clone() };
    for partition in old.partitions()..to {
        ensure_stream(js, &new, partition, &old, &floor).await?;
    }
    announce().await;
    let layout = old.grown(to);
    for partition in 0..to {
        ensure_stream(js, &settings, partition, &layout, &floor).await?;
    }
    Ok(layout)
}

/// The partitions whose streams there are.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn log_partitions(js: &Context) -> anyhow::Result<BTreeSet<u16>> {
    let names: Vec<String> = js.stream_names().try_collect().await?;
    Ok(names.iter().filter_map(|name| subjects::parse_log_stream(name)).collect())
}

/// The layout, and the partitions that there are or should be.
async fn layout<F, R>(js: &Context, settings: &NatsSettings, floor: &F) -> anyhow::Result<(Layout, BTreeSet<u16>)>
where
    F: Fn() -> R,
    R: Future<Output = anyhow::Result<u64>>,
{
    let mut found = log_partitions(js).await?;
    if found.is_empty() {
        // The first stream decides: of processes that start together one makes it, the others find it.
        let layout = Layout::new(settings.partitions.unwrap_or(1));
        create_log(js, settings, 0, &layout, floor).await?;
        found = log_partitions(js).await?;
    }
    let mut recorded: Option<Layout> = None;
    for partition in &found {
        let stream = js.get_stream(subjects::log_stream(*partition)).await?;
        let layout = Layout::recorded(&stream.cached_info().config);
        // A growth that was broken off halfway is finished.
        recorded = recorded.into_iter().chain(layout).max_by_key(Layout::partitions);
    }
    let count = found.last().map_or(1, |last| last + 1);
    // Streams of older versions don't tell: each process has made all of them.
    let layout = recorded.unwrap_or_else(|| Layout::new(count));
    found.extend(0..layout.partitions());
    Ok((layout, found))
}

async fn ensure_stream<F, R>(
    js: &Context,
    settings: &NatsSettings,
    partition: u16,
    layout: &Layout,
    floor: &F,
) -> anyhow::Result<Stream>
where
    F: Fn() -> R,
    R: Future<Output = anyhow::Result<u64>>,
{
    match js.get_stream(subjects::log_stream(partition)).await {
        Ok(found) => update_log(js, found, settings, partition, layout).await,
        Err(error) if is_missing(&error) => create_log(js, settings, partition, layout, floor).await,
        Err(error) => Err(error.into()),
    }
}

/// Makes a stream, unless another process is quicker: then that one's epoch and layout hold.
async fn create_log<F, R>(
    js: &Context,
    settings: &NatsSettings,
    partition: u16,
    layout: &Layout,
    floor: &F,
) -> anyhow::Result<Stream>
where
    F: Fn() -> R,
    R: Future<Output = anyhow::Result<u64>>,
{
    let first = floor().await? + 1;
    let config = log_config(settings, partition, first, Uuid::now_v7().to_string(), layout);
    match js.create_stream(config).await {
        Ok(made) => Ok(made),
        Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(_)) => {
            Ok(js.get_stream(subjects::log_stream(partition)).await.map_err(|_| error)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The epoch of a log's stream.
#[must_use]
pub fn epoch(config: &Config) -> &str {
    config.metadata.get(EPOCH_KEY).map_or("", String::as_str)
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.code() == 404)
}

fn log_config(settings: &NatsSettings, partition: u16, first_sequence: u64, epoch: String, layout: &Layout) -> Config {
    let (source, destination) = subjects::republish(partition);
    Config {
        name: subjects::log_stream(partition),
        description: Some("Partyline: the ordered log of every conversation of a partition".into()),
        subjects: vec![subjects::log_all(partition)],
        retention: RetentionPolicy::Limits,
        // Full, it takes no more: what it holds is perhaps in no other place. The persister removes what is old.
        discard: DiscardPolicy::New,
        max_bytes: settings.log_bytes_of(layout.partitions()),
        storage: StorageType::File,
        num_replicas: usize::from(settings.nats_replicas),
        duplicate_window: Duration::from_secs(u64::from(settings.dedup_seconds)),
        allow_direct: true,
        republish: Some(Republish { source, destination, headers_only: false }),
        first_sequence: Some(first_sequence),
        metadata: HashMap::from([(EPOCH_KEY.to_owned(), epoch), (PARTITIONS_KEY.to_owned(), layout.text())]),
        ..Default::default()
    }
}

/// The limit of a log that holds `used` bytes: a smaller one than before waits until there is room below it, as a full log
/// takes no events.
fn limit(old: i64, wanted: i64, used: u64) -> i64 {
    let needed = i64::try_from(used / 4 * 5).unwrap_or(i64::MAX);
    if wanted <= 0 || needed <= wanted || (1..=wanted).contains(&old) {
        wanted
    } else if old <= 0 {
        needed
    } else {
        old
    }
}

async fn update_log(
    js: &Context,
    found: Stream,
    settings: &NatsSettings,
    partition: u16,
    layout: &Layout,
) -> anyhow::Result<Stream> {
    let old = &found.cached_info().config;
    let wanted = log_config(settings, partition, 1, String::new(), layout);
    // Never back to a smaller one.
    let has_layout = Layout::recorded(old).is_some_and(|recorded| recorded.partitions() >= layout.partitions());
    let replicas = old.num_replicas.max(wanted.num_replicas);
    let max_bytes = limit(old.max_bytes, wanted.max_bytes, found.cached_info().state.bytes);
    let same = old.max_age.is_zero()
        && old.discard == wanted.discard
        && old.max_bytes.max(0) == max_bytes.max(0)
        && old.duplicate_window == wanted.duplicate_window
        && old.num_replicas == replicas
        && old.allow_direct
        && old.metadata.contains_key(EPOCH_KEY)
        && has_layout;
    if same {
        return Ok(found);
    }
    let mut config = old.clone();
    config.max_age = Duration::ZERO;
    config.discard = wanted.discard;
    config.max_bytes = max_bytes;
    config.duplicate_window = wanted.duplicate_window;
    // Never fewer copies: a process that lacks the setting must not take them away.
    config.num_replicas = replicas;
    config.allow_direct = true;
    config.metadata.entry(EPOCH_KEY.to_owned()).or_insert_with(|| Uuid::now_v7().to_string());
    if !has_layout {
        config.metadata.insert(PARTITIONS_KEY.to_owned(), layout.text());
    }
    js.update_stream(config).await?;
    Ok(js.get_stream(subjects::log_stream(partition)).await?)
}

/// The number of events that are gone from a log and were never settled by the persister, if the log begins at `first` and
/// everything up to `floor` is settled. `counted` is the place up to which they were counted before.
pub fn lost(first: u64, floor: u64, counted: &mut u64) -> u64 {
    let gone = first.saturating_sub(1);
    let lost = gone.saturating_sub(floor.max(*counted));
    *counted = gone.max(*counted);
    lost
}

/// Writes into a log's metadata how long the persister keeps events in it; and has JetStream itself remove none by age, which
/// it would do without regard to what is in Postgres.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn record_retention(js: &Context, stream: &Stream, keep: Duration) -> anyhow::Result<()> {
    let config = &stream.cached_info().config;
    if config.max_age.is_zero() && retention(config) == Some(keep) {
        return Ok(());
    }
    let mut config = config.clone();
    config.max_age = Duration::ZERO;
    config.metadata.insert(KEEP_KEY.to_owned(), keep.as_secs().to_string());
    js.update_stream(config).await?;
    Ok(())
}

/// How long the persister keeps events in a log that are in Postgres.
#[must_use]
pub fn retention(config: &Config) -> Option<Duration> {
    config.metadata.get(KEEP_KEY)?.parse().ok().map(Duration::from_secs)
}

/// Begins a new epoch in a log that ends below `known`, a place that Postgres holds or a client has seen: the log was
/// restored from an older copy. What is left in it must be in Postgres by then. Does nothing if the log is not (or no
/// longer) behind, or has another epoch. Processes that do this at once end with one epoch.
///
/// # Errors
/// If the persister has not written all of the old log yet; if JetStream can't be reached, or refuses.
pub async fn begin_above(js: &Context, partition: u16, old_epoch: &str, known: u64) -> anyhow::Result<()> {
    let name = subjects::log_stream(partition);
    let mut looks = 0;
    let (stream, begin) = loop {
        let stream = js.get_stream(&name).await?;
        let info = stream.cached_info();
        if info.state.last_sequence >= known || epoch(&info.config) != old_epoch {
            return Ok(());
        }
        looks += 1;
        if info.config.num_replicas == 1 || looks >= CONFIRMATIONS {
            let begin = info.config.metadata.get(BEGIN_KEY).and_then(|text| text.parse().ok());
            break (stream, begin);
        }
        sleep(Duration::from_secs(1)).await;
    };
    let persister = ensure_persister(&stream).await?.get_info().await?;
    let left = persister.num_pending + persister.num_ack_pending as u64;
    anyhow::ensure!(left == 0, "a persister has to write the {left} event(s) first that are left in it");
    let begin = match begin {
        // Another process has changed the epoch, and may not have moved the log yet.
        Some(begin) if begin > known => begin,
        _ => {
            let begin = known + BEGIN_MARGIN;
            let mut config = stream.cached_info().config.clone();
            config.metadata.insert(EPOCH_KEY.to_owned(), Uuid::now_v7().to_string());
            config.metadata.insert(BEGIN_KEY.to_owned(), begin.to_string());
            js.update_stream(config).await?;
            begin
        }
    };
    // Moves the log's end up to there, and takes nothing that was appended above it meanwhile.
    stream.purge().sequence(begin).await?;
    Ok(())
}

/// The persister's durable consumer of a partition: all persisters share it.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn ensure_persister(stream: &Stream) -> anyhow::Result<PullConsumer> {
    let config = persister_config(DeliverPolicy::All);
    Ok(stream.get_or_create_consumer(subjects::PERSISTER_CONSUMER, config).await?)
}

/// Replaces the persister's consumer by one that begins at a place, so that events are delivered again.
///
/// # Errors
/// If JetStream can't be reached, or refuses. The consumer may be missing then: a persister makes one that begins with the log.
pub async fn rewind_persister(stream: &Stream, start_sequence: u64) -> anyhow::Result<()> {
    stream.delete_consumer(subjects::PERSISTER_CONSUMER).await?;
    let config = persister_config(DeliverPolicy::ByStartSequence { start_sequence });
    // A persister that missed the old one may have made a new one just now, which begins with the log and will do, too.
    stream.get_or_create_consumer(subjects::PERSISTER_CONSUMER, config).await?;
    Ok(())
}

fn persister_config(deliver_policy: DeliverPolicy) -> pull::Config {
    pull::Config {
        durable_name: Some(subjects::PERSISTER_CONSUMER.into()),
        description: Some("Partyline: writes the log into Postgres".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        deliver_policy,
        max_ack_pending: 50_000,
        max_waiting: 512,
        ..Default::default()
    }
}

/// The dead letters: what could not be written, until somebody looks.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn ensure_dead_letters(js: &Context, settings: &NatsSettings) -> anyhow::Result<Stream> {
    let config = Config {
        name: subjects::DEAD_STREAM.into(),
        description: Some("Partyline: events that Postgres refused, with the reason".into()),
        subjects: vec![subjects::DEAD_ALL.into()],
        storage: StorageType::File,
        num_replicas: usize::from(settings.nats_replicas),
        max_age: Duration::from_secs(90 * 24 * 3_600),
        max_bytes: DEAD_BYTES,
        discard: DiscardPolicy::New,
        ..Default::default()
    };
    let stream = js.get_or_create_stream(config.clone()).await?;
    update(js, stream, &config).await
}

/// When people were last seen: the last word about each, until the persister has taken it.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn ensure_seen(js: &Context, settings: &NatsSettings) -> anyhow::Result<PullConsumer> {
    let config = Config {
        name: subjects::SEEN_STREAM.into(),
        description: Some("Partyline: when people were last seen".into()),
        subjects: vec![subjects::SEEN_ALL.into()],
        retention: RetentionPolicy::WorkQueue,
        max_messages_per_subject: 1,
        storage: StorageType::File,
        num_replicas: usize::from(settings.nats_replicas),
        max_age: Duration::from_secs(7 * 24 * 3_600),
        max_bytes: SEEN_BYTES,
        ..Default::default()
    };
    let stream = js.get_or_create_stream(config.clone()).await?;
    let stream = update(js, stream, &config).await?;
    let config = pull::Config {
        durable_name: Some(subjects::PERSISTER_CONSUMER.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        ..Default::default()
    };
    Ok(stream.get_or_create_consumer(subjects::PERSISTER_CONSUMER, config).await?)
}

/// Who is connected where. In memory: it is worth nothing after the servers are gone, and changes often.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn ensure_presence(js: &Context, settings: &NatsSettings) -> anyhow::Result<(kv::Store, kv::Store)> {
    let bucket = |name: &str, max_age| kv::Config {
        bucket: name.into(),
        history: 1,
        max_age,
        storage: StorageType::Memory,
        num_replicas: usize::from(settings.nats_replicas),
        ..Default::default()
    };
    let presence = get_or_create_bucket(js, bucket(subjects::PRESENCE_BUCKET, Duration::ZERO)).await?;
    // Markers of removed keys end by themselves.
    let presence = update_bucket(js, presence, settings, true).await?;
    let nodes = get_or_create_bucket(js, bucket(subjects::NODES_BUCKET, LEASE)).await?;
    let nodes = update_bucket(js, nodes, settings, false).await?;
    Ok((presence, nodes))
}

/// Brings the copies and the limit of a stream up to date. Copies are never taken away: a process that lacks the setting
/// would do so by starting.
async fn update(js: &Context, stream: Stream, wanted: &Config) -> anyhow::Result<Stream> {
    let old = &stream.cached_info().config;
    let replicas = old.num_replicas.max(wanted.num_replicas);
    if old.num_replicas == replicas && old.max_bytes == wanted.max_bytes && old.discard == wanted.discard {
        return Ok(stream);
    }
    let mut config = old.clone();
    config.num_replicas = replicas;
    config.max_bytes = wanted.max_bytes;
    config.discard = wanted.discard;
    js.update_stream(config).await?;
    Ok(js.get_stream(&wanted.name).await?)
}

async fn update_bucket(
    js: &Context,
    bucket: kv::Store,
    settings: &NatsSettings,
    message_ttl: bool,
) -> anyhow::Result<kv::Store> {
    let old = &bucket.stream.cached_info().config;
    let replicas = old.num_replicas.max(usize::from(settings.nats_replicas));
    if old.num_replicas == replicas && (old.allow_message_ttl || !message_ttl) {
        return Ok(bucket);
    }
    let mut config = old.clone();
    config.num_replicas = replicas;
    config.allow_message_ttl |= message_ttl;
    js.update_stream(config).await?;
    Ok(js.get_key_value(&bucket.name).await?)
}

async fn get_or_create_bucket(js: &Context, config: kv::Config) -> anyhow::Result<kv::Store> {
    let name = config.bucket.clone();
    if let Ok(store) = js.get_key_value(&name).await {
        return Ok(store);
    }
    match js.create_key_value(config).await {
        Ok(store) => Ok(store),
        Err(error) => js.get_key_value(&name).await.map_err(|_| error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_grows_and_keeps_old_conversations_where_they_are() {
        let first = Layout::new(4);
        let old: Vec<_> = (0..100).map(|_| first.new_conversation()).collect();
        let grown = first.grown(16);
        assert_eq!(Layout::parse(&grown.text()), Some(grown.clone()));
        let new: Vec<_> = (0..400).map(|_| grown.new_conversation()).collect();
        for layout in [&first, &grown, &grown.grown(200)] {
            assert!(old.iter().all(|id| layout.partition(*id) == first.partition(*id)));
            assert!(new.iter().all(|id| layout.partition(*id) == grown.partition(*id)));
        }
        let used: BTreeSet<u16> = new.iter().map(|id| grown.partition(*id)).collect();
        assert_eq!(used, (0..16).collect());
    }

    #[test]
    fn only_numbers_that_the_log_has_had_may_be_set() {
        let layout = Layout::new(4).grown(16);
        for setting in [None, Some(4), Some(16)] {
            assert_eq!(layout.check(setting), Ok(()));
        }
        assert_eq!(layout.check(Some(8)), Err(PartitionsDiffer { set: 8, recorded: 16 }));
    }

    #[test]
    fn a_smaller_limit_waits_until_there_is_room_below_it() {
        for (old, wanted, used, expected) in [
            (-1, 100, 10, 100),
            (-1, 100, 200, 250),
            (400, 100, 10, 100),
            (400, 100, 200, 400),
            (50, 100, 50, 100),
            (50, 100, 90, 100),
            (400, -1, 200, -1),
        ] {
            assert_eq!(limit(old, wanted, used), expected, "{old} {wanted} {used}");
        }
    }

    #[test]
    fn metadata_that_is_no_layout_is_not_taken_for_one() {
        for text in ["", "0", "4,4", "8,4", "4,x"] {
            assert_eq!(Layout::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_ids_of_our_own_name_a_partition() {
        assert_eq!(ConversationId::generate().named_partition(), None);
        for partition in [0, 1, 255, 4_095] {
            assert_eq!(ConversationId::generate_in(partition).named_partition(), Some(partition));
        }
        let mut bytes = *ConversationId::generate_in(3).0.as_bytes();
        bytes[9] ^= 1;
        assert_eq!(ConversationId(Uuid::from_bytes(bytes)).named_partition(), None);
    }
}
