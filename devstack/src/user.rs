//! Somebody else to be: Postgres refuses to run as root.

use std::{
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// An account of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Who runs Postgres: `None` is this process's own user, which will do unless it is root.
///
/// # Errors
/// If this is root and the machine knows nobody else.
pub fn for_postgres() -> anyhow::Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    match choose(&passwd) {
        Some(user) => Ok(Some(user)),
        None => bail!("Postgres refuses to run as root, and /etc/passwd names no other user"),
    }
}

/// `postgres`, else `nobody`, else anybody who isn't root.
fn choose(passwd: &str) -> Option<User> {
    let users: Vec<User> = passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (uid != 0).then_some(User { name, uid, gid })
        })
        .collect();
    let named = |name: &str| users.iter().find(|user| user.name == name).cloned();
    named("postgres").or_else(|| named("nobody")).or_else(|| users.first().cloned())
}

/// Whether the user can enter the folder: tried, since modes alone don't tell (ACLs, namespaces).
#[must_use]
pub fn can_enter(user: &User, folder: &Path) -> bool {
    Command::new("/bin/sh")
        .args(["-c", "cd \"$1\"", "sh"])
        .arg(folder)
        .current_dir("/")
        .uid(user.uid)
        .gid(user.gid)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A folder that the user can enter: the one given, or, where a parent is closed to the user (`/root`, a home),
/// one under `/var/tmp` that belongs to it, with a link in its place.
///
/// # Errors
/// If neither can be made.
pub fn open_folder(user: &User, wanted: &Path) -> anyhow::Result<PathBuf> {
    let parent = wanted.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    if can_enter(user, parent) {
        std::fs::create_dir_all(wanted).with_context(|| wanted.display().to_string())?;
        return Ok(wanted.to_path_buf());
    }
    let outside = stand_in(wanted);
    match std::fs::create_dir(&outside) {
        Ok(()) => std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o755))?,
        // The name can be guessed: take it only if it is a folder, and root's or the user's own.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::symlink_metadata(&outside)?;
            if !found.is_dir() || (found.uid() != 0 && found.uid() != user.uid) {
                bail!("{} belongs to somebody else", outside.display());
            }
        }
        Err(error) => return Err(error).with_context(|| outside.display().to_string()),
    }
    if std::fs::symlink_metadata(wanted).is_err() {
        std::os::unix::fs::symlink(&outside, wanted).with_context(|| wanted.display().to_string())?;
    }
    Ok(outside)
}

/// The folder under `/var/tmp` that stands in for one that is out of reach: the same one each time.
fn stand_in(wanted: &Path) -> PathBuf {
    let key = uuid::Uuid::from_u128(fnv(wanted.as_os_str().as_encoded_bytes()));
    PathBuf::from("/var/tmp").join(format!("partyline-{}", key.simple()))
}

/// FNV-1a, 128 bits: a stable name, nothing secret.
fn fnv(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// Gives a folder, itself only, to the user.
///
/// # Errors
/// If it can't be given.
pub fn give(user: &User, folder: &Path) -> anyhow::Result<()> {
    chown(folder, Some(user.uid), Some(user.gid)).with_context(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_chooses_root() {
        let nobody = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        assert_eq!(choose(nobody).unwrap().name, "nobody");
        let both = format!("{nobody}postgres:x:101:104::/var/lib/postgresql:/bin/sh\n");
        assert_eq!(choose(&both).unwrap(), User { name: "postgres".into(), uid: 101, gid: 104 });
        assert_eq!(choose("root:x:0:0::/root:/bin/sh\n"), None);
        assert_eq!(choose("root:x:0:0::/:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n").unwrap().name, "ann");
    }

    #[test]
    fn stands_in_at_the_same_place() {
        assert_eq!(stand_in(Path::new("/root/a/pg")), stand_in(Path::new("/root/a/pg")));
        assert_ne!(stand_in(Path::new("/root/a/pg")), stand_in(Path::new("/root/b/pg")));
    }
}
