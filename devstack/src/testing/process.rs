//! Partyline's own processes, as a test starts and hurts them.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use super::{binary::binary, env::TestEnv};
use crate::{
    child::{Child, Signal, Spec},
    ports,
    services::ready::Ready,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is about to start.
#[derive(Clone, Debug)]
pub struct Launch {
    name: String,
    spec: Spec,
    log: PathBuf,
    http_port: u16,
    admin_port: u16,
}

impl Launch {
    pub(super) fn new(env: &TestEnv, name: &str) -> anyhow::Result<Self> {
        let (http_port, admin_port) = (ports::free_port()?, ports::free_port()?);
        let log = env.dir().join(format!("{name}-{admin_port}.log"));
        let spec = Spec::new(binary(name)?)
            .env("PARTYLINE_NATS_URL", env.nats_url())
            .env("PARTYLINE_DATABASE_URL", env.database_url())
            .env("PARTYLINE_JWT_SECRET", env.secret())
            .env("PARTYLINE_HTTP_ADDR", format!("127.0.0.1:{http_port}"))
            .env("PARTYLINE_ADMIN_ADDR", format!("127.0.0.1:{admin_port}"))
            .env("NO_COLOR", "1")
            // Tests share a database server: many processes must fit.
            .env("PARTYLINE_DATABASE_CONNECTIONS", "4")
            .dir(env.dir())
            .log(&log);
        Ok(Self { name: name.into(), spec, log, http_port, admin_port })
    }

    pub(super) fn drains_at_once(self) -> Self {
        self.env("PARTYLINE_DRAIN_SECONDS", "0").env("PARTYLINE_DRAIN_NOTICE_SECONDS", "0")
    }

    /// Sets a setting.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.spec = self.spec.env(name, value);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.spec = self.spec.arg(arg);
        self
    }

    /// The program of the same name in another folder: another version's.
    #[must_use]
    pub fn from_folder(mut self, folder: &Path) -> Self {
        self.spec = self.spec.program(folder.join(&self.name));
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// If it ends or isn't ready in a minute; with the end of its log.
    pub async fn start(&self) -> anyhow::Result<Process> {
        let process = self.spawn()?;
        process.wait_ready().await?;
        Ok(process)
    }

    /// Starts it.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn spawn(&self) -> anyhow::Result<Process> {
        Ok(Process { child: Child::spawn(&self.spec)?, launch: self.clone() })
    }
}

/// A gateway or persister; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    launch: Launch,
}

impl Process {
    /// Waits for `/readyz` on the admin port.
    ///
    /// # Errors
    /// If it ends or isn't ready in a minute; with the end of its log.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let ready = Ready::Http(self.admin_url("/readyz"));
        ready.wait(&self.launch.name, &self.child, Some(&self.launch.log), PATIENCE).await
    }

    /// A URL on the port for clients.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.launch.http_port)
    }

    /// The WebSocket's URL.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.launch.http_port)
    }

    /// `127.0.0.1:port` of the port for clients.
    #[must_use]
    pub fn http_addr(&self) -> String {
        format!("127.0.0.1:{}", self.launch.http_port)
    }

    /// A URL on the admin port.
    #[must_use]
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.launch.admin_port)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends any signal; `STOP` and `CONT` freeze and thaw it.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// SIGTERM, and waits for its end: its exit status, or SIGKILL's after `patience`.
    pub async fn terminate(&self, patience: Duration) -> ExitStatus {
        self.child.end(Signal::TERM, patience).await
    }

    /// SIGKILL, and waits for its end.
    pub async fn kill(&self) -> ExitStatus {
        self.child.end(Signal::KILL, PATIENCE).await
    }

    /// Waits for its end.
    pub async fn wait(&self) -> ExitStatus {
        self.child.wait().await
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.child.status()
    }

    /// Starts it again, after its end, on the same ports.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub async fn restart(self) -> anyhow::Result<Self> {
        let launch = self.launch.clone();
        drop(self);
        launch.start().await
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.launch.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}
