//! Latencies: every one is kept, to three digits.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// From a microsecond to ten minutes, in nanoseconds.
const LOW: u64 = 1_000;
const HIGH: u64 = 600_000_000_000;
const DIGITS: u8 = 3;

/// What is timed, each from the moment at which the message was due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Latency {
    /// Until it was written: how far behind the load test itself was.
    Late,
    /// Until the sender's `ack`.
    Ack,
    /// Until another participant's socket had it.
    Delivery,
}

/// All latencies of a run, and those since one last looked.
#[derive(Default)]
pub(crate) struct Times {
    late: Series,
    ack: Series,
    delivery: Series,
}

impl Times {
    /// Adds one, in nanoseconds.
    pub(crate) fn record(&mut self, what: Latency, nanos: u64) {
        self.of(what).now.record(nanos);
    }

    /// Those since the last call.
    pub(crate) fn lately(&mut self, what: Latency) -> Quantiles {
        let series = self.of(what);
        let lately = series.now.quantiles();
        series.turn();
        lately
    }

    /// Those of the whole run.
    pub(crate) fn whole(&mut self, what: Latency) -> Quantiles {
        let series = self.of(what);
        series.turn();
        series.before.quantiles()
    }

    fn of(&mut self, what: Latency) -> &mut Series {
        match what {
            Latency::Late => &mut self.late,
            Latency::Ack => &mut self.ack,
            Latency::Delivery => &mut self.delivery,
        }
    }
}

#[derive(Default)]
struct Series {
    before: Recorder,
    now: Recorder,
}

impl Series {
    fn turn(&mut self) {
        self.before.take(&mut self.now);
    }
}

/// One histogram.
pub(crate) struct Recorder(Histogram<u64>);

impl Default for Recorder {
    fn default() -> Self {
        // Fails for bounds out of order only; a histogram that grows would do as well.
        let bounded = Histogram::new_with_bounds(LOW, HIGH, DIGITS);
        Self(bounded.unwrap_or_else(|_| unreachable!("constant bounds in order")))
    }
}

impl Recorder {
    /// Adds one, in nanoseconds.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    fn take(&mut self, other: &mut Self) {
        if !other.0.is_empty() {
            // Same bounds: everything fits.
            let _ = self.0.add(&other.0);
            other.0.reset();
        }
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let at = |quantile| millis(self.0.value_at_quantile(quantile));
        Quantiles {
            count: self.0.len(),
            mean_ms: self.0.mean() / 1e6,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: millis(self.0.max()),
        }
    }
}

/// A histogram in few numbers; latencies in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let mut times = Times::default();
        for micros in 1..=1_000_u64 {
            times.record(Latency::Ack, micros * 1_000);
        }
        let near = |value: f64, wanted: f64| assert!((value - wanted).abs() <= wanted * 0.002, "{value} for {wanted}");
        let lately = times.lately(Latency::Ack);
        near(lately.p50_ms, 0.5);
        near(lately.p90_ms, 0.9);
        near(lately.p99_ms, 0.99);
        near(lately.max_ms, 1.0);
        assert_eq!(lately.count, 1_000);
        assert_eq!(times.lately(Latency::Ack).count, 0);

        times.record(Latency::Ack, 50_000_000);
        let whole = times.whole(Latency::Ack);
        assert_eq!(whole.count, 1_001);
        near(whole.max_ms, 50.0);
        assert_eq!(times.whole(Latency::Delivery), Quantiles::default());
    }

    #[test]
    fn what_is_out_of_bounds_counts_at_the_bound() {
        let mut recorder = Recorder::default();
        recorder.record(0);
        recorder.record(u64::MAX);
        let quantiles = recorder.quantiles();
        assert_eq!(quantiles.count, 2);
        assert!(quantiles.max_ms >= HIGH as f64 / 1e6);
    }
}
