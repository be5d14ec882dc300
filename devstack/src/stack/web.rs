//! The chat page: built by npm, copied into the data folder, where the demo tokens can lie beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::SystemTime,
};

use anyhow::Context;
use tokio::process::Command;

use super::say::say;
use crate::{paths::Paths, services::fetch};

/// The folder to serve; none if there is no page, which is said.
pub(super) async fn prepare(paths: &Paths) -> anyhow::Result<Option<PathBuf>> {
    let web = paths.workspace.join("web");
    let dist = web.join("dist");
    if web.join("package.json").is_file() && is_stale(&web, &dist) {
        if fetch::on_path("npm").is_empty() {
            say!("npm is missing, so the chat page is not built; the API works without it");
        } else if let Err(error) = build(&web, &paths.data.join("logs/web-build.log")).await {
            say!("the chat page does not build: {error:#}");
        }
    }
    if !dist.join("index.html").is_file() {
        say!("no chat page in {}; the API works without it", dist.display());
        return Ok(None);
    }
    let served = paths.data.join("web");
    if served.exists() {
        fs::remove_dir_all(&served).with_context(|| served.display().to_string())?;
    }
    copy(&dist, &served)?;
    Ok(Some(served))
}

async fn build(web: &Path, log: &Path) -> anyhow::Result<()> {
    let _ = fs::remove_file(log);
    let installed = modified(&web.join("node_modules/.package-lock.json"));
    if installed.is_none() || installed < modified(&web.join("package-lock.json")) {
        say!("installing what the chat page is built with (npm ci)");
        npm(web, log, &["ci", "--no-audit", "--no-fund"]).await?;
    }
    say!("building the chat page (npm run build)");
    npm(web, log, &["run", "build"]).await
}

async fn npm(web: &Path, log: &Path, args: &[&str]) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let status = Command::new("npm")
        .args(args)
        .current_dir(web)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .kill_on_drop(true)
        .status()
        .await?;
    anyhow::ensure!(
        status.success(),
        "npm {}: {status}; the end of {}:\n{}",
        args.join(" "),
        log.display(),
        crate::paths::last_lines(log, 20)
    );
    Ok(())
}

/// Whether a source is newer than the page.
fn is_stale(web: &Path, dist: &Path) -> bool {
    let Some(built) = modified(&dist.join("index.html")) else { return true };
    newest(web) > Some(built)
}

/// The newest file below a folder, without what is made from others.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            !matches!(&*name, "node_modules" | "dist") && !name.starts_with('.')
        })
        .filter_map(|entry| if entry.path().is_dir() { newest(&entry.path()) } else { modified(&entry.path()) })
        .max()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}
