//! The life of a gateway: it listens, serves, and leaves politely.

mod starting;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use partyline_shared::{
    admin::{self, Readiness},
    trace,
    wire::CloseCode,
};
use rand::{RngExt, seq::SliceRandom};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{Chat, Conditions},
    config::Config,
    http::{
        self,
        lent::{Desk, Lent, Timeouts, Waiting},
    },
    metrics,
    session::sweep,
    socketio::sessions::{self, Sessions},
    tasks,
};

/// Waiting connections in the kernel: a balancer may send a storm.
const BACKLOG: u32 = 16_384;
/// How long HTTP requests may take to finish at the end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// Sockets are told to come back after at most this many milliseconds, each after its own.
const SPREAD_MILLIS: u64 = 3_000;

/// A gateway that listens.
pub struct Gateway {
    pub chat: Arc<Chat>,
    pub readiness: Readiness,
    conditions: Conditions,
    draining: AtomicBool,
    pub socketio: Sessions,
    /// Tasks of sockets and sessions; the process waits for them at its end.
    pub connections: TaskTracker,
}

/// A gateway's sockets, bound and not yet served; tests ask it for its ports.
pub struct Bound {
    gateway: Arc<Gateway>,
    http: TcpListener,
    admin_addr: SocketAddr,
    admin: JoinHandle<()>,
    /// Ends the background tasks, after the drain.
    end: CancellationToken,
}

impl Gateway {
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Binds both ports and connects to everything. Meanwhile both ports answer `/livez` and `/readyz`, and the admin port
/// `/metrics`.
///
/// # Errors
/// If something is wrong that waiting won't mend: a port that is taken, keys that can't be read.
pub async fn bind(config: Config, metrics: PrometheusHandle) -> anyhow::Result<Bound> {
    let http = listen(config.http_addr)?;
    let admin = listen(config.admin_addr)?;
    let admin_addr = admin.local_addr()?;
    let conditions = Conditions::default();
    conditions.staying.set(true);
    let readiness = conditions.readiness();
    let end = CancellationToken::new();
    let end_unless_bound = end.clone().drop_guard();
    let serving = admin::serve(admin, readiness.clone(), metrics, end.clone());
    let serving = async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the admin port broke");
        }
    };
    let admin = tokio::spawn(tasks::essential_until("admin", serving, end.clone()));
    let chat = tokio::select! {
        chat = Box::pin(Chat::start(config, &conditions, end.clone())) => chat?,
        never = starting::serve(&http, &readiness) => match never {},
    };
    let gateway = Arc::new(Gateway {
        chat,
        readiness,
        conditions,
        draining: AtomicBool::new(false),
        socketio: Sessions::default(),
        connections: TaskTracker::new(),
    });
    end_unless_bound.disarm();
    Ok(Bound { gateway, http, admin_addr, admin, end })
}

fn listen(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = if addr.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr).map_err(|error| anyhow::anyhow!("{addr}: {error}"))?;
    Ok(socket.listen(BACKLOG)?)
}

impl Bound {
    /// # Errors
    /// If the socket is gone.
    pub fn http_addr(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    #[must_use]
    pub fn chat(&self) -> &Arc<Chat> {
        &self.gateway.chat
    }

    /// Serves until `shutdown`, then drains.
    ///
    /// # Errors
    /// If a task ends that the process can't do without.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { gateway, http, admin, end, .. } = self;
        let (chat, sessions) = (gateway.chat.clone(), gateway.clone());
        let sweepers = [
            tokio::spawn(tasks::restarting("sweep", move || sweep::run(chat.clone()))),
            tokio::spawn(tasks::restarting("sweep_sessions", move || sessions::sweep(sessions.clone()))),
        ];
        let requests = TaskTracker::new();
        let closing = CancellationToken::new();
        let accepting = accept(gateway.clone(), http, requests.clone(), closing.clone(), end.clone());
        let accepting = tokio::spawn(tasks::essential_until("accept", accepting, end.clone()));

        let failed = tokio::select! {
            () = shutdown.cancelled() => None,
            task = tasks::failed() => Some(task),
        };
        drain(&gateway, failed.is_some()).await;
        gateway.socketio.end_all(&gateway);
        closing.cancel();
        requests.close();
        gateway.connections.close();
        let commands = &gateway.chat.commands;
        let finished = async {
            tokio::join!(requests.wait(), gateway.connections.wait());
            // After the requests: those begin commands, also such as outlive them.
            commands.close();
            commands.wait().await;
        };
        if tokio::time::timeout(LAST_REQUESTS, finished).await.is_err() {
            let (requests, connections) = (requests.len(), gateway.connections.len());
            tracing::warn!(requests, connections, commands = commands.len(), "not finished in time");
        }
        gateway.chat.presence.withdraw().await;
        tasks::process_ends();
        end.cancel();
        accepting.abort();
        sweepers.iter().for_each(JoinHandle::abort);
        if let Err(error) = gateway.chat.client.drain().await {
            tracing::debug!(%error, "NATS connection not drained");
        }
        trace::finish().await;
        admin.await?;
        match failed {
            Some(task) => Err(tasks::Failed(task).into()),
            None => Ok(()),
        }
    }
}

