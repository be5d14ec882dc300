//! What both programs wait for at their start: NATS, Postgres, and the schema that this version needs. Each is waited for
//! on its own, so that `/readyz` names everything that is missing and nothing else.

use std::{convert::Infallible, fmt::Display, pin::pin, time::Duration};

use async_nats::{Client, connection::State};
use tokio::{sync::broadcast, time::sleep};

use crate::{
    admin::Latch,
    nats::{self, Link, LinkEvents},
    settings::NatsSettings,
};

/// Between two looks at the schema while it is not the one that is needed.
const SCHEMA_INTERVAL: Duration = Duration::from_millis(500);

/// The conditions of readiness that servers decide.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// NATS is connected, and what was missed without it has been looked up.
    pub nats: Latch,
    /// Postgres has answered once.
    pub postgres: Latch,
    /// The schema is the one that this version needs, or a newer one.
    pub schema: Latch,
}

impl Servers {
    /// The conditions by their names.
    #[must_use]
    pub fn conditions(&self) -> Vec<(&'static str, Latch)> {
        let Self { nats, postgres, schema } = self.clone();
        vec![("nats", nats), ("postgres", postgres), ("schema", schema)]
    }
}

/// Connects to NATS while `schema` is waited for, both for any length of time. Afterwards [`Servers::nats`] is down: the
/// caller raises it once the log is open.
///
/// # Errors
/// If the settings of NATS are not valid, or `schema`'s.
pub async fn connect(
    settings: &NatsSettings,
    name: &str,
    servers: &Servers,
    schema: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<(Client, LinkEvents)> {
    let (mut schema, mut is_there) = (pin!(schema), false);
    let mut connected = pin!(nats::connect(settings, name));
    let (client, link) = loop {
        tokio::select! {
            connected = &mut connected => break connected?,
            prepared = &mut schema, if !is_there => {
                prepared?;
                is_there = true;
            }
        }
    };
    if !is_there {
        let heard = link.subscribe();
        servers.nats.set(client.connection_state() == State::Connected);
        tokio::select! {
            prepared = &mut schema => prepared?,
            never = follow(&client, heard, &servers.nats) => match never {},
        }
    }
    servers.nats.set(false);
    Ok((client, link))
}

async fn follow(client: &Client, mut heard: broadcast::Receiver<Link>, nats: &Latch) -> Infallible {
    loop {
        // Whatever was heard or missed, the state is what counts.
        let closed = matches!(heard.recv().await, Err(broadcast::error::RecvError::Closed));
        nats.set(client.connection_state() == State::Connected);
        if closed {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until no migration is missing that this version needs.
pub async fn wait_for_schema<Missing, E>(servers: &Servers, missing: impl Fn() -> Missing)
where
    Missing: Future<Output = Result<Vec<i64>, E>>,
    E: Display,
{
    let (mut told, mut is_away) = (Vec::new(), false);
    loop {
        match missing().await {
            Ok(missing) => {
                servers.postgres.set(true);
                if missing.is_empty() {
                    return servers.schema.set(true);
                }
                if told != missing {
                    tracing::error!(
                        ?missing,
                        "the schema lacks migrations that this version needs: run `persister migrate` as its owner"
                    );
                    told = missing;
                }
            }
            Err(error) if !is_away => {
                is_away = true;
                tracing::warn!(%error, "the schema is not read yet; trying again");
            }
            Err(_) => {}
        }
        sleep(SCHEMA_INTERVAL).await;
    }
}
