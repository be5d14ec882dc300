//! Where things are: the workspace, the data, the tools.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The folders of one stack.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The checkout, or the current folder where there is none.
    pub workspace: PathBuf,
    /// What the stack keeps.
    pub data: PathBuf,
    /// Servers that were fetched.
    pub tools: PathBuf,
}

impl Paths {
    /// The folders for the data folder given, or for the checkout's own (`.partyline`).
    ///
    /// # Errors
    /// If there is no current folder.
    pub fn new(data: Option<&Path>) -> io::Result<Self> {
        let checkout = checkout();
        let workspace = match &checkout {
            Some(found) => found.clone(),
            None => std::env::current_dir()?,
        };
        let data = match data {
            Some(given) => std::path::absolute(given)?,
            None => workspace.join(".partyline"),
        };
        // A checkout's tools serve every data folder: one download is enough.
        let home = if checkout.is_some() { Some(workspace.as_path()) } else { data.parent() };
        let tools = home.unwrap_or(&workspace).join(".tools");
        Ok(Self { workspace, data, tools })
    }
}

/// The nearest folder that holds a Cargo workspace, above the current folder or above this program.
fn checkout() -> Option<PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    starts.into_iter().flatten().find_map(|start| {
        start.ancestors().find(|folder| folder.join("devstack/Cargo.toml").is_file()).map(Path::to_path_buf)
    })
}

/// Writes a file whole or not at all, readable to its owner alone.
///
/// # Errors
/// If the folder can't be written.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with_mode(path, content, 0o600)
}

/// Writes a file whole or not at all, readable to all.
///
/// # Errors
/// If the folder can't be written.
pub fn write_public(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with_mode(path, content, 0o644)
}

fn write_with_mode(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // A left-over of another mode must not lend it to this one.
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// The last lines of a file; nothing if there is none.
#[must_use]
pub fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
