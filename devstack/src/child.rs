//! Child processes that end with this one.
//!
//! The kernel sends a child its parent-death signal when the *thread* that started it ends, so one thread that
//! lives as long as the process starts them all. The signal is set by `setpriv` (util-linux), since std has no
//! safe way to; where that is missing, `pids.json` and the next start take its place.

use std::{
    ffi::{OsStr, OsString},
    fs::OpenOptions,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
pub use rustix::process::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

use crate::{pids::Process, user::User};

/// How long [`Drop`] waits between the parent-death signal and SIGKILL.
const DROP_PATIENCE: Duration = Duration::from_secs(3);

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Spec {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    user: Option<User>,
    log: Option<PathBuf>,
    death_signal: Signal,
    foreground: bool,
}

impl Spec {
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            user: None,
            log: None,
            death_signal: Signal::KILL,
            foreground: false,
        }
    }

    /// Another program, with the same arguments and settings.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs as somebody else; this process must be root.
    #[must_use]
    pub fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// Appends what the child says to a file.
    #[must_use]
    pub fn log(mut self, log: impl Into<PathBuf>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// What the child gets when this process is gone, or the [`Child`] is dropped; SIGKILL unless told.
    #[must_use]
    pub fn death_signal(mut self, signal: Signal) -> Self {
        self.death_signal = signal;
        self
    }

    /// Leaves the child in the terminal's foreground: it reads the keyboard and gets Ctrl-C itself.
    #[must_use]
    pub fn foreground(mut self) -> Self {
        self.foreground = true;
        self
    }

    /// The file that [`Spec::log`] named.
    #[must_use]
    pub fn log_path(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    fn command(&self) -> io::Result<Command> {
        let mut command = if has_setpriv() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", name(self.death_signal)]);
            if let Some(user) = &self.user {
                command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid)).arg("--clear-groups");
            }
            command.arg("--").arg(&self.program);
            command
        } else {
            let mut command = Command::new(&self.program);
            if let Some(user) = &self.user {
                command.uid(user.uid).gid(user.gid);
            }
            command
        };
        command.args(&self.args);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        if let Some(path) = &self.log {
            let log = OpenOptions::new().create(true).append(true).open(path)?;
            command.stdout(log.try_clone()?).stderr(log);
        }
        if !self.foreground {
            // A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which ends parts in order.
            command.stdin(Stdio::null()).process_group(0);
        }
        Ok(command)
    }
}

/// `setpriv` knows signals by name only.
fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::TERM => "TERM",
        Signal::INT => "INT",
        Signal::QUIT => "QUIT",
        _ => "KILL",
    }
}

fn has_setpriv() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// A started process; dropped, it ends.
#[derive(Debug)]
pub struct Child {
    process: Process,
    death_signal: Signal,
    shared: Arc<Shared>,
    exited: watch::Receiver<Option<ExitStatus>>,
}

/// Signals are sent under the lock, and the process is reaped under the lock: no signal can hit a stranger.
#[derive(Debug, Default)]
struct Shared {
    status: Mutex<Option<ExitStatus>>,
    ended: Condvar,
}

impl Child {
    /// Starts it.
    ///
    /// # Errors
    /// If the program or the log can't be opened.
    pub fn spawn(spec: &Spec) -> io::Result<Self> {
        let mut command = spec.command()?;
        let (tell, told) = mpsc::channel();
        spawner()?
            .send(Box::new(move || {
                let _ = tell.send(command.spawn());
            }))
            .map_err(|_| io::Error::other("the starting thread is gone"))?;
        let mut started = told.recv().map_err(|_| io::Error::other("the starting thread is gone"))??;
        let pid = started.id();
        // It can't be reaped yet, so its entry exists; one that ended at once has no start time to tell.
        let process = Process::running(pid).unwrap_or(Process { pid, started: 0 });
        let shared = Arc::new(Shared::default());
        let (tell_exit, exited) = watch::channel(None);
        let reaper = shared.clone();
        std::thread::Builder::new().name(format!("wait-{pid}")).spawn(move || {
            if let Some(pid) = raw(pid) {
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            }
            let mut status = reaper.status.lock();
            *status = started.wait().ok().or_else(|| Some(ExitStatus::default()));
            reaper.ended.notify_all();
            tell_exit.send_replace(*status);
        })?;
        Ok(Self { process, death_signal: spec.death_signal, shared, exited })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// As `pids.json` keeps it.
    #[must_use]
    pub fn process(&self) -> Process {
        self.process
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        *self.shared.status.lock()
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let status = self.shared.status.lock();
        if status.is_none()
            && let Some(pid) = raw(self.process.pid)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    pub async fn wait(&self) -> ExitStatus {
        let mut exited = self.exited.clone();
        match exited.wait_for(Option::is_some).await {
            Ok(status) => (*status).unwrap_or_default(),
            Err(_) => ExitStatus::default(),
        }
    }

    /// Asks it to end, kills it after `patience`, and waits for its end.
    pub async fn end(&self, signal: Signal, patience: Duration) -> ExitStatus {
        self.signal(signal);
        if let Ok(status) = tokio::time::timeout(patience, self.wait()).await {
            return status;
        }
        self.signal(Signal::KILL);
        self.wait().await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(self.death_signal);
        let mut status = self.shared.status.lock();
        if status.is_none() {
            self.shared.ended.wait_for(&mut status, DROP_PATIENCE);
        }
        if status.is_none()
            && let Some(pid) = raw(self.process.pid)
        {
            let _ = kill_process(pid, Signal::KILL);
            self.shared.ended.wait_for(&mut status, DROP_PATIENCE);
        }
    }
}

fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread that starts children.
fn spawner() -> io::Result<mpsc::Sender<Job>> {
    static SPAWNER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);
    let mut spawner = SPAWNER.lock();
    if let Some(sender) = &*spawner {
        return Ok(sender.clone());
    }
    let (sender, jobs) = mpsc::channel::<Job>();
    std::thread::Builder::new().name("start-children".into()).spawn(move || {
        for job in jobs {
            job();
        }
    })?;
    *spawner = Some(sender.clone());
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_what_was_started() {
        let child = Child::spawn(&Spec::new("sleep").arg("600")).unwrap();
        assert!(child.process().is_alive());
        let status = child.end(Signal::TERM, Duration::from_secs(10)).await;
        assert!(!status.success());
        assert!(!child.process().is_alive());
        child.signal(Signal::KILL);
    }

    #[test]
    fn dropped_it_is_gone() {
        let child = Child::spawn(&Spec::new("sleep").arg("600")).unwrap();
        let process = child.process();
        child.signal(Signal::STOP);
        drop(child);
        assert!(!process.is_alive());
    }
}
