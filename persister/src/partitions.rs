//! The partitions of the log: finding those that are not served yet, and making more.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::consumer::PullConsumer;
use partyline_shared::{
    nats,
    streams::{self, Layout},
    subjects,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    config::Config,
    metrics,
    queue::{Queue, Queues},
    store::Store,
};

/// Between two looks for streams that are not served.
const EVERY: Duration = Duration::from_secs(5);
/// How long gateways and persisters have to find new streams before conversations are put into them. One that needs
/// longer refuses commands until it has found them.
const LEAD: Duration = Duration::from_secs(2);

/// Looks for log streams that this process does not serve yet, and sends them to be served, for ever.
pub async fn discover(queues: Queues, served: BTreeSet<u16>, found: mpsc::Sender<(Queue, PullConsumer)>) {
    let mut served = served;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = look(&queues, &mut served, &found).await {
            tracing::debug!(%error, "streams of the log not listed");
        }
        metrics::partitions_served(served.len());
    }
}

async fn look(
    queues: &Queues,
    served: &mut BTreeSet<u16>,
    found: &mpsc::Sender<(Queue, PullConsumer)>,
) -> anyhow::Result<()> {
    let there = streams::log_partitions(&queues.js).await?;
    metrics::partitions_found(there.len());
    if there.is_subset(served) {
        return Ok(());
    }
    for (queue, consumer) in queues.open_logs().await? {
        let Queue::Log(partition) = queue else { continue };
        if !served.contains(&partition) && found.send((queue, consumer)).await.is_ok() {
            tracing::info!(partition, "a new partition is persisted");
            served.insert(partition);
        }
    }
    Ok(())
}

/// Makes more partitions for new conversations.
///
/// # Errors
/// If the log has as many already, or if NATS or Postgres does not answer.
pub async fn grow(config: &Config, to: u16) -> anyhow::Result<Layout> {
    let queues = connect(config).await?;
    let client = queues.js.client();
    let announce = async || {
        // Gateways look at the streams again.
        if let Err(error) = nats::try_publish(&client, subjects::LOG_RESTARTED, "".into()) {
            tracing::warn!(%error, "new streams not announced");
        }
        sleep(LEAD).await;
    };
    let layout = streams::grow_log(&queues.js, &queues.settings, to, || queues.floor(), announce).await?;
    let _ = nats::try_publish(&client, subjects::LOG_RESTARTED, "".into());
    client.flush().await?;
    Ok(layout)
}

/// The number of partitions.
///
/// # Errors
/// If NATS or Postgres does not answer.
pub async fn show(config: &Config) -> anyhow::Result<Layout> {
    Ok(connect(config).await?.ensure_log().await?.layout)
}

async fn connect(config: &Config) -> anyhow::Result<Queues> {
    let store = Store::connect_lazy(&config.database)?;
    let (client, _) = nats::connect(&config.nats, "partyline-partitions").await?;
    Ok(Queues::new(client, &config.nats, store))
}
