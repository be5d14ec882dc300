//! Compares the log with what Postgres and this node know of it, before anything is appended on a new connection, and now
//! and then: a log that was restored from an older copy would give out places anew that messages have already
//! (docs/decisions/0024-epoch-and-retention.md).

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use futures_util::future::try_join_all;
use partyline_shared::{ids::Seq, streams, subjects, wire::Refusal};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, Log, PartitionState};
use crate::metrics;

/// A partition whose log ends too low.
#[derive(Clone, Debug)]
pub struct Behind {
    pub partition: u16,
    pub epoch: String,
    /// Where the log ends.
    pub last: Seq,
    /// A place that Postgres holds, or that this node has seen.
    pub known: Seq,
}

/// Why nothing may be appended yet.
#[derive(Clone, Debug)]
pub enum NotVerified {
    /// The log or Postgres does not answer.
    Unknown(&'static str),
    /// The log was restored from an older copy: these partitions need a new epoch.
    Behind(Vec<Behind>),
}

impl Log {
    /// Whether a connection waits for [`Self::verify`].
    #[must_use]
    pub fn must_verify(&self) -> bool {
        self.publisher.unverified().is_some()
    }

    /// Compares the log's ends with `held`, the highest places in Postgres by partition, and with what this node has seen
    /// of the log; then opens the connection for appending. Once a node has compared them with Postgres, what it has seen
    /// suffices while Postgres is away.
    ///
    /// # Errors
    /// [`NotVerified`].
    pub async fn verify(&self, held: Option<&BTreeMap<u16, Seq>>) -> Result<(), NotVerified> {
        let Some(connected) = self.publisher.unverified() else { return Ok(()) };
        if held.is_none() && !self.compared.load(Ordering::Acquire) {
            return Err(NotVerified::Unknown("Postgres does not tell how far it holds the log"));
        }
        let behind = self.compare(held).await?;
        if !behind.is_empty() {
            return Err(NotVerified::Behind(behind));
        }
        if held.is_some() {
            self.compared.store(true, Ordering::Release);
        }
        connected.verified();
        Ok(())
    }

    async fn compare(&self, held: Option<&BTreeMap<u16, Seq>>) -> Result<Vec<Behind>, NotVerified> {
        let table = self.table.load_full();
        let compared = table.partitions.iter().map(async |(number, partition)| {
            let state = partition.state.load_full();
            // Before the look: what is known by now stands below the end that it finds.
            let seen = state.epoch.highest.load(Ordering::Acquire);
            let known = held.and_then(|held| held.get(number)).copied().unwrap_or(0).max(seen);
            let info = timeout(ANSWER_TIMEOUT, state.log.stream.get_info()).await.ok().and_then(Result::ok);
            let Some(info) = info.filter(|info| streams::epoch(&info.config) == state.log.epoch) else {
                self.doubt();
                return Err(NotVerified::Unknown("a stream does not answer, or is another one"));
            };
            let last = info.state.last_sequence;
            if last >= known {
                state.epoch.highest.fetch_max(last, Ordering::AcqRel);
                return Ok(None);
            }
            Ok(Some(Behind { partition: *number, epoch: state.log.epoch.clone(), last, known }))
        });
        Ok(try_join_all(compared).await?.into_iter().flatten().collect())
    }

    /// Begins a new epoch above what is known of a partition.
    ///
    /// # Errors
    /// If the persister has not written all that is left in the log, or JetStream fails.
    pub async fn begin_above(&self, behind: &Behind) -> anyhow::Result<()> {
        streams::begin_above(&self.js, behind.partition, &behind.epoch, behind.known).await
    }

    /// The log gave a place that should have been given before, or ends below what was seen of it.
    pub(super) fn fell_back(&self, state: &PartitionState, seq: Seq) {
        tracing::error!(
            partition = state.log.partition,
            seq,
            "the log has fallen back; nothing is appended until it is compared"
        );
        self.publisher.suspend();
    }

    /// Measures how far Postgres is behind in every partition, and compares the log with `held` as [`Self::verify`] does.
    pub async fn measure(&self, held: Option<&BTreeMap<u16, Seq>>) {
        if self.check_link().is_err() {
            return;
        }
        if let Ok(behind) = self.compare(held).await
            && !behind.is_empty()
        {
            self.publisher.suspend();
        }
        let table = self.table.load_full();
        for (number, partition) in &table.partitions {
            let Ok(watermark) = self.look(partition).await else { continue };
            let state = partition.state.load_full();
            let last = state.epoch.highest.load(Ordering::Acquire);
            let messages = last.saturating_sub(watermark.floor);
            if messages == 0 {
                metrics::log_lag(*number, 0, Duration::ZERO);
            } else if let Ok(age) = self.age_after(&state, watermark.floor).await {
                metrics::log_lag(*number, messages, age);
            }
        }
    }

    /// The age of the first event after a place.
    async fn age_after(&self, state: &PartitionState, seq: Seq) -> Result<Duration, Refusal> {
        let subject = subjects::log_all(state.log.partition);
        let found = state.log.stream.direct_get_next_for_subject(subject, Some(seq + 1));
        let oldest = timeout(ANSWER_TIMEOUT, found).await.ok().and_then(Result::ok);
        let oldest = oldest.ok_or_else(|| Refusal::unavailable("the log"))?;
        Ok((OffsetDateTime::now_utc() - oldest.time).try_into().unwrap_or_default())
    }
}
