//! A stack of real processes, configured by the files of `deploy/`.

use std::{path::Path, time::Duration};

use devstack::{
    child::{Child, Signal, Spec},
    paths::Paths,
    services::{nats, ready::Ready},
    testing::{Launch, Process, TestEnv, free_port},
};

use crate::debian::{self, workspace};

const PATIENCE: Duration = Duration::from_secs(60);
const NATS_SERVERS: usize = 3;

/// A server whose file comes from `deploy/`; dropped, it ends.
pub(crate) struct Server {
    name: String,
    spec: Spec,
    child: Child,
}

impl Server {
    pub(crate) fn start(name: &str, env: &TestEnv, spec: Spec) -> Self {
        let spec = spec.dir(env.dir()).log(env.dir().join(format!("{name}.log")));
        Self { name: name.into(), child: Child::spawn(&spec).unwrap(), spec }
    }

    pub(crate) async fn ready(&self, ready: &Ready) {
        ready.wait(&self.name, &self.child, self.spec.log_path(), PATIENCE).await.unwrap();
    }
}

/// Three NATS servers on `deploy/nats/cluster.conf`, with other addresses.
pub(crate) struct NatsCluster {
    ports: Vec<u16>,
    monitors: Vec<String>,
    servers: Vec<Server>,
}

impl NatsCluster {
    pub(crate) fn start(env: &TestEnv) -> Self {
        let paths = Paths::new(None).unwrap();
        let program = nats::find(&paths.tools, &|line| println!("{line}")).unwrap();
        let ports = || (0..NATS_SERVERS).map(|_| free_port().unwrap()).collect::<Vec<_>>();
        let (clients, monitors, routes) = (ports(), ports(), ports());
        let urls = |ports: &[u16], prefix: &str| -> Vec<_> {
            ports.iter().map(|port| format!("{prefix}127.0.0.1:{port}")).collect()
        };
        let all_routes = urls(&routes, "nats://").join(",");
        let server = |number: usize| {
            let name = format!("nats-{}", number + 1);
            let spec = Spec::new(&program)
                .arg("-c")
                .arg(workspace().join("deploy/nats/cluster.conf"))
                .args(["-a", "127.0.0.1", "-p", &clients[number].to_string(), "-m", &monitors[number].to_string()])
                .args(["--cluster", &format!("nats://127.0.0.1:{}", routes[number]), "--routes", &all_routes])
                .env("NATS_SERVER_NAME", &name)
                .env("NATS_PASSWORD", "secret")
                .env("NATS_GATEWAY_PASSWORD", "secret")
                .env("NATS_PERSISTER_PASSWORD", "secret")
                .env("NATS_STORE_DIR", env.dir().join(&name));
            Server::start(&name, env, spec)
        };
        Self {
            ports: clients.clone(),
            monitors: urls(&monitors, "http://"),
            servers: (0..NATS_SERVERS).map(server).collect(),
        }
    }

    /// Where clients connect, as this user.
    pub(crate) fn url(&self, user: &str) -> String {
        let urls = self.ports.iter().map(|port| format!("nats://{user}:secret@127.0.0.1:{port}"));
        urls.collect::<Vec<_>>().join(",")
    }

    pub(crate) async fn ready(&self) {
        for (server, monitor) in self.servers.iter().zip(&self.monitors) {
            server.ready(&Ready::NatsCluster(monitor.clone(), NATS_SERVERS)).await;
        }
    }

    /// What each server says of its JetStream.
    pub(crate) async fn jetstream(&self) -> Vec<serde_json::Value> {
        let mut told = Vec::new();
        for monitor in &self.monitors {
            told.push(reqwest::get(format!("{monitor}/jsz")).await.unwrap().json().await.unwrap());
        }
        told
    }
}

/// HAProxy on `deploy/haproxy/haproxy.cfg`, before these gateways.
pub(crate) struct Balancer {
    /// `http://host:port` for clients.
    pub(crate) url: String,
    /// `host:port` for Prometheus.
    pub(crate) stats: String,
    _server: Server,
}

impl Balancer {
    /// Before two gateways, of which `host:port` is given.
    pub(crate) async fn start(env: &TestEnv, program: &Path, [one, two]: [String; 2]) -> Self {
        let clients = format!("127.0.0.1:{}", free_port().unwrap());
        let stats = format!("127.0.0.1:{}", free_port().unwrap());
        let spec = Spec::new(program)
            .args(["-db", "-f"])
            .arg(workspace().join("deploy/haproxy/haproxy.cfg"))
            .env("PARTYLINE_BIND", &clients)
            .env("PARTYLINE_STATS", &stats)
            .env("PARTYLINE_GATEWAY_1", one)
            .env("PARTYLINE_GATEWAY_2", two);
        let server = Server::start("haproxy", env, spec);
        let url = format!("http://{clients}");
        server.ready(&Ready::Http(format!("{url}/readyz"))).await;
        Self { url, stats, _server: server }
    }

    /// The values of HAProxy's own metric `name` whose labels contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> Vec<f64> {
        let text = reqwest::get(format!("http://{}/metrics", self.stats)).await.unwrap().text().await.unwrap();
        let wanted = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(labels);
        text.lines().filter(wanted).map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
    }
}

/// Two gateways and a persister on that cluster, HAProxy before them.
pub(crate) struct Stack {
    pub(crate) balancer: Balancer,
    pub(crate) gateways: [Process; 2],
    pub(crate) persister: Process,
    pub(crate) nats: NatsCluster,
}

impl Stack {
    /// `None` without HAProxy, which has been said then.
    pub(crate) async fn start(env: &TestEnv, settings: &[(&str, &str)]) -> Option<Self> {
        let haproxy = debian::program("haproxy", "haproxy")?;
        let nats = NatsCluster::start(env);
        let here = |launch: Launch, user: &str| {
            let launch = launch.env("PARTYLINE_NATS_URL", nats.url(user)).env("PARTYLINE_NATS_REPLICAS", "3");
            settings.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
        };
        let [one, two] = [env.gateway().unwrap(), env.gateway().unwrap()].map(|launch| here(launch, "gateway"));
        let persister = here(env.persister().unwrap(), "persister");
        nats.ready().await;
        let (one, two, persister) = tokio::join!(one.start(), two.start(), persister.start());
        let gateways = [one.unwrap(), two.unwrap()];
        let balancer = Balancer::start(env, &haproxy, gateways.each_ref().map(Process::http_addr)).await;
        Some(Self { balancer, gateways, persister: persister.unwrap(), nats })
    }

    /// Asks everybody to leave, who has nothing to say against it.
    pub(crate) async fn stop(self) {
        for process in self.gateways.iter().chain([&self.persister]) {
            process.signal(Signal::TERM);
        }
        for process in self.gateways.iter().chain([&self.persister]) {
            assert!(process.terminate(PATIENCE).await.success(), "{}", process.log());
        }
    }
}
