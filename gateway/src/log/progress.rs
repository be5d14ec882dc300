//! How far Postgres has come after the log.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::try_join_all;
use partyline_shared::{
    ids::{ConversationId, Seq},
    streams,
    wire::Refusal,
};
use tokio::time::Instant;

use super::{ANSWER_TIMEOUT, Log, Partition};
use crate::{metrics, tasks};

/// How old a watermark may be: a lower floor only means that more of the log's tail is read.
const WATERMARK_AGE: Duration = Duration::from_millis(500);
/// How old it may be where nobody should wait for a new one.
const RECENT_AGE: Duration = Duration::from_secs(3);
/// Looks at a partition's progress that are remembered.
const LOOKS: usize = 600;

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
    by_partition: BTreeMap<u16, Seq>,
}

/// What was seen of a partition's progress, for the age of what Postgres lacks.
#[derive(Debug, Default)]
pub(super) struct Progress {
    latest: Option<(Instant, Watermark)>,
    /// When the log ended where, oldest first.
    ends: VecDeque<(Instant, Seq)>,
}

impl Progress {
    /// What is known, if that is younger than `age`. What may have come into the log since then is part of its `lag`.
    fn known(&self, now: Instant, age: Duration) -> Option<Watermark> {
        let (at, watermark) = self.latest?;
        let since = now.saturating_duration_since(at);
        (since < age).then(|| Watermark { lag: watermark.lag.map(|lag| lag + since), ..watermark })
    }

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

impl Log {
    /// How far Postgres has come, at most half a second old (lower than the truth, never higher).
    ///
    /// # Errors
    /// `unavailable`, if it was never known.
    pub async fn watermark(&self, conversation: ConversationId) -> Result<Watermark, Refusal> {
        let partition = self.partition(conversation)?;
        self.watermark_of(&partition).await
    }

    /// The same without waiting, if it is known well enough: a new look is taken meanwhile. What may have been added to
    /// the log since then is part of its `lag`.
    ///
    /// # Errors
    /// `unavailable`, if it was never known.
    pub async fn recent_watermark(self: &Arc<Self>, conversation: ConversationId) -> Result<Watermark, Refusal> {
        let partition = self.partition(conversation)?;
        let now = Instant::now();
        let (known, at) = {
            let progress = partition.progress.lock();
            (progress.known(now, RECENT_AGE), progress.latest.map_or(now, |(at, _)| at))
        };
        let Some(watermark) = known else { return self.watermark_of(&partition).await };
        if now.saturating_duration_since(at) >= WATERMARK_AGE && !partition.looking.swap(true, Ordering::AcqRel) {
            let log = self.clone();
            tokio::spawn(async move {
                // Whoever needs one waits, and is told, if there is none.
                let _ = tasks::caught("watermark", log.watermark_of(&partition)).await;
                partition.looking.store(false, Ordering::Release);
            });
        }
        Ok(watermark)
    }

    /// How far Postgres has come, for conversations that are not known yet.
    ///
    /// # Errors
    /// `unavailable`, if it was never known.
    pub async fn floors(&self) -> Result<Floors, Refusal> {
        let table = self.table.load_full();
        let floors = table.partitions.iter().map(async |(number, partition)| {
            let watermark = self.watermark_of(partition).await?;
            Ok::<_, Refusal>((*number, watermark.floor))
        });
        Ok(Floors { by_partition: try_join_all(floors).await?.into_iter().collect() })
    }

    /// The floor under a conversation.
    #[must_use]
    pub fn floor(&self, floors: &Floors, conversation: ConversationId) -> Seq {
        floors.by_partition.get(&self.number(conversation)).copied().unwrap_or(0)
    }

    async fn watermark_of(&self, partition: &Partition) -> Result<Watermark, Refusal> {
        let cached = |age: Duration| partition.progress.lock().known(Instant::now(), age);
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
    pub(super) async fn look(&self, partition: &Partition) -> Result<Watermark, Refusal> {
        self.check_link()?;
        let state = partition.state.load_full();
        // Before the look, which can't find the log's end below it.
        let seen = state.epoch.highest.load(Ordering::Acquire);
        let read = async {
            // In this order: what retention takes meanwhile, Postgres has.
            let stream = state.log.stream.get_info().await.map_err(|error| error.to_string())?;
            let consumer = state.persister.get_info().await.map_err(|error| error.to_string())?;
            if streams::epoch(&stream.config) != state.log.epoch {
                return Err("another stream has taken its place".to_owned());
            }
            state.epoch.note_retention(&stream.config);
            Ok((consumer.ack_floor.stream_sequence, stream.state.first_sequence, stream.state.last_sequence))
        };
        let began = Instant::now();
        let read = tokio::time::timeout(ANSWER_TIMEOUT, read).await;
        match read.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok((floor, first, last)) => {
                if last < seen {
                    self.fell_back(&state, last);
                }
                state.epoch.highest.fetch_max(last, Ordering::AcqRel);
                let lost = streams::lost(first, floor, &mut state.epoch.counted.lock());
                if lost > 0 {
                    metrics::log_lost(lost);
                    tracing::error!(
                        partition = state.log.partition,
                        lost,
                        first,
                        "events are gone that Postgres never had"
                    );
                }
                Ok(partition.progress.lock().note(began, floor, first, last))
            }
            Err(error) => {
                tracing::warn!(error, "watermark not read");
                self.doubt();
                Err(Refusal::unavailable("the log"))
            }
        }
    }
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

    #[test]
    fn an_old_watermark_tells_of_a_lag_as_old_as_itself() {
        let mut progress = Progress::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(progress.known(at(0), Duration::MAX), None);
        progress.note(at(0), 10, 1, 10);
        assert_eq!(progress.known(at(90), Duration::from_secs(60)), None);
        let known = progress.known(at(90), Duration::MAX).unwrap();
        assert_eq!((known.floor, known.lag), (10, Some(Duration::from_secs(90))));
    }
}
