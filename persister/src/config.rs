//! The persister's settings.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::{Parser, Subcommand};
use partyline_shared::{
    settings::{Check, DatabaseSettings, NatsSettings, TelemetrySettings},
    subjects::MAX_PARTITIONS,
};

/// The admin port is never public, so it listens on this machine alone unless told otherwise.
pub const DEFAULT_ADMIN_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9101);

/// Partyline's persister: writes the log into Postgres. Run as many as you like; they share the work.
#[derive(Clone, Debug, Parser)]
#[command(name = "persister", version, about)]
pub struct Config {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where `/metrics`, `/livez` and `/readyz` answer; never public.
    #[arg(long, env = "PARTYLINE_ADMIN_ADDR", default_value_t = DEFAULT_ADMIN_ADDR)]
    pub admin_addr: SocketAddr,
    /// Events in one transaction at most.
    #[arg(long, env = "PARTYLINE_BATCH_MAX", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch_max: u32,
    /// How long a batch waits for more after its first event, in milliseconds.
    #[arg(long, env = "PARTYLINE_BATCH_WAIT_MS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub batch_wait_ms: u32,
    /// After SIGTERM: time to write and acknowledge what is in hand, in seconds.
    #[arg(long, env = "PARTYLINE_STOP_SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub stop_seconds: u32,
    /// Bring the schema up to date at the start, as `persister migrate` does, which is for where the database's user of
    /// this process may not own the schema. Without it the process waits, alive and not ready, until that is done.
    #[arg(long, env = "PARTYLINE_MIGRATE")]
    pub migrate: bool,
    #[command(flatten)]
    pub nats: NatsSettings,
    #[command(flatten)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    pub telemetry: TelemetrySettings,
}

/// What to do instead of persisting.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Prints the number of partitions of the log, or makes it larger.
    Partitions {
        /// Make streams up to this number, and put new conversations into them. Old conversations stay where they are.
        /// Running gateways and persisters take it up; afterwards set PARTYLINE_PARTITIONS to it, where it is set.
        #[arg(long, value_parser = clap::value_parser!(u16).range(2..=i64::from(MAX_PARTITIONS)))]
        grow: Option<u16>,
    },
    /// Brings the schema up to date, and ends. PARTYLINE_DATABASE_URL must name the owner of the schema. Run it before the
    /// processes of a new version start; those of the version before run on. The roles partyline_gateway and
    /// partyline_persister, if there are any, are granted what they need.
    Migrate {
        /// How long a statement may wait for a lock, in milliseconds: others' statements wait behind it meanwhile.
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=600_000))]
        lock_timeout_ms: u32,
        /// How often to try, while a lock is not free or Postgres is away: up to 5 s apart.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        attempts: u32,
    },
}

impl Config {
    #[must_use]
    pub fn batch_wait(&self) -> Duration {
        Duration::from_millis(u64::from(self.batch_wait_ms))
    }

    #[must_use]
    pub fn stop_time(&self) -> Duration {
        Duration::from_secs(u64::from(self.stop_seconds))
    }
}

impl Check for Config {
    fn problems(&self) -> Vec<String> {
        [self.nats.problems(), self.database.problems(), self.telemetry.problems()].concat()
    }
}
