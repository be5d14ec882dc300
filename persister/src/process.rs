//! The life of a persister: Postgres, NATS, one pipeline a partition, and a clean end.

use std::{collections::BTreeSet, net::SocketAddr};

use async_nats::{Client, jetstream::consumer::PullConsumer};
use metrics_exporter_prometheus::PrometheusHandle;
use partyline_migrations::LOCK_TIMEOUT;
use partyline_shared::{
    admin::{self, Latch, Readiness},
    nats::{Link, LinkEvents},
    start::{self, Servers},
    streams::PartitionsDiffer,
    tasks,
    trace::{self, Service},
};
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc},
    task::JoinSet,
    time::{Duration, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    brake::Brake,
    config::Config,
    dead_letter::DeadLetters,
    epoch, lag, metrics, partitions,
    pipeline::Pipeline,
    pull::{Limits, Puller},
    queue::{Queue, Queues},
    retention,
    retry::Backoff,
    rewind, seen,
    store::Store,
    watch,
};

/// How long the last acknowledgements may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A persister whose admin port is bound; it does nothing yet.
pub struct Persister {
    config: Config,
    admin: TcpListener,
    metrics: PrometheusHandle,
}

impl Persister {
    /// Binds the admin port.
    ///
    /// # Errors
    /// If the port is taken.
    pub async fn bind(config: Config, metrics: PrometheusHandle) -> anyhow::Result<Self> {
        let addr = config.admin_addr;
        let admin = TcpListener::bind(addr).await.map_err(|error| anyhow::anyhow!("{addr}: {error}"))?;
        Ok(Self { config, admin, metrics })
    }

    /// # Errors
    /// If the socket is gone.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Persists until `shutdown`, then finishes and acknowledges the batches in hand. Dropped, it stops at once,
    /// and another persister gets what it had in hand.
    ///
    /// # Errors
    /// If something is wrong that waiting won't mend.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { config, admin, metrics } = self;
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let service = Service { name: "partyline-persister", version: env!("CARGO_PKG_VERSION"), instance: &instance };
        trace::start(&config.telemetry, service, metrics::spans)?;
        let servers = Servers::default();
        let nats_up = servers.nats.clone();
        let readiness = Readiness::new(servers.conditions());
        let end = CancellationToken::new();
        let mut aside = JoinSet::new();
        let serving = end.clone();
        let admin = async move {
            if let Err(error) = admin::serve(admin, readiness, metrics, serving).await {
                tracing::error!(%error, "admin port broke");
            }
        };
        aside.spawn(tasks::essential_until("admin", admin, end.clone()));

        let opened = tokio::select! {
            opened = open(&config, &servers, &mut aside) => opened?,
            () = shutdown.cancelled() => return Ok(()),
            task = tasks::failed() => return Err(tasks::Failed(task).into()),
        };
        let mut found = watch(&opened, &mut aside);
        let mut pipelines = JoinSet::new();
        for queue in opened.consumers.clone() {
            begin(&config, &opened, queue, &mut pipelines, &mut aside, &shutdown);
        }
        // One of the queues is the last-seen notes.
        tracing::info!(partitions = opened.consumers.len() - 1, "persisting");
        let failed = loop {
            tokio::select! {
                () = shutdown.cancelled() => break None,
                task = tasks::failed() => break Some(task),
                Some(queue) = found.recv() => begin(&config, &opened, queue, &mut pipelines, &mut aside, &shutdown),
            }
        };
        // After a failure, too: the batches in hand are written, and no more are pulled.
        shutdown.cancel();
        nats_up.set(false);
        let finish = async { while pipelines.join_next().await.is_some() {} };
        if timeout(config.stop_time(), finish).await.is_err() {
            tracing::warn!("batches in hand not written in time; they will come again");
        }
        if !matches!(timeout(LAST_WORDS, opened.client.flush()).await, Ok(Ok(()))) {
            tracing::warn!("last acknowledgements not sent; these events will come again");
        }
        tasks::process_ends();
        end.cancel();
        trace::finish().await;
        match failed {
            Some(task) => Err(tasks::Failed(task).into()),
            None => Ok(()),
        }
    }
}

/// Everything that pipelines need.
struct Opened {
    client: Client,
    link: LinkEvents,
    queues: Queues,
    consumers: Vec<(Queue, PullConsumer)>,
}

