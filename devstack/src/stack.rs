//! `devstack run` and `devstack cluster`: everything in one supervised process tree, in the foreground.
//!
//! In the order of starting: what an earlier supervisor left is ended, then NATS and Postgres, the schema,
//! persisters, gateways, the demo conversation. Stopping goes the other way round.

mod demo;
mod plan;
mod say;
mod secrets;
mod summary;
mod supervisor;
mod web;

use std::{
    fs::{File, TryLockError},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::{plan::Plan, say::say, secrets::Secrets, supervisor::Supervisor};
use crate::{
    paths::Paths,
    pids::{self, PidFile, Process},
    store,
};

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the data lives; in the checkout unless given: `.partyline`, and a folder in it for each size of cluster.
    pub data_dir: Option<PathBuf>,
    pub nats: u16,
    pub gateways: u16,
    pub persisters: u16,
    /// Builds and serves the chat page.
    pub page: bool,
    /// As NATS's `sync_interval`.
    pub nats_sync: String,
}

/// Runs the stack until Ctrl-C or SIGTERM; a second one kills it.
///
/// # Errors
/// If a part can't be started, or another stack uses the data.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut paths = Paths::new(options.data_dir.as_deref())?;
    if options.data_dir.is_none() && options.nats > 1 {
        paths.data = paths.data.join(format!("cluster-{}", options.nats));
    }
    std::fs::create_dir_all(paths.data.join("logs")).with_context(|| paths.data.display().to_string())?;
    let _lock = lock(&paths)?;
    let pid_path = paths.data.join("pids.json");
    for part in pids::end_leftovers(&pid_path) {
        say!("ended {part}, left over by a stack that was killed");
    }
    let pids = PidFile::create(pid_path)?;
    if let Some(me) = Process::running(std::process::id()) {
        pids.insert("devstack", me)?;
    }
    let supervisor = Supervisor::new(pids);
    let mut signals = Signals::listen()?;

    let started = tokio::select! {
        started = start(&options, &paths, &supervisor) => started,
        () = signals.received() => {
            say!("stopping before all was started");
            Ok(None)
        }
    };
    let failed = match started {
        Ok(Some(renewal)) => {
            signals.received().await;
            renewal.abort();
            say!("stopping; Ctrl-C again kills");
            None
        }
        Ok(None) => None,
        Err(error) => Some(error),
    };
    let forced = tokio::select! {
        () = supervisor.stop() => false,
        () = signals.received() => {
            supervisor.kill().await;
            true
        }
    };
    supervisor.finish();
    match failed {
        Some(error) => Err(error),
        None if forced => {
            say!("killed");
            Ok(ExitCode::FAILURE)
        }
        None => {
            say!("stopped; the data stays in {}", paths.data.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// One stack for each data folder; the kernel lets go of the lock when its holder ends, however it ends.
fn lock(paths: &Paths) -> anyhow::Result<File> {
    let path = paths.data.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let running = pids::read(&paths.data.join("pids.json"));
            let by = running.get("devstack").map(|process| format!(" (process {})", process.pid)).unwrap_or_default();
            bail!(
                "a stack is running on {} already{by}: stop it first, or set PARTYLINE_DATA_DIR for a second one",
                paths.data.display()
            );
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Starts everything, and tells how to use it. What comes back renews the demo tokens.
async fn start(
    options: &Options,
    paths: &Paths,
    supervisor: &Supervisor,
) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    let secrets = Secrets::load_or_create(&paths.data.join("secrets.json"))?;
    let plan = {
        let (options, paths, secrets) = (options.clone(), paths.clone(), secrets.clone());
        tokio::task::spawn_blocking(move || Plan::new(&options, paths, secrets)).await??
    };
    let page = if options.page { web::prepare(paths).await? } else { None };
    supervisor.start(plan.servers()).await?;
    if let Some(admin_url) = plan.own_database() {
        store::ensure_database(&admin_url, plan::DATABASE).await.context("creating the database")?;
    }
    store::migrate(&plan.database_url).await?;
    supervisor.start(plan.persisters()).await?;
    let demo = demo::Demo::new(&plan, page.as_deref());
    if let Some(demo) = &demo {
        demo.write()?;
    }
    supervisor.start(plan.gateways(page.as_deref())).await?;
    if let Some(demo) = &demo
        && let Err(error) = demo.converse().await
    {
        say!("the demo people have no conversation yet: {error:#}");
    }
    summary::write_env(&plan)?;
    summary::tell(&plan, page.as_deref(), demo.as_ref());
    Ok(Some(tokio::spawn(demo::renew(demo))))
}

/// The signals that ask this process to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
