//! Connecting to NATS, and publishing without waiting for it.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, ReconnectToServer, ServerAddr, connection::State, subject::ToSubject};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{sync::broadcast, task::unconstrained, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::settings::NatsSettings;

/// Between two pings; a connection on which three in a row are unanswered is given up.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// The same for a connection that does not reconnect: its end decides what becomes of the publishes in flight.
const SINGLE_PING_INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection that does not reconnect may take to be established.
const SINGLE_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An address where no server can listen.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// What a process must react to on its NATS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Connected,
    Disconnected,
}

/// Events of a connection. async-nats drops events when many come at once, so [`Client::connection_state`] has the last
/// word.
#[derive(Clone, Debug)]
pub struct LinkEvents {
    sender: broadcast::Sender<Link>,
    slow_consumers: Arc<AtomicU64>,
}

impl LinkEvents {
    /// Returns a receiver of all events from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Link> {
        self.sender.subscribe()
    }

    /// Returns the number of reports so far that a subscription's channel was full and a message was dropped. A flood
    /// of dropped messages is not counted whole, but every one is followed by a report.
    #[must_use]
    pub fn slow_consumers(&self) -> u64 {
        self.slow_consumers.load(Ordering::Acquire)
    }
}

/// Connects, waiting for the server to be there as long as it takes, and reports what happens to the link.
///
/// # Errors
/// If the credentials file can't be read, the URL is not valid, or the server refuses us for good.
pub async fn connect(settings: &NatsSettings, name: &str) -> anyhow::Result<(Client, LinkEvents)> {
    let (sender, _) = broadcast::channel(64);
    let events = LinkEvents { sender: sender.clone(), slow_consumers: Arc::default() };
    let slow_consumers = events.slow_consumers.clone();
    let (options, servers) = options(settings, name).await?;
    let client = options
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| Duration::from_millis((50 << attempts.min(6)).min(2_000)))
        .ping_interval(PING_INTERVAL)
        .client_capacity(65_536)
        .subscription_capacity(settings.nats_subscription_capacity as usize)
        .event_callback(move |event| {
            let link = match &event {
                Event::Connected => Some(Link::Connected),
                Event::Disconnected => Some(Link::Disconnected),
                _ => None,
            };
            if matches!(event, Event::SlowConsumer(_)) {
                // One for each dropped message: not logged one by one.
                slow_consumers.fetch_add(1, Ordering::AcqRel);
            } else {
                tracing::info!(%event, "nats");
            }
            if let Some(link) = link {
                // Without a receiver the process is starting: it reads the state afresh.
                let _ = sender.send(link);
            }
            ready(())
        })
        .connect(servers)
        .await?;
    Ok((client, events))
}

/// A connection that ends with its first loss instead of reconnecting. Everything that waits in its queue ends with it,
/// while the queue of a client that reconnects is sent after the reconnection, however long that took.
#[derive(Debug)]
pub struct SingleConnection {
    pub client: Client,
    lost: CancellationToken,
}

impl SingleConnection {
    /// Connects to one of `servers`, once; adds the other servers of the cluster that it names.
    ///
    /// # Errors
    /// If the credentials file can't be read, or no server takes the connection.
    pub async fn establish(settings: &NatsSettings, name: &str, servers: &mut Vec<ServerAddr>) -> anyhow::Result<Self> {
        let (options, configured) = options(settings, name).await?;
        if servers.is_empty() {
            *servers = configured;
        }
        let lost = CancellationToken::new();
        let is_lost = lost.clone();
        let is_established = Arc::new(AtomicBool::new(false));
        let was_established = is_established.clone();
        let options = options
            // async-nats has no "never": each server is tried once now, and none can be reached later (see below).
            .max_reconnects(servers.len())
            .reconnect_delay_callback(|_| Duration::ZERO)
            .reconnect_to_server_callback(move |servers, _| {
                let next = servers.into_iter().next().filter(|_| was_established.load(Ordering::Acquire));
                ready(next.map(|server| ReconnectToServer { addr: server.addr, delay: Some(Duration::ZERO) }))
            })
            .connection_timeout(SINGLE_CONNECT_TIMEOUT)
            .ping_interval(SINGLE_PING_INTERVAL)
            .event_callback(move |event| {
                tracing::debug!(%event, "nats, a single connection");
                if event == Event::Disconnected {
                    is_lost.cancel();
                }
                ready(())
            });
        let tries = u32::try_from(servers.len()).unwrap_or(u32::MAX);
        let client = timeout(SINGLE_CONNECT_TIMEOUT * tries, options.connect(&servers[..])).await??;
        let settle = async {
            let known = client.server_pool().await?.into_iter().map(|server| server.addr).collect();
            // From here on a reconnection fails: the client's task ends, and its queue with it.
            client.set_server_pool(NOWHERE).await?;
            anyhow::Ok(known)
        };
        *servers = timeout(SINGLE_CONNECT_TIMEOUT, settle).await??;
        is_established.store(true, Ordering::Release);
        Ok(Self { client, lost })
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until the connection is lost.
    pub async fn lost(&self) {
        loop {
            // The event may have been dropped; the state is not.
            let event = timeout(Duration::from_secs(1), self.lost.cancelled()).await;
            if event.is_ok() || !self.is_connected() {
                return;
            }
        }
    }
}

/// Why [`try_publish`] did not publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    #[error("there is no connection to NATS")]
    Disconnected,
    #[error("the queue to NATS is full")]
    Full,
    #[error("not a valid subject or payload")]
    Invalid,
}

/// Publishes without waiting: what can't be queued for a connection that stands is dropped.
///
/// # Errors
/// If nothing was queued.
pub fn try_publish(client: &Client, subject: impl ToSubject, payload: Bytes) -> Result<(), NotPublished> {
    if client.connection_state() != State::Connected {
        return Err(NotPublished::Disconnected);
    }
    // Ready at once unless the queue is full; the task's budget must not make it look full.
    match unconstrained(client.publish(subject, payload)).now_or_never() {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) => Err(NotPublished::Invalid),
        None => Err(NotPublished::Full),
    }
}

async fn options(settings: &NatsSettings, name: &str) -> anyhow::Result<(ConnectOptions, Vec<ServerAddr>)> {
    let servers = servers(&settings.nats_url)?;
    let mut options = ConnectOptions::new().name(name).request_timeout(Some(Duration::from_secs(5)));
    // async-nats leaves what the URL says of the user to its caller.
    if let Some((user, password)) = servers.iter().find_map(|it| it.username().zip(it.password())) {
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
    if let Some(path) = &settings.nats_credentials {
        options = options.credentials_file(path).await?;
    }
    Ok((options, servers))
}

/// Servers of one cluster, comma-separated.
pub(crate) fn servers(url: &str) -> anyhow::Result<Vec<ServerAddr>> {
    Ok(url.split(',').map(|it| it.trim().parse()).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_name_several_servers_and_a_user() {
        let found = servers("nats://u:p@one:4222, nats://two:4223").unwrap();
        assert_eq!(found.iter().map(|it| (it.host(), it.port())).collect::<Vec<_>>(), [("one", 4222), ("two", 4223)]);
        assert_eq!(found[0].username().zip(found[0].password()), Some(("u", "p")));
        assert!(servers("nats://one:notaport").is_err());
    }
}
