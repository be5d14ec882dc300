//! The workspace's own programs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use parking_lot::Mutex;

use crate::paths::Paths;

/// A folder with programs that are known to be fresh; `make test` sets it after its own build.
const DIR_VAR: &str = "PARTYLINE_TEST_BINARIES";

/// The program of this name (`gateway`, `persister`, `devstack`). The first call of a process has cargo bring them
/// up to date, so that no test runs an old one.
///
/// # Errors
/// If it doesn't build.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let given = std::env::var_os(DIR_VAR).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let folder = match given {
        Some(folder) => folder,
        None => {
            let (folder, profile) = target_folder()?;
            build(&folder, profile, name)?;
            folder
        }
    };
    let program = folder.join(name);
    if !program.is_file() {
        bail!("no {name} in {}", folder.display());
    }
    Ok(program)
}

/// `target/<profile>`, from `target/<profile>/deps/<this test>`.
fn target_folder() -> anyhow::Result<(PathBuf, &'static str)> {
    let me = std::env::current_exe()?;
    let folder = me
        .ancestors()
        .find(|folder| folder.join("deps").is_dir())
        .with_context(|| format!("{} is in no target folder", me.display()))?;
    let release = folder.file_name().is_some_and(|name| name == "release");
    Ok((folder.to_path_buf(), if release { "release" } else { "dev" }))
}

fn build(folder: &Path, profile: &str, name: &str) -> anyhow::Result<()> {
    static BUILT: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock();
    if built.iter().any(|done| done == name) {
        return Ok(());
    }
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--profile", profile])
        .args(["-p", &format!("partyline-{name}"), "--bin", name])
        .current_dir(Paths::new(None)?.workspace)
        .env("CARGO_TARGET_DIR", folder.parent().unwrap_or(folder))
        .stdin(Stdio::null())
        .output()
        .context("cargo")?;
    if !output.status.success() {
        bail!("{name} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    built.push(name.to_owned());
    Ok(())
}
