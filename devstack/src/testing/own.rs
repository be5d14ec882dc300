//! Servers of one test's own, configured in ways that the servers of all tests are not. Dropped, they end.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::task::spawn_blocking;

use super::{
    certificates::Certificate,
    servers::{self, Addresses},
};
use crate::{
    child::{Child, Signal, Spec},
    paths::{self, Paths},
    ports,
    services::{nats, postgres, ready::Ready},
    user,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A nats-server with JetStream.
#[derive(Debug)]
pub struct OwnNats {
    child: Child,
    spec: Spec,
    ready: Ready,
    pub port: u16,
}

impl OwnNats {
    /// Starts it in a new folder; `configuration` is added to what it needs to run at all.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(dir: &Path, configuration: &str) -> anyhow::Result<Self> {
        let (port, monitor_port) = (ports::free_port()?, ports::free_port()?);
        let dir = dir.join(format!("nats-{port}"));
        std::fs::create_dir_all(&dir)?;
        let mut text = String::new();
        writeln!(text, "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor_port}\"")?;
        writeln!(text, "jetstream {{ store_dir: {:?} }}\n{configuration}", dir.join("jetstream"))?;
        let path = dir.join("nats.conf");
        paths::write_private(&path, text.as_bytes())?;
        let tools = Paths::new(None)?.tools;
        let program = spawn_blocking(move || nats::find(&tools, &|_: &str| {})).await??;
        let spec = Spec::new(program).arg("-c").arg(&path).dir(&dir).log(dir.join("log"));
        let ready = Ready::Http(format!("http://127.0.0.1:{monitor_port}/healthz"));
        let own = Self { child: Child::spawn(&spec)?, spec, ready, port };
        own.wait().await?;
        Ok(own)
    }

    async fn wait(&self) -> anyhow::Result<()> {
        self.ready.wait("NATS", &self.child, self.spec.log_path(), PATIENCE).await
    }

    /// Ends it with SIGKILL and starts it again.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.child.end(Signal::KILL, PATIENCE).await;
        self.child = Child::spawn(&self.spec)?;
        self.wait().await
    }
}

/// `tls { … }` of nats-server's configuration; with an authority, clients need a certificate of it.
#[must_use]
pub fn nats_tls(server: &Certificate, clients: Option<&Path>) -> String {
    let verify = clients.map(|ca| format!(", ca_file: {ca:?}, verify: true")).unwrap_or_default();
    format!("tls {{ cert_file: {:?}, key_file: {:?}{verify} }}", server.cert, server.key)
}

/// A Postgres that speaks TLS.
#[derive(Debug)]
pub struct OwnPostgres {
    _child: Child,
    /// For [`super::TestEnv::on`]: this server, and the NATS of all tests.
    pub addresses: Addresses,
    pub port: u16,
    dir: PathBuf,
}

