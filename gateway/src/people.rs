//! Names and types of people as their tokens tell them, written to Postgres in batches: whoever shows up is known.

use std::{collections::HashMap, sync::Arc, time::Duration};

use moka::sync::Cache;
use partyline_shared::{
    claims::{Identity, UserType},
    ids::UserId,
};
use tokio::sync::mpsc;

use crate::store::Store;

/// People in one statement.
const BATCH: usize = 500;
/// People whose rows are known to be right.
const REMEMBERED: u64 = 200_000;
/// While Postgres is away.
const RETRY: Duration = Duration::from_secs(1);

/// Remembers people.
pub struct People {
    known: Cache<UserId, (String, UserType)>,
    seen: mpsc::Sender<(UserId, String, UserType)>,
}

impl People {
    #[must_use]
    pub fn start(store: Arc<Store>) -> Self {
        let (seen, to_write) = mpsc::channel(100_000);
        tokio::spawn(write(store, to_write));
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
}

async fn write(store: Arc<Store>, mut seen: mpsc::Receiver<(UserId, String, UserType)>) {
    let mut batch = Vec::new();
    while seen.recv_many(&mut batch, BATCH).await > 0 {
        let latest: HashMap<UserId, (String, UserType)> =
            batch.drain(..).map(|(user, name, user_type)| (user, (name, user_type))).collect();
        let people: Vec<_> = latest.into_iter().map(|(user, (name, user_type))| (user, name, user_type)).collect();
        while let Err(error) = store.upsert_users(&people).await {
            tracing::warn!(%error, "people not written");
            tokio::time::sleep(RETRY).await;
        }
    }
}
