//! `idle`: many sockets that do nothing; what memory each takes of the gateway.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{
    bench::Bench,
    crowd::{self, Arrival, Crowd, Seat},
    limits,
    proc::Memory,
    progress::grouped,
    report, setup,
    slo::Slo,
    tally::Tally,
};

/// Many connected people in pairs who do nothing: the gateway's memory for each.
///
/// Memory is the process's proportional set size (PSS), and its resident one (RSS), from /proc/<pid>/smaps_rollup.
/// Conversations are made before the first look; what a pair's conversation takes, once joined, is part of the answer
/// (--without-joining leaves it out). A gateway that has served others before may have memory to spare: measure a
/// fresh one.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Sockets, an even number.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=2_000_000), value_name = "N")]
    sockets: u32,
    /// How long sockets have been idle when the memory is read, in seconds. Above 25 they have answered a ping.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400), value_name = "SECONDS")]
    seconds: u32,
    /// Connects only.
    #[arg(long)]
    without_joining: bool,
    /// The objective: memory of the gateway for each socket (PSS), in bytes. Without it only that no socket is lost.
    #[arg(long, value_name = "BYTES")]
    slo_bytes: Option<u32>,
}

/// What is written as JSON; memory in bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    tool: String,
    gateways: Vec<String>,
    sockets: u32,
    joined: bool,
    seconds: u32,
    arrival: Arrival,
    before: Memory,
    idle: Memory,
    /// After everybody has left.
    after: Memory,
    pss_per_socket: i64,
    rss_per_socket: i64,
    /// Sockets that ended before we closed them.
    lost: u64,
    /// The same by close code or what broke them.
    closed: BTreeMap<String, u64>,
    slo: Slo,
}

/// Measures.
///
/// # Returns
/// Whether the objective was met.
///
/// # Errors
/// If they can't be connected, or the gateway's process is not known.
pub(crate) async fn run(bench: &Bench, options: Options) -> anyhow::Result<bool> {
    let Options { sockets, seconds, without_joining, slo_bytes } = options;
    anyhow::ensure!(sockets.is_multiple_of(2), "people come in pairs: --sockets is odd");
    let pids = bench.known_pids()?;
    limits::make_room(sockets as usize, pids)?;
    let pairs = bench.pairs(sockets as usize);
    let conversations = if without_joining { Vec::new() } else { setup::conversations(bench, &pairs).await? };
    let seats: Vec<Seat> = (0..sockets as usize)
        .map(|number| Seat {
            user: bench.user(number),
            gateway: number % bench.gateways.len(),
            conversation: conversations.get(number / 2).cloned(),
        })
        .collect();
    let tally = Arc::new(Tally::new(0, 0, Vec::new()));

    let before = Memory::of(pids)?;
    let crowd = Crowd::gather(bench, &seats, &tally).await?;
    crowd::quiet(&tally).await;
    let until = Instant::now() + Duration::from_secs(u64::from(seconds));
    while Instant::now() < until {
        sleep(Duration::from_secs(1).min(until - Instant::now())).await;
        let lost = tally.closes().values().sum();
        eprintln!("  PSS {} bytes, {} sockets lost", grouped(Memory::of(pids)?.pss), grouped(lost));
    }
    let idle = Memory::of(pids)?;
    let closed = tally.closes();
    let lost: u64 = closed.values().sum();
    let arrival = crowd.report.clone();
    crowd.leave().await;
    crowd::quiet(&tally).await;
    let after = Memory::of(pids)?;

    let pss_per_socket = each(before.pss, idle.pss, sockets);
    let summary = Summary {
        tool: report::tool("idle"),
        gateways: bench.urls(),
        sockets,
        joined: !without_joining,
        seconds,
        arrival,
        before,
        idle,
        after,
        pss_per_socket,
        rss_per_socket: each(before.rss, idle.rss, sockets),
        lost,
        closed,
        slo: judge(lost, pss_per_socket, slo_bytes),
    };
    let what = if without_joining { "connected" } else { "joined" };
    println!("{sockets} {what} sockets, idle for {seconds} s, {lost} lost meanwhile");
    for (code, count) in &summary.closed {
        println!("  sockets ended, {code}: {}", grouped(*count));
    }
    for (name, memory) in [("before", before), ("idle", idle), ("after they left", after)] {
        println!("  {name:<16} PSS {:>13}   RSS {:>13} bytes", grouped(memory.pss), grouped(memory.rss));
    }
    println!("  each socket: PSS {} bytes, RSS {} bytes", summary.pss_per_socket, summary.rss_per_socket);
    bench.write_json("idle", &summary)?;
    summary.slo.print();
    Ok(summary.slo.met)
}

fn judge(lost: u64, each: i64, limit: Option<u32>) -> Slo {
    let memory = limit.map(|limit| format!(", less than {limit} bytes each")).unwrap_or_default();
    let mut slo = Slo::new(format!("no socket lost{memory}"));
    slo.none("sockets lost", lost);
    if let Some(limit) = limit {
        slo.below("memory", each as f64, f64::from(limit), "bytes a socket");
    }
    slo
}

/// The difference for one of `count`, in bytes.
fn each(before: u64, after: u64, count: u32) -> i64 {
    (after.cast_signed() - before.cast_signed()) / i64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_may_shrink() {
        assert_eq!(each(1_000, 5_000, 4), 1_000);
        assert_eq!(each(5_000, 1_000, 4), -1_000);
    }

    #[test]
    fn memory_is_judged_if_it_is_asked() {
        assert!(judge(0, 9_000, None).met && judge(0, 9_000, Some(10_000)).met);
        assert!(!judge(0, 10_000, Some(10_000)).met && !judge(1, 0, None).met);
    }
}
