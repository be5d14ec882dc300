//! What is on its way to a gateway and waits for the plan: answers of Postgres, answers and messages of NATS. The plan
//! releases them one at a time, so that it, not the machine, decides what overtakes what.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{Rng, RngExt};
use tokio::sync::mpsc;

/// How long a statement may take before it counts as waiting for another transaction's lock.
const LOCKED: Duration = Duration::from_millis(40);
/// How long a statement may take at all.
const ANSWERED: Duration = Duration::from_secs(20);
/// Turns of the runtime without any traffic after which nothing more happens by itself.
const CALM_TURNS: u32 = 4;

/// What keeps its order. Different lanes may overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Live events to one connection.
    Live(u64),
    /// Messages between gateways to one connection.
    Control(u64),
    /// The answer to one request.
    Reply(u64),
    /// Answers to one connection to Postgres.
    Postgres(u64),
}

struct Held {
    to: mpsc::UnboundedSender<Bytes>,
    bytes: Bytes,
}

/// The traffic that waits, and signs of traffic that does not.
#[derive(Default)]
pub(crate) struct Gate {
    lanes: Mutex<BTreeMap<Lane, VecDeque<Held>>>,
    /// Whether traffic waits at all.
    closed: AtomicBool,
    /// Grows with everything that is read or written.
    activity: AtomicU64,
    /// Statements that Postgres has not answered.
    in_flight: AtomicI64,
    /// The value of `in_flight` when it was last found to be waiting for locks.
    locked: AtomicI64,
    replies: AtomicU64,
}

impl Gate {
    /// Passes bytes on: at once while the gate is open, else when the plan says so.
    pub(crate) fn pass(&self, lane: Lane, to: &mpsc::UnboundedSender<Bytes>, bytes: Bytes) {
        self.stir();
        let mut lanes = self.lanes.lock();
        if !self.closed.load(Ordering::Relaxed) && !lanes.contains_key(&lane) {
            let _ = to.send(bytes);
            return;
        }
        lanes.entry(lane).or_default().push_back(Held { to: to.clone(), bytes });
    }

    /// A lane of its own for one answer.
    pub(crate) fn reply(&self) -> Lane {
        Lane::Reply(self.replies.fetch_add(1, Ordering::Relaxed))
    }

    /// Something was read or written.
    pub(crate) fn stir(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    /// Statements went to Postgres, or (negative) were answered.
    pub(crate) fn asked(&self, statements: i64) {
        self.stir();
        self.in_flight.fetch_add(statements, Ordering::Relaxed);
    }

    /// From now on traffic waits.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// From now on traffic passes; what waits is released.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::Relaxed);
        for (_, held) in std::mem::take(&mut *self.lanes.lock()) {
            for it in held {
                let _ = it.to.send(it.bytes);
            }
        }
        self.stir();
    }

    /// Drops what waits for a connection that is gone.
    pub(crate) fn forget(&self, connection: u64) {
        let mut lanes = self.lanes.lock();
        lanes.remove(&Lane::Live(connection));
        lanes.remove(&Lane::Control(connection));
    }

    /// Releases the first item of a lane chosen by `random`.
    ///
    /// # Returns
    /// Whether there was one.
    pub(crate) fn release(&self, random: &mut impl Rng) -> bool {
        let mut lanes = self.lanes.lock();
        if lanes.is_empty() {
            return false;
        }
        let place = random.random_range(0..lanes.len());
        let Some(lane) = lanes.keys().nth(place).copied() else { return false };
        let Some(waiting) = lanes.get_mut(&lane) else { return false };
        if let Some(held) = waiting.pop_front() {
            let _ = held.to.send(held.bytes);
        }
        if waiting.is_empty() {
            lanes.remove(&lane);
        }
        drop(lanes);
        self.stir();
        true
    }

    /// Waits until nothing happens without the plan's doing.
    pub(crate) async fn settle(&self) {
        let mut calm = 0;
        let mut since = Instant::now();
        let mut seen = self.activity.load(Ordering::Relaxed);
        while calm < CALM_TURNS {
            tokio::task::yield_now().await;
            let activity = self.activity.load(Ordering::Relaxed);
            if activity != seen {
                (seen, since, calm) = (activity, Instant::now(), 0);
                continue;
            }
            let in_flight = self.in_flight.load(Ordering::Relaxed);
            if in_flight > 0 {
                // What waits for another transaction's lock goes on only if that one's answer is released.
                let may_be_locked = !self.lanes.lock().is_empty();
                let is_locked = may_be_locked && in_flight == self.locked.load(Ordering::Relaxed);
                if !is_locked && since.elapsed() < if may_be_locked { LOCKED } else { ANSWERED } {
                    calm = 0;
                    // Postgres is another process: real time passes, the plan's does not.
                    std::thread::sleep(Duration::from_micros(20));
                    continue;
                }
                self.locked.store(in_flight, Ordering::Relaxed);
            }
            if in_flight == 0 {
                self.locked.store(0, Ordering::Relaxed);
            }
            calm += 1;
        }
    }
}

/// Shared by everything that carries traffic.
pub(crate) type SharedGate = Arc<Gate>;
