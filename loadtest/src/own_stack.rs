//! A stack for the time of a measurement, where none is running: NATS, Postgres, persister and gateways, as `make run`
//! has them, in a data folder of its own.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// The first start may fetch servers.
const START: Duration = Duration::from_secs(300);
const STOP: Duration = Duration::from_secs(60);
/// Told by whoever wants to know why it doesn't start.
const LOG: &str = "stack.log";

/// A running stack. It ends with this process, however that ends.
pub(crate) struct OwnStack {
    child: Child,
    dir: PathBuf,
}

impl OwnStack {
    /// Starts `devstack`, which stands beside this program, on free ports, and waits until all of it is ready. Signs
    /// tokens with `secret` if one is given.
    ///
    /// # Errors
    /// If it isn't built, or doesn't start: with the end of its log.
    pub(crate) async fn start(data_dir: &Path, gateways: u16, secret: Option<&str>) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("devstack");
        if !program.is_file() {
            bail!("no gateway runs here: start one with `make run`, or name one with --url");
        }
        let dir = data_dir.join("loadtest");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        // Written once all is up.
        let ready = dir.join("env");
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::File::create(dir.join(LOG))?;
        let words = ["cluster", "--nats", "1", "--persisters", "1", "--no-page", "--gateways"];
        let spawn = |mut command: Command| {
            command.args(words).arg(gateways.to_string()).env("PARTYLINE_DATA_DIR", &dir);
            // The defaults give way to others, as the user's own addresses don't.
            for addr in ["PARTYLINE_HTTP_ADDR", "PARTYLINE_ADMIN_ADDR", "PARTYLINE_PERSISTER_ADMIN_ADDR"] {
                command.env_remove(addr);
            }
            if let Some(secret) = secret {
                command.env("PARTYLINE_JWT_SECRET", secret);
            }
            // A group of its own: Ctrl-C reaches this process alone, which ends the stack.
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?).process_group(0).spawn()
        };
        eprintln!("no stack is running: starting one in {}", dir.display());
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "TERM", "--"]).arg(&program);
        let child = match spawn(bound) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => spawn(Command::new(&program)),
            spawned => spawned,
        };
        let mut stack = Self { child: child.with_context(|| program.display().to_string())?, dir };
        let until = Instant::now() + START;
        while !ready.is_file() {
            if stack.child.try_wait()?.is_some() || Instant::now() > until {
                bail!("the stack did not start:\n{}", stack.last_lines());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(stack)
    }

    pub(crate) fn data_dir(&self) -> &PathBuf {
        &self.dir
    }

    /// Ends it, and waits for the end.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        if timeout(STOP, self.child.wait()).await.is_err() {
            eprintln!("the stack in {} does not end", self.dir.display());
        }
    }

    fn terminate(&self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for OwnStack {
    fn drop(&mut self) {
        self.terminate();
    }
}
