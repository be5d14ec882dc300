//! What JetStream and Postgres tell of themselves, asked now and then through the persister's own connections: no
//! monitoring port has to be open, and no further exporter has to run.

use std::time::Duration;

use async_nats::jetstream::stream::Info;
use futures_util::TryStreamExt;
use partyline_shared::subjects;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{metrics, queue::Queues, store::Store};

/// Between two looks, and for one of Postgres's answers.
const EVERY: Duration = Duration::from_secs(5);

/// Measures streams and the account's storage for ever.
pub async fn jetstream(queues: Queues) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let names: Vec<String> = match queues.js.stream_names().try_collect().await {
            Ok(names) => names,
            Err(error) => {
                tracing::debug!(%error, "streams not listed");
                continue;
            }
        };
        for name in names.iter().filter(|name| subjects::is_ours(name)) {
            match queues.js.get_stream(name).await {
                Ok(stream) => {
                    let info = stream.cached_info();
                    let copies = replicas(info, usize::from(queues.settings.nats_replicas));
                    metrics::stream(name, &info.state, info.config.max_bytes, copies);
                }
                Err(error) => tracing::debug!(%error, name, "stream not measured"),
            }
        }
        match queues.js.query_account().await {
            Ok(account) => metrics::jetstream(&account),
            Err(error) => tracing::debug!(%error, "JetStream not measured"),
        }
    }
}

/// Copies of a stream: wanted, by the setting or by the stream's own configuration, and up to date.
fn replicas(info: &Info, setting: usize) -> (usize, usize) {
    let current = info.cluster.as_ref().map_or(1, |cluster| {
        let leader = usize::from(cluster.leader.as_ref().is_some_and(|name| !name.is_empty()));
        leader + cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count()
    });
    (info.config.num_replicas.max(setting), current)
}

/// Measures the database for ever.
pub async fn postgres(store: Store) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(EVERY, store.stats()).await {
            Ok(Ok(stats)) => metrics::postgres(&stats),
            Ok(Err(error)) => tracing::debug!(%error, "Postgres not measured"),
            Err(_) => tracing::debug!("Postgres not measured in time"),
        }
    }
}
