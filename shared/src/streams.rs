//! Every stream, consumer and bucket: made, or brought up to date, by whichever process comes first.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    self, Context,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    kv,
    stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType, Stream},
};
use uuid::Uuid;

use crate::{settings::NatsSettings, subjects};

/// Where the stream's metadata keeps its epoch.
const EPOCH_KEY: &str = "partyline.epoch";
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

/// The log's streams by partition. `floor` is asked only if a stream has to be made: the highest `seq`
/// that Postgres holds, above which the new stream begins.
///
/// # Errors
/// If JetStream can't be reached, or refuses; or if `floor` fails.
pub async fn ensure_log<F, R>(js: &Context, settings: &NatsSettings, floor: F) -> anyhow::Result<Vec<LogStream>>
where
    F: Fn() -> R,
    R: Future<Output = anyhow::Result<u64>>,
{
    let mut streams = Vec::with_capacity(usize::from(settings.partitions));
    for partition in 0..settings.partitions {
        let name = subjects::log_stream(partition);
        let stream = match js.get_stream(&name).await {
            Ok(found) => update_log(js, found, settings, partition).await?,
            Err(error) if is_missing(&error) => {
                let first = floor().await? + 1;
                let config = log_config(settings, partition, first, Uuid::now_v7().to_string());
                match js.create_stream(config).await {
                    Ok(made) => made,
                    // Another process was quicker, with an epoch of its own: that one holds.
                    Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(_)) => {
                        js.get_stream(&name).await.map_err(|_| error)?
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        let epoch = epoch(&stream.cached_info().config).to_owned();
        streams.push(LogStream { partition, stream, epoch });
    }
    Ok(streams)
}

/// The epoch of a log's stream.
#[must_use]
pub fn epoch(config: &Config) -> &str {
    config.metadata.get(EPOCH_KEY).map_or("", String::as_str)
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.code() == 404)
}

fn log_config(settings: &NatsSettings, partition: u16, first_sequence: u64, epoch: String) -> Config {
    let (source, destination) = subjects::republish(partition);
    Config {
        name: subjects::log_stream(partition),
        description: Some("Partyline: the ordered log of every conversation of a partition".into()),
        subjects: vec![subjects::log_all(partition)],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        num_replicas: usize::from(settings.nats_replicas),
        max_age: Duration::from_secs(u64::from(settings.log_hours) * 3_600),
        duplicate_window: Duration::from_secs(u64::from(settings.dedup_seconds)),
        allow_direct: true,
        republish: Some(Republish { source, destination, headers_only: false }),
        first_sequence: Some(first_sequence),
        metadata: HashMap::from([(EPOCH_KEY.to_owned(), epoch)]),
        ..Default::default()
    }
}

async fn update_log(js: &Context, found: Stream, settings: &NatsSettings, partition: u16) -> anyhow::Result<Stream> {
    let old = &found.cached_info().config;
    let wanted = log_config(settings, partition, 1, String::new());
    let same = old.max_age == wanted.max_age
        && old.duplicate_window == wanted.duplicate_window
        && old.num_replicas == wanted.num_replicas
        && old.allow_direct
        && old.metadata.contains_key(EPOCH_KEY);
    if same {
        return Ok(found);
    }
    let mut config = old.clone();
    config.max_age = wanted.max_age;
    config.duplicate_window = wanted.duplicate_window;
    config.num_replicas = wanted.num_replicas;
    config.allow_direct = true;
    config.metadata.entry(EPOCH_KEY.to_owned()).or_insert_with(|| Uuid::now_v7().to_string());
    js.update_stream(config).await?;
    Ok(js.get_stream(subjects::log_stream(partition)).await?)
}

/// The persister's durable consumer of a partition: all persisters share it.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn ensure_persister(stream: &Stream) -> anyhow::Result<PullConsumer> {
    let config = pull::Config {
        durable_name: Some(subjects::PERSISTER_CONSUMER.into()),
        description: Some("Partyline: writes the log into Postgres".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        deliver_policy: DeliverPolicy::All,
        max_ack_pending: 50_000,
        max_waiting: 512,
        ..Default::default()
    };
    Ok(stream.get_or_create_consumer(subjects::PERSISTER_CONSUMER, config).await?)
}

/// The dead letters: what could not be written, until somebody looks.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn ensure_dead_letters(js: &Context, settings: &NatsSettings) -> anyhow::Result<Stream> {
    Ok(js
        .get_or_create_stream(Config {
            name: subjects::DEAD_STREAM.into(),
            description: Some("Partyline: events that Postgres refused, with the reason".into()),
            subjects: vec![subjects::DEAD_ALL.into()],
            storage: StorageType::File,
            num_replicas: usize::from(settings.nats_replicas),
            max_age: Duration::from_secs(90 * 24 * 3_600),
            ..Default::default()
        })
        .await?)
}

/// When people were last seen: the last word about each, until the persister has taken it.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn ensure_seen(js: &Context, settings: &NatsSettings) -> anyhow::Result<PullConsumer> {
    let stream = js
        .get_or_create_stream(Config {
            name: subjects::SEEN_STREAM.into(),
            description: Some("Partyline: when people were last seen".into()),
            subjects: vec![subjects::SEEN_ALL.into()],
            retention: RetentionPolicy::WorkQueue,
            max_messages_per_subject: 1,
            storage: StorageType::File,
            num_replicas: usize::from(settings.nats_replicas),
            max_age: Duration::from_secs(7 * 24 * 3_600),
            ..Default::default()
        })
        .await?;
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
    let mut presence = get_or_create_bucket(js, bucket(subjects::PRESENCE_BUCKET, Duration::ZERO)).await?;
    // Markers of removed keys end by themselves.
    let mut config = presence.stream.cached_info().config.clone();
    if !config.allow_message_ttl {
        config.allow_message_ttl = true;
        js.update_stream(config).await?;
        presence = js.get_key_value(subjects::PRESENCE_BUCKET).await?;
    }
    let nodes = get_or_create_bucket(js, bucket(subjects::NODES_BUCKET, LEASE)).await?;
    Ok((presence, nodes))
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