impl OwnPostgres {
    /// Starts it with this certificate. With an authority, only connections by TLS with a certificate of it are taken, but
    /// for [`postgres::SUPERUSER`], which prepares the database.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(server: &Certificate, clients: Option<&Path>) -> anyhow::Result<Self> {
        let shared = servers::shared().await?;
        let port = ports::free_port()?;
        let dir = shared.dir.join(format!("postgres-{port}"));
        std::fs::create_dir_all(&dir)?;
        let settings =
            postgres::Settings { dir: dir.clone(), log: dir.join("log"), port, durable: false, password: None };
        let (server, clients, home) = (server.clone(), clients.map(Path::to_path_buf), dir.clone());
        let (spec, ready) = spawn_blocking(move || {
            let spec = settings.prepare(&Paths::new(None)?.tools, &|_: &str| {})?;
            let spec = spec.death_signal(Signal::QUIT);
            anyhow::Ok((with_tls(spec, &home, &server, clients.as_deref())?, settings.ready()))
        })
        .await??;
        let child = Child::spawn(&spec)?;
        ready.wait("Postgres", &child, spec.log_path(), PATIENCE).await?;
        let database = format!("postgres://{}@127.0.0.1:{port}/postgres", postgres::SUPERUSER);
        let addresses = Addresses { nats: shared.nats.clone(), database, dir: shared.dir.clone() };
        Ok(Self { _child: child, addresses, port, dir })
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn with_tls(spec: Spec, dir: &Path, server: &Certificate, clients: Option<&Path>) -> anyhow::Result<Spec> {
    let mut files = vec![(server.cert.clone(), "server.pem"), (server.key.clone(), "server.key")];
    let superuser = postgres::SUPERUSER;
    let mut rules = format!("host all {superuser} 127.0.0.1/32 trust\n");
    match clients {
        Some(ca) => {
            files.push((ca.to_path_buf(), "clients.pem"));
            rules.push_str("hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n");
        }
        None => rules.push_str("hostssl all all 127.0.0.1/32 trust\n"),
    }
    let owner = user::for_postgres()?;
    let place = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        paths::write_private(&path, content)?;
        if let Some(owner) = &owner {
            user::give(owner, &path)?;
        }
        anyhow::Ok(path)
    };
    let mut settings = vec!["ssl=on".to_owned(), format!("hba_file={}", place("hba", rules.as_bytes())?.display())];
    for (from, name) in files {
        let path = place(name, &std::fs::read(&from)?)?;
        let setting = match name {
            "server.pem" => "ssl_cert_file",
            "server.key" => "ssl_key_file",
            _ => "ssl_ca_file",
        };
        settings.push(format!("{setting}={}", path.display()));
    }
    Ok(settings.into_iter().fold(spec, |spec, setting| spec.arg("-c").arg(setting)))
}

/// PgBouncer in transaction mode.
#[derive(Debug)]
pub struct Bouncer {
    _child: Child,
    pub port: u16,
}

impl Bouncer {
    /// Starts one in front of a Postgres URL's server, with `server_connections` to each database.
    ///
    /// # Errors
    /// If there is no PgBouncer for this machine, or it does not start.
    pub async fn start(dir: &Path, postgres: &str, server_connections: u16) -> anyhow::Result<Self> {
        let server = postgres.parse::<reqwest::Url>().context("not a URL")?;
        let (host, user) = (server.host_str().unwrap_or_default(), server.username().to_owned());
        let (port, server_port) = (ports::free_port()?, server.port().unwrap_or(5_432));
        let dir = dir.join(format!("pgbouncer-{port}"));
        std::fs::create_dir_all(&dir)?;
        let users = dir.join("users");
        std::fs::write(&users, format!("\"{user}\" \"\"\n"))?;
        let configuration = dir.join("pgbouncer.ini");
        // What PgBouncer comes with, but for its mode.
        let text = format!(
            "[databases]\n* = host={host} port={server_port} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {server_connections}\nadmin_users = {user}\n",
            users.display()
        );
        std::fs::write(&configuration, text)?;
        let program = spawn_blocking(pgbouncer).await??;
        // It refuses to run as root.
        let owner = user::for_postgres()?;
        for path in [&dir, &users, &configuration] {
            if let Some(owner) = &owner {
                user::give(owner, path)?;
            }
        }
        let log = dir.join("log");
        let spec = Spec::new(program).arg(&configuration).dir(&dir).user(owner).log(&log);
        let child = Child::spawn(&spec)?;
        let ready = Ready::Port(port);
        ready.wait("PgBouncer", &child, Some(&log), PATIENCE).await?;
        Ok(Self { _child: child, port })
    }
}

/// The machine's PgBouncer, else Debian's.
fn pgbouncer() -> anyhow::Result<PathBuf> {
    let script = Paths::new(None)?.workspace.join("scripts/debian-program");
    let output = Command::new(script).args(["pgbouncer", "pgbouncer"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
