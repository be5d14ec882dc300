//! Finds a Postgres that lacks what JetStream has been told is there: it was restored from a backup, or a standby that lagged
//! was promoted. What the log still has is then read again; writing it again changes nothing
//! (docs/decisions/0026-postgres-behind-the-log.md).

use std::time::Duration;

use async_nats::jetstream::{consumer::Info, context::ConsumerInfoErrorKind};
use partyline_shared::{ids::Seq, streams, subjects};
use time::OffsetDateTime;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    config::{Config, Replay},
    metrics,
    partitions::Rounds,
    queue::Queues,
    retention,
    store::{Known, Watermark},
};

/// Between two looks, and how old what a pipeline knows may be.
const EVERY: Duration = Duration::from_secs(2);

/// What a pipeline knows of its partition from JetStream, to compare with Postgres in every transaction.
#[derive(Debug, Default)]
pub struct Watch(Mutex<Option<(Instant, Known)>>);

impl Watch {
    /// What is known, asked again now and then. Older is harmless: the floor only rises, except by a rewind.
    pub async fn known(&self, queues: &Queues, partition: u16) -> Known {
        let mut latest = self.0.lock().await;
        let fresh = latest.filter(|(at, _)| at.elapsed() < EVERY);
        if fresh.is_none() {
            match known(queues, partition).await {
                Ok((known, _)) => *latest = Some((Instant::now(), known)),
                Err(error) => tracing::debug!(%error, partition, "floor not read"),
            }
        }
        latest.map(|(_, known)| known).unwrap_or_default()
    }

    /// Asks again next time.
    pub async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

/// Compares Postgres with the acknowledgements for ever, also while nothing is written.
pub async fn watch(queues: Queues) {
    let mut rounds = Rounds::new(&queues, EVERY);
    loop {
        for partition in rounds.next().await {
            if let Err(error) = look(&queues, partition).await {
                tracing::debug!(%error, partition, "Postgres was not compared with the log");
            }
        }
    }
}

/// Compares Postgres with the acknowledgements of a partition, and has the log read again if Postgres is behind.
///
/// # Errors
/// If JetStream or Postgres can't be reached, or refuses.
pub async fn look(queues: &Queues, partition: u16) -> anyhow::Result<()> {
    let (known, watermark) = known(queues, partition).await?;
    if watermark.is_behind(known) {
        rewind(queues, partition, None).await?;
    }
    Ok(())
}

/// The floor, and the rewinds that it belongs to; and what Postgres tells.
async fn known(queues: &Queues, partition: u16) -> anyhow::Result<(Known, Watermark)> {
    // In this order: a rewind that is counted here has replaced the consumer before.
    let rewinds = queues.store.watermark(partition).await?.rewinds;
    let floor = consumer(queues, partition).await?.map_or(0, |it| it.ack_floor.stream_sequence);
    // And after the floor: whatever was acknowledged then is in Postgres by now.
    let watermark = queues.store.watermark(partition).await?;
    Ok((Known { floor, rewinds }, watermark))
}

/// The persister's consumer. A missing one is made by its puller, and begins with the log.
async fn consumer(queues: &Queues, partition: u16) -> anyhow::Result<Option<Info>> {
    let stream = queues.js.get_stream_no_info(subjects::log_stream(partition)).await?;
    match stream.consumer_info(subjects::PERSISTER_CONSUMER).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if matches!(error.kind(), ConsumerInfoErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Has the persisters read a partition again: from a given place, and if Postgres is behind from where it is not known to
/// hold everything. Others may do the same at the same time: the row in Postgres is locked meanwhile.
///
/// # Returns
/// The place, if anything has to be read again.
///
/// # Errors
/// If JetStream or Postgres can't be reached, or refuses.
pub async fn rewind(queues: &Queues, partition: u16, asked: Option<Seq>) -> anyhow::Result<Option<Seq>> {
    let mut from = None;
    let begun = &mut from;
    let change = async move |found: Watermark| {
        let consumer = consumer(queues, partition).await?;
        let floor = consumer.as_ref().map_or(0, |it| it.ack_floor.stream_sequence);
        let is_behind = found.is_behind(Known { floor, rewinds: found.rewinds });
        let begin = match asked {
            Some(asked) if is_behind => asked.min(found.settled + 1),
            Some(asked) => asked,
            None if is_behind => found.settled + 1,
            None => return Ok(None),
        };
        let stream = queues.js.get_stream(subjects::log_stream(partition)).await?;
        let first = stream.cached_info().state.first_sequence;
        let begin = begin.max(first);
        let delivered = consumer.map_or(0, |it| it.delivered.stream_sequence);
        if begin > delivered {
            // Whatever is missing is not in the log any more, or will be delivered anyway.
            return Ok(is_behind.then_some(Watermark { seq: found.seq.max(floor), ..found }));
        }
        if is_behind {
            tracing::error!(
                partition,
                watermark = found.seq,
                floor,
                from = begin,
                "Postgres lacks what was acknowledged: it was restored, or a standby was promoted. The log is read again"
            );
        }
        streams::rewind_persister(&stream, begin).await?;
        metrics::rewound(delivered + 1 - begin);
        *begun = Some(begin);
        let settled = found.settled.min(begin - 1);
        Ok(Some(Watermark { settled, rewinds: found.rewinds + 1, ..found }))
    };
    queues.store.change_watermark(partition, change).await?;
    Ok(from)
}

/// Has running persisters read the log again, from a time or place that an operator names.
///
/// # Returns
/// Each partition that there is, with the place that it is read from again.
///
/// # Errors
/// If NATS or Postgres does not answer.
pub async fn replay(config: &Config, replay: &Replay) -> anyhow::Result<Vec<(u16, Option<Seq>)>> {
    let queues = Queues::connect(config, "partyline-replay").await?;
    let mut begun = Vec::new();
    for partition in streams::log_partitions(&queues.js).await? {
        if replay.partition.is_some_and(|asked| asked != partition) {
            continue;
        }
        let from = match (replay.from_seq, replay.since) {
            (Some(seq), _) => Some(seq),
            (None, Some(since)) => {
                retention::first_since(&queues, partition, OffsetDateTime::now_utc() - since).await?
            }
            (None, None) => None,
        };
        let from = match from {
            Some(from) => rewind(&queues, partition, Some(from)).await?,
            None => None,
        };
        begun.push((partition, from));
    }
    Ok(begun)
}
