//! Which processes are ours, in a file: a supervisor that was killed can't end its children, the next one can.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::paths;

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// When it started, in clock ticks since the machine did (`/proc/<pid>/stat`, field 22).
    pub started: u64,
}

impl Process {
    /// The running process with this id.
    #[must_use]
    pub fn running(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, started: started(&stat)? })
    }

    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::running(self.pid).as_ref() == Some(self)
    }

    /// Signals it, unless it is gone.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Field 22 of `/proc/<pid>/stat`; none for a process that only waits to be reaped. The name (field 2) may hold
/// anything, brackets and spaces too.
fn started(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// `pids.json`: the processes by the name of their part.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    parts: Mutex<BTreeMap<String, Process>>,
}

impl PidFile {
    /// An empty file in the data folder; call [`end_leftovers`] first.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let file = Self { path, parts: Mutex::default() };
        file.change(|_| ())?;
        Ok(file)
    }

    /// # Errors
    /// If the file can't be written.
    pub fn insert(&self, part: &str, process: Process) -> io::Result<()> {
        self.change(|parts| {
            parts.insert(part.to_owned(), process);
        })
    }

    /// # Errors
    /// If the file can't be written.
    pub fn remove(&self, part: &str) -> io::Result<()> {
        self.change(|parts| {
            parts.remove(part);
        })
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Process>)) -> io::Result<()> {
        let mut parts = self.parts.lock();
        change(&mut parts);
        let mut json = serde_json::to_vec_pretty(&*parts)?;
        json.push(b'\n');
        paths::write_public(&self.path, &json)
    }

    /// Removes the file: nothing runs any more.
    pub fn delete(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The processes that a file names; none if there is no such file, or it is no such file.
#[must_use]
pub fn read(path: &Path) -> BTreeMap<String, Process> {
    std::fs::read(path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

/// Ends what an earlier supervisor left running, and tells the parts' names. Blocks up to 20 s.
#[must_use]
pub fn end_leftovers(path: &Path) -> Vec<String> {
    let me = std::process::id();
    let alive: Vec<(String, Process)> =
        read(path).into_iter().filter(|(_, process)| process.pid != me && process.is_alive()).collect();
    for (name, process) in &alive {
        // Postgres waits for its clients on SIGTERM, and not on SIGINT.
        process.signal(if name.starts_with("postgres") { Signal::INT } else { Signal::TERM });
        // One that is stopped hears nothing else.
        process.signal(Signal::CONT);
    }
    let processes: Vec<Process> = alive.iter().map(|(_, process)| *process).collect();
    end(&processes, Duration::from_secs(15));
    alive.into_iter().map(|(name, _)| name).collect()
}

/// Waits for processes that were asked to end, then kills the rest.
pub(crate) fn end(processes: &[Process], patience: Duration) {
    if gone(processes, patience) {
        return;
    }
    for process in processes {
        process.signal(Signal::KILL);
    }
    gone(processes, Duration::from_secs(5));
}

fn gone(processes: &[Process], patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while processes.iter().any(Process::is_alive) {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_start_time_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 1000 10";
        assert_eq!(started(stat), Some(4321));
        assert_eq!(started(&stat.replace(" S ", " Z ")), None);
        assert_eq!(started("nonsense"), None);
    }

    #[test]
    fn ends_ours_and_spares_a_stranger_with_the_same_id() {
        let folder = std::env::temp_dir().join(format!("partyline-pids-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("pids.json");
        let mut ours = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let file = PidFile::create(path.clone()).unwrap();
        file.insert("nats", Process::running(ours.id()).unwrap()).unwrap();
        let mut other = Process::running(stranger.id()).unwrap();
        other.started += 1;
        file.insert("gateway", other).unwrap();

        assert_eq!(end_leftovers(&path), ["nats"]);
        assert!(!ours.wait().unwrap().success());
        assert!(Process::running(stranger.id()).is_some());

        stranger.kill().unwrap();
        stranger.wait().unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
