//! The conversations' logs in JetStream: append with a [`Permit`], read after a place. The only publisher to JetStream
//! besides last-seen notes, which go through here as well.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_nats::{
    Client, HeaderMap,
    jetstream::{Context, consumer::PullConsumer, context::ContextBuilder, message::PublishMessage},
};
use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all};
use parking_lot::Mutex;
use partyline_shared::{
    event::Event,
    ids::{ConversationId, Seq, UserId},
    settings::NatsSettings,
    streams::{self, LogStream},
    subjects,
    timestamp::Timestamp,
    wire::Refusal,
};

use crate::{authorise::Permit, metrics};

/// Events in one read from JetStream.
const READ_BATCH: usize = 256;
/// How old a watermark may be: a lower floor only means that more of the log's tail is read.
const WATERMARK_AGE: Duration = Duration::from_millis(500);
/// Looks at a partition's progress that are remembered.
const LOOKS: usize = 600;
/// How long a lagging replica is asked again.
const REPLICA_PATIENCE: Duration = Duration::from_secs(2);

/// One stored event.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: Seq,
    /// The event before it in the conversation; 0 if there was none in the log.
    pub prev_seq: Seq,
    /// The event's JSON ([`Event`]).
    pub payload: Bytes,
}

/// JetStream's word that an event is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub seq: Seq,
    /// An event with this deduplication id was there already, at `seq`.
    pub duplicate: bool,
}

/// Where a conversation's log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub seq: Seq,
    /// An event stands there. If not, the log has none of the conversation: all there ever were stand at `seq` or
    /// before, in Postgres.
    pub is_event: bool,
}

/// What follows a place.
#[derive(Debug)]
pub enum Rest {
    Here(Vec<Entry>),
    /// Some of it is gone from the log; Postgres holds everything up to here.
    InPostgres(Seq),
}

/// Where a partition's log stands towards Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Everything up to here is in Postgres.
    pub floor: Seq,
    /// The log holds nothing before this.
    pub first: Seq,
    /// What is in the log and not in Postgres is at most this old; `None` if that can't be told.
    pub lag: Option<Duration>,
}

/// How far Postgres has come in each partition. Whoever reads Postgres afterwards finds there what the log's tails after
/// these places lack.
#[derive(Clone, Debug)]
pub struct Floors {
    by_partition: Vec<Seq>,
}

/// What was seen of a partition's progress, for the age of what Postgres lacks.
#[derive(Debug, Default)]
struct Progress {
    latest: Option<(Instant, Watermark)>,
    /// When the log ended where, oldest first.
    ends: VecDeque<(Instant, Seq)>,
}

impl Progress {
    fn note(&mut self, now: Instant, floor: Seq, first: Seq, last: Seq) -> Watermark {
        // Whatever follows the floor came after the latest look at which the log ended at or below the floor.
        let lag = if last <= floor {
            Some(Duration::ZERO)
        } else {
            self.ends.iter().rev().find(|(_, end)| *end <= floor).map(|(at, _)| now.duration_since(*at))
        };
        self.ends.push_back((now, last));
        if self.ends.len() > LOOKS {
            self.ends.pop_front();
        }
        let watermark = Watermark { floor, first, lag };
        self.latest = Some((now, watermark));
        watermark
    }
}

struct Partition {
    state: ArcSwap<PartitionState>,
    progress: Mutex<Progress>,
    refresh: tokio::sync::Mutex<()>,
}

struct PartitionState {
    log: LogStream,
    persister: PullConsumer,
}

/// The log of every conversation.
pub struct Log {
    client: Client,
    js: Context,
    settings: NatsSettings,
    node: String,
    partitions: Vec<Partition>,
}

