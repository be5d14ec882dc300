//! What a run is told as.

use partyline_shared::wire::Limits;
use serde::{Deserialize, Serialize};

use crate::{
    histogram::Quantiles,
    openloop::{Counts, Latencies},
    progress::grouped,
    tally::Tally,
};

/// The objective, and whether it was met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slo {
    /// The 99th percentile of delivery must lie below.
    pub(crate) delivery_p99_ms: f64,
    pub(crate) met: bool,
    /// In what it was missed.
    pub(crate) broken: Vec<String>,
}

impl Slo {
    pub(crate) fn judge(delivery_p99_ms: f64, messages: &Counts, latency: &Latencies) -> Self {
        let mut broken = Vec::new();
        let p99 = latency.delivery.p99_ms;
        if latency.delivery.count == 0 {
            broken.push("nothing was delivered".into());
        } else if p99 >= delivery_p99_ms {
            broken.push(format!("delivery p99 {p99:.1} ms, not below {delivery_p99_ms} ms"));
        }
        let none = [
            ("missing", messages.missing),
            ("doubled", messages.doubled),
            ("out of order", messages.out_of_order),
            ("behind gaps", messages.gaps),
            ("unanswered", messages.unanswered),
            ("errors", messages.errors.values().sum()),
            ("taken for duplicates", messages.duplicate_acks),
        ];
        broken.extend(none.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")));
        let closed: u64 = messages.closed.values().sum();
        if closed > 0 {
            broken.push(format!("{closed} sockets closed or broken"));
        }
        Self { delivery_p99_ms, met: broken.is_empty(), broken }
    }

    pub(crate) fn print(&self) {
        if self.met {
            println!("objective met: delivery p99 below {} ms, nothing missing or doubled", self.delivery_p99_ms);
        } else {
            println!("OBJECTIVE MISSED: {}", self.broken.join("; "));
        }
    }
}

/// Which program made a file of results.
pub(crate) fn tool(command: &str) -> String {
    format!("partyline-loadtest {} {command}", env!("CARGO_PKG_VERSION"))
}

pub(crate) fn print_counts(counts: &Counts) {
    println!(
        "  sent {}, acked {}, refused {}, unanswered {}",
        grouped(counts.sent),
        grouped(counts.acked),
        grouped(counts.refused),
        grouped(counts.unanswered)
    );
    println!(
        "  received {} ({} bytes a frame), missing {}, doubled {}, out of order {}, gaps {}",
        grouped(counts.received),
        counts.frame_bytes,
        grouped(counts.missing),
        grouped(counts.doubled),
        grouped(counts.out_of_order),
        grouped(counts.gaps)
    );
    for (code, count) in &counts.errors {
        println!("  error {code}: {}", grouped(*count));
    }
    for (code, count) in &counts.closed {
        println!("  sockets ended, {code}: {}", grouped(*count));
    }
}

pub(crate) fn print_latencies(latency: &Latencies) {
    println!("  {:<24}{:>9}{:>9}{:>9}{:>9}{:>9}  ms", "from due to", "p50", "p90", "p99", "p99.9", "max");
    let line = |name: &str, times: &Quantiles| {
        println!(
            "  {name:<24}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
            times.p50_ms, times.p90_ms, times.p99_ms, times.p999_ms, times.max_ms
        );
    };
    for (name, times) in
        [("written by this program", &latency.late), ("ack", &latency.ack), ("received by others", &latency.delivery)]
    {
        // A bare server sends by itself, and acknowledges nothing.
        if times.count > 0 {
            line(name, times);
        }
    }
}

/// Tells beforehand if the gateway is going to refuse some of the messages.
pub(crate) fn warn_of_limits(tally: &Tally, rate: f64, seconds: u32, senders: u32) {
    if let Some(warning) = tally.limits.get().and_then(|limits| over_budget(limits, rate, seconds, senders)) {
        eprintln!("{warning}");
    }
}

fn over_budget(limits: &Limits, rate: f64, seconds: u32, senders: u32) -> Option<String> {
    let a_minute = rate * 60.0 / f64::from(senders);
    let each = rate * f64::from(seconds) / f64::from(senders);
    let allowed = f64::from(limits.messages_burst) + f64::from(limits.messages_per_minute) * f64::from(seconds) / 60.0;
    (limits.messages_per_minute > 0 && each > allowed).then(|| {
        format!(
            "each sender is going to send {a_minute:.0} messages a minute and may send {} (burst {}): the rest is \
             refused. Take more senders, or start the gateway with PARTYLINE_MESSAGES_PER_MINUTE=0",
            limits.messages_per_minute, limits.messages_burst
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn good() -> (Counts, Latencies) {
        let counts = Counts {
            sent: 100,
            acked: 100,
            refused: 0,
            unanswered: 0,
            duplicate_acks: 0,
            received: 200,
            missing: 0,
            doubled: 0,
            out_of_order: 0,
            gaps: 0,
            errors: BTreeMap::new(),
            closed: BTreeMap::new(),
            frame_bytes: 400,
        };
        let delivery = Quantiles { count: 100, p99_ms: 5.0, ..Quantiles::default() };
        (counts, Latencies { late: Quantiles::default(), ack: delivery, delivery })
    }

    #[test]
    fn the_objective_is_latency_and_wholeness() {
        let (counts, latencies) = good();
        assert!(Slo::judge(100.0, &counts, &latencies).met);
        assert!(!Slo::judge(5.0, &counts, &latencies).met);
        let broken = |change: fn(&mut Counts)| {
            let (mut counts, latencies) = good();
            change(&mut counts);
            Slo::judge(100.0, &counts, &latencies).broken
        };
        assert_eq!(broken(|counts| counts.missing = 2), ["2 missing"]);
        assert_eq!(broken(|counts| counts.doubled = 1), ["1 doubled"]);
        assert_eq!(broken(|counts| counts.unanswered = 1), ["1 unanswered"]);
        assert_eq!(broken(|counts| counts.errors.extend([("rate_limited".into(), 4)])), ["4 errors"]);
        assert_eq!(broken(|counts| counts.closed.extend([("4008".into(), 3)])), ["3 sockets closed or broken"]);
        let (counts, mut latencies) = good();
        latencies.delivery = Quantiles::default();
        assert_eq!(Slo::judge(100.0, &counts, &latencies).broken, ["nothing was delivered"]);
    }

    #[test]
    fn warns_only_if_senders_exceed_their_budget() {
        let limits = Limits {
            messages_per_minute: 10,
            messages_burst: 10,
            frames_per_second: 20,
            connections_per_user: 10,
            max_frame_bytes: 16_384,
            max_content_chars: 1_000,
            max_metadata_bytes: 4_096,
            outbound_queue_bytes: 1 << 20,
            ping_interval_ms: 25_000,
            idle_timeout_ms: 60_000,
        };
        assert_eq!(over_budget(&limits, 100.0, 30, 10_000), None);
        assert!(over_budget(&limits, 20.0, 30, 5).unwrap().contains("240 messages a minute"));
        assert_eq!(over_budget(&Limits { messages_per_minute: 0, ..limits }, 20.0, 30, 5), None);
    }
}
