//! Reading a conversation's log.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use async_nats::HeaderName;
use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all};
use partyline_shared::{
    ids::{ConversationId, Seq},
    subjects,
    timestamp::Timestamp,
    wire::Refusal,
};
use serde_json::Value;
use tokio::time::timeout;
use uuid::Uuid;

use super::{ANSWER_TIMEOUT, Entry, Floors, Log, NOT_SAID};

/// Events in one read from JetStream.
const READ_BATCH: usize = 256;
/// Conversations in one request for their last events; the server answers 1,024 at most.
const LAST_BATCH: usize = 500;
/// Requests for one batch whose answers are lost on the way, before reading fails.
const BATCH_ATTEMPTS: u32 = 5;
/// The sequence number of a message in an answer.
const SEQUENCE: HeaderName = async_nats::header::NATS_SEQUENCE;
/// The sequence number of the answer before it in a batch; 0 in the first one.
const LAST_SEQUENCE: HeaderName = async_nats::header::NATS_LAST_SEQUENCE;
/// How long a lagging replica is asked again.
const REPLICA_PATIENCE: Duration = Duration::from_secs(2);

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

impl Log {
    /// The newest event of a conversation in the log. One answer from the server: whatever this connection
    /// subscribed to before is in force by then.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn head(&self, conversation: ConversationId) -> Result<Option<Entry>, Refusal> {
        self.check_link()?;
        let state = self.partition(conversation)?.state.load_full();
        let subject = self.subject(conversation);
        // A replica may lag behind its leader, so only a lone server is asked directly.
        let found = async {
            if state.log.is_replicated() {
                state.log.stream.get_last_raw_message_by_subject(&subject).await.map(Some).or_else(|error| {
                    use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
                    if matches!(error.kind(), NoMessageFound) { Ok(None) } else { Err(error.to_string()) }
                })
            } else {
                state.log.stream.direct_get_last_for_subject(&subject).await.map(Some).or_else(|error| {
                    use async_nats::jetstream::stream::DirectGetErrorKind::NotFound;
                    if matches!(error.kind(), NotFound) { Ok(None) } else { Err(error.to_string()) }
                })
            }
        };
        match timeout(ANSWER_TIMEOUT, found).await.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok(found) => {
                Ok(found.map(|message| Entry { seq: message.sequence, prev_seq: 0, payload: message.payload }))
            }
            Err(error) => {
                tracing::warn!(error, "head of a log not read");
                Err(Refusal::unavailable("the log"))
            }
        }
    }

    /// The event of a conversation at a place, if the log holds one there.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn at(&self, conversation: ConversationId, seq: Seq) -> Result<Option<Entry>, Refusal> {
        if seq == 0 {
            return Ok(None);
        }
        self.check_link()?;
        let state = self.partition(conversation)?.state.load_full();
        // As for the head: a replica may lag behind its leader.
        let found = async {
            if state.log.is_replicated() {
                state.log.stream.get_raw_message(seq).await.map(Some).or_else(|error| {
                    use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
                    if matches!(error.kind(), NoMessageFound) { Ok(None) } else { Err(error.to_string()) }
                })
            } else {
                state.log.stream.direct_get(seq).await.map(Some).or_else(|error| {
                    use async_nats::jetstream::stream::DirectGetErrorKind::NotFound;
                    if matches!(error.kind(), NotFound) { Ok(None) } else { Err(error.to_string()) }
                })
            }
        };
        match timeout(ANSWER_TIMEOUT, found).await.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok(found) => Ok(found
                .filter(|message| *message.subject == *self.subject(conversation))
                .map(|message| Entry { seq, prev_seq: 0, payload: message.payload })),
            Err(error) => {
                tracing::warn!(error, "event not read");
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

    /// Those of these conversations whose log has events after its floor, by one request for many of them. A lagging
    /// replica may miss the newest ones.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn with_tail(
        &self,
        floors: &Floors,
        conversations: &[ConversationId],
    ) -> Result<HashSet<ConversationId>, Refusal> {
        let mut by_partition: BTreeMap<u16, Vec<ConversationId>> = BTreeMap::new();
        for conversation in conversations {
            by_partition.entry(self.number(*conversation)).or_default().push(*conversation);
        }
        let requests = by_partition.iter().flat_map(|(partition, conversations)| {
            let requests = conversations.chunks(LAST_BATCH);
            requests.map(|chunk| self.with_tail_in(*partition, self.floor(floors, chunk[0]), chunk))
        });
        let found = try_join_all(requests).await.map_err(|error| {
            tracing::warn!(%error, "log not searched");
            Refusal::unavailable("the log")
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn with_tail_in(
        &self,
        partition: u16,
        floor: Seq,
        conversations: &[ConversationId],
    ) -> anyhow::Result<Vec<ConversationId>> {
        let subjects: Vec<String> = conversations.iter().map(|conversation| self.subject(*conversation)).collect();
        let request = serde_json::json!({ "multi_last": subjects, "seq": floor + 1, "batch": conversations.len() });
        let last = self.direct_get_messages(partition, request).await?;
        let conversation = |(seq, message): (Seq, async_nats::Message)| {
            let subject = message.headers.as_ref()?.get(async_nats::header::NATS_SUBJECT)?;
            subjects::parse_log(subject.as_str()).filter(|_| seq > floor)
        };
        Ok(last.into_iter().filter_map(conversation).collect())
    }

    /// Whether an answer to a direct get may come from a replica that lags.
    #[must_use]
    pub fn may_lag(&self) -> bool {
        self.table.load().partitions.values().any(|partition| partition.state.load().log.is_replicated())
    }

    /// Events after a place up to `head`, which was stored once, if retention cannot have removed any of them.
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
        let mut entries = self.read_stored(conversation, after.saturating_sub(1), head, limit + 1).await?;
        if entries.first().is_some_and(|first| first.seq == after) {
            // Retention takes the oldest first: what is held from here on is whole.
            entries.remove(0);
            return Ok(Rest::Here(entries));
        }
        let reached = entries.last().map_or(after, |entry| entry.seq);
        let head_is_gone = reached < head && entries.len() <= limit;
        entries.truncate(limit);
        if let Some(first) = entries.first_mut() {
            first.prev_seq = after;
        }
        let partition = self.partition(conversation)?;
        let watermark = self.look(&partition).await?;
        if head_is_gone {
            return Ok(Rest::InPostgres(watermark.floor.max(head)));
        }
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
        let entries = self.read_stored(conversation, after, head, limit).await?;
        let reached = entries.last().map_or(after, |entry| entry.seq);
        if reached >= head || entries.len() == limit {
            return Ok(entries);
        }
        Err(Refusal::unavailable("the log"))
    }

    /// The same, except that the result may end below `head` if retention has removed that event since.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn read_stored(
        &self,
        conversation: ConversationId,
        after: Seq,
        head: Seq,
        limit: usize,
    ) -> Result<Vec<Entry>, Refusal> {
        let began = Instant::now();
        let mut expected = false;
        loop {
            let entries = self.read_after(conversation, after, limit).await?;
            let reached = entries.last().map_or(after, |entry| entry.seq);
            if reached >= head || entries.len() == limit {
                return Ok(entries);
            }
            if !expected {
                // Unlike a batched read this asks the leader, which knows everything that is stored.
                if self.head(conversation).await?.is_none_or(|stored| stored.seq < head) {
                    return Ok(entries);
                }
                expected = true;
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

    /// The first events that were stored at a moment or later; `prev_seq` of the first is 0.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn read_since(&self, conversation: ConversationId, since: Timestamp) -> Result<Vec<Entry>, Refusal> {
        let request = serde_json::json!({
            "start_time": since, "next_by_subj": self.subject(conversation), "batch": READ_BATCH,
        });
        self.get_batch(conversation, request, 0).await
    }

    /// Whether everything that was appended since a moment is still in the conversation's log.
    #[must_use]
    pub fn holds_since(&self, conversation: ConversationId, since: Timestamp) -> bool {
        let Ok(partition) = self.partition(conversation) else { return false };
        // The persister decides how long events are kept; until it has said so, this node's own setting is the best guess.
        let keeps = match partition.state.load().epoch.keeps.load(Ordering::Acquire) {
            NOT_SAID => u64::from(self.settings.log_hours) * 3_600,
            seconds => seconds,
        };
        let kept = time::Duration::seconds(i64::try_from(keeps).unwrap_or(i64::MAX));
        let began = Uuid::try_parse(&self.epoch(conversation)).ok().and_then(Timestamp::of_uuid);
        since.age() < kept && began.is_some_and(|began| began <= since)
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
        self.get_batch(conversation, request, prev_seq).await
    }

    async fn get_batch(
        &self,
        conversation: ConversationId,
        request: Value,
        prev_seq: Seq,
    ) -> Result<Vec<Entry>, Refusal> {
        self.direct_get(self.number(conversation), request, prev_seq).await.map_err(|error| {
            tracing::warn!(%error, "log not read");
            Refusal::unavailable("the log")
        })
    }

    /// The place of the event that was appended under a deduplication id, searched after a place up to the log's end.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn find_by_dedup(
        &self,
        conversation: ConversationId,
        after: Seq,
        dedup: &str,
    ) -> Result<Option<Seq>, Refusal> {
        let Some(head) = self.head(conversation).await? else { return Ok(None) };
        let began = Instant::now();
        let mut cursor = after;
        while cursor < head.seq {
            let found = self.read_dedup_ids(conversation, cursor).await.map_err(|error| {
                tracing::warn!(%error, "log not searched");
                Refusal::unavailable("the log")
            })?;
            if let Some((seq, _)) = found.iter().find(|(_, id)| id.as_deref() == Some(dedup)) {
                return Ok(Some(*seq));
            }
            match found.last() {
                Some((last, _)) => cursor = *last,
                // A lagging replica.
                None if began.elapsed() < REPLICA_PATIENCE => tokio::time::sleep(Duration::from_millis(10)).await,
                None => return Err(Refusal::unavailable("the log")),
            }
        }
        Ok(None)
    }

    /// The next events after a place, each with the deduplication id that it was appended under.
    async fn read_dedup_ids(
        &self,
        conversation: ConversationId,
        after: Seq,
    ) -> anyhow::Result<Vec<(Seq, Option<String>)>> {
        let request =
            serde_json::json!({ "seq": after + 1, "next_by_subj": self.subject(conversation), "batch": READ_BATCH });
        let answers = self.direct_get_messages(self.number(conversation), request).await?;
        let dedup_id = |answer: &async_nats::Message| {
            Some(answer.headers.as_ref()?.get(async_nats::header::NATS_MESSAGE_ID)?.as_str().to_owned())
        };
        Ok(answers.into_iter().map(|(seq, answer)| (seq, dedup_id(&answer))).collect())
    }

    async fn direct_get(&self, partition: u16, request: Value, mut prev_seq: Seq) -> anyhow::Result<Vec<Entry>> {
        let answers = self.direct_get_messages(partition, request).await?;
        let entry = |(seq, answer): (Seq, async_nats::Message)| {
            let entry = Entry { seq, prev_seq, payload: answer.payload };
            prev_seq = seq;
            entry
        };
        Ok(answers.into_iter().map(entry).collect())
    }

    /// Returns every answer to a batched direct get. What is lost on the way is asked for again.
    async fn direct_get_messages(
        &self,
        partition: u16,
        request: Value,
    ) -> anyhow::Result<Vec<(Seq, async_nats::Message)>> {
        let mut batch = Batch::new(request);
        for _ in 0..BATCH_ATTEMPTS {
            if self.read_batch(partition, &mut batch).await? {
                return Ok(batch.messages);
            }
            tracing::debug!(partition, "an answer to a batched read was lost; reading again");
        }
        anyhow::bail!("direct get: answers were lost {BATCH_ATTEMPTS} times")
    }

    /// Asks for what the batch lacks.
    ///
    /// # Returns
    /// Whether the batch is complete. If not, an answer was lost.
    async fn read_batch(&self, partition: u16, batch: &mut Batch) -> anyhow::Result<bool> {
        self.check_link()?;
        let inbox = self.client.new_inbox();
        let request = batch.next_request();
        let asked = async {
            let answers = self.client.subscribe(inbox.clone()).await?;
            self.client.publish_with_reply(subjects::direct_get(partition), inbox.clone(), request).await?;
            anyhow::Ok(answers)
        };
        // The queue to a server that hangs may be full.
        let mut answers = timeout(ANSWER_TIMEOUT, asked).await??;
        loop {
            let answer =
                timeout(ANSWER_TIMEOUT, answers.next()).await?.ok_or_else(|| anyhow::anyhow!("subscription ended"))?;
            match batch.take(answer)? {
                Progress::More => {}
                Progress::Complete => return Ok(true),
                Progress::Lost => return Ok(false),
            }
        }
    }
}

/// What an answer means for its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Complete,
    /// The answers before this one are not all there.
    Lost,
}

