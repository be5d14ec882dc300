//! A partition's way into Postgres: read, write, put aside what can't be written, acknowledge.

use std::{collections::HashSet, ops::Range, time::Duration};

use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer, stream::RawMessageErrorKind};
use partyline_shared::{event::Event, ids::Seq, subjects};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    batch::{self, Entry, Rows, Target, Unreadable},
    brake::{self, Brake},
    dead_letter::{DeadLetters, Reason},
    metrics,
    pull::Pulled,
    queue::Queues,
    retry::{self, NotTaken, Refused},
    rewind::{self, Watch},
    store::Written,
    trace::Spans,
};

/// How long an event rests whose dead letter JetStream would not take.
const DEAD_LETTER_PAUSE: Duration = Duration::from_secs(5);
/// How long an event waits at first that this version doesn't know.
const UPGRADE_PAUSE: Duration = Duration::from_secs(1);
/// How long an edit or deletion waits at first for its message.
const TARGET_PAUSE: Duration = Duration::from_millis(50);
/// Deliveries after which the log is searched for the message that an edit or deletion waits for.
const DELIVERIES_MAX: i64 = 6;

/// Writes the batches of one partition.
pub struct Pipeline {
    pub queues: Queues,
    pub dead: DeadLetters,
    pub consumer: PullConsumer,
    pub partition: u16,
    pub brake: Brake,
    /// Finds a Postgres that lacks what was acknowledged.
    pub watch: Watch,
}

/// A batch as read: entries and their messages, side by side, by `seq`.
struct Work {
    entries: Vec<Entry>,
    messages: Vec<Message>,
    spans: Spans,
}

impl Pipeline {
    /// Writes batches until there are no more.
    pub async fn run(mut self, mut batches: mpsc::Receiver<Pulled>) {
        while let Some(pulled) = batches.recv().await {
            self.settle(&pulled.messages).await;
        }
    }

