//! The persister's settings.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use partyline_shared::{
    ids::Seq,
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
    /// Refused events of one type, less 1 % of those written, at which the database counts as being at fault: nothing more is
    /// written or put aside until Postgres takes them.
    #[arg(long, env = "PARTYLINE_REFUSALS_MAX", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub refusals_max: u32,
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
    /// Looks after dead letters: events that could not be written.
    Dead {
        #[command(subcommand)]
        action: DeadAction,
    },
    /// Has the running persisters read the log again. What is in Postgres already stays as it is; what is in the log and not
    /// in Postgres comes back, also what somebody deleted there by hand.
    Replay(Replay),
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

/// What to do with dead letters.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadAction {
    /// Prints one line a letter: seq, partition, time, conversation, reason.
    List {
        #[command(flatten)]
        filter: Filter,
    },
    /// Prints a letter whole, as JSON.
    Show {
        seq: Seq,
        /// Of this partition.
        #[arg(long)]
        partition: Option<u16>,
    },
    /// Writes the events into Postgres, each with its own seq, and removes the letters of those that are there then.
    Replay {
        #[command(flatten)]
        choice: Choice,
    },
    /// Removes letters. Their events are gone for good.
    Drop {
        #[command(flatten)]
        choice: Choice,
    },
}

/// Letters.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Those of these events.
    pub seqs: Vec<Seq>,
    /// Those with this reason: unreadable, refused, target_missing, place_taken.
    #[arg(long)]
    pub reason: Option<String>,
    /// Those of this partition.
    #[arg(long)]
    pub partition: Option<u16>,
}

/// Letters, or expressly all of them.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "choice", required = true, multiple = true, args = ["seqs", "reason", "partition", "all"])]
pub struct Choice {
    #[command(flatten)]
    pub filter: Filter,
    /// All of them.
    #[arg(long, conflicts_with_all = ["seqs", "reason", "partition"])]
    pub all: bool,
}

/// From where the log is read again.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Replay {
    /// What was appended within this time until now: 90s, 30m, 2h, 3d.
    #[arg(long, value_parser = duration, required_unless_present = "from_seq", conflicts_with = "from_seq")]
    pub since: Option<Duration>,
    /// What was appended from this seq on.
    #[arg(long)]
    pub from_seq: Option<Seq>,
    /// Only this partition.
    #[arg(long)]
    pub partition: Option<u16>,
}

/// Reads a number with a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a number and a unit: 90s, 30m, 2h, 3d".to_owned();
    let (number, seconds) = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .ok_or_else(wrong)?;
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
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
