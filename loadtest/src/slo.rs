//! The objective of a run, and whether it was met: what the exit code tells.

use serde::{Deserialize, Serialize};

use crate::openloop::{Counts, Latencies};

/// The objective, and whether it was met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slo {
    pub(crate) objective: String,
    pub(crate) met: bool,
    /// In what it was missed.
    pub(crate) broken: Vec<String>,
}

impl Slo {
    /// Met until something breaks it.
    pub(crate) fn new(objective: impl Into<String>) -> Self {
        Self { objective: objective.into(), met: true, broken: Vec::new() }
    }

    pub(crate) fn missed(&mut self, in_what: impl Into<String>) {
        self.met = false;
        self.broken.push(in_what.into());
    }

    /// There must be none of these.
    pub(crate) fn none(&mut self, what: &str, count: u64) {
        if count > 0 {
            self.missed(format!("{count} {what}"));
        }
    }

    /// `value` must lie below `limit`.
    pub(crate) fn below(&mut self, what: &str, value: f64, limit: f64, unit: &str) {
        // What is no number lies below nothing.
        if value.is_nan() || value >= limit {
            self.missed(format!("{what} {value:.1} {unit}, not below {limit} {unit}"));
        }
    }

    /// The 99th percentile of delivery, and everything once and in order.
    pub(crate) fn of_messages(delivery_p99_ms: f64, messages: &Counts, latency: &Latencies) -> Self {
        let mut slo = Self::new(format!("delivery p99 below {delivery_p99_ms} ms, nothing missing or doubled"));
        if latency.delivery.count == 0 {
            slo.missed("nothing was delivered");
        } else {
            slo.below("delivery p99", latency.delivery.p99_ms, delivery_p99_ms, "ms");
        }
        slo.everything_once(messages);
        slo.none("errors", messages.errors.values().sum());
        slo.none("sockets closed or broken", messages.closed.values().sum());
        slo
    }

    /// Everything acknowledged is there, once and in order.
    pub(crate) fn everything_once(&mut self, messages: &Counts) {
        self.none("missing", messages.missing);
        self.none("doubled", messages.doubled);
        self.none("out of order", messages.out_of_order);
        self.none("behind gaps", messages.gaps);
        self.none("unanswered", messages.unanswered);
        self.none("taken for duplicates", messages.duplicate_acks);
    }

    /// The last line of a run.
    pub(crate) fn print(&self) {
        if self.met {
            println!("PASSED: {}", self.objective);
        } else {
            println!("FAILED: {} (objective: {})", self.broken.join("; "), self.objective);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::histogram::Quantiles;

    fn good() -> (Counts, Latencies) {
        let counts = Counts {
            sent: 100,
            acked: 100,
            refused: 0,
            resent: 0,
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
        assert!(Slo::of_messages(100.0, &counts, &latencies).met);
        let slow = Slo::of_messages(5.0, &counts, &latencies);
        assert_eq!((slow.met, &*slow.broken[0]), (false, "delivery p99 5.0 ms, not below 5 ms"));
        let broken = |change: fn(&mut Counts)| {
            let (mut counts, latencies) = good();
            change(&mut counts);
            Slo::of_messages(100.0, &counts, &latencies).broken
        };
        assert_eq!(broken(|counts| counts.missing = 2), ["2 missing"]);
        assert_eq!(broken(|counts| counts.doubled = 1), ["1 doubled"]);
        assert_eq!(broken(|counts| counts.unanswered = 1), ["1 unanswered"]);
        assert_eq!(broken(|counts| counts.errors.extend([("rate_limited".into(), 4)])), ["4 errors"]);
        assert_eq!(broken(|counts| counts.closed.extend([("4008".into(), 3)])), ["3 sockets closed or broken"]);
        let (counts, mut latencies) = good();
        latencies.delivery = Quantiles::default();
        assert_eq!(Slo::of_messages(100.0, &counts, &latencies).broken, ["nothing was delivered"]);
    }

    #[test]
    fn what_is_no_number_misses() {
        let mut slo = Slo::new("fast");
        slo.below("p99", f64::NAN, 100.0, "ms");
        assert!(!slo.met);
    }
}
