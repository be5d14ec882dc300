//! A measured run: messages on schedule into a crowd, a line each second, and what came of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use crate::{
    client::Conn,
    clock,
    crowd::Seat,
    histogram::{Latency, Quantiles},
    marker::Marker,
    outgoing,
    pacer::Schedule,
    progress::grouped,
    tally::Tally,
};

/// From the start of the sender to the first message.
pub(crate) const LEAD: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);

/// What is sent, and how fast.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Load")]
pub(crate) struct Load {
    /// For how long messages are sent, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400), value_name = "SECONDS")]
    pub(crate) seconds: u32,
    /// Content of a message, in bytes.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(64..=1_000), value_name = "BYTES")]
    pub(crate) size: u16,
    /// How long to wait for what is still to come at the end, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..), value_name = "SECONDS")]
    pub(crate) grace: u32,
}

impl Load {
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(u64::from(self.grace))
    }
}

/// A rate that makes at least one message, and at most as many as can be numbered.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.01..=40_000.0).contains(&rate) { Ok(rate) } else { Err("0.01 to 40,000 messages a second".into()) }
}

/// Counts of a run, as reported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    /// Refused by the server, or not sent since the socket was broken.
    pub(crate) refused: u64,
    /// Sent again with the same `client_id`, since the socket was lost or the server said "later".
    pub(crate) resent: u64,
    /// Neither acknowledged nor refused.
    pub(crate) unanswered: u64,
    /// Acks of messages sent once that the server claims to have had before.
    pub(crate) duplicate_acks: u64,
    /// Distinct messages at distinct sockets; each message also comes back to its sender.
    pub(crate) received: u64,
    /// Acknowledged messages that a socket never got.
    pub(crate) missing: u64,
    /// Messages that a socket got again.
    pub(crate) doubled: u64,
    /// Events whose `seq` was not above the one before.
    pub(crate) out_of_order: u64,
    /// Events whose `prev_seq` names one that never came.
    pub(crate) gaps: u64,
    /// By code.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Sockets that the server closed or the network broke, by close code or kind.
    pub(crate) closed: BTreeMap<String, u64>,
    /// Bytes of an average frame with a message.
    pub(crate) frame_bytes: u64,
}

/// Latencies of a run, all from the moment at which the message was due.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// Until it was written: how far behind the load test itself was.
    pub(crate) late: Quantiles,
    pub(crate) ack: Quantiles,
    pub(crate) delivery: Quantiles,
}

/// Sends every message when it is due, from the seat whose turn it is; then waits for what is to come.
///
/// # Errors
/// If the sending thread breaks.
pub(crate) async fn send(
    tally: &Arc<Tally>,
    seats: &[Seat],
    conns: &[Arc<Conn>],
    rate: f64,
    load: Load,
) -> anyhow::Result<()> {
    let conversations: Vec<String> = seats.iter().map(|seat| seat.conversation.clone().unwrap_or_default()).collect();
    let (own, conns) = (tally.clone(), conns.to_vec());
    let schedule = Schedule::after(LEAD, rate, load.seconds);
    let sending = on_schedule(schedule, move |number, due| {
        let Some(seat) = own.sender(number) else { return };
        let marker = Marker { run: own.run, number, due };
        let frame = outgoing::message(&conversations[seat as usize], marker, usize::from(load.size));
        own.sending(number, due, clock::now());
        if conns[seat as usize].send(frame.as_bytes()).is_err() {
            own.refuse(number, "socket_closed");
        }
    });
    watch(tally, sending, || None).await?;
    settle(tally, load.grace()).await;
    Ok(())
}

/// Calls `send` with number and time of each message when it is due, from a thread of its own.
pub(crate) fn on_schedule(schedule: Schedule, send: impl FnMut(u32, u64) + Send + 'static) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || schedule.run(send))
}

/// A line each second, until `task` is done; `more` is added to it.
pub(crate) async fn watch<T>(
    tally: &Tally,
    mut task: JoinHandle<T>,
    more: impl Fn() -> Option<String>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let mut ticks = interval_at(began + SECOND, SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            done = &mut task => return Ok(done?),
            _ = ticks.tick() => {
                let more = more().map(|more| format!("; {more}")).unwrap_or_default();
                eprintln!("  {:>4.0} s  {}{more}", began.elapsed().as_secs_f64(), line(tally));
            }
        }
    }
}

/// How a run stands, and the latencies since the last call.
pub(crate) fn line(tally: &Tally) -> String {
    let (ack, delivery) = {
        let mut times = tally.times.lock();
        (times.lately(Latency::Ack), times.lately(Latency::Delivery))
    };
    format!(
        "sent {}, acked {}, received {}, errors {}; this second p99: ack {:.1} ms, delivery {:.1} ms",
        grouped(tally.sent.load(Relaxed)),
        grouped(tally.acked.load(Relaxed)),
        grouped(tally.received.load(Relaxed)),
        grouped(tally.errors().values().sum()),
        ack.p99_ms,
        delivery.p99_ms,
    )
}

/// Waits until everything is answered and received, at most `grace`; then as long again for what comes twice.
pub(crate) async fn settle(tally: &Tally, grace: Duration) {
    let until = Instant::now() + grace;
    loop {
        let outcome = tally.outcome();
        if outcome.missing == 0 && outcome.unanswered == 0 || Instant::now() > until {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    // Doubles come after what they double.
    sleep(Duration::from_millis(500)).await;
}

impl Counts {
    pub(crate) fn of(tally: &Tally) -> Self {
        let outcome = tally.outcome();
        Self {
            sent: tally.sent.load(Relaxed),
            acked: tally.acked.load(Relaxed),
            refused: tally.refused.load(Relaxed),
            resent: tally.resent.load(Relaxed),
            unanswered: outcome.unanswered,
            duplicate_acks: tally.duplicate_acks.load(Relaxed),
            received: tally.received.load(Relaxed),
            missing: outcome.missing,
            doubled: tally.doubled.load(Relaxed),
            out_of_order: tally.out_of_order.load(Relaxed),
            gaps: tally.gaps.load(Relaxed),
            errors: tally.errors(),
            closed: tally.closes(),
            frame_bytes: tally.frame_size(),
        }
    }
}

impl Latencies {
    pub(crate) fn of(tally: &Tally) -> Self {
        let mut times = tally.times.lock();
        Self {
            late: times.whole(Latency::Late),
            ack: times.whole(Latency::Ack),
            delivery: times.whole(Latency::Delivery),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_positive_and_countable() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for bad in ["0", "-1", "NaN", "inf", "1e9", "fast"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert!(f64::from(u32::MAX) > 40_000.0 * 86_400.0);
    }
}
