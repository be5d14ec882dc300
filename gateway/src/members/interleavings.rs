//! The cache under random schedules of reads and invalidations.

use shuttle::thread::{self, JoinHandle};

use super::*;
use crate::{
    sync::explore,
    test_support::{snapshot, unreachable_store},
};

const ROUNDS: usize = 300;

/// Postgres for one conversation: the membership's version is its number of participants.
struct World {
    members: Members,
    conversation: ConversationId,
    stored: AtomicU64,
    /// The newest version of which this node has finished hearing.
    known: AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            members: Members::new(unreachable_store(), Duration::from_secs(600)),
            conversation: ConversationId::generate(),
            stored: AtomicU64::new(1),
            known: AtomicU64::new(0),
        })
    }

    /// A change in Postgres, of which the node hears afterwards.
    fn change(&self, hear: impl FnOnce(&Members)) {
        let version = self.stored.fetch_add(1, Ordering::AcqRel) + 1;
        hear(&self.members);
        self.known.store(version, Ordering::Release);
    }

    /// What [`Members::read`] does, with this world as Postgres.
    fn read(&self) -> u64 {
        let conversations = [self.conversation];
        let reading = Reading::begin(&self.members, &conversations);
        let version = self.stored.load(Ordering::Acquire);
        let users: Vec<_> = (0..version).map(|n| format!("user-{n}")).collect();
        let snapshot = snapshot(self.conversation, reading.number, &users);
        reading.keep(&HashMap::from([(self.conversation, snapshot)]));
        version
    }

    /// The version that [`Members::get`] would answer with, without Postgres.
    fn cached(&self) -> Option<u64> {
        let cached = self.members.cache.get(&self.conversation)?;
        let is_fresh = self.members.is_fresh(self.conversation, &cached);
        is_fresh.then_some(cached.snapshot.membership.participants.len() as u64)
    }

    /// What [`Members::get`] answers is never older than what the node had heard of when it was asked.
    fn get(&self) {
        let known = self.known.load(Ordering::Acquire);
        let version = self.cached().unwrap_or_else(|| self.read());
        assert!(version >= known, "version {version} of the participants, when {known} was known");
    }
}

fn spawn(world: &Arc<World>, run: impl FnOnce(&World) + Send + 'static) -> JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

fn churn(hear: fn(&Members, ConversationId)) {
    explore(ROUNDS, move || {
        let world = World::new();
        let changes = spawn(&world, move |world| {
            (0..2).for_each(|_| world.change(|members| hear(members, world.conversation)));
        });
        let reads = [(); 3].map(|()| spawn(&world, |world| (0..2).for_each(|_| world.get())));
        for thread in reads.into_iter().chain([changes]) {
            thread.join().unwrap();
        }
        assert!(world.cached().is_none_or(|version| version == 3), "an outdated entry stayed: {:?}", world.cached());
        assert!(world.members.in_flight.lock().is_empty());
        // A read without a change meanwhile is cached.
        assert_eq!(world.read(), 3);
        assert_eq!(world.cached(), Some(3));
    });
}

#[test]
fn no_answer_is_older_than_the_last_invalidation() {
    churn(Members::invalidate);
}

#[test]
fn no_answer_is_older_than_the_last_doubt() {
    churn(Members::doubt);
}

#[test]
fn no_answer_is_older_than_the_last_general_doubt() {
    churn(|members, _| members.doubt_all());
}
