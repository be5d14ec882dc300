//! NATS accounts, each for one test at a time, over all test processes.

use std::{
    fs::{File, OpenOptions},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use tokio::time::{Instant, sleep};

use super::servers::{ACCOUNTS, account};
use crate::services::connect::connect;

const PATIENCE: Duration = Duration::from_secs(300);

/// An account that is ours until this is dropped: the lock on its file goes with the process, too.
#[derive(Debug)]
pub(super) struct Lease {
    /// `nats://user:password@host:port`
    pub url: String,
    _lock: File,
}

/// Takes the account that was free for the longest time, and empties it.
pub(super) async fn take(dir: &Path, server: &str) -> anyhow::Result<Lease> {
    let folder = dir.join("accounts");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let until = Instant::now() + PATIENCE;
    let (number, lock) = loop {
        if let Some(taken) = try_take(&folder)? {
            break taken;
        }
        if Instant::now() > until {
            bail!("all {ACCOUNTS} test accounts are in use");
        }
        sleep(Duration::from_millis(50)).await;
    };
    let account = account(number);
    let host = server.strip_prefix("nats://").unwrap_or(server);
    let url = format!("nats://{}:{}@{host}", account.user, account.password);
    empty(&url).await.with_context(|| format!("emptying NATS account {}", account.name))?;
    Ok(Lease { url, _lock: lock })
}

fn try_take(folder: &Path) -> anyhow::Result<Option<(usize, File)>> {
    let mut free: Vec<(SystemTime, usize)> = Vec::with_capacity(ACCOUNTS);
    for number in 0..ACCOUNTS {
        // Whoever used an account a moment ago may still have a dying process on it.
        let used = std::fs::metadata(folder.join(number.to_string())).and_then(|found| found.modified());
        free.push((used.unwrap_or(SystemTime::UNIX_EPOCH), number));
    }
    free.sort();
    for (_, number) in free {
        let file = OpenOptions::new().create(true).append(true).open(folder.join(number.to_string()))?;
        if file.try_lock().is_ok() {
            file.set_modified(SystemTime::now())?;
            return Ok(Some((number, file)));
        }
    }
    Ok(None)
}

/// Deletes every stream, and so every bucket and consumer.
async fn empty(url: &str) -> anyhow::Result<()> {
    let client = connect(url).await?;
    let jetstream = async_nats::jetstream::new(client);
    let names: Vec<String> = jetstream.stream_names().try_collect().await?;
    for name in names {
        jetstream.delete_stream(&name).await?;
    }
    Ok(())
}
