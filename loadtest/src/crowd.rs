//! Many people, connected and in their conversations.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::bail;
use futures_util::{StreamExt, stream};
use partyline_shared::claims::UserType;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    bench::Bench,
    client::{self, Conn},
    clock,
    histogram::{Quantiles, Recorder},
    limits,
    member::Member,
    progress::Progress,
    tally::Tally,
};

/// How long one join may take.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// Nothing is heard for this long before it is quiet.
const QUIET: Duration = Duration::from_millis(500);
const QUIET_PATIENCE: Duration = Duration::from_secs(60);

/// One socket: whose, where, and what it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) user: String,
    /// Which of the gateways.
    pub(crate) gateway: usize,
    pub(crate) conversation: Option<String>,
}

/// Everybody of a run; dropped, they are gone.
pub(crate) struct Crowd {
    pub(crate) conns: Vec<Arc<Conn>>,
    pub(crate) report: Arrival,
}

/// How the crowd came in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Arrival {
    pub(crate) sockets: usize,
    pub(crate) seconds: f64,
    /// Sockets a second, connected and joined.
    pub(crate) per_second: f64,
    /// TCP and WebSocket handshake.
    pub(crate) handshake: Quantiles,
    /// From the handshake until `joined`.
    pub(crate) join: Quantiles,
}

/// One who is in; times in nanoseconds.
pub(crate) struct Arrived {
    pub(crate) conn: Arc<Conn>,
    pub(crate) handshake: u64,
    pub(crate) join: u64,
}

/// Those who are in so far.
#[derive(Default)]
pub(crate) struct Arrivals {
    conns: Vec<Arc<Conn>>,
    handshakes: Recorder,
    joins: Recorder,
    failures: BTreeMap<String, usize>,
}

impl Arrivals {
    pub(crate) fn add(&mut self, arrived: Result<Arrived, String>) {
        match arrived {
            Ok(arrived) => {
                self.conns.push(arrived.conn);
                self.handshakes.record(arrived.handshake);
                self.joins.record(arrived.join);
            }
            Err(why) => *self.failures.entry(why).or_default() += 1,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.conns.len()
    }

    /// # Errors
    /// If somebody of so many was not let in: how many, and why.
    pub(crate) fn finish(self, of: usize, took: Duration) -> anyhow::Result<Crowd> {
        if !self.failures.is_empty() {
            let whys: Vec<_> = self.failures.iter().map(|(why, count)| format!("{why}: {count}")).collect();
            bail!("{} of {of} sockets came in; {}", self.conns.len(), whys.join(", "));
        }
        let seconds = took.as_secs_f64();
        let report = Arrival {
            sockets: of,
            seconds,
            per_second: of as f64 / seconds,
            handshake: self.handshakes.quantiles(),
            join: self.joins.quantiles(),
        };
        eprintln!("{report}");
        Ok(Crowd { conns: self.conns, report })
    }
}

impl Crowd {
    /// Seats everybody.
    ///
    /// # Errors
    /// If they don't fit into this machine's limits, or somebody is not let in: how many, and why.
    pub(crate) async fn gather(bench: &Bench, seats: &[Seat], tally: &Arc<Tally>) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut progress = Progress::new("sockets", seats.len());
        let mut arriving = stream::iter(seats.iter().enumerate())
            .map(|(number, seat)| arrive(bench, number, seat, tally))
            .buffered(bench.connecting);
        let mut arrivals = Arrivals::default();
        while let Some(arrived) = arriving.next().await {
            arrivals.add(arrived);
            progress.step(arrivals.count());
        }
        arrivals.finish(seats.len(), began.elapsed())
    }

    /// Closes everything, and waits until the server has answered.
    pub(crate) async fn leave(self) {
        leave(&self.conns).await;
    }
}

/// Closes everything, and waits until the server has answered.
pub(crate) async fn leave(conns: &[Arc<Conn>]) {
    conns.iter().for_each(|conn| conn.close());
    let until = Instant::now() + QUIET_PATIENCE;
    // Each task holds its socket until its end.
    while conns.iter().any(|conn| Arc::strong_count(conn) > 1) && Instant::now() < until {
        sleep(Duration::from_millis(20)).await;
    }
}

impl std::fmt::Display for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} sockets in {:.1} s ({:.0} a second); handshake p50 {:.1} ms, p99 {:.1} ms; join p50 {:.1} ms, p99 {:.1} ms",
            self.sockets,
            self.seconds,
            self.per_second,
            self.handshake.p50_ms,
            self.handshake.p99_ms,
            self.join.p50_ms,
            self.join.p99_ms
        )
    }
}

async fn arrive(bench: &Bench, number: usize, seat: &Seat, tally: &Arc<Tally>) -> Result<Arrived, String> {
    let gateway = &bench.gateways[seat.gateway];
    let user_type = if number.is_multiple_of(2) { UserType::Customer } else { UserType::Vendor };
    let token = bench.signer.person(&seat.user, user_type).map_err(|error| error.to_string())?;
    let began = clock::now();
    let opened = client::open(gateway, limits::source(number, gateway.addr), &token).await?;
    let open = clock::now();
    let place = u32::try_from(number).map_err(|_| "too many")?;
    let (member, joined) = Member::new(place, tally.clone(), seat.conversation.clone());
    let conn = client::start(opened, member);
    match timeout(JOIN_PATIENCE, joined).await {
        Ok(Ok(Ok(()))) => Ok(Arrived { conn, handshake: open - began, join: clock::now() - open }),
        Ok(Ok(Err(code))) => Err(format!("join refused: {code}")),
        Ok(Err(_)) => Err("task ended".into()),
        Err(_) => Err("join timed out".into()),
    }
}

/// Waits until nothing more comes in: arrivals tell others of themselves.
pub(crate) async fn quiet(tally: &Tally) {
    let until = Instant::now() + QUIET_PATIENCE;
    let mut before = None;
    while Instant::now() < until {
        let frames = tally.frames.load(Relaxed);
        if before.replace(frames) == Some(frames) {
            return;
        }
        sleep(QUIET).await;
    }
    eprintln!("the gateway sends without being asked: measuring all the same");
}
