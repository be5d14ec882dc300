//! Cache of conversations' participants over Postgres. Every change on any node invalidates its conversation at once; an
//! entry also ends by age, in case the notice of a change was lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use moka::sync::Cache;
use partyline_shared::{
    ids::ConversationId,
    wire::{ErrorCode, Refusal},
};

use crate::{
    authorise::Membership,
    clock,
    store::{BACKGROUND_TIMEOUT, COMMAND_TIMEOUT, Store},
    sync::{AtomicU64, Mutex, Ordering},
};

/// Participants, over all conversations, that the cache holds.
const CAPACITY: u64 = 1_000_000;
/// No generation is this: the entry is read again, and serves only if Postgres is away.
const DOUBTED: u64 = u64::MAX;

/// A membership as Postgres had it at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub membership: Arc<Membership>,
    /// Reads are numbered in the order in which they begin: a snapshot has every change that was committed before a read
    /// with this number or a lower one began.
    pub number: u64,
}

#[derive(Clone)]
struct Cached {
    snapshot: Snapshot,
    /// [`Members::generation`] when it was read; [`DOUBTED`] after a change that touches nobody's rights.
    generation: u64,
    /// When it was read, in node milliseconds.
    read_at: u64,
}

/// A conversation that is being read now.
#[derive(Default)]
struct InFlight {
    readers: usize,
    /// Reads up to this number began before the newest invalidation: their results must not enter the cache.
    invalidated: u64,
}

/// The cache.
pub struct Members {
    store: Arc<Store>,
    cache: Cache<ConversationId, Cached>,
    time_to_live: Duration,
    /// Grows when invalidations may have been missed: older entries are read again, and serve only if Postgres is away.
    generation: AtomicU64,
    /// The number of the newest read.
    reads: AtomicU64,
    /// Its lock also orders insertions and invalidations. It holds nothing of a conversation that nobody reads.
    in_flight: Mutex<HashMap<ConversationId, InFlight>>,
}

impl Members {
    /// A cache whose entries are read again at the age of `time_to_live`, or somewhat earlier.
    #[must_use]
    pub fn new(store: Arc<Store>, time_to_live: Duration) -> Self {
        let cache = Cache::builder()
            .max_capacity(CAPACITY)
            .weigher(|_, cached: &Cached| {
                u32::try_from(cached.snapshot.membership.participants.len() + 1).unwrap_or(u32::MAX)
            })
            .build();
        Self {
            store,
            cache,
            time_to_live,
            generation: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            in_flight: Mutex::default(),
        }
    }

    /// Who takes part.
    ///
    /// # Errors
    /// `not_found`, or `unavailable` if it isn't cached and Postgres is away.
    pub async fn get(&self, conversation: ConversationId) -> Result<Arc<Membership>, Refusal> {
        if let Some(cached) = self.cache.get(&conversation)
            && self.is_fresh(conversation, &cached)
        {
            return Ok(cached.snapshot.membership);
        }
        self.read_or_cached(conversation).await.map(|snapshot| snapshot.membership)
    }

    /// Who takes part, read afresh; with Postgres away, as it is cached.
    ///
    /// # Errors
    /// `not_found`, or `unavailable` if it isn't cached and Postgres is away.
    pub async fn read_or_cached(&self, conversation: ConversationId) -> Result<Snapshot, Refusal> {
        match self.read(conversation).await {
            // An invalidation meanwhile has taken it out of the cache: then it does not serve.
            Err(refusal) if refusal.code == ErrorCode::Unavailable => {
                self.cache.get(&conversation).map(|cached| cached.snapshot).ok_or(refusal)
            }
            read => read,
        }
    }

    /// Who takes part, read afresh.
    ///
    /// # Errors
    /// `not_found`, or `unavailable` if Postgres doesn't answer in time.
    pub async fn read(&self, conversation: ConversationId) -> Result<Snapshot, Refusal> {
        let found = self.read_within(COMMAND_TIMEOUT, &[conversation]).await?.remove(&conversation);
        found.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such conversation"))
    }

