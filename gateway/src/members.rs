//! Who takes part in which conversation: a cache over Postgres that every change on any node invalidates at once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use moka::sync::Cache;
use partyline_shared::{
    ids::ConversationId,
    wire::{ErrorCode, Refusal},
};

use crate::{authorise::Membership, store::Store};

/// Participants, over all conversations, that the cache holds.
const CAPACITY: u64 = 1_000_000;

#[derive(Clone)]
struct Cached {
    membership: Arc<Membership>,
    /// [`Members::generation`] when it was read.
    generation: u64,
}

/// The cache.
pub struct Members {
    store: Arc<Store>,
    cache: Cache<ConversationId, Cached>,
    /// Grows when invalidations may have been missed: older entries are read again, and serve only if Postgres is away.
    generation: AtomicU64,
    /// Grows with every invalidation, so that a read that crossed one is not kept.
    invalidations: AtomicU64,
}

impl Members {
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        let cache = Cache::builder()
            .max_capacity(CAPACITY)
            .weigher(|_, cached: &Cached| u32::try_from(cached.membership.participants.len() + 1).unwrap_or(u32::MAX))
            .build();
        Self { store, cache, generation: AtomicU64::new(0), invalidations: AtomicU64::new(0) }
    }

    /// Who takes part.
    ///
    /// # Errors
    /// `not_found`, or `unavailable` if it isn't cached and Postgres is away.
    pub async fn get(&self, conversation: ConversationId) -> Result<Arc<Membership>, Refusal> {
        let cached = self.cache.get(&conversation);
        if let Some(cached) = &cached
            && cached.generation == self.generation.load(Ordering::Acquire)
        {
            return Ok(cached.membership.clone());
        }
        match self.read(conversation).await {
            Err(refusal) if refusal.code == ErrorCode::Unavailable => {
                cached.map(|cached| cached.membership).ok_or(refusal)
            }
            read => read,
        }
    }

    /// Who takes part, read afresh.
    ///
    /// # Errors
    /// `not_found`, or `unavailable` if Postgres is away.
    pub async fn read(&self, conversation: ConversationId) -> Result<Arc<Membership>, Refusal> {
        let generation = self.generation.load(Ordering::Acquire);
        if self.store.is_away() {
            return Err(Refusal::unavailable("the database"));
        }
        loop {
            let before = self.invalidations.load(Ordering::Acquire);
            let read = self.store.membership(conversation).await.map_err(|error| {
                tracing::warn!(%error, "membership not read");
                Refusal::unavailable("the database")
            })?;
            if self.invalidations.load(Ordering::Acquire) != before {
                continue;
            }
            let Some(membership) = read else {
                self.cache.invalidate(&conversation);
                return Err(Refusal::new(ErrorCode::NotFound, "no such conversation"));
            };
            let membership = Arc::new(membership);
            self.cache.insert(conversation, Cached { membership: membership.clone(), generation });
            return Ok(membership);
        }
    }

    /// The participants changed.
    pub fn invalidate(&self, conversation: ConversationId) {
        self.invalidations.fetch_add(1, Ordering::AcqRel);
        self.cache.invalidate(&conversation);
    }

    /// Word of a change may have been missed.
    pub fn doubt_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}
