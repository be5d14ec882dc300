//! NATS servers in a cluster, for a test that ends some of them.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;

use super::servers::{self, ACCOUNTS, Addresses, account};
use crate::{
    child::{Child, Signal, Spec},
    paths::Paths,
    ports,
    services::{
        nats::{self, Route},
        ready::Ready,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of one test; dropped, its servers end and their data goes.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    /// For [`super::TestEnv::on`]: its first server, and the Postgres of all tests.
    pub addresses: Addresses,
    dir: Dir,
}

#[derive(Debug)]
struct Server {
    child: Child,
    spec: Spec,
    ready: Ready,
    port: u16,
}

#[derive(Debug)]
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Cluster {
    /// Starts `size` servers.
    ///
    /// # Errors
    /// If one does not start.
    pub async fn start(size: usize) -> anyhow::Result<Self> {
        let shared = servers::shared().await?;
        let dir = Dir(shared.dir.join(format!("cluster-{}", uuid::Uuid::new_v4().simple())));
        std::fs::create_dir_all(&dir.0).with_context(|| dir.0.display().to_string())?;
        let tools = Paths::new(None)?.tools;
        let program = tokio::task::spawn_blocking(move || nats::find(&tools, &|_: &str| {})).await??;
        let routes = (0..size).map(|_| ports::free_port()).collect::<Result<Vec<_>, _>>()?;
        let mut servers = Vec::new();
        for (n, route) in routes.iter().enumerate() {
            let name = Self::name(n);
            let settings = nats::Settings {
                dir: dir.0.join(&name),
                log: dir.0.join(format!("{name}.log")),
                name,
                port: ports::free_port()?,
                monitor_port: ports::free_port()?,
                sync_interval: "2m".into(),
                accounts: (0..ACCOUNTS).map(account).collect(),
                cluster: Some(Route { port: *route, all: routes.clone() }),
            };
            let spec = settings.prepare(&program)?.death_signal(Signal::KILL);
            let child = Child::spawn(&spec)?;
            servers.push(Server { child, spec, ready: settings.ready(), port: settings.port });
        }
        let nats = format!("nats://127.0.0.1:{}", servers[0].port);
        let addresses = Addresses { nats, database: shared.database.clone(), dir: dir.0.clone() };
        let cluster = Self { servers, addresses, dir };
        for n in 0..size {
            cluster.wait(n).await?;
        }
        Ok(cluster)
    }

    fn name(n: usize) -> String {
        format!("nats-{n}")
    }

    async fn wait(&self, n: usize) -> anyhow::Result<()> {
        let server = &self.servers[n];
        server.ready.wait(&Self::name(n), &server.child, server.spec.log_path(), PATIENCE).await
    }

    /// `url`, which names the first server, with all servers.
    #[must_use]
    pub fn url_of_all(&self, url: &str) -> String {
        let port = |server: &Server| format!(":{}", server.port);
        let urls = self.servers.iter().map(|server| url.replace(&port(&self.servers[0]), &port(server)));
        urls.collect::<Vec<_>>().join(",")
    }

    /// Kills the server of this name with SIGKILL; its number.
    ///
    /// # Errors
    /// If there is no such server.
    pub async fn kill(&self, name: &str) -> anyhow::Result<usize> {
        let n =
            (0..self.servers.len()).find(|n| Self::name(*n) == name).with_context(|| format!("no server {name}"))?;
        self.servers[n].child.end(Signal::KILL, PATIENCE).await;
        Ok(n)
    }

    /// Starts a server again that was killed.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn restart(&mut self, n: usize) -> anyhow::Result<()> {
        self.servers[n].child = Child::spawn(&self.servers[n].spec)?;
        self.wait(n).await
    }

    /// Where the servers' logs are.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.dir.0
    }
}
