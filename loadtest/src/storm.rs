//! `storm`: a gateway dies under traffic, and everybody comes back at once.

mod link;
mod people;
mod person;
mod phases;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use rand::seq::SliceRandom;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use self::{
    people::{Comeback, World},
    phases::Phases,
};
use crate::{
    bench::Bench,
    clock,
    crowd::{self, Arrival},
    latency, limits,
    openloop::{self, Counts, Load},
    pacer::{self, Schedule},
    report, setup,
    slo::Slo,
    tally::Tally,
};

/// Two receive each message: the partner, and the sender's own socket.
const PAIR: u32 = 2;

/// Kills a gateway (SIGKILL) under traffic: how soon everybody is back, and whether anything was lost.
///
/// People in pairs send on a fixed schedule. Whoever loses the socket comes back to any of the gateways after a random
/// wait that doubles (full jitter, as Partyline's own clients do), joins with `after`, and sends again, with the same
/// client_id, what has no answer yet. `make run` starts its only gateway again; with several, people go to the others.
/// Every latency counts from the time at which a message was due, also while its sender was away.
///
/// Exits with 1 if the objective is missed: everybody back in time, the 99th percentile of delivery afterwards, and
/// nothing missing, doubled or out of order.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Connected people, an even number.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=2_000_000), value_name = "N")]
    people: u32,
    /// Messages a second, from all people together.
    #[arg(long, default_value = "100", value_parser = openloop::rate, value_name = "N")]
    rate: f64,
    /// When the gateway is killed, in seconds after the first message. What is left of --seconds is for coming back, and
    /// for the time after.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..), value_name = "SECONDS")]
    kill_after: u32,
    /// The objective: everybody is back, in seconds after the kill.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    slo_seconds: f64,
    /// The objective: the 99th percentile of delivery once everybody is back, in milliseconds.
    #[arg(long, default_value_t = 100.0, value_name = "MS")]
    slo_ms: f64,
    #[command(flatten)]
    load: Load,
}

/// What is written as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    tool: String,
    gateways: Vec<String>,
    people: u32,
    rate: f64,
    seconds: u32,
    content_bytes: u16,
    arrival: Arrival,
    storm: Storm,
    messages: Counts,
    latency: Phases,
    slo: Slo,
}

#[derive(Debug, Serialize, Deserialize)]
struct Storm {
    /// The gateway that was killed.
    killed: String,
    /// People who were on it.
    people: usize,
    /// From the kill until everybody had joined again; none if they never had.
    seconds: Option<f64>,
    /// Sockets a second in that time, connected and joined.
    connects_per_second: Option<f64>,
    comeback: Comeback,
}

