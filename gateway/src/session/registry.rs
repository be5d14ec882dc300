//! Everybody who is connected to this node.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use partyline_shared::{ids::UserId, wire::CloseCode};

use super::conn::Conn;

const SHARDS: usize = 64;

/// Connections by user.
#[derive(Debug)]
pub struct Registry {
    shards: Vec<Mutex<HashMap<UserId, Vec<Arc<Conn>>>>>,
    hasher: RandomState,
    next_id: AtomicU64,
    count: AtomicUsize,
    changes: AtomicU64,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            next_id: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
        }
    }
}

impl Registry {
    fn shard(&self, user: &UserId) -> &Mutex<HashMap<UserId, Vec<Arc<Conn>>>> {
        &self.shards[self.hasher.hash_one(user) as usize % SHARDS]
    }

    /// A new connection's id.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Connections at present.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How often a connection has come or gone, has joined a conversation or left one.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// A connection has joined a conversation or left one; told after it has.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Adds a connection; `most` a user (0: any number): the oldest makes room, asked before the next one is counted.
    ///
    /// # Returns
    /// Whether it is the user's first one here.
    pub fn add(&self, conn: &Arc<Conn>, most: usize) -> bool {
        let user = &conn.user_id;
        let mut shard = self.shard(user).lock();
        let conns = shard.entry(user.clone()).or_default();
        let is_first = conns.is_empty();
        conns.push(conn.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        self.changed();
        let mut staying = conns.iter().filter(|conn| !conn.is_leaving());
        if most > 0
            && let Some(oldest) = staying.next()
            && staying.count() >= most
        {
            oldest.ask_to_close(CloseCode::Replaced, None);
        }
        is_first
    }

    /// Takes a connection out.
    ///
    /// # Returns
    /// Whether it was the user's last one here.
    pub fn remove(&self, conn: &Arc<Conn>) -> bool {
        let user = &conn.user_id;
        let mut shard = self.shard(user).lock();
        let Some(conns) = shard.get_mut(user) else { return false };
        let Some(place) = conns.iter().position(|it| it.id == conn.id) else { return false };
        conns.remove(place);
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.changed();
        let was_last = conns.is_empty();
        if was_last {
            shard.remove(user);
        }
        was_last
    }

    /// A user's connections here.
    #[must_use]
    pub fn of(&self, user: &UserId) -> Vec<Arc<Conn>> {
        self.shard(user).lock().get(user).cloned().unwrap_or_default()
    }

    /// Whether a user is connected here.
    #[must_use]
    pub fn has(&self, user: &UserId) -> bool {
        self.shard(user).lock().contains_key(user)
    }

    /// Whether any of a user's connections here fits.
    #[must_use]
    pub fn any(&self, user: &UserId, fits: impl Fn(&Conn) -> bool) -> bool {
        self.shard(user).lock().get(user).is_some_and(|conns| conns.iter().any(|conn| fits(conn)))
    }

    /// Everybody who is connected here.
    #[must_use]
    pub fn users(&self) -> Vec<UserId> {
        self.shards.iter().flat_map(|shard| shard.lock().keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// All connections, a shard at a time.
    pub fn for_each(&self, mut look: impl FnMut(&Arc<Conn>)) {
        for shard in &self.shards {
            let conns: Vec<_> = shard.lock().values().flatten().cloned().collect();
            conns.iter().for_each(&mut look);
        }
    }
}
