//! How far Postgres is behind, asked now and then.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use partyline_shared::{ids::Seq, streams, subjects};
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    metrics,
    queue::{Queue, Queues},
};

const EVERY: Duration = Duration::from_secs(2);

/// Measures one queue for ever.
pub async fn watch(queues: Queues, queue: Queue, consumer: PullConsumer) {
    // Up to here events that were never written are counted.
    let mut counted = 0;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = measure(&queues, queue, &consumer, &mut counted).await {
            tracing::debug!(%error, ?queue, "lag not measured");
        }
    }
}

async fn measure(queues: &Queues, queue: Queue, consumer: &PullConsumer, counted: &mut Seq) -> anyhow::Result<()> {
    // Before the floor, which only grows: retention takes nothing above it.
    let first = match queue.partition() {
        Some(partition) => {
            let stream = queues.js.get_stream(subjects::log_stream(partition)).await?;
            Some(stream.cached_info().state.first_sequence)
        }
        None => None,
    };
    let info = consumer.get_info().await?;
    if let Some(first) = first {
        let lost = streams::lost(first, info.ack_floor.stream_sequence, counted);
        metrics::lost(lost);
        if lost > 0 {
            tracing::error!(?queue, lost, first, "events are gone from the log that Postgres never had");
        }
    }
    let messages = info.num_pending + info.num_ack_pending as u64;
    let Queue::Log(partition) = queue else {
        metrics::seen_lag(messages);
        return Ok(());
    };
    let mut age = Duration::ZERO;
    if messages > 0 {
        let stream = queues.js.get_stream_no_info(subjects::log_stream(partition)).await?;
        let after = Some(info.ack_floor.stream_sequence + 1);
        if let Ok(oldest) = stream.direct_get_next_for_subject(subjects::log_all(partition), after).await {
            age = (OffsetDateTime::now_utc() - oldest.time).try_into().unwrap_or_default();
        }
    }
    metrics::lag(partition, messages, info.num_ack_pending, age);
    Ok(())
}
