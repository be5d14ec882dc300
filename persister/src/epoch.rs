//! Finds a log that was restored from an older copy: it ends below what Postgres holds. Gateways look for themselves, and
//! append nothing until a new epoch has begun above it (docs/decisions/0024-epoch-and-retention.md).

use std::time::Duration;

use partyline_shared::{nats, streams, subjects};
use tokio::time::{MissedTickBehavior, interval};

use crate::{metrics, queue::Queues};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);

/// Compares the log with Postgres for ever.
pub async fn watch(queues: Queues) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = look(&queues).await {
            tracing::warn!(%error, "the log was not compared with Postgres");
        }
    }
}

async fn look(queues: &Queues) -> anyhow::Result<()> {
    for (partition, held) in queues.store.watermarks().await? {
        // A stream that is gone is made above Postgres by whoever misses it.
        let Ok(stream) = queues.js.get_stream(subjects::log_stream(partition)).await else { continue };
        let info = stream.cached_info();
        let last = info.state.last_sequence;
        if last >= held {
            continue;
        }
        metrics::log_behind();
        tracing::error!(
            partition,
            last,
            held,
            "the log ends below what Postgres holds: it was restored from an older copy"
        );
        streams::begin_above(&queues.js, partition, streams::epoch(&info.config), held).await?;
        if let Err(error) = nats::try_publish(&queues.js.client(), subjects::LOG_RESTARTED, "".into()) {
            tracing::warn!(%error, "the new epoch not told of");
        }
    }
    Ok(())
}
