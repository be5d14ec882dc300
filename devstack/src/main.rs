//! `devstack`: the whole of Partyline on one machine, or servers for a command.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
};

use clap::{Parser, Subcommand, value_parser};
use devstack::{
    child::{Child, Signal, Spec},
    services::nats,
    stack,
    testing::servers::{self, Servers},
};
use tokio::signal::unix::{SignalKind, signal};

/// Runs Partyline on this machine: NATS, Postgres, persisters, gateways and the chat page.
///
/// Every PARTYLINE_ setting of the gateway and the persister is passed on to them.
#[derive(Parser)]
#[command(name = "devstack", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One of each, in the foreground, until Ctrl-C.
    Run {
        #[command(flatten)]
        data: Data,
    },
    /// Several of each, in the foreground, until Ctrl-C.
    Cluster {
        #[command(flatten)]
        data: Data,
        /// NATS servers, in one cluster.
        #[arg(long, default_value_t = 3, value_parser = value_parser!(u16).range(1..=9))]
        nats: u16,
        #[arg(long, default_value_t = 3, value_parser = value_parser!(u16).range(1..=64))]
        gateways: u16,
        #[arg(long, default_value_t = 2, value_parser = value_parser!(u16).range(1..=64))]
        persisters: u16,
    },
    /// NATS and Postgres for tests, as long as a command runs; exits as the command does.
    WithServices {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(clap::Args)]
struct Data {
    /// Where data, logs and process ids are kept; `.partyline` in the checkout unless given.
    #[arg(long, env = "PARTYLINE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// When JetStream syncs what it has written: `always`, before it acknowledges, or a duration (`100ms`, `2m`), within
    /// which an acknowledged message may die with the machine.
    #[arg(long, env = "PARTYLINE_NATS_SYNC", default_value = "always", value_parser = nats::sync_interval)]
    nats_sync: String,
    /// Neither builds nor serves the chat page.
    #[arg(long)]
    no_page: bool,
}

fn main() -> ExitCode {
    partyline_shared::tls::install_crypto_provider();
    let cli = Cli::parse();
    let ended =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Into::into).and_then(|runtime| {
            let ended = runtime.block_on(execute(cli.command));
            // A download that is under way must not hold up the end.
            runtime.shutdown_background();
            ended
        });
    ended.unwrap_or_else(|error: anyhow::Error| {
        eprintln!("devstack: {error:#}");
        ExitCode::FAILURE
    })
}

fn options(data: Data, nats: u16, gateways: u16, persisters: u16) -> stack::Options {
    stack::Options {
        data_dir: data.data_dir,
        nats,
        gateways,
        persisters,
        page: !data.no_page,
        nats_sync: data.nats_sync,
    }
}

async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { data } => stack::run(options(data, 1, 1, 1)).await,
        Command::Cluster { data, nats, gateways, persisters } => {
            stack::run(options(data, nats, gateways, persisters)).await
        }
        Command::WithServices { command } => with_services(command).await,
    }
}

async fn with_services(command: Vec<OsString>) -> anyhow::Result<ExitCode> {
    // Caught from the start: Ctrl-C reaches the command by itself, and the servers must outlive it.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let servers = Servers::start().await?;
    let mut words = command.into_iter();
    let spec = Spec::new(words.next().unwrap_or_default())
        .args(words)
        .env(servers::NATS_VAR, &servers.addresses.nats)
        .env(servers::DATABASE_VAR, &servers.addresses.database)
        .env(servers::DIR_VAR, &servers.addresses.dir)
        .foreground()
        .death_signal(Signal::TERM);
    let child = Child::spawn(&spec)?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => child.signal(Signal::TERM),
        }
    };
    drop(servers);
    Ok(exit_code(status))
}

/// A shell's way: 128 and the signal's number for a command that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
