//! What a run is told as, in words.

use partyline_shared::wire::Limits;

use crate::{
    histogram::Quantiles,
    openloop::{Counts, Latencies},
    progress::grouped,
    tally::Tally,
};

/// Which program made a file of results.
pub(crate) fn tool(command: &str) -> String {
    format!("partyline-loadtest {} {command}", env!("CARGO_PKG_VERSION"))
}

pub(crate) fn print_counts(counts: &Counts) {
    println!(
        "  sent {}, acked {}, refused {}, sent again {}, unanswered {}",
        grouped(counts.sent),
        grouped(counts.acked),
        grouped(counts.refused),
        grouped(counts.resent),
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
    print_quantiles(
        "from due to",
        &[("written by this program", &latency.late), ("ack", &latency.ack), ("received by others", &latency.delivery)],
    );
}

/// A table of latencies; those without any are left out.
pub(crate) fn print_quantiles(title: &str, rows: &[(&str, &Quantiles)]) {
    println!("  {title:<24}{:>9}{:>9}{:>9}{:>9}{:>9}  ms", "p50", "p90", "p99", "p99.9", "max");
    for (name, times) in rows.iter().filter(|(_, times)| times.count > 0) {
        println!(
            "  {name:<24}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
            times.p50_ms, times.p90_ms, times.p99_ms, times.p999_ms, times.max_ms
        );
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
    use super::*;

    #[test]
    fn warns_only_if_senders_exceed_their_budget() {
        let limits = Limits {
            messages_per_minute: 10,
            messages_burst: 10,
            frames_per_second: 20,
            frames_burst: 500,
            connections_per_user: 10,
            max_frame_bytes: 20_480,
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