    /// Who takes part in each of these conversations, read afresh in one query for which no client waits. Those that
    /// don't exist are missing.
    ///
    /// A result is as new as the call. If its conversation was invalidated since then, it isn't cached.
    ///
    /// # Errors
    /// `unavailable` if Postgres doesn't answer in time.
    pub async fn read_many(
        &self,
        conversations: &[ConversationId],
    ) -> Result<HashMap<ConversationId, Snapshot>, Refusal> {
        self.read_within(BACKGROUND_TIMEOUT, conversations).await
    }

    async fn read_within(
        &self,
        limit: Duration,
        conversations: &[ConversationId],
    ) -> Result<HashMap<ConversationId, Snapshot>, Refusal> {
        let reading = Reading::begin(self, conversations);
        let found = self.store.memberships(limit, conversations).await.map_err(|error| {
            tracing::warn!(%error, "membership not read");
            Refusal::unavailable("the database")
        })?;
        let snapshot = |membership| Snapshot { membership: Arc::new(membership), number: reading.number };
        let found: HashMap<_, _> =
            found.into_iter().map(|membership| (membership.conversation_id, snapshot(membership))).collect();
        reading.keep(&found);
        Ok(found)
    }

    /// The participants changed: what is cached, and what is being read, counts no more.
    pub fn invalidate(&self, conversation: ConversationId) {
        let mut in_flight = self.in_flight.lock();
        self.outdate_reads(&mut in_flight, conversation);
        self.cache.invalidate(&conversation);
    }

    /// A participant has another name or type: what is cached, and what is being read, is read again, and serves only if
    /// Postgres is away. Taken out of the cache, it would lock everybody out of the conversation until Postgres is back.
    pub fn doubt(&self, conversation: ConversationId) {
        let mut in_flight = self.in_flight.lock();
        self.outdate_reads(&mut in_flight, conversation);
        if let Some(cached) = self.cache.get(&conversation) {
            self.cache.insert(conversation, Cached { generation: DOUBTED, ..cached });
        }
    }

    /// Keeps the results of reads that have begun out of the cache.
    fn outdate_reads(&self, in_flight: &mut HashMap<ConversationId, InFlight>, conversation: ConversationId) {
        if let Some(it) = in_flight.get_mut(&conversation) {
            it.invalidated = self.reads.load(Ordering::Acquire);
        }
    }

    /// A number above those of all reads that have begun.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.reads.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Invalidations may have been missed.
    pub fn doubt_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether nothing has happened to a conversation since this snapshot was taken, as far as this node knows.
    #[must_use]
    pub fn is_current(&self, snapshot: &Snapshot) -> bool {
        let conversation = snapshot.membership.conversation_id;
        self.cache
            .get(&conversation)
            .is_some_and(|cached| cached.snapshot.number == snapshot.number && self.is_fresh(conversation, &cached))
    }

    fn is_fresh(&self, conversation: ConversationId, cached: &Cached) -> bool {
        let age = Duration::from_millis(clock::millis().saturating_sub(cached.read_at));
        cached.generation == self.generation.load(Ordering::Acquire) && age < self.time_to_live_of(conversation)
    }

    /// Spread over the second half of the time by the conversation's own bytes, so that entries that were read together
    /// are not read again at the same moment.
    #[must_use]
    pub fn time_to_live_of(&self, conversation: ConversationId) -> Duration {
        let half = self.time_to_live / 2;
        half + half * u32::from(conversation.0.as_bytes()[15]) / 256
    }
}

/// A read that has begun and not ended.
struct Reading<'a> {
    members: &'a Members,
    conversations: &'a [ConversationId],
    number: u64,
    generation: u64,
    read_at: u64,
}

