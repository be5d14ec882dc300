//! Connecting to NATS.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::broadcast;

use crate::settings::NatsSettings;

/// What a process must react to on its NATS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Connected,
    Disconnected,
    /// A subscription's channel was full and messages were dropped.
    SlowConsumer,
}

/// Connects, waiting for the server to be there as long as it takes, and reports what happens to the link.
///
/// # Errors
/// If the credentials file can't be read or the server refuses us for good.
pub async fn connect(settings: &NatsSettings, name: &str) -> anyhow::Result<(Client, broadcast::Sender<Link>)> {
    let (sender, _) = broadcast::channel(64);
    let events = sender.clone();
    let mut options = ConnectOptions::new();
    if let Some(path) = &settings.nats_credentials {
        options = options.credentials_file(path).await?;
    }
    let client = options
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| Duration::from_millis((50 << attempts.min(6)).min(2_000)))
        .ping_interval(Duration::from_secs(10))
        .request_timeout(Some(Duration::from_secs(5)))
        .client_capacity(65_536)
        .subscription_capacity(65_536)
        .event_callback(move |event| {
            let link = match &event {
                Event::Connected => Some(Link::Connected),
                Event::Disconnected => Some(Link::Disconnected),
                Event::SlowConsumer(_) => Some(Link::SlowConsumer),
                _ => None,
            };
            tracing::info!(%event, "nats");
            if let Some(link) = link {
                // Nobody listening yet is no loss: start-up reads the state afresh.
                let _ = events.send(link);
            }
            async {}
        })
        .connect(&*settings.nats_url)
        .await?;
    Ok((client, sender))
}
