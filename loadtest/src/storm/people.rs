//! Everybody in a storm, and how they stand.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use partyline_shared::claims::UserType;
use serde::{Deserialize, Serialize};

use super::person::Person;
use crate::{
    bench::Bench,
    clock,
    crowd::{self, Arrival, Seat},
    histogram::{Quantiles, Recorder},
    progress::{Progress, grouped},
    tally::Tally,
    target::Gateway,
};

/// What all people share.
pub(super) struct World {
    pub(super) tally: Arc<Tally>,
    pub(super) gateways: Vec<Gateway>,
    /// Content of a message, in bytes.
    pub(super) size: usize,
    /// The run is over: nobody comes back any more.
    pub(super) leaving: AtomicBool,
    joined: AtomicUsize,
    returns: Mutex<Returns>,
    /// When the last of them came back, in nanoseconds of the clock.
    last_return: AtomicU64,
}

#[derive(Default)]
struct Returns {
    took: Recorder,
    count: usize,
    /// Attempts that failed, by what went wrong.
    failures: BTreeMap<String, u64>,
}

/// How people came back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Comeback {
    /// Sockets that were lost and opened anew.
    pub(super) sockets: usize,
    /// From the loss of one's own socket until the conversation was joined again.
    pub(super) away: Quantiles,
    /// Attempts that failed, by what went wrong.
    pub(super) failed_attempts: BTreeMap<String, u64>,
}

impl World {
    pub(super) fn new(tally: Arc<Tally>, gateways: Vec<Gateway>, size: usize) -> Arc<Self> {
        Arc::new(Self {
            tally,
            gateways,
            size,
            leaving: AtomicBool::new(false),
            joined: AtomicUsize::new(0),
            returns: Mutex::default(),
            last_return: AtomicU64::new(0),
        })
    }

    /// How many are in their conversations now.
    pub(super) fn joined(&self) -> usize {
        self.joined.load(Relaxed)
    }

    pub(super) fn has_joined(&self) {
        self.joined.fetch_add(1, Relaxed);
    }

    pub(super) fn has_lost(&self) {
        self.joined.fetch_sub(1, Relaxed);
    }

    /// Somebody is back who was away since `cut`.
    pub(super) fn returned(&self, cut: u64) {
        let now = clock::now();
        self.last_return.fetch_max(now, Relaxed);
        let mut returns = self.returns.lock();
        returns.took.record(now - cut);
        returns.count += 1;
    }

    pub(super) fn attempt_failed(&self, why: String) {
        *self.returns.lock().failures.entry(why).or_default() += 1;
    }

    pub(super) fn returns(&self) -> usize {
        self.returns.lock().count
    }

    /// When the last one came back, in nanoseconds of the clock.
    pub(super) fn last_return(&self) -> u64 {
        self.last_return.load(Relaxed)
    }

    pub(super) fn comeback(&self) -> Comeback {
        let returns = self.returns.lock();
        Comeback { sockets: returns.count, away: returns.took.quantiles(), failed_attempts: returns.failures.clone() }
    }
}

/// Seats everybody.
///
/// # Errors
/// If somebody is not let in: how many, and why.
pub(super) async fn gather(
    bench: &Bench,
    world: &Arc<World>,
    seats: &[Seat],
) -> anyhow::Result<(Vec<Arc<Person>>, Arrival)> {
    let mut progress = Progress::new("sockets", seats.len());
    let people = seats.iter().enumerate().map(|(number, seat)| {
        let user_type = if number.is_multiple_of(2) { UserType::Customer } else { UserType::Vendor };
        let token = bench.signer.person(&seat.user, user_type)?;
        Ok(Person::new(world.clone(), u32::try_from(number)?, token, seat.conversation.clone().unwrap_or_default()))
    });
    let people = people.collect::<anyhow::Result<Vec<_>>>()?;
    let began = clock::now();
    let mut arriving = stream::iter(people.iter().zip(seats))
        .map(async |(person, seat)| person.enter(seat.gateway).await)
        .buffered(bench.connecting);
    let mut arrivals = crowd::Arrivals::default();
    while let Some(arrived) = arriving.next().await {
        arrivals.add(arrived);
        progress.step(arrivals.count());
    }
    drop(arriving);
    let arrival = arrivals.finish(seats.len(), Duration::from_nanos(clock::now() - began))?.report;
    Ok((people, arrival))
}

/// Says goodbye for everybody.
pub(super) async fn leave(world: &World, people: Vec<Arc<Person>>) {
    world.leaving.store(true, Relaxed);
    let conns: Vec<_> = people.iter().filter_map(|person| person.conn()).collect();
    crowd::leave(&conns).await;
}

/// A line's part on who is here.
pub(super) fn here(world: &World, of: usize) -> String {
    format!("{} of {} joined", grouped(world.joined() as u64), grouped(of as u64))
}
