//! Load tests and measurements of Partyline.

mod backoff;
mod bare;
mod bench;
mod client;
mod clock;
mod crowd;
mod goose;
mod histogram;
mod idle;
mod incoming;
mod latency;
mod limits;
mod marker;
mod member;
mod openloop;
mod outgoing;
mod own_stack;
mod pacer;
mod proc;
mod progress;
mod received;
mod report;
mod room;
mod setup;
mod slo;
mod storm;
mod tally;
mod target;
mod tokens;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bench::{Bench, Target};

/// Measures one or several of Partyline's gateways.
///
/// Beside a running `make run`, in the same folder, no option is needed; where none runs, a stack is started for the
/// time of the measurement. Exits with 0 if the objective was met, with 1 if it was missed, with 2 if nothing could be
/// measured.
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
    /// `latency`, with its options, then half a minute of `goose`: what `make loadtest` runs.
    All(latency::Options),
    Latency(latency::Options),
    Storm(storm::Options),
    Room(room::Options),
    Idle(idle::Options),
    Goose(goose::Options),
    Bare(bare::Options),
}

fn main() -> ExitCode {
    partyline_shared::tls::install_crypto_provider();
    let met = start(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("loadtest: {error:#}");
        std::process::exit(2);
    });
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(cli: Cli) -> anyhow::Result<bool> {
    limits::raise();
    if let Command::Bare(options) = &cli.command {
        return bare::serve(options).map(|()| true);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(usize::from(cli.threads)).enable_all().build()?;
    runtime.block_on(async {
        let own = cli.target.own_stack().await?;
        let bench = Bench::new(cli.target, own.as_ref())?;
        let measured = tokio::select! {
            measured = Box::pin(measure(&bench, cli.command)) => measured,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        };
        if let Some(own) = own {
            own.stop().await;
        }
        measured
    })
}

async fn measure(bench: &Bench, command: Command) -> anyhow::Result<bool> {
    match command {
        Command::All(options) => {
            let latency = latency::run(bench, options).await?;
            println!();
            let goose = goose::run(bench, goose::Options::brief()).await?;
            let word = |met| if met { "PASSED" } else { "FAILED" };
            println!("\nlatency {}, goose {}: {}", word(latency), word(goose), word(latency && goose));
            Ok(latency && goose)
        }
        Command::Latency(options) => latency::run(bench, options).await,
        Command::Storm(options) => storm::run(bench, options).await,
        Command::Room(options) => room::run(bench, options).await,
        Command::Idle(options) => idle::run(bench, options).await,
        Command::Goose(options) => goose::run(bench, options).await,
        Command::Bare(_) => anyhow::bail!("bare serves by itself"),
    }
}