    /// Brings every event of a batch to its end: written, put aside, or put back.
    async fn settle(&mut self, pulled: &[Message]) {
        let mut work = self.read(pulled).await;
        // Bisecting: what Postgres refuses is split until the row that it refuses is alone.
        let mut parts: Vec<Range<usize>> = std::iter::once(0..work.entries.len()).collect();
        let mut refused: Vec<(usize, Refused)> = Vec::new();
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.write(&work.entries[part.clone()]).await {
                Ok(written) => {
                    self.brake.written(&work.entries[part.clone()]);
                    self.conclude(&mut work, part, &written).await;
                }
                Err(refusal) if part.len() == 1 => {
                    refused.push((part.start, refusal));
                    if self.brake.refused(&work.entries[part.start]) {
                        self.hold(&mut work, &mut refused).await;
                        // Some were refused perhaps just before Postgres was mended.
                        parts.extend(refused.drain(..).rev().map(|(index, _)| index..index + 1));
                    }
                }
                Err(_) => {
                    let middle = part.start + part.len() / 2;
                    // The earlier half first: it may hold what the later one edits.
                    parts.push(middle..part.end);
                    parts.push(part.start..middle);
                }
            }
        }
        // Not before the brake has seen the whole batch.
        for (index, refusal) in refused {
            let seq = work.entries[index].seq;
            self.bury(&work.messages[index], seq, Reason::Refused(refusal), &mut work.spans).await;
        }
    }

    /// Writes nothing else until Postgres takes one of the events that it refused. They stay in the log; those that are not
    /// written then remain in `refused`.
    async fn hold(&mut self, work: &mut Work, refused: &mut Vec<(usize, Refused)>) {
        let reason = refused.last().map(|(_, refusal)| refusal.code.clone()).unwrap_or_default();
        tracing::error!(
            partition = self.partition,
            sqlstate = reason,
            "Postgres refuses too many events: the database seems to be at fault. Nothing is written until it takes them; \
             the log keeps everything"
        );
        metrics::brake(self.partition, true);
        let mut wait = brake::FIRST_WAIT;
        loop {
            sleep(wait).await;
            wait = (wait * 2).min(brake::LONGEST_WAIT);
            let mut taken = false;
            for (index, _) in std::mem::take(refused) {
                match self.write(&work.entries[index..=index]).await {
                    Ok(written) => {
                        taken = true;
                        self.conclude(work, index..index + 1, &written).await;
                    }
                    Err(refusal) => refused.push((index, refusal)),
                }
            }
            // Those that were put aside before, in case that the others really are at fault.
            for entry in self.brake.suspects() {
                taken = taken || self.write(&[entry]).await.is_ok();
            }
            if taken {
                break;
            }
            tracing::error!(partition = self.partition, "Postgres still refuses them");
        }
        tracing::info!(partition = self.partition, "Postgres takes events again");
        metrics::brake(self.partition, false);
        self.brake.release();
    }

    /// Sorts a batch by `seq`, each event once, and puts aside what can't be read.
    async fn read(&self, pulled: &[Message]) -> Work {
        let mut redelivered = 0;
        let mut placed = Vec::with_capacity(pulled.len());
        for message in pulled {
            match message.info() {
                Ok(info) => {
                    redelivered += u64::from(info.delivered > 1);
                    placed.push((info.stream_sequence, message));
                }
                Err(error) => tracing::error!(%error, subject = %message.subject, "not from JetStream"),
            }
        }
        metrics::batch(placed.len(), redelivered);
        placed.sort_by_key(|(seq, _)| *seq);
        // Delivered twice within one batch: one acknowledgement settles both.
        placed.dedup_by_key(|(seq, _)| *seq);
        let mut work = Work {
            entries: Vec::with_capacity(placed.len()),
            messages: Vec::with_capacity(placed.len()),
            spans: Spans::begin(&placed),
        };
        let mut unknown = 0_u32;
        for (seq, message) in placed {
            match batch::read(&message.subject, &message.payload) {
                Ok(event) => {
                    work.entries.push(Entry { seq, event });
                    work.messages.push(message.clone());
                }
                // Put aside, or acknowledged, it would be missing for ever. It stays in the log, where gateways find it,
                // and others are written meanwhile.
                Err(Unreadable::UnknownType(_)) => {
                    metrics::waits_for_upgrade();
                    respond(message, AckKind::Nak(Some(pause(message, UPGRADE_PAUSE, 5)))).await;
                    work.spans.end(seq, "waiting_for_upgrade");
                    unknown += 1;
                }
                Err(error) => {
                    self.bury(message, seq, Reason::Unreadable(error.to_string()), &mut work.spans).await;
                }
            }
        }
        if unknown > 0 {
            // Their types are not logged: they are an event's text, which may be anything.
            let partition = self.partition;
            tracing::error!(partition, unknown, "events wait in the log for a persister of a newer version");
        }
        work
    }

    async fn write(&self, entries: &[Entry]) -> Result<Written, Refused> {
        let rows = Rows::of(entries);
        let last = entries.last().map_or(0, |entry| entry.seq);
        let write = async || {
            let known = self.watch.known(&self.queues, self.partition).await;
            let began = Instant::now();
            let written = self.queues.store.write(&rows, self.partition, last, known).await?;
            metrics::wrote("log", began.elapsed());
            metrics::rows(&rows, written.duplicates.len() + written.displaced.len());
            Ok(written)
        };
        self.taken(write).await
    }

    /// Repeats `attempt` until Postgres has taken it, and rewinds if Postgres lacks what was acknowledged.
    async fn taken<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Refused>
    where
        F: Future<Output = Result<T, crate::store::Failure>>,
    {
        let mut backoff = retry::Backoff::default();
        loop {
            match retry::until_taken(&mut attempt).await {
                Ok(done) => return Ok(done),
                Err(NotTaken::Refused(refused)) => return Err(refused),
                Err(NotTaken::Behind) => {
                    self.watch.forget().await;
                    if let Err(error) = rewind::look(&self.queues, self.partition).await {
                        tracing::warn!(%error, "Postgres was not compared with the log");
                    }
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// After a commit: acknowledges what is written and looks after the rest.
    async fn conclude(&self, work: &mut Work, part: Range<usize>, written: &Written) {
        let hopeless = self.hopeless(&written.absent).await;
        for index in part {
            let (entry, message) = (&work.entries[index], &work.messages[index]);
            let waits_for = batch::target(&entry.event).filter(|target| written.absent.contains(target));
            if let Some(target) = waits_for {
                let lost = target.seq >= entry.seq || hopeless.contains(&target);
                if lost || self.is_nowhere(message, target).await {
                    self.bury(message, entry.seq, Reason::TargetMissing, &mut work.spans).await;
                } else {
                    metrics::waits_for_target();
                    respond(message, AckKind::Nak(Some(pause(message, TARGET_PAUSE, 6)))).await;
                    work.spans.end(entry.seq, "waiting_for_target");
                }
            } else if written.displaced.contains(&entry.seq) {
                self.bury(message, entry.seq, Reason::PlaceTaken, &mut work.spans).await;
            } else {
                respond(message, AckKind::Ack).await;
                work.spans.end(entry.seq, "written");
            }
        }
    }

    /// Those of the absent messages that will never come. Another persister may have one in hand right now, so
    /// absence alone tells nothing; but everything up to the consumer's floor is settled, and what is not there
    /// after that was never written. The oldest unsettled event waits for nothing unsettled, so this comes to an end: a
    /// message whose place is not below that of its edit will never come.
    async fn hopeless(&self, absent: &HashSet<Target>) -> HashSet<Target> {
        if absent.is_empty() {
            return HashSet::new();
        }
        let floor = match self.consumer.get_info().await {
            Ok(info) => info.ack_floor.stream_sequence,
            Err(error) => {
                tracing::warn!(%error, "floor not read");
                return HashSet::new();
            }
        };
        let settled: Vec<Target> = absent.iter().filter(|target| target.seq <= floor).copied().collect();
        // Asked again, since it may have come between the write and the look at the floor.
        self.queues.store.absent(&settled).await.unwrap_or_default()
    }

    /// Whether an event has been delivered often, and the message that it waits for is not in the log either. Deliveries
    /// alone tell nothing: while Postgres is away each event is delivered again and again.
    async fn is_nowhere(&self, message: &Message, target: Target) -> bool {
        if message.info().map_or(0, |info| info.delivered) < DELIVERIES_MAX {
            return false;
        }
        let Ok(stream) = self.queues.js.get_stream_no_info(subjects::log_stream(self.partition)).await else {
            return false;
        };
        match stream.get_raw_message(target.seq).await {
            Ok(found) => match batch::read(&found.subject, &found.payload) {
                Ok(Event::NewMessage(it)) => {
                    it.message_id != target.message_id || it.conversation_id != target.conversation_id
                }
                Ok(_) => true,
                // Perhaps it can be read by a newer version, or will be buried.
                Err(_) => false,
            },
            Err(error) => matches!(error.kind(), RawMessageErrorKind::NoMessageFound),
        }
    }

    async fn bury(&self, message: &Message, seq: Seq, reason: Reason, spans: &mut Spans) {
        match self.dead.bury(message, seq, &reason).await {
            Ok(()) => {
                // What is acknowledged is in Postgres or below its watermark.
                let settle = async || {
                    let known = self.watch.known(&self.queues, self.partition).await;
                    self.queues.store.settle(self.partition, seq, known).await
                };
                if let Err(error) = self.taken(settle).await {
                    tracing::error!(%error, seq, "watermark not written");
                }
                respond(message, AckKind::Ack).await;
            }
            Err(error) => {
                tracing::error!(%error, seq, "dead letter not stored; the event stays in the log");
                respond(message, AckKind::Nak(Some(DEAD_LETTER_PAUSE))).await;
            }
        }
        spans.end(seq, reason.as_str());
    }
}

/// An answer that gets lost is no harm: the event comes again, and writing it again changes nothing.
pub(crate) async fn respond(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "answer to JetStream not sent");
    }
}

/// Doubles `first` with each delivery of a message, up to `doublings` times.
fn pause(message: &Message, first: Duration, doublings: u32) -> Duration {
    let delivered = message.info().map_or(1, |info| u32::try_from(info.delivered).unwrap_or(1));
    first * (1 << delivered.saturating_sub(1).min(doublings))
}
