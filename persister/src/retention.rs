//! Removes from the log what is in Postgres and older than `PARTYLINE_LOG_HOURS`, and sooner if the log is nearly as large
//! as `PARTYLINE_LOG_BYTES` allows. JetStream itself removes nothing, so that nothing is lost while no persister runs
//! (docs/decisions/0024-epoch-and-retention.md).

use std::time::Duration;

use async_nats::{
    header::NATS_SEQUENCE,
    jetstream::{consumer::pull, stream::Info},
};
use partyline_shared::{ids::Seq, streams, subjects, timestamp::Timestamp};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::{
    partitions::Rounds,
    queue::{NATS_TIMEOUT, Queues},
};

/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(60);

/// A log so full, in per cent of its limit, loses events before their time, until it is only as full as the other.
const FULL: u64 = 90;
const RELIEVED: u64 = 75;

/// Sweeps every partition for ever.
pub async fn run(queues: Queues) {
    let keep = Duration::from_secs(u64::from(queues.settings.log_hours) * 3_600);
    let mut rounds = Rounds::new(&queues, EVERY);
    loop {
        for partition in rounds.next().await {
            match sweep(&queues, partition, keep).await {
                Ok(Some(first)) => tracing::debug!(partition, first, "old events removed from the log"),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, partition, "nothing removed from the log"),
            }
        }
    }
}

/// Removes the events of a partition that the persister has settled and that are older than `keep`, or in the way of new
/// ones.
///
/// # Returns
/// The place that the log begins at now, if anything was removed.
///
/// # Errors
/// If JetStream can't be reached, or refuses.
pub async fn sweep(queues: &Queues, partition: u16, keep: Duration) -> anyhow::Result<Option<Seq>> {
    let stream = queues.js.get_stream(subjects::log_stream(partition)).await?;
    let info = stream.cached_info();
    // Before the stream's state is used: what is settled stays settled.
    let consumer = stream.get_consumer::<pull::Config>(subjects::PERSISTER_CONSUMER).await;
    let consumer = consumer.map_err(|error| anyhow::anyhow!("{error}"))?;
    let settled = consumer.cached_info().ack_floor.stream_sequence;
    let (aged, crowding) = (aged(queues, partition, info, keep).await?, crowding(info));
    let first = aged.max(crowding).min(settled + 1);
    let kept = if first > aged {
        // It can't be told for how long the log goes back.
        tracing::warn!(partition, "the log is nearly full: events that are in Postgres go early");
        Some(Duration::ZERO)
    } else if streams::retention(&info.config) == Some(Duration::ZERO) && aged <= info.state.first_sequence {
        // Not until it goes back as far as it should.
        None
    } else {
        Some(keep)
    };
    if let Some(kept) = kept {
        streams::record_retention(&queues.js, &stream, kept).await?;
    }
    if first <= info.state.first_sequence {
        return Ok(None);
    }
    stream.purge().sequence(first).await?;
    Ok(Some(first))
}

/// The first place that is to be kept by its age; at most where the log begins if all are.
async fn aged(queues: &Queues, partition: u16, info: &Info, keep: Duration) -> anyhow::Result<Seq> {
    let state = &info.state;
    let cutoff = OffsetDateTime::now_utc() - keep;
    if state.messages == 0 || state.first_timestamp > cutoff {
        return Ok(state.first_sequence);
    }
    Ok(match first_since(queues, partition, cutoff).await? {
        Some(seq) => seq,
        // A copy that lags has not heard of the newest events.
        None if state.last_timestamp > cutoff => state.first_sequence,
        None => state.last_sequence + 1,
    })
}

/// The first place that may be kept so that new events find room.
fn crowding(info: &Info) -> Seq {
    let state = &info.state;
    let Ok(limit @ 1..) = u64::try_from(info.config.max_bytes) else { return state.first_sequence };
    if state.bytes < limit / 100 * FULL {
        return state.first_sequence;
    }
    let excess = state.bytes.saturating_sub(limit / 100 * RELIEVED);
    // In proportion: events are of about one size.
    let events = u128::from(state.messages) * u128::from(excess) / u128::from(state.bytes.max(1));
    state.first_sequence + u64::try_from(events).unwrap_or(0)
}

/// The first event that was stored at a moment or later.
pub(crate) async fn first_since(queues: &Queues, partition: u16, since: OffsetDateTime) -> anyhow::Result<Option<Seq>> {
    // async-nats has no call for it.
    let request = serde_json::json!({
        "start_time": Timestamp::from(since), "next_by_subj": subjects::log_all(partition), "batch": 1,
    });
    let asked = queues.js.client().request(subjects::direct_get(partition), request.to_string().into()).await;
    let answer = timeout(NATS_TIMEOUT, async { asked }).await??;
    if answer.status.is_some_and(|status| [204, 404].contains(&status.as_u16())) {
        return Ok(None);
    }
    let seq = answer.headers.as_ref().and_then(|headers| headers.get(NATS_SEQUENCE)?.as_str().parse().ok());
    Ok(Some(seq.ok_or_else(|| anyhow::anyhow!("direct get: no sequence"))?))
}
