//! `room`: one conversation of many sockets; what a delivery costs the gateway, beside what it costs the kernel.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    bare,
    bench::Bench,
    crowd::{self, Arrival, Crowd, Seat},
    limits,
    openloop::{self, Counts, Latencies, Load},
    pacer, proc, report, setup,
    slo::Slo,
    tally::Tally,
};

/// One conversation of many: the gateway's CPU time for a delivery, and its ratio to the kernel's floor.
///
/// The floor is measured in the same run: a process of its own (`loadtest bare`) does nothing but one write(2) of a
/// frame of the same size to each of as many sockets at the same rate. CPU time is all that the gateway's process uses
/// from the first message to the last, in user and kernel mode: nothing is taken off.
///
/// All members take turns at sending, so that the gateway's default limits are enough for the defaults: each of 1,000
/// sends 1.2 messages a minute. With few --senders raise PARTYLINE_MESSAGES_PER_MINUTE (0 lifts the limit) and, above
/// 20 messages a second each, PARTYLINE_FRAMES_PER_SECOND; with more than 1,000 members PARTYLINE_GROUP_MAX.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Members of the conversation, one socket each.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(3..=100_000), value_name = "N")]
    members: u32,
    /// Members that send, in turn. All unless given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    senders: Option<u32>,
    /// Messages a second; each goes to every member.
    #[arg(long, default_value = "20", value_parser = openloop::rate, value_name = "N")]
    rate: f64,
    /// The objective: the 99th percentile of delivery, in milliseconds.
    #[arg(long, default_value_t = 100.0, value_name = "MS")]
    slo_ms: f64,
    /// Leaves out the measurement of the kernel's floor.
    #[arg(long)]
    without_bare: bool,
    #[command(flatten)]
    load: Load,
}

/// CPU time of one server for its deliveries.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) deliveries: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) micros_per_delivery: f64,
    pub(crate) latency: Latencies,
}

impl Cost {
    pub(crate) fn new(tally: &Tally, cpu: std::time::Duration) -> Self {
        let deliveries = tally.received.load(Relaxed);
        Self {
            deliveries,
            cpu_seconds: cpu.as_secs_f64(),
            micros_per_delivery: cpu.as_secs_f64() * 1e6 / deliveries.max(1) as f64,
            latency: Latencies::of(tally),
        }
    }

    fn print(&self, name: &str) {
        println!(
            "{name}: {:.2} s of CPU time for {} deliveries: {:.2} us each",
            self.cpu_seconds,
            crate::progress::grouped(self.deliveries),
            self.micros_per_delivery
        );
        report::print_latencies(&self.latency);
    }
}

/// What is written as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    tool: String,
    gateways: Vec<String>,
    members: u32,
    senders: u32,
    rate: f64,
    seconds: u32,
    content_bytes: u16,
    arrival: Arrival,
    messages: Counts,
    gateway: Cost,
    bare: Option<Cost>,
    /// The gateway's CPU time for a delivery by the bare server's; none if that was too short for the kernel's clock.
    ratio: Option<f64>,
    slo: Slo,
}

/// Measures.
///
/// # Returns
/// Whether the objective was met.
///
/// # Errors
/// If the members can't be connected, or the gateway's process is not known.
pub(crate) async fn run(bench: &Bench, options: Options) -> anyhow::Result<bool> {
    let Options { members, rate, load, .. } = options;
    let pids = bench.known_pids()?;
    let senders = options.senders.unwrap_or(members).min(members);
    limits::make_room(members as usize, pids)?;
    let people: Vec<String> = (0..members as usize).map(|number| bench.user(number)).collect();
    let conversation = setup::conversations(bench, std::slice::from_ref(&people)).await?.pop();
    let seat =
        |(number, user)| Seat { user, gateway: number % bench.gateways.len(), conversation: conversation.clone() };
    let seats: Vec<Seat> = people.into_iter().enumerate().map(seat).collect();

    let tally = Arc::new(Tally::new(pacer::total(rate, load.seconds), members, (0..senders).collect()));
    let crowd = Crowd::gather(bench, &seats, &tally).await?;
    report::warn_of_limits(&tally, rate, load.seconds, senders);
    crowd::quiet(&tally).await;
    let before = proc::cpu(pids)?;
    openloop::send(&tally, &seats, &crowd.conns, rate, load).await?;
    let gateway = Cost::new(&tally, proc::cpu(pids)?.saturating_sub(before));
    let messages = Counts::of(&tally);
    let arrival = crowd.report.clone();
    crowd.leave().await;
    let slo = Slo::of_messages(options.slo_ms, &messages, &gateway.latency);

    println!("{members} members, {senders} of them sending, {rate} messages a second for {} s", load.seconds);
    report::print_counts(&messages);
    gateway.print("gateway");
    let bare = if options.without_bare {
        None
    } else {
        let wanted = bare::Options { members, rate, seconds: load.seconds, size: messages.frame_bytes, run: 0 };
        let cost = bare::measure(wanted, bench.connecting).await?;
        cost.print("bare write(2)");
        Some(cost)
    };
    // Few deliveries take less than a clock tick.
    let floor = bare.as_ref().map(|bare| bare.micros_per_delivery).filter(|micros| *micros > 0.0);
    let ratio = floor.map(|floor| gateway.micros_per_delivery / floor);
    if let Some(ratio) = ratio {
        println!("ratio: a delivery costs the gateway {ratio:.2} times the bare write");
    }
    let summary = Summary {
        tool: report::tool("room"),
        gateways: bench.urls(),
        members,
        senders,
        rate,
        seconds: load.seconds,
        content_bytes: load.size,
        arrival,
        messages,
        gateway,
        bare,
        ratio,
        slo,
    };
    bench.write_json("room", &summary)?;
    summary.slo.print();
    Ok(summary.slo.met)
}