/// Waits for Postgres and for NATS, and makes what is missing in NATS.
async fn open(config: &Config, servers: &Servers, aside: &mut JoinSet<()>) -> anyhow::Result<Opened> {
    let store = Store::connect_lazy(&config.database)?;
    let schema = prepare_schema(config, &store, servers);
    let (client, link) = Box::pin(start::connect(&config.nats, "partyline-persister", servers, schema)).await?;
    let nats_up = &servers.nats;
    let heard = link.subscribe();
    let queues = Queues::new(client.clone(), &config.nats, store);
    let mut backoff = Backoff::default();
    let consumers = loop {
        match queues.open_all().await {
            Ok(consumers) => break consumers,
            Err(error) if error.is::<PartitionsDiffer>() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the log is not there yet");
                sleep(backoff.pause()).await;
            }
        }
    };
    nats_up.set(true);
    metrics::nats_connected(true);
    aside.spawn(tasks::essential("follow_link", follow_link(heard, nats_up.clone())));
    Ok(Opened { client, link, queues, consumers })
}

/// Checks the database, migrates it, if it is asked to, and waits until the schema is the one that this version needs.
async fn prepare_schema(config: &Config, store: &Store, servers: &Servers) -> anyhow::Result<()> {
    store.check_encoding().await?;
    servers.postgres.set(true);
    if config.migrate && store.is_pooled() {
        tracing::warn!("nothing is migrated through a pooler in transaction mode: run `persister migrate` without it");
    } else if config.migrate {
        let applied = store.migrate(LOCK_TIMEOUT, u32::MAX).await?;
        tracing::info!(?applied, "the schema is up to date");
    }
    start::wait_for_schema(servers, || store.missing_migrations()).await;
    metrics::postgres_up(true);
    Ok(())
}

/// Starts what watches over the servers; partitions that are found later come out of what it returns.
fn watch(opened: &Opened, aside: &mut JoinSet<()>) -> mpsc::Receiver<(Queue, PullConsumer)> {
    let (queues, store) = (opened.queues.clone(), opened.queues.store.clone());
    aside.spawn(tasks::restarting("watch_jetstream", move || watch::jetstream(queues.clone())));
    aside.spawn(tasks::restarting("watch_postgres", move || watch::postgres(store.clone())));
    let queues = opened.queues.clone();
    aside.spawn(tasks::restarting("watch_epoch", move || epoch::watch(queues.clone())));
    let queues = opened.queues.clone();
    aside.spawn(tasks::restarting("watch_postgres_history", move || rewind::watch(queues.clone())));
    let queues = opened.queues.clone();
    aside.spawn(tasks::restarting("retention", move || retention::run(queues.clone())));
    let (send, found) = mpsc::channel(1);
    let served: BTreeSet<u16> = opened.consumers.iter().filter_map(|(queue, _)| queue.partition()).collect();
    let discover = partitions::discover(opened.queues.clone(), served, send);
    aside.spawn(tasks::essential("watch_partitions", discover));
    found
}

/// A queue's pipeline, built from its end: Postgres and the dead letters, then what feeds them.
fn begin(
    config: &Config,
    opened: &Opened,
    (queue, consumer): (Queue, PullConsumer),
    pipelines: &mut JoinSet<()>,
    aside: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) {
    let limits = Limits { max: config.batch_max as usize, wait: config.batch_wait() };
    let store = opened.queues.store.clone();
    let (puller, batches) = Puller::new(&opened.queues, (queue, consumer.clone()), limits, opened.link.subscribe());
    match queue {
        Queue::Log(partition) => {
            let dead = DeadLetters::new(opened.client.clone(), &config.nats);
            metrics::brake(partition, false);
            let pipeline = Pipeline {
                queues: opened.queues.clone(),
                dead,
                consumer: consumer.clone(),
                partition,
                brake: Brake::new(config.refusals_max),
                watch: rewind::Watch::default(),
            };
            pipelines.spawn(tasks::essential_until("pipeline", pipeline.run(batches), shutdown.clone()));
        }
        Queue::Seen => {
            pipelines.spawn(tasks::essential_until("seen", seen::run(store, batches), shutdown.clone()));
        }
    }
    pipelines.spawn(tasks::essential_until("pull", puller.run(shutdown.clone()), shutdown.clone()));
    let queues = opened.queues.clone();
    aside.spawn(tasks::restarting("watch_lag", move || lag::watch(queues.clone(), queue, consumer.clone())));
}

/// `/readyz` and a gauge tell whether NATS is there; the pipelines mend themselves.
async fn follow_link(mut heard: broadcast::Receiver<Link>, nats_up: Latch) {
    loop {
        let up = match heard.recv().await {
            Ok(Link::Connected) | Err(broadcast::error::RecvError::Lagged(_)) => true,
            Ok(Link::Disconnected) => false,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        nats_up.set(up);
        metrics::nats_connected(up);
    }
}