/// A batched direct get: the request, and its answers so far, without a gap.
#[derive(Debug)]
struct Batch {
    request: Value,
    messages: Vec<(Seq, async_nats::Message)>,
    /// The last answer to the current request; 0 before the first one.
    last: Seq,
}

impl Batch {
    fn new(request: Value) -> Self {
        Self { request, messages: Vec::new(), last: 0 }
    }

    /// Returns the request for what is not there yet.
    fn next_request(&mut self) -> Bytes {
        self.last = 0;
        let mut request = self.request.clone();
        if let (Some((last, _)), Some(fields)) = (self.messages.last(), request.as_object_mut()) {
            fields.remove("start_time");
            fields.insert("seq".into(), (last + 1).into());
            let left =
                fields.get("batch").and_then(Value::as_u64).unwrap_or(1).saturating_sub(self.messages.len() as u64);
            fields.insert("batch".into(), left.max(1).into());
        }
        request.to_string().into()
    }

    /// Takes the next answer. Each answer, and the end of the batch, names the answer before it.
    fn take(&mut self, answer: async_nats::Message) -> anyhow::Result<Progress> {
        let number = |name: HeaderName| answer.headers.as_ref()?.get(name)?.as_str().parse::<Seq>().ok();
        let follows = number(LAST_SEQUENCE).is_none_or(|previous| previous == self.last);
        match answer.status.map(|status| status.as_u16()) {
            // Nothing there.
            Some(404) => return Ok(Progress::Complete),
            // The end of the batch.
            Some(204) => return Ok(if follows { Progress::Complete } else { Progress::Lost }),
            Some(status) if status >= 300 => anyhow::bail!("direct get: status {status}"),
            _ if !follows => return Ok(Progress::Lost),
            _ => {}
        }
        let seq = number(SEQUENCE).ok_or_else(|| anyhow::anyhow!("direct get: no sequence"))?;
        self.last = seq;
        self.messages.push((seq, answer));
        Ok(Progress::More)
    }
}