impl Log {
    /// Makes or finds the streams. `floor` tells the highest `seq` in Postgres, if a stream must be made.
    ///
    /// # Errors
    /// If JetStream or `floor` fails.
    pub async fn open<F, R>(client: Client, settings: &NatsSettings, node: &str, floor: F) -> anyhow::Result<Arc<Self>>
    where
        F: Fn() -> R,
        R: Future<Output = anyhow::Result<u64>>,
    {
        let js = ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(5))
            .max_ack_inflight(20_000)
            .build(client.clone());
        let mut partitions = Vec::new();
        for state in load(&js, settings, floor).await? {
            partitions.push(Partition {
                state: ArcSwap::from_pointee(state),
                progress: Mutex::default(),
                refresh: tokio::sync::Mutex::new(()),
            });
        }
        Ok(Arc::new(Self { client, js, settings: settings.clone(), node: node.to_owned(), partitions }))
    }

    /// The JetStream context, for buckets.
    #[must_use]
    pub fn jetstream(&self) -> &Context {
        &self.js
    }

    /// Looks at the streams again after a reconnection.
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

    /// Appends an event; returns once JetStream has stored it. `dedup` makes a repeat harmless.
    ///
    /// # Errors
    /// `unavailable`: perhaps stored, perhaps not; a repeat with the same `dedup` finds out.
    pub async fn append(&self, permit: Permit, event: &Event, dedup: Option<String>) -> Result<Appended, Refusal> {
        debug_assert_eq!(permit.conversation_id(), event.conversation_id());
        let payload = serde_json::to_vec(event).map_err(|error| {
            tracing::error!(%error, "an event has no JSON");
            Refusal::unavailable("the log")
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(subjects::ORIGIN_HEADER, self.node.as_str());
        let mut message = PublishMessage::build().payload(payload.into()).headers(headers);
        if let Some(id) = dedup {
            message = message.message_id(id);
        }
        let started = Instant::now();
        let acked = async { self.js.send_publish(self.subject(permit.conversation_id()), message).await?.await }.await;
        match acked {
            Ok(ack) => {
                metrics::append_seconds(started.elapsed());
                Ok(Appended { seq: ack.sequence, duplicate: ack.duplicate })
            }
            Err(error) => {
                metrics::append_failed();
                tracing::warn!(%error, "append failed");
                Err(Refusal::unavailable("the log"))
            }
        }
    }

    /// Notes when a user was last seen, for the persister. Losing one is no harm.
    pub async fn note_seen(&self, user: &UserId, at: Timestamp) {
        let note = serde_json::json!({ "at": at }).to_string();
        if let Err(error) = self.js.publish(subjects::seen(user), note.into()).await {
            tracing::debug!(%error, "last seen not noted");
        }
    }

    /// The newest event of a conversation in the log. One answer from the server: whatever this connection
    /// subscribed to before is in force by then.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn head(&self, conversation: ConversationId) -> Result<Option<Entry>, Refusal> {
        let state = self.partition(conversation).state.load_full();
        let subject = self.subject(conversation);
        // A replica may lag behind its leader, so only a lone server is asked directly.
        let found = if self.settings.nats_replicas > 1 {
            state.log.stream.get_last_raw_message_by_subject(&subject).await.map(Some).or_else(|error| {
                use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
                if matches!(error.kind(), NoMessageFound) { Ok(None) } else { Err(error.to_string()) }
            })
        } else {
            state.log.stream.direct_get_last_for_subject(&subject).await.map(Some).or_else(|error| {
                use async_nats::jetstream::stream::DirectGetErrorKind::NotFound;
                if matches!(error.kind(), NotFound) { Ok(None) } else { Err(error.to_string()) }
            })
        };
        match found {
            Ok(found) => {
                Ok(found.map(|message| Entry { seq: message.sequence, prev_seq: 0, payload: message.payload }))
            }
            Err(error) => {
                tracing::warn!(error, "head of a log not read");
                Err(Refusal::unavailable("the log"))
            }
        }
    }

    /// Where a conversation's log ends, also if retention has left nothing of it. As [`Self::head`], it proves earlier
    /// subscriptions.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn end(&self, conversation: ConversationId) -> Result<End, Refusal> {
        // Known before the log is asked: whatever is appended since lies above it.
        let watermark = self.watermark(conversation).await?;
        Ok(match self.head(conversation).await? {
            Some(entry) => End { seq: entry.seq, is_event: true },
            None => End { seq: watermark.floor.max(watermark.first.saturating_sub(1)), is_event: false },
        })
    }

    /// The event at a place, if the log still holds it and it is the conversation's.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn at(&self, conversation: ConversationId, seq: Seq) -> Result<Option<Entry>, Refusal> {
        if seq == 0 {
            return Ok(None);
        }
        let found = self.read(conversation, seq - 1, seq - 1, 1).await?;
        Ok(found.into_iter().find(|entry| entry.seq == seq))
    }

    /// Events after a place up to `head`, as [`Self::read_up_to`], if none of them can have gone with retention.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn read_rest(
        &self,
        conversation: ConversationId,
        after: Seq,
        head: Seq,
        limit: usize,
    ) -> Result<Rest, Refusal> {
        let mut entries = self.read_up_to(conversation, after.saturating_sub(1), head, limit + 1).await?;
        if entries.first().is_some_and(|first| first.seq == after) {
            // Retention takes the oldest first: what is held from here on is whole.
            entries.remove(0);
            return Ok(Rest::Here(entries));
        }
        entries.truncate(limit);
        if let Some(first) = entries.first_mut() {
            first.prev_seq = after;
        }
        let watermark = self.look(self.partition(conversation)).await?;
        let is_gone = after + 1 < watermark.first && after < watermark.floor;
        Ok(if is_gone { Rest::InPostgres(watermark.floor) } else { Rest::Here(entries) })
    }

    /// Events after a place, oldest first, at most `limit`; up to `head`, which is known to be stored, so a lagging
    /// replica is asked again until it has it.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn read_up_to(
        &self,
        conversation: ConversationId,
        after: Seq,
        head: Seq,
        limit: usize,
    ) -> Result<Vec<Entry>, Refusal> {
        let began = Instant::now();
        loop {
            let entries = self.read_after(conversation, after, limit).await?;
            let reached = entries.last().map_or(after, |entry| entry.seq);
            if reached >= head || entries.len() == limit {
                return Ok(entries);
            }
            if began.elapsed() > REPLICA_PATIENCE {
                return Err(Refusal::unavailable("the log"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Events after a place, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn read_after(
        &self,
        conversation: ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Entry>, Refusal> {
        let mut entries: Vec<Entry> = Vec::new();
        while entries.len() < limit {
            let last = entries.last().map_or(after, |entry| entry.seq);
            let batch = READ_BATCH.min(limit - entries.len());
            let read = self.read(conversation, last, last, batch).await?;
            let short = read.len() < batch;
            entries.extend(read);
            if short {
                break;
            }
        }
        Ok(entries)
    }

    /// One batched direct get. async-nats has no call for it.
    async fn read(
        &self,
        conversation: ConversationId,
        after: Seq,
        prev_seq: Seq,
        batch: usize,
    ) -> Result<Vec<Entry>, Refusal> {
        let request =
            serde_json::json!({ "seq": after + 1, "next_by_subj": self.subject(conversation), "batch": batch });
        self.direct_get(self.number(conversation), request.to_string().into(), prev_seq).await.map_err(|error| {
            tracing::warn!(%error, "log not read");
            Refusal::unavailable("the log")
        })
    }

    async fn direct_get(&self, partition: u16, request: Bytes, mut prev_seq: Seq) -> anyhow::Result<Vec<Entry>> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        self.client.publish_with_reply(subjects::direct_get(partition), inbox, request).await?;
        let mut entries = Vec::new();
        loop {
            let answer = tokio::time::timeout(Duration::from_secs(5), answers.next())
                .await?
                .ok_or_else(|| anyhow::anyhow!("subscription ended"))?;
            match answer.status.map(|status| status.as_u16()) {
                // 204: end of batch; 404: nothing there.
                Some(204 | 404) => return Ok(entries),
                Some(status) if status >= 300 => anyhow::bail!("direct get: status {status}"),
                _ => {}
            }
            let seq = answer
                .headers
                .as_ref()
                .and_then(|headers| headers.get(async_nats::header::NATS_SEQUENCE))
                .and_then(|value| value.as_str().parse().ok())
                .ok_or_else(|| anyhow::anyhow!("direct get: no sequence"))?;
            entries.push(Entry { seq, prev_seq, payload: answer.payload });
            prev_seq = seq;
        }
    }

    /// How far Postgres has come, at most half a second old (lower than the truth, never higher).
    ///
    /// # Errors
    /// `unavailable`, if it was never known.
    pub async fn watermark(&self, conversation: ConversationId) -> Result<Watermark, Refusal> {
        self.watermark_of(self.partition(conversation)).await
    }

    /// How far Postgres has come, for conversations that are not known yet.
    ///
    /// # Errors
    /// `unavailable`, if it was never known.
    pub async fn floors(&self) -> Result<Floors, Refusal> {
        let watermarks = try_join_all(self.partitions.iter().map(|partition| self.watermark_of(partition))).await?;
        Ok(Floors { by_partition: watermarks.iter().map(|watermark| watermark.floor).collect() })
    }

    /// The floor under a conversation.
    #[must_use]
    pub fn floor(&self, floors: &Floors, conversation: ConversationId) -> Seq {
        floors.by_partition.get(usize::from(self.number(conversation))).copied().unwrap_or(0)
    }

    async fn watermark_of(&self, partition: &Partition) -> Result<Watermark, Refusal> {
        let cached = |age: Duration| {
            partition.progress.lock().latest.filter(|(at, _)| at.elapsed() < age).map(|(_, watermark)| watermark)
        };
        if let Some(watermark) = cached(WATERMARK_AGE) {
            return Ok(watermark);
        }
        let _one_at_a_time = partition.refresh.lock().await;
        if let Some(watermark) = cached(WATERMARK_AGE) {
            return Ok(watermark);
        }
        match self.look(partition).await {
            Err(refusal) => cached(Duration::MAX).ok_or(refusal),
            looked => looked,
        }
    }

    /// How far Postgres has come, now.
    async fn look(&self, partition: &Partition) -> Result<Watermark, Refusal> {
        let state = partition.state.load_full();
        let read = async {
            // In this order: what retention takes meanwhile, Postgres has.
            let stream = state.log.stream.get_info().await.map_err(|error| error.to_string())?;
            let consumer = state.persister.get_info().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((
                consumer.ack_floor.stream_sequence,
                stream.state.first_sequence,
                stream.state.last_sequence,
            ))
        };
        let began = Instant::now();
        match read.await {
            Ok((floor, first, last)) => Ok(partition.progress.lock().note(began, floor, first, last)),
            Err(error) => {
                tracing::warn!(error, "watermark not read");
                Err(Refusal::unavailable("the log"))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_what_postgres_lacks_is_bounded_or_unknown() {
        let mut progress = Progress::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // The first look can't tell how old the missing events are.
        assert_eq!(progress.note(at(0), 5, 1, 10).lag, None);
        assert_eq!(progress.note(at(1), 10, 1, 10).lag, Some(Duration::ZERO));
        assert_eq!(progress.note(at(3), 10, 1, 20).lag, Some(Duration::from_secs(2)));
        assert_eq!(progress.note(at(9), 10, 1, 30).lag, Some(Duration::from_secs(8)));
        assert_eq!(progress.note(at(10), 30, 1, 40).lag, Some(Duration::from_secs(1)));
    }
}
