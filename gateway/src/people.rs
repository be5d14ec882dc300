//! Names and types of users as their tokens tell them, written to Postgres in batches. Every change is broadcast to all
//! gateways, so that what they hold of it ends.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::Client;
use moka::sync::Cache;
use partyline_shared::{
    claims::{Identity, UserType},
    ids::UserId,
    nats, subjects,
};
use tokio::sync::mpsc;

use crate::{store::Store, tasks};

/// People in one statement.
const BATCH: usize = 500;
/// People whose rows are known to be right.
const REMEMBERED: u64 = 200_000;
/// While Postgres is away.
const RETRY: Duration = Duration::from_secs(1);
/// Between two statements: two tokens of one user with different names may alternate as fast as requests come.
const GAP: Duration = Duration::from_millis(50);

/// Remembers people.
pub struct People {
    known: Cache<UserId, (String, UserType)>,
    seen: mpsc::Sender<(UserId, String, UserType)>,
}

impl People {
    #[must_use]
    pub fn start(store: Arc<Store>, client: Client) -> Self {
        let (seen, to_write) = mpsc::channel(100_000);
        tokio::spawn(tasks::essential("people", write(store, client, to_write)));
        Self { known: Cache::new(REMEMBERED), seen }
    }

    /// Somebody showed up.
    pub fn note(&self, who: &Identity) {
        let now = (who.username.clone(), who.user_type);
        if self.known.get(&who.user_id).as_ref() == Some(&now) {
            return;
        }
        // A full queue means that Postgres has been away for long: they will show up again.
        if self.seen.try_send((who.user_id.clone(), now.0.clone(), now.1)).is_ok() {
            self.known.insert(who.user_id.clone(), now);
        }
    }

    /// Another name or type of these users was written, perhaps by another node: what they show next is written again.
    pub fn forget(&self, users: &[UserId]) {
        users.iter().for_each(|user| self.known.invalidate(user));
    }
}

async fn write(store: Arc<Store>, client: Client, mut seen: mpsc::Receiver<(UserId, String, UserType)>) {
    let mut batch = Vec::new();
    while seen.recv_many(&mut batch, BATCH).await > 0 {
        let latest: HashMap<UserId, (String, UserType)> =
            batch.drain(..).map(|(user, name, user_type)| (user, (name, user_type))).collect();
        let people: Vec<_> = latest.into_iter().map(|(user, (name, user_type))| (user, name, user_type)).collect();
        let changed = loop {
            match store.upsert_users(&people).await {
                Ok(changed) => break changed,
                Err(error) => tracing::warn!(%error, "people not written"),
            }
            tokio::time::sleep(RETRY).await;
        };
        if !changed.is_empty() {
            broadcast(&client, &changed);
        }
        tokio::time::sleep(GAP).await;
    }
}

/// Whoever misses it, because NATS is away, reads all memberships again upon reconnection.
fn broadcast(client: &Client, changed: &[UserId]) {
    match serde_json::to_vec(changed) {
        Ok(payload) => {
            if let Err(error) = nats::try_publish(client, subjects::USERS_CHANGED, payload.into()) {
                tracing::warn!(%error, "changed users not broadcast");
            }
        }
        Err(error) => tracing::error!(%error, "changed users have no JSON"),
    }
}
