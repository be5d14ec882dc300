//! Connecting to NATS.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
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
/// If the credentials file can't be read, the URL is none, or the server refuses us for good.
pub async fn connect(settings: &NatsSettings, name: &str) -> anyhow::Result<(Client, broadcast::Sender<Link>)> {
    let (sender, _) = broadcast::channel(64);
    let events = sender.clone();
    let servers = servers(&settings.nats_url)?;
    let mut options = ConnectOptions::new();
    // async-nats leaves what the URL says of the user to its caller.
    if let Some((user, password)) = servers.iter().find_map(|it| it.username().zip(it.password())) {
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
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
        .connect(servers)
        .await?;
    Ok((client, sender))
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