#[cfg(test)]
mod tests {
    use async_nats::{HeaderMap, StatusCode};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn answer(status: Option<u16>, headers: &[(HeaderName, Seq)]) -> async_nats::Message {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(name.clone(), value.to_string()));
        async_nats::Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: Bytes::new(),
            headers: Some(map),
            status: status.map(|status| StatusCode::from_u16(status).unwrap()),
            description: None,
            length: 0,
        }
    }

    /// JetStream's answers to a request.
    fn answers(log: &[Seq], request: &[u8]) -> Vec<async_nats::Message> {
        let request: Value = serde_json::from_slice(request).unwrap();
        let first = request["seq"].as_u64().unwrap_or(1);
        let batch = request["batch"].as_u64().unwrap() as usize;
        let found: Vec<Seq> = log.iter().copied().filter(|seq| *seq >= first).take(batch).collect();
        if found.is_empty() {
            return vec![answer(Some(404), &[])];
        }
        let before = [&[0], &found[..]].concat();
        let each =
            found.iter().zip(&before).map(|(seq, last)| answer(None, &[(SEQUENCE, *seq), (LAST_SEQUENCE, *last)]));
        each.chain([answer(Some(204), &[(LAST_SEQUENCE, before[found.len()])])]).collect()
    }

    fn seqs(batch: &Batch) -> Vec<Seq> {
        batch.messages.iter().map(|(seq, _)| *seq).collect()
    }

    proptest! {
        #[test]
        fn batch_is_never_complete_with_an_answer_missing(
            gaps in vec(1..5_u64, 0..40),
            size in 1..50_usize,
            by_time in any::<bool>(),
            lost in vec(vec(any::<bool>(), 60), 0..6),
        ) {
            let mut last = 0;
            let log: Vec<Seq> = gaps.iter().map(|gap| { last += gap; last }).collect();
            let start = if by_time { ("start_time", Value::from("then")) } else { ("seq", Value::from(1)) };
            let mut batch = Batch::new(Value::Object(
                [start, ("batch", size.into())].map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
            ));
            let expected: Vec<Seq> = log.iter().copied().take(size).collect();
            // After some requests with losses one without.
            for round in 0..=lost.len() {
                let request = batch.next_request();
                let is_lost = |nth: usize| lost.get(round).is_some_and(|lost| lost[nth]);
                let mut complete = false;
                for (nth, answer) in answers(&log, &request).into_iter().enumerate() {
                    // An end that is lost is a time-out.
                    if answer.status.is_none() && is_lost(nth) {
                        continue;
                    }
                    match batch.take(answer).unwrap() {
                        Progress::More => {}
                        Progress::Complete => complete = true,
                        Progress::Lost => break,
                    }
                }
                prop_assert!(expected.starts_with(&seqs(&batch)));
                if complete {
                    break;
                }
                prop_assert!(round < lost.len(), "without losses a batch is complete");
            }
            prop_assert_eq!(seqs(&batch), expected);
        }
    }
}
