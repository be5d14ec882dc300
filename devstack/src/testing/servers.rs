//! One NATS and one Postgres for all tests of a process, or of a whole run (`devstack with-services`).

use std::{
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::sync::OnceCell;

use crate::{
    child::{Child, Signal, Spec},
    paths::Paths,
    pids::{self, PidFile, Process},
    ports,
    services::{
        nats::{self, Account},
        postgres,
        ready::Ready,
    },
};

/// Set by `devstack with-services`: NATS without user and password.
pub const NATS_VAR: &str = "PARTYLINE_TEST_NATS";
/// Set by `devstack with-services`: the URL of Postgres's own database `postgres`.
pub const DATABASE_VAR: &str = "PARTYLINE_TEST_DATABASE_URL";
/// Set by `devstack with-services`: a folder that all test processes share.
pub const DIR_VAR: &str = "PARTYLINE_TEST_DIR";

/// Tests that run at once, at most.
pub(crate) const ACCOUNTS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);
const PREFIX: &str = "partyline-test-";

/// Where the servers are.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// `nats://127.0.0.1:port`
    pub nats: String,
    /// `postgres://…/postgres`
    pub database: String,
    /// Locks, logs and whatever else tests leave; goes with the servers.
    pub dir: PathBuf,
}

/// Running servers for tests; dropped, they end and their data goes.
#[derive(Debug)]
pub struct Servers {
    pub addresses: Addresses,
    // In this order, which is the order of dropping.
    nats: Child,
    postgres: Child,
    nats_server: Server,
    postgres_server: Server,
    pids: PidFile,
    _dir: Dir,
}

#[derive(Debug)]
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Servers {
    /// Starts them in a new folder under the machine's temporary one.
    ///
    /// # Errors
    /// If a server can't be had, or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let prepared = tokio::task::spawn_blocking(prepare).await??;
        let postgres = Child::spawn(&prepared.postgres.spec)?;
        prepared.pids.insert("postgres", postgres.process())?;
        let nats = Child::spawn(&prepared.nats.spec)?;
        prepared.pids.insert("nats", nats.process())?;
        prepared.postgres.wait("Postgres", &postgres).await?;
        prepared.nats.wait("NATS", &nats).await?;
        Ok(Self {
            addresses: prepared.addresses,
            nats,
            postgres,
            nats_server: prepared.nats,
            postgres_server: prepared.postgres,
            pids: prepared.pids,
            _dir: prepared.dir,
        })
    }

    /// Where NATS keeps its streams.
    #[must_use]
    pub fn nats_store(&self) -> PathBuf {
        self.addresses.dir.join("nats").join("jetstream")
    }

    /// Kills NATS with SIGKILL.
    pub async fn kill_nats(&self) {
        self.nats.end(Signal::KILL, PATIENCE).await;
    }

    /// Starts NATS again, where it was.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn start_nats(&mut self) -> anyhow::Result<()> {
        self.nats = Child::spawn(&self.nats_server.spec)?;
        self.pids.insert("nats", self.nats.process())?;
        self.nats_server.wait("NATS", &self.nats).await
    }

    /// Stops Postgres, as its operator would: connections are closed, transactions undone.
    pub async fn stop_postgres(&self) {
        // Postgres's "fast" shutdown.
        self.postgres.end(Signal::INT, PATIENCE).await;
    }

    /// Starts Postgres again, where it was.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn start_postgres(&mut self) -> anyhow::Result<()> {
        self.postgres = Child::spawn(&self.postgres_server.spec)?;
        self.pids.insert("postgres", self.postgres.process())?;
        self.postgres_server.wait("Postgres", &self.postgres).await
    }
}

/// What can be done without an executor.
struct Prepared {
    addresses: Addresses,
    nats: Server,
    postgres: Server,
    pids: PidFile,
    dir: Dir,
}

#[derive(Debug)]
struct Server {
    spec: Spec,
    ready: Ready,
}

impl Server {
    async fn wait(&self, name: &str, child: &Child) -> anyhow::Result<()> {
        self.ready.wait(name, child, self.spec.log_path(), PATIENCE).await
    }
}

fn prepare() -> anyhow::Result<Prepared> {
    let say = |line: &str| eprintln!("devstack: {line}");
    let paths = Paths::new(None)?;
    let temporary = std::env::temp_dir();
    sweep(&temporary);
    let me = Process::running(std::process::id()).context("/proc tells nothing about this process")?;
    let dir = Dir(temporary.join(format!("{PREFIX}{}-{}", me.pid, me.started)));
    // The user that Postgres runs as has to pass through; what is inside guards itself.
    std::fs::DirBuilder::new().mode(0o755).create(&dir.0).with_context(|| dir.0.display().to_string())?;
    let pids = PidFile::create(dir.0.join("pids.json"))?;

    let nats = nats::Settings {
        name: "test".into(),
        dir: dir.0.join("nats"),
        log: dir.0.join("nats.log"),
        port: ports::free_port()?,
        monitor_port: ports::free_port()?,
        // Tests kill processes, not machines.
        sync_interval: "2m".into(),
        accounts: (0..ACCOUNTS).map(account).collect(),
        cluster: None,
    };
    let postgres = postgres::Settings {
        dir: dir.0.join("postgres"),
        log: dir.0.join("postgres.log"),
        port: ports::free_port()?,
        durable: false,
        password: None,
    };
    let addresses = Addresses {
        nats: format!("nats://127.0.0.1:{}", nats.port),
        database: postgres.url("postgres"),
        dir: dir.0.clone(),
    };
    // Nothing of theirs is wanted after the tests: no time for goodbyes.
    let server = nats.prepare(&nats::find(&paths.tools, &say)?)?.death_signal(Signal::KILL);
    let nats = Server { spec: server, ready: nats.ready() };
    let postgres = Server { spec: postgres.prepare(&paths.tools, &say)?, ready: postgres.ready() };
    Ok(Prepared { addresses, nats, postgres, pids, dir })
}

/// Account `T7` has user `t7` with password `t7`.
pub(crate) fn account(number: usize) -> Account {
    let user = format!("t{number}");
    Account { name: format!("T{number}"), password: user.clone(), user }
}

/// Removes what test processes left that were killed, or ended without a word: a static is never dropped.
fn sweep(temporary: &Path) {
    let my_uid = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, started)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else { continue };
        let (Ok(pid), Ok(started)) = (pid.parse(), started.parse()) else { continue };
        let mine = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == my_uid);
        if mine && !(Process { pid, started }).is_alive() {
            let _ = pids::end_leftovers(&entry.path().join("pids.json"));
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The servers for this process's tests: those of the run, else its own.
pub(crate) async fn shared() -> anyhow::Result<&'static Addresses> {
    static GIVEN: OnceCell<Addresses> = OnceCell::const_new();
    static OWN: OnceCell<Servers> = OnceCell::const_new();
    let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let (Some(nats), Some(database)) = (var(NATS_VAR), var(DATABASE_VAR)) {
        let dir = var(DIR_VAR).map_or_else(std::env::temp_dir, PathBuf::from);
        return Ok(GIVEN.get_or_init(async || Addresses { nats, database, dir }).await);
    }
    Ok(&OWN.get_or_try_init(Servers::start).await?.addresses)
}
