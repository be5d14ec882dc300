//! Load tests and measurements of Partyline.

mod bare;
mod bench;
mod browser;
mod client;
mod clock;
mod crowd;
mod histogram;
mod idle;
mod incoming;
mod latency;
mod limits;
mod marker;
mod member;
mod openloop;
mod pacer;
mod proc;
mod progress;
mod report;
mod room;
mod setup;
mod tally;
mod target;
mod tokens;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bench::{Bench, Target};

/// Measures one or several of Partyline's gateways.
///
/// Beside a running `make run`, in the same folder, no option is needed. Exits with 0 if the objective was met, with 1
/// if it was missed, with 2 if nothing could be measured.
#[derive(Parser)]
#[command(name = "loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: Target,
    /// Threads for the sockets' side. One leaves the most to a gateway on the same machine.
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..), value_name = "N")]
    threads: u8,
}

#[derive(Subcommand)]
enum Command {
    Latency(latency::Options),
    Room(room::Options),
    Idle(idle::Options),
    Goose(browser::Options),
    Bare(bare::Options),
}

fn main() -> ExitCode {
    let met = measure(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("loadtest: {error:#}");
        std::process::exit(2);
    });
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(cli: Cli) -> anyhow::Result<bool> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(usize::from(cli.threads)).enable_all().build()?;
    let bench = || Bench::new(cli.target);
    runtime.block_on(async {
        match cli.command {
            Command::Latency(options) => latency::run(&bench()?, options).await,
            Command::Room(options) => room::run(&bench()?, options).await,
            Command::Idle(options) => idle::run(&bench()?, options).await,
            Command::Goose(options) => Box::pin(browser::run(&bench()?, options)).await,
            Command::Bare(options) => bare::serve(&options).map(|()| true),
        }
    })
}
