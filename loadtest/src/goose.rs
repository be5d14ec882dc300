//! `goose`: scenarios under Goose, with REST and WebSocket in one report.

mod day;
mod mix;
mod page;
mod rest;
mod room;
mod step;
mod storm;
mod summary;
mod world;

use std::{path::PathBuf, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use ::goose::{config::GooseConfiguration, prelude::*};
use anyhow::Context;
use clap::{Args, Parser};
use tokio::time::{Instant, interval};

use self::{
    mix::{Kind, Weighted},
    summary::Summary,
    world::{Cast, World},
};
use crate::{bench::Bench, limits, openloop, progress::grouped};

/// Scenarios under Goose: a browser's day, a hot room, a reconnect storm, REST only.
///
/// WebSocket work stands beside REST in Goose's own tables and report, under the method WS; `WS delivery` is from when a
/// message was to be sent until another user had it. Exits with 1 if anything failed, if an event was missing, doubled
/// or out of order, or if the 99th percentile of delivery misses the objective.
///
/// The gateway's default limits are enough for the defaults: nobody sends more than 10 messages a minute for long. With
/// --think-max below 1 s raise PARTYLINE_MESSAGES_PER_MINUTE.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Users.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=100_000), value_name = "N")]
    users: u32,
    /// Scenarios, each with its weight: `day`, `room`, `storm`, `rest`.
    #[arg(long, value_delimiter = ',', default_value = "day:6,room:2,storm:1,rest:1", value_name = "NAME[:WEIGHT]")]
    scenarios: Vec<Weighted>,
    /// Users that come in a second.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    increase_rate: u32,
    /// For how long, once all have come, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..), value_name = "SECONDS")]
    seconds: u32,
    /// Between two actions of a user, at least, in seconds.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    think_min: f64,
    /// Between two actions of a user, at most, in seconds.
    #[arg(long, default_value_t = 4.0, value_name = "SECONDS")]
    think_max: f64,
    /// Members of a hot room.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=100_000), value_name = "N")]
    room: u32,
    /// Between two storms, in seconds.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=3_600), value_name = "SECONDS")]
    storm_every: u32,
    /// The objective: the 99th percentile of delivery, in milliseconds.
    #[arg(long, default_value_t = 100.0, value_name = "MS")]
    slo_ms: f64,
    /// Where to write the report: .html, .md or .json. Several times for several. Without it `loadtest-goose.html` in
    /// the data folder, or here where there is none.
    #[arg(long = "report-file", value_name = "FILE")]
    reports: Vec<PathBuf>,
    /// More of Goose's own options, after `--`.
    #[arg(last = true, value_name = "OPTIONS")]
    goose: Vec<String>,
}

impl Options {
    /// The defaults, in half a minute and few words.
    pub(crate) fn brief() -> Self {
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            options: Options,
        }
        let goose = vec!["--no-print-metrics".into()];
        Self { seconds: 20, goose, ..Defaults::parse_from(["goose"]).options }
    }
}

/// Runs Goose.
///
/// # Returns
/// Whether the objective was met.
///
/// # Errors
/// If Goose doesn't start, or the users have no conversations.
pub(crate) async fn run(bench: &Bench, options: Options) -> anyhow::Result<bool> {
    let (min, max) = (seconds(options.think_min)?, seconds(options.think_max)?);
    // Each user has a socket and keeps an HTTP connection.
    limits::make_room(2 * options.users as usize, &bench.pids)?;
    let configuration = configuration(bench, &options)?;
    let files = configuration.report_file.clone();
    let (world, casts) = World::new(bench, &options).await?;
    let mut attack = GooseAttack::initialize_with_config(configuration)?;
    for (cast, weighted) in casts.iter().zip(&options.scenarios) {
        let empty = Scenario::new(cast.kind.title()).set_wait_time(min, max)?.set_weight(weighted.weight)?;
        attack = attack.register_scenario(fill(empty, &world, cast));
    }
    let telling = tokio::spawn(tell(world.clone()));
    let metrics = Box::pin(attack.execute()).await;
    telling.abort();
    let metrics = metrics?;

    let summary = Summary::new(bench, &options, &world, &metrics);
    summary.print();
    println!("  report: {}", files.join(", "));
    bench.write_json("goose", &summary)?;
    summary.slo.print();
    Ok(summary.slo.met)
}

fn fill(empty: Scenario, world: &Arc<World>, cast: &Arc<Cast>) -> Scenario {
    match cast.kind {
        Kind::Day => day::scenario(empty, world, cast),
        Kind::Room => room::scenario(empty, world, cast),
        Kind::Storm => storm::scenario(empty, world, cast),
        Kind::Rest => rest::scenario(empty, world, cast),
    }
}

/// A line every second, for ever.
async fn tell(world: Arc<World>) {
    let began = Instant::now();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        eprintln!(
            "  {:>4.0} s  {} requests, {} failed; {}",
            began.elapsed().as_secs_f64(),
            grouped(world.good.load(Relaxed)),
            grouped(world.bad.load(Relaxed)),
            openloop::line(&world.tally)
        );
    }
}

fn configuration(bench: &Bench, options: &Options) -> anyhow::Result<GooseConfiguration> {
    // Metrics from the beginning: that is when pages connect.
    let fixed = ["goose", "--quiet", "--no-telnet", "--no-reset-metrics", "--host"];
    let mut words: Vec<String> = fixed.map(str::to_owned).into();
    words.push(bench.gateways[0].http(""));
    for (name, value) in [("--users", options.users), ("--increase-rate", options.increase_rate)] {
        words.extend([name.to_owned(), value.to_string()]);
    }
    words.extend(["--run-time".to_owned(), format!("{}s", options.seconds)]);
    let mut reports = options.reports.clone();
    if reports.is_empty() {
        reports.push(bench.output("loadtest-goose.html"));
    }
    for file in &reports {
        words.extend(["--report-file".to_owned(), file.display().to_string()]);
    }
    words.extend(options.goose.iter().cloned());
    <GooseConfiguration as Parser>::try_parse_from(&words).context("Goose's options, after --")
}

fn seconds(seconds: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{seconds} s of thinking"))
}
