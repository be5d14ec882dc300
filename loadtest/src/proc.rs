//! What `/proc` tells of a process.

use std::{fs, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// What lies in memory, shared pages in full.
    pub(crate) rss: u64,
    /// The same, shared pages by the share that is the process's.
    pub(crate) pss: u64,
}

impl Memory {
    /// Of all these processes together.
    ///
    /// # Errors
    /// If one is gone, or somebody else's.
    pub(crate) fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            let found = rollup(&text).with_context(|| format!("{path} has no Rss and Pss"))?;
            sum.rss += found.rss;
            sum.pss += found.pss;
        }
        Ok(sum)
    }
}

fn rollup(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
    };
    Some(Memory { rss: bytes("Rss:")?, pss: bytes("Pss:")? })
}

/// CPU time of all these processes so far, in user and kernel mode, to the clock tick (mostly 10 ms).
///
/// # Errors
/// If one is gone.
pub(crate) fn cpu(pids: &[u32]) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        ticks += cpu_ticks(&text).with_context(|| format!("{path} has no times"))?;
    }
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// Fields 14 and 15; the name (field 2) may hold anything, brackets and spaces too.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// How many files a process may have open; none if that can't be read, or there is no limit.
pub(crate) fn open_files(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 9 9 20 0 1 0 4321 1000 10";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("nonsense"), None);
    }

    #[test]
    fn reads_memory_in_bytes() {
        let text = "55 - 7f ---p 00 00:00 0 [rollup]\nRss:    2048 kB\nPss:    1024 kB\nPss_Dirty:   4 kB\n";
        assert_eq!(rollup(text), Some(Memory { rss: 2 << 20, pss: 1 << 20 }));
        assert_eq!(rollup("Rss: 4 kB\n"), None);
    }

    #[test]
    fn knows_this_process() {
        let me = [std::process::id()];
        assert!(Memory::of(&me).unwrap().pss > 0);
        assert!(open_files(me[0]).is_some());
        let before = cpu(&me).unwrap();
        // Until the clock has ticked for us.
        while cpu(&me).unwrap() == before {}
    }
}
