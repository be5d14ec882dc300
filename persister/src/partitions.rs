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
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use crate::{
    config::Config,
    metrics,
    queue::{Queue, Queues},
};

/// Between two looks for streams that are not served.
const EVERY: Duration = Duration::from_secs(5);
/// How long gateways and persisters have to find new streams before conversations are put into them. One that needs
/// longer refuses commands until it has found them.
const LEAD: Duration = Duration::from_secs(2);

/// Looks for log streams that this process does not serve yet, and sends them to be served, for ever.
pub async fn discover(queues: Queues, served: BTreeSet<u16>, found: mpsc::Sender<(Queue, PullConsumer)>) {
    let mut served = served;
    let mut rounds = Rounds::new(&queues, EVERY);
    loop {
        let there = rounds.next().await;
        if let Err(error) = look(&queues, &there, &mut served, &found).await {
            tracing::debug!(%error, "new partitions not served yet");
        }
        metrics::partitions_served(served.len());
    }
}

async fn look(
    queues: &Queues,
    there: &BTreeSet<u16>,
    served: &mut BTreeSet<u16>,
    found: &mpsc::Sender<(Queue, PullConsumer)>,
) -> anyhow::Result<()> {
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

/// Rounds over the partitions that have a stream, whoever made it.
pub(crate) struct Rounds<'a> {
    queues: &'a Queues,
    ticks: Interval,
}

impl<'a> Rounds<'a> {
    pub(crate) fn new(queues: &'a Queues, every: Duration) -> Self {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { queues, ticks }
    }

    /// The partitions of the next round, once it is due and JetStream tells them.
    pub(crate) async fn next(&mut self) -> BTreeSet<u16> {
        loop {
            self.ticks.tick().await;
            match streams::log_partitions(&self.queues.js).await {
                Ok(partitions) => return partitions,
                Err(error) => tracing::debug!(%error, "streams of the log not listed"),
            }
        }
    }
}

/// Makes more partitions for new conversations.
///
/// # Errors
/// If the log has as many already, or if NATS or Postgres does not answer.
pub async fn grow(config: &Config, to: u16) -> anyhow::Result<Layout> {
    let queues = Queues::connect(config, "partyline-partitions").await?;
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
    Ok(Queues::connect(config, "partyline-partitions").await?.ensure_log().await?.layout)
}
