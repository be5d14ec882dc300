//! What a run under Goose is told as: in words, and as JSON.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use ::goose::{metrics::GooseRequestMetricAggregate, prelude::*};
use serde::{Deserialize, Serialize};

use super::{Options, world::World};
use crate::{bench::Bench, openloop::Latencies, progress::grouped, report, slo::Slo};

/// What is written as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Summary {
    tool: String,
    gateways: Vec<String>,
    users: u32,
    /// Names with their weights.
    scenarios: Vec<String>,
    seconds: u32,
    connects: Connects,
    messages: Messages,
    /// From when a message was to be sent.
    latency: Latencies,
    /// By method and name.
    requests: BTreeMap<String, Requests>,
    /// By code.
    errors: BTreeMap<String, u64>,
    pub(super) slo: Slo,
}

/// WebSockets opened.
#[derive(Debug, Serialize, Deserialize)]
struct Connects {
    count: u64,
    busiest_second: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Messages {
    sent: u64,
    acked: u64,
    /// Distinct messages at distinct sockets that had joined.
    received: u64,
    /// Events whose `prev_seq` names one that never came.
    missing: u64,
    doubled: u64,
    out_of_order: u64,
}

/// Requests of one name; times in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Requests {
    succeeded: usize,
    failed: usize,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl Requests {
    fn of(metric: &GooseRequestMetricAggregate) -> Self {
        let millis = |micros: u64| micros as f64 / 1e3;
        let at = |quantile| millis(metric.raw_data.percentile_us(quantile));
        Self {
            succeeded: metric.success_count,
            failed: metric.fail_count,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: millis(metric.raw_data.maximum_time_us),
        }
    }
}

impl Summary {
    pub(super) fn new(bench: &Bench, options: &Options, world: &World, metrics: &GooseMetrics) -> Self {
        let tally = &world.tally;
        let (count, busiest_second) = world.connects();
        let messages = Messages {
            sent: tally.sent.load(Relaxed),
            acked: tally.acked.load(Relaxed),
            received: tally.received.load(Relaxed),
            missing: tally.gaps.load(Relaxed),
            doubled: tally.doubled.load(Relaxed),
            out_of_order: tally.out_of_order.load(Relaxed),
        };
        let requests: BTreeMap<_, _> =
            metrics.requests.iter().map(|(name, metric)| (name.clone(), Requests::of(metric))).collect();
        let latency = Latencies::of(tally);
        let mut slo = judge(options.slo_ms, &requests, &messages, &latency);
        for threshold in metrics.thresholds.iter().filter(|threshold| !threshold.passed) {
            slo.missed(format!("threshold {}: {}", threshold.rule, threshold.observed));
        }
        Self {
            tool: report::tool("goose"),
            gateways: bench.urls(),
            users: options.users,
            scenarios: options.scenarios.iter().map(ToString::to_string).collect(),
            seconds: options.seconds,
            connects: Connects { count, busiest_second },
            messages,
            latency,
            requests,
            errors: tally.errors(),
            slo,
        }
    }

    pub(super) fn print(&self) {
        let (succeeded, failed) = totals(&self.requests);
        println!("{} users ({}) for {} s", self.users, self.scenarios.join(", "), self.seconds);
        println!(
            "  {} requests succeeded, {} failed; {} sockets opened, {} in the busiest second",
            grouped(succeeded),
            grouped(failed),
            grouped(self.connects.count),
            grouped(self.connects.busiest_second)
        );
        let Messages { sent, acked, received, missing, doubled, out_of_order } = &self.messages;
        println!(
            "  messages: sent {}, acked {}, received {}, missing {missing}, doubled {doubled}, out of order {out_of_order}",
            grouped(*sent),
            grouped(*acked),
            grouped(*received)
        );
        for (code, count) in &self.errors {
            println!("  error {code}: {}", grouped(*count));
        }
        report::print_latencies(&self.latency);
    }
}

/// Requests that succeeded, and that failed.
fn totals(requests: &BTreeMap<String, Requests>) -> (u64, u64) {
    requests.values().fold((0, 0), |(good, bad), it| (good + it.succeeded as u64, bad + it.failed as u64))
}

fn judge(slo_ms: f64, requests: &BTreeMap<String, Requests>, messages: &Messages, latency: &Latencies) -> Slo {
    let mut slo = Slo::new(format!("no request failed, delivery p99 below {slo_ms} ms, nothing missing or doubled"));
    let (succeeded, failed) = totals(requests);
    if succeeded == 0 {
        slo.missed("nothing succeeded");
    }
    slo.none("requests failed", failed);
    slo.none("missing", messages.missing);
    slo.none("doubled", messages.doubled);
    slo.none("out of order", messages.out_of_order);
    // REST alone delivers nothing.
    if latency.delivery.count > 0 {
        slo.below("delivery p99", latency.delivery.p99_ms, slo_ms, "ms");
    }
    slo
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Quantiles;

    fn judged(succeeded: usize, failed: usize, missing: u64, p99_ms: f64) -> bool {
        let requests = Requests { succeeded, failed, p50_ms: 1.0, p90_ms: 1.0, p99_ms: 1.0, p999_ms: 1.0, max_ms: 1.0 };
        let messages = Messages { sent: 1, acked: 1, received: 1, missing, doubled: 0, out_of_order: 0 };
        let none = Quantiles::default();
        let delivery = Quantiles { count: 1, p99_ms, ..none };
        let latency = Latencies { late: none, ack: none, delivery };
        judge(100.0, &BTreeMap::from([("WS send".to_owned(), requests)]), &messages, &latency).met
    }

    #[test]
    fn a_failure_a_gap_or_slowness_misses() {
        assert!(judged(1, 0, 0, 5.0));
        assert!(!judged(1, 1, 0, 5.0) && !judged(0, 0, 0, 5.0) && !judged(1, 0, 1, 5.0) && !judged(1, 0, 0, 100.0));
    }
}
