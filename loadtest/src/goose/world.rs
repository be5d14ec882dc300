//! What all users of a run share, and who they are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use partyline_shared::claims::UserType;
use tokio::time::Instant;

use super::{
    Options,
    mix::{self, Kind},
};
use crate::{bench::Bench, setup, tally::Tally, target::Gateway};

/// One user.
#[derive(Clone, Debug)]
pub(super) struct Person {
    /// The place among all users; the messages of seat `s` have the numbers `s`, `s + users`, `s + 2 users` …
    pub(super) seat: u32,
    pub(super) token: String,
    pub(super) gateway: Gateway,
    pub(super) conversation: String,
    /// Sends, where not everybody does.
    pub(super) speaks: bool,
}

/// The users of one scenario; Goose's take their places in turn.
pub(super) struct Cast {
    pub(super) kind: Kind,
    people: Vec<Person>,
    taken: AtomicUsize,
}

/// What all users share.
pub(super) struct World {
    pub(super) tally: Tally,
    pub(super) good: AtomicU64,
    pub(super) bad: AtomicU64,
    began: Instant,
    /// Sockets opened in each second of the run.
    connects: Mutex<Vec<u64>>,
    /// Between two storms.
    every: Duration,
}

impl Cast {
    pub(super) fn take(&self) -> Person {
        self.people[self.taken.fetch_add(1, Relaxed) % self.people.len()].clone()
    }
}

impl World {
    /// Makes the users and their conversations.
    ///
    /// # Errors
    /// If the conversations can't be made.
    pub(super) async fn new(bench: &Bench, options: &Options) -> anyhow::Result<(Arc<Self>, Vec<Arc<Cast>>)> {
        let mut casts = Vec::new();
        let mut seats = 0;
        for (weighted, share) in options.scenarios.iter().zip(mix::shares(&options.scenarios, options.users as usize)) {
            let kind = weighted.kind;
            let size = if kind == Kind::Room { options.room as usize } else { 2 };
            let people = people(bench, seats, share.max(1), size).await?;
            seats += people.len();
            casts.push(Arc::new(Cast { kind, people, taken: AtomicUsize::new(0) }));
        }
        let senders = (0..u32::try_from(seats)?).collect();
        let world = Self {
            tally: Tally::new(0, 0, senders),
            good: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            began: Instant::now(),
            connects: Mutex::default(),
            every: Duration::from_secs(u64::from(options.storm_every)),
        };
        Ok((Arc::new(world), casts))
    }

    /// When all sockets are cut next.
    pub(super) fn next_storm(&self) -> Instant {
        let storms = self.began.elapsed().as_nanos() / self.every.as_nanos();
        self.began + self.every * u32::try_from(storms + 1).unwrap_or(u32::MAX)
    }

    pub(super) fn connected(&self) {
        let second = self.began.elapsed().as_secs() as usize;
        let mut connects = self.connects.lock();
        if connects.len() <= second {
            connects.resize(second + 1, 0);
        }
        connects[second] += 1;
    }

    /// Sockets opened, and how many in the busiest second.
    pub(super) fn connects(&self) -> (u64, u64) {
        let connects = self.connects.lock();
        (connects.iter().sum(), connects.iter().copied().max().unwrap_or(0))
    }
}

/// `count` people from seat `first` on, `size` in a conversation.
async fn people(bench: &Bench, first: usize, count: usize, size: usize) -> anyhow::Result<Vec<Person>> {
    // The last conversation is full, too: nobody talks alone.
    let everybody: Vec<usize> = (first..first + count.next_multiple_of(size)).collect();
    let groups: Vec<Vec<String>> =
        everybody.chunks(size).map(|group| group.iter().map(|seat| bench.user(*seat)).collect()).collect();
    let conversations = setup::conversations(bench, &groups).await?;
    let person = |(place, seat): (usize, usize)| {
        let user_type = if place.is_multiple_of(2) { UserType::Customer } else { UserType::Vendor };
        Ok(Person {
            seat: u32::try_from(seat)?,
            token: bench.signer.person(&bench.user(seat), user_type)?,
            gateway: bench.gateways[seat % bench.gateways.len()].clone(),
            conversation: conversations[place / size].clone(),
            speaks: place % size < (size / 10).max(2),
        })
    };
    everybody.into_iter().enumerate().map(person).collect()
}
