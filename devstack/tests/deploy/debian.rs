//! Programs of Debian's packages: found, or fetched by `scripts/debian-program`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The checkout.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Runs a command in the checkout: whether it succeeded, and all that it said.
pub(crate) fn run(program: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).current_dir(workspace()).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// A program; `None`, said aloud, where it can't be had. CI must have it.
pub(crate) fn program(package: &str, name: &str) -> Option<PathBuf> {
    let script = workspace().join("scripts/debian-program");
    let output = Command::new(script).args([package, name]).stdin(Stdio::null()).output().unwrap();
    let path = String::from_utf8(output.stdout).unwrap();
    if output.status.success() {
        return Some(PathBuf::from(path.lines().last().unwrap()));
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no {name}, which CI must have:\n{why}");
    println!("SKIPPED: no {name} here (Debian's package {package}):\n{why}");
    None
}
