//! The connection that appends. It is apart from the one that reads and subscribes, and never reconnects: what a
//! publish left in its queue ends with it, so an event whose sender was refused is not sent after an outage
//! (docs/decisions/0017-append-connection.md).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use async_nats::{
    Statistics,
    jetstream::{Context, context::ContextBuilder},
};
use partyline_shared::{nats::SingleConnection, settings::NatsSettings};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long an acknowledgement may take. A connection that stopped answering is given up sooner
/// ([`SingleConnection`]), so that a publish is refused only once it can't be written any more.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Events in flight; beyond them an append is refused.
const IN_FLIGHT: usize = 20_000;
/// Between two attempts to connect, at first and at most.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The connection at present, if there is one.
pub(super) struct Publisher {
    current: ArcSwapOption<Connected>,
    /// Notified when it comes or goes.
    pub(super) changed: Notify,
    /// Traffic of the connections that ended.
    ended: Traffic,
}

pub(super) struct Connected {
    connection: SingleConnection,
    js: Context,
    /// Since this connection was established the log was compared with what is known of it: the server may have been
    /// restored from an older copy.
    verified: AtomicBool,
}

impl Connected {
    pub(super) fn verified(&self) {
        self.verified.store(true, Ordering::Release);
    }
}

/// Messages and bytes that a connection carried.
#[derive(Debug, Default)]
pub struct Traffic {
    pub in_messages: AtomicU64,
    pub out_messages: AtomicU64,
    pub in_bytes: AtomicU64,
    pub out_bytes: AtomicU64,
}

impl Traffic {
    /// Adds what a connection carried so far.
    pub fn add(&self, statistics: &Statistics) {
        let pairs = [
            (&self.in_messages, &statistics.in_messages),
            (&self.out_messages, &statistics.out_messages),
            (&self.in_bytes, &statistics.in_bytes),
            (&self.out_bytes, &statistics.out_bytes),
        ];
        for (sum, part) in pairs {
            sum.fetch_add(part.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl Publisher {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { current: ArcSwapOption::empty(), changed: Notify::new(), ended: Traffic::default() })
    }

    /// Returns the context to publish with, or `None` while there is no connection or the log was not compared since it
    /// was established. If the connection ends after this, the publish fails: it can't outlive the connection.
    pub(super) fn context(&self) -> Option<Context> {
        let current = self.current.load();
        let is_usable = |it: &&Arc<Connected>| it.connection.is_connected() && it.verified.load(Ordering::Acquire);
        current.as_ref().filter(is_usable).map(|it| it.js.clone())
    }

    /// Whether the connection stands.
    pub(super) fn is_connected(&self) -> bool {
        self.current.load().as_ref().is_some_and(|it| it.connection.is_connected())
    }

    /// Returns the connection if the log has to be compared before it is used.
    pub(super) fn unverified(&self) -> Option<Arc<Connected>> {
        let current = self.current.load_full();
        current.filter(|it| it.connection.is_connected() && !it.verified.load(Ordering::Acquire))
    }

    /// Has the log compared again before anything more is appended.
    pub(super) fn suspend(&self) {
        if let Some(current) = self.current.load().as_ref() {
            current.verified.store(false, Ordering::Release);
        }
        self.changed.notify_one();
    }

    /// Adds what all connections carried so far.
    pub(super) fn add_traffic(&self, traffic: &Traffic) {
        for (sum, part) in [
            (&traffic.in_messages, &self.ended.in_messages),
            (&traffic.out_messages, &self.ended.out_messages),
            (&traffic.in_bytes, &self.ended.in_bytes),
            (&traffic.out_bytes, &self.ended.out_bytes),
        ] {
            sum.fetch_add(part.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if let Some(current) = self.current.load().as_ref() {
            traffic.add(&current.connection.client.statistics());
        }
    }

    /// Keeps a connection until `end`.
    pub(super) async fn run(self: Arc<Self>, settings: NatsSettings, name: String, end: CancellationToken) {
        let mut servers = Vec::new();
        let mut retry = RETRY;
        while !end.is_cancelled() {
            match SingleConnection::establish(&settings, &name, &mut servers).await {
                Ok(connection) => {
                    retry = RETRY;
                    tracing::debug!("connected for appending");
                    self.hold(connection, &end).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection for appending");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn hold(&self, connection: SingleConnection, end: &CancellationToken) {
        let js = ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(IN_FLIGHT)
            .backpressure_on_inflight(false)
            .build(connection.client.clone());
        let current = Arc::new(Connected { connection, js, verified: AtomicBool::new(false) });
        self.current.store(Some(current.clone()));
        self.changed.notify_one();
        tokio::select! {
            () = current.connection.lost() => {
                self.current.store(None);
                self.changed.notify_one();
                self.ended.add(&current.connection.client.statistics());
                tracing::warn!("the connection for appending was lost");
            }
            // It stays for what is still in hand, and ends with the process.
            () = end.cancelled() => {}
        }
    }
}