impl<'a> Reading<'a> {
    fn begin(members: &'a Members, conversations: &'a [ConversationId]) -> Self {
        let mut in_flight = members.in_flight.lock();
        for conversation in conversations {
            in_flight.entry(*conversation).or_default().readers += 1;
        }
        let number = members.next_number();
        let generation = members.generation.load(Ordering::Acquire);
        Self { members, conversations, number, generation, read_at: clock::millis() }
    }

    /// Puts into the cache what was not invalidated, or read by a later read, meanwhile.
    fn keep(&self, found: &HashMap<ConversationId, Snapshot>) {
        let cache = &self.members.cache;
        let in_flight = self.members.in_flight.lock();
        for conversation in self.conversations {
            if in_flight.get(conversation).is_some_and(|it| self.number <= it.invalidated) {
                continue;
            }
            if cache.get(conversation).is_some_and(|cached| cached.snapshot.number > self.number) {
                continue;
            }
            match found.get(conversation) {
                Some(snapshot) => {
                    let (snapshot, generation, read_at) = (snapshot.clone(), self.generation, self.read_at);
                    cache.insert(*conversation, Cached { snapshot, generation, read_at });
                }
                None => cache.invalidate(conversation),
            }
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.members.in_flight.lock();
        for conversation in self.conversations {
            if let Some(it) = in_flight.get_mut(conversation) {
                it.readers -= 1;
                if it.readers == 0 {
                    in_flight.remove(conversation);
                }
            }
        }
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{snapshot, unreachable_store};

    fn members(time_to_live: Duration) -> Members {
        Members::new(unreachable_store(), time_to_live)
    }

    fn found(reading: &Reading<'_>) -> HashMap<ConversationId, Snapshot> {
        let snapshot = |conversation_id| snapshot::<&str>(conversation_id, reading.number, &[]);
        reading.conversations.iter().map(|it| (*it, snapshot(*it))).collect()
    }

    #[tokio::test]
    async fn a_read_that_crosses_an_invalidation_is_not_cached() {
        let members = members(Duration::from_secs(60));
        let [crossed, other] = [ConversationId::generate(), ConversationId::generate()];
        let both = [crossed, other];
        let reading = Reading::begin(&members, &both);
        members.invalidate(crossed);
        let found = found(&reading);
        reading.keep(&found);
        assert!(!members.is_current(&found[&crossed]));
        assert!(members.is_current(&found[&other]), "only its own conversation's invalidation counts");
        drop(reading);
        assert!(members.in_flight.lock().is_empty());
    }

    #[tokio::test]
    async fn the_later_of_two_reads_stays_whichever_ends_first() {
        let members = members(Duration::from_secs(60));
        let one = [ConversationId::generate()];
        let [early, late] = [Reading::begin(&members, &one), Reading::begin(&members, &one)];
        late.keep(&found(&late));
        early.keep(&found(&early));
        assert!(members.is_current(&found(&late)[&one[0]]));
        // An invalidation between the two takes only the early one's result.
        let early = Reading::begin(&members, &one);
        members.invalidate(one[0]);
        let late = Reading::begin(&members, &one);
        late.keep(&found(&late));
        early.keep(&found(&early));
        assert!(members.is_current(&found(&late)[&one[0]]));
    }

    #[tokio::test]
    async fn an_old_entry_serves_only_while_postgres_is_away() {
        let members = members(Duration::ZERO);
        let one = [ConversationId::generate()];
        let reading = Reading::begin(&members, &one);
        reading.keep(&found(&reading));
        assert!(!members.is_current(&found(&reading)[&one[0]]));
        // No Postgres answers at this address.
        members.store.missed();
        assert!(members.get(one[0]).await.is_ok());
        members.doubt(one[0]);
        assert!(members.get(one[0]).await.is_ok(), "a new name locks nobody out");
        members.invalidate(one[0]);
        assert_eq!(members.get(one[0]).await.unwrap_err().code, ErrorCode::Unavailable);
        members.doubt(one[0]);
        assert_eq!(
            members.get(one[0]).await.unwrap_err().code,
            ErrorCode::Unavailable,
            "what was invalidated stays so"
        );
    }
}