/// Not ready, a moment for the balancer to see it, then the sockets, evenly over the drain time; all at once if the node
/// is `broken`.
async fn drain(gateway: &Gateway, broken: bool) {
    let config = &gateway.chat.config;
    let seconds = |setting: u32| Duration::from_secs(if broken { 0 } else { setting.into() });
    let (notice, time) = (seconds(config.drain_notice_seconds), seconds(config.drain_seconds));
    gateway.conditions.staying.set(false);
    metrics::draining(notice + time + LAST_REQUESTS * 2);
    tokio::time::sleep(notice).await;
    gateway.draining.store(true, Ordering::Release);
    let mut conns = Vec::new();
    gateway.chat.registry.for_each(|conn| conns.push(conn.clone()));
    conns.shuffle(&mut rand::rng());
    tracing::info!(sockets = conns.len(), seconds = time.as_secs(), "draining");
    let began = Instant::now();
    let count = u32::try_from(conns.len()).unwrap_or(u32::MAX).max(1);
    for (turn, conn) in conns.into_iter().enumerate() {
        let due = began + time * u32::try_from(turn).unwrap_or(u32::MAX) / count;
        tokio::time::sleep_until(due).await;
        conn.ask_to_close(CloseCode::Draining, Some(rand::rng().random_range(50..SPREAD_MILLIS)));
    }
    // Whoever came in while the handshake was under way, and whoever answers slowly.
    let last = Instant::now() + LAST_REQUESTS;
    while gateway.chat.registry.count() > 0 && Instant::now() < last {
        gateway.chat.registry.for_each(|conn| conn.ask_to_close(CloseCode::Draining, Some(500)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn accept(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    requests: TaskTracker,
    closing: CancellationToken,
    end: CancellationToken,
) {
    let limits = gateway.chat.config.limits.clone();
    let places = Arc::new(Semaphore::new(limits.max_connections as usize));
    let front = http::Front::new(gateway.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: others must go before more can come.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let room = gateway.chat.registry.count() < limits.max_connections as usize;
        let place = places.clone().try_acquire_owned().ok().filter(|_| room);
        let Some(place) = place else {
            metrics::handshake_refused("full");
            continue;
        };
        let (front, closing) = (front.clone(), closing.clone());
        let timeouts = Timeouts {
            request: Duration::from_secs(u64::from(limits.handshake_seconds)),
            keep_alive: Duration::from_secs(u64::from(limits.keep_alive_seconds)),
        };
        let served = async move {
            serve_http(front, stream, peer.ip(), timeouts, closing).await;
            drop(place);
        };
        requests.spawn(tasks::caught("http", served));
    }
}

/// HTTP on one connection, until it is closed or becomes a WebSocket.
async fn serve_http(
    front: http::Front,
    stream: TcpStream,
    peer: IpAddr,
    timeouts: Timeouts,
    closing: CancellationToken,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let desk = Arc::new(Desk::default());
    let mut lent = Lent::new(stream, Vec::new(), desk.clone(), timeouts);
    loop {
        let served = http1::Builder::new()
            // The socket itself times out heads and pauses, for which hyper has one time together. With that time set hyper
            // reads again after each answer, which arms the socket's own.
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.keep_alive + timeouts.request)
            .max_buf_size(32 * 1_024)
            .serve_connection(TokioIo::new(lent), front.at(desk.clone(), peer))
            .with_upgrades();
        // On the heap, which it leaves while a request is set aside.
        let mut served = Box::pin(served);
        tokio::select! {
            _ = served.as_mut() => {}
            () = closing.cancelled() => {
                served.as_mut().graceful_shutdown();
                let _ = served.as_mut().await;
            }
        }
        drop(served);
        let Some(Waiting { place, stream, request }) = desk.take() else { return };
        tokio::select! {
            () = place.has_news() => {}
            // The client is gone, or can't wait: that is hyper's to find out.
            _ = stream.readable() => desk.stay(),
            () = closing.cancelled() => desk.stay(),
        }
        desk.resume(place);
        lent = Lent::new(stream, request, desk.clone(), timeouts);
    }
}