/// Measures.
///
/// # Returns
/// Whether the objective was met.
///
/// # Errors
/// If the people can't be connected, or the gateway's process is not known.
pub(crate) async fn run(bench: &Bench, options: Options) -> anyhow::Result<bool> {
    let Options { people: count, rate, kill_after, load, .. } = options;
    anyhow::ensure!(count.is_multiple_of(2), "people come in pairs: --people is odd");
    anyhow::ensure!(kill_after < load.seconds, "--kill-after lies behind the last message (--seconds)");
    let pids = bench.known_pids()?;
    anyhow::ensure!(pids.len() == bench.gateways.len(), "one --pid for each --url, in the same order");
    limits::make_room(count as usize, pids)?;
    let pairs = bench.pairs(count as usize);
    let conversations = setup::conversations(bench, &pairs).await?;
    let seats = latency::seats(&pairs, &conversations, bench.gateways.len());
    let mut senders: Vec<u32> = (0..count).collect();
    senders.shuffle(&mut rand::rng());
    let tally = Arc::new(Tally::new(pacer::total(rate, load.seconds), PAIR, senders));
    let world = World::new(tally.clone(), bench.gateways.clone(), usize::from(load.size));
    let (people, arrival) = people::gather(bench, &world, &seats).await?;
    report::warn_of_limits(&tally, rate, load.seconds, count);
    crowd::quiet(&tally).await;

    let schedule = Schedule::after(openloop::LEAD, rate, load.seconds);
    let sending = openloop::on_schedule(schedule, {
        let (tally, people) = (tally.clone(), people.clone());
        move |number, due| {
            if let Some(seat) = tally.sender(number) {
                people[seat as usize].send(number, due);
            }
        }
    });
    let killing = tokio::spawn({
        let (world, people, pid) = (world.clone(), people.clone(), pids[0]);
        async move {
            sleep(Duration::from_secs(u64::from(kill_after))).await;
            let away = people.iter().filter(|person| person.gateway() == Some(0)).count();
            let killed = clock::now();
            kill(pid)?;
            eprintln!("killed gateway process {pid}, with {away} people on it");
            Ok::<_, anyhow::Error>((killed, away, wait_for_all(&world, away, people.len(), load).await))
        }
    });
    openloop::watch(&tally, sending, || Some(people::here(&world, people.len()))).await?;
    let (killed, away, back) = openloop::watch(&tally, killing, || Some(people::here(&world, people.len()))).await??;
    openloop::settle(&tally, load.grace()).await;
    people::leave(&world, people).await;

    let seconds = back.map(|back| Duration::from_nanos(back - killed).as_secs_f64());
    let storm = Storm {
        killed: bench.gateways[0].url(),
        people: away,
        seconds,
        connects_per_second: seconds.map(|seconds| away as f64 / seconds),
        comeback: world.comeback(),
    };
    let latency = Phases::of(tally.each_sent(), killed, back);
    let messages = Counts::of(&tally);
    let slo = judge(&options, &storm, &messages, &latency);
    let summary = Summary {
        tool: report::tool("storm"),
        gateways: bench.urls(),
        people: count,
        rate,
        seconds: load.seconds,
        content_bytes: load.size,
        arrival,
        storm,
        messages,
        latency,
        slo,
    };
    println!("{count} people in {} conversations, {rate} messages a second for {} s", count / 2, load.seconds);
    summary.print();
    bench.write_json("storm", &summary)?;
    summary.slo.print();
    Ok(summary.slo.met)
}

/// Ends the gateway as a crash does.
fn kill(pid: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(pid, Signal::KILL).with_context(|| format!("killing process {}", pid.as_raw_nonzero()))
}

/// When everybody who was away had joined again, in nanoseconds of the clock; none if that takes too long.
async fn wait_for_all(world: &World, away: usize, all: usize, load: Load) -> Option<u64> {
    // Whoever is not back after another round of the whole run is not coming.
    let until = Instant::now() + Duration::from_secs(u64::from(load.seconds)) + load.grace();
    while world.returns() < away || world.joined() < all {
        if Instant::now() > until {
            return None;
        }
        sleep(Duration::from_millis(5)).await;
    }
    Some(world.last_return())
}

fn judge(options: &Options, storm: &Storm, messages: &Counts, latency: &Phases) -> Slo {
    let Options { slo_seconds, slo_ms, .. } = options;
    let mut slo = Slo::new(format!(
        "everybody back in less than {slo_seconds} s, then delivery p99 below {slo_ms} ms, nothing missing or doubled"
    ));
    match storm.seconds {
        None => slo.missed(format!("{} of {} came back", storm.comeback.sockets, storm.people)),
        Some(seconds) => slo.below("everybody back in", seconds, *slo_seconds, "s"),
    }
    if storm.people == 0 {
        slo.missed("nobody was on the gateway that was killed");
    }
    if latency.after.delivery.count == 0 {
        slo.missed("nothing was delivered afterwards (--seconds is too short)");
    } else {
        slo.below("delivery p99 afterwards", latency.after.delivery.p99_ms, *slo_ms, "ms");
    }
    slo.everything_once(messages);
    slo.none("refused", messages.refused);
    slo
}

impl Summary {
    fn print(&self) {
        report::print_counts(&self.messages);
        let Storm { people, seconds, connects_per_second, comeback, .. } = &self.storm;
        if let (Some(seconds), Some(rate)) = (seconds, connects_per_second) {
            println!("  {people} people lost their socket and were all back in {seconds:.2} s ({rate:.0} a second)");
        }
        for (why, count) in &comeback.failed_attempts {
            println!("  attempts failed, {why}: {count}");
        }
        let Phases { before, during, after } = &self.latency;
        report::print_quantiles(
            "from due to",
            &[
                ("ack, before", &before.ack),
                ("ack, during", &during.ack),
                ("ack, after", &after.ack),
                ("received, before", &before.delivery),
                ("received, during", &during.delivery),
                ("received, after", &after.delivery),
                ("away, each", &comeback.away),
            ],
        );
    }
}
