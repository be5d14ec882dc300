//! Which parts there are, where each listens, and how each is configured.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};

use super::{Options, Secrets, say::say, supervisor::Part};
use crate::{
    child::{Signal, Spec},
    paths::Paths,
    ports,
    services::{
        nats::{self, Account, Route},
        postgres,
        ready::Ready,
    },
};

/// The database of our own Postgres.
pub(super) const DATABASE: &str = "partyline";
const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9100);
const SERVER_PATIENCE: Duration = Duration::from_secs(60);

/// A gateway's or persister's addresses.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub name: String,
    /// None for a persister.
    pub http: Option<SocketAddr>,
    pub admin: SocketAddr,
}

pub(super) struct Plan {
    pub paths: Paths,
    pub nats_url: String,
    pub database_url: String,
    /// None when tokens are checked with public keys: then nobody here can sign any.
    pub jwt_secret: Option<String>,
    pub gateways: Vec<Node>,
    pub persisters: Vec<Node>,
    replicas: u16,
    own_database: Option<String>,
    servers: Vec<Part>,
    programs: PathBuf,
}

impl Plan {
    /// Finds servers and free ports. Blocks.
    pub(super) fn new(options: &Options, paths: Paths, secrets: Secrets) -> anyhow::Result<Self> {
        let programs = programs()?;
        let logs = paths.data.join("logs");
        let mut servers = Vec::new();
        let nats_url = match setting("PARTYLINE_NATS_URL") {
            Some(url) => url,
            None => own_nats(options, &paths, &logs, secrets.nats_password, &mut servers)?,
        };
        let mut own_database = None;
        let database_url = match setting("PARTYLINE_DATABASE_URL") {
            Some(url) => url,
            None => {
                let settings = postgres::Settings {
                    dir: paths.data.join("postgres"),
                    log: logs.join("postgres.log"),
                    port: ports::free_port()?,
                    durable: true,
                    password: Some(secrets.postgres_password),
                };
                let spec = settings.prepare(&paths.tools, &|line| say!("{line}"))?;
                servers.push(Part {
                    name: "postgres".into(),
                    spec,
                    ready: settings.ready(),
                    stop: Signal::INT,
                    patience: Duration::from_secs(30),
                    start: SERVER_PATIENCE,
                });
                own_database = Some(settings.url("postgres"));
                settings.url(DATABASE)
            }
        };
        let hs256 = setting("PARTYLINE_JWT_ALGORITHM").is_none_or(|name| name.eq_ignore_ascii_case("HS256"));
        let jwt_secret = hs256.then(|| setting("PARTYLINE_JWT_SECRET").unwrap_or(secrets.jwt_secret));
        let mut http = Addresses::new("PARTYLINE_HTTP_ADDR", HTTP)?;
        let mut admin = Addresses::new("PARTYLINE_ADMIN_ADDR", ADMIN)?;
        let gateways = nodes("gateway", options.gateways, Some(&mut http), &mut admin)?;
        let after_gateways = SocketAddr::new(ADMIN.ip(), ADMIN.port() + options.gateways);
        let mut admin = Addresses::new("PARTYLINE_PERSISTER_ADMIN_ADDR", after_gateways)?;
        let persisters = nodes("persister", options.persisters, None, &mut admin)?;
        // Three copies where there are three servers, and an odd number always: the even one below adds nothing.
        let replicas = if options.nats >= 3 { 3 } else { 1 };
        Ok(Self {
            paths,
            nats_url,
            database_url,
            jwt_secret,
            gateways,
            persisters,
            replicas,
            own_database,
            servers,
            programs,
        })
    }

    /// NATS and Postgres, unless they are the user's own.
    pub(super) fn servers(&self) -> Vec<Part> {
        self.servers.clone()
    }

    /// The URL at which our own Postgres takes `CREATE DATABASE`.
    pub(super) fn own_database(&self) -> Option<String> {
        self.own_database.clone()
    }

    pub(super) fn persisters(&self) -> Vec<Part> {
        let stopping = Duration::from_secs(40);
        self.persisters.iter().map(|node| self.part("persister", node, stopping, |spec| spec)).collect()
    }

    pub(super) fn gateways(&self, page: Option<&Path>) -> Vec<Part> {
        let drain = number("PARTYLINE_DRAIN_SECONDS").unwrap_or(1);
        let notice = number("PARTYLINE_DRAIN_NOTICE_SECONDS").unwrap_or(0);
        let stopping = Duration::from_secs(drain + notice + 20);
        let own = |spec: Spec| {
            let spec = spec.env("PARTYLINE_DRAIN_SECONDS", drain.to_string());
            match page {
                Some(page) => spec.env("PARTYLINE_WEB_DIR", page),
                None => spec,
            }
        };
        self.gateways.iter().map(|node| self.part("gateway", node, stopping, own)).collect()
    }

    fn part(&self, program: &str, node: &Node, patience: Duration, own: impl Fn(Spec) -> Spec) -> Part {
        let mut spec = Spec::new(self.programs.join(program))
            .log(self.paths.data.join("logs").join(format!("{}.log", node.name)))
            .env("PARTYLINE_NATS_URL", &self.nats_url)
            .env("PARTYLINE_DATABASE_URL", &self.database_url)
            .env("PARTYLINE_ADMIN_ADDR", node.admin.to_string())
            .env("NO_COLOR", "1")
            .death_signal(Signal::TERM);
        if setting("PARTYLINE_NATS_REPLICAS").is_none() {
            spec = spec.env("PARTYLINE_NATS_REPLICAS", self.replicas.to_string());
        }
        if let Some(secret) = &self.jwt_secret {
            spec = spec.env("PARTYLINE_JWT_SECRET", secret);
        }
        if let Some(http) = node.http {
            spec = spec.env("PARTYLINE_HTTP_ADDR", http.to_string());
        }
        let ready = Ready::Http(format!("{}/readyz", url(node.http.unwrap_or(node.admin))));
        Part { name: node.name.clone(), spec: own(spec), ready, stop: Signal::TERM, patience, start: SERVER_PATIENCE }
    }
}

fn own_nats(
    options: &Options,
    paths: &Paths,
    logs: &Path,
    password: String,
    parts: &mut Vec<Part>,
) -> anyhow::Result<String> {
    let count = options.nats;
    let server = nats::find(&paths.tools, &|line| say!("{line}"))?;
    let account = Account { name: "PARTYLINE".into(), user: "partyline".into(), password };
    let routes = (0..count).map(|_| ports::free_port()).collect::<Result<Vec<_>, _>>()?;
    let mut urls = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let name = numbered("nats", index, count);
        let settings = nats::Settings {
            // One server's streams are nothing to a cluster, and the other way round.
            dir: paths.data.join(if count > 1 { format!("nats-cluster-{count}/{name}") } else { name.clone() }),
            log: logs.join(format!("{name}.log")),
            name: name.clone(),
            port: ports::free_port()?,
            monitor_port: ports::free_port()?,
            sync_interval: options.nats_sync.clone(),
            accounts: vec![account.clone()],
            cluster: (count > 1).then(|| Route { port: *route, all: routes.clone() }),
        };
        urls.push(settings.url(&account));
        parts.push(Part {
            name,
            spec: settings.prepare(&server)?,
            ready: settings.ready(),
            stop: Signal::TERM,
            patience: Duration::from_secs(20),
            start: SERVER_PATIENCE,
        });
    }
    Ok(urls.join(","))
}

/// Addresses from the one that the user set, or the default; the default may give way, the user's may not.
struct Addresses {
    name: &'static str,
    next: SocketAddr,
    given: bool,
}

impl Addresses {
    fn new(name: &'static str, default: SocketAddr) -> anyhow::Result<Self> {
        match setting(name) {
            None => Ok(Self { name, next: default, given: false }),
            Some(text) => {
                let next = text.parse().with_context(|| format!("{name}: {text:?} is no address (host:port)"))?;
                Ok(Self { name, next, given: true })
            }
        }
    }

    fn take(&mut self) -> anyhow::Result<SocketAddr> {
        let wanted = self.next;
        let taken = ports::next_free(wanted)?;
        if taken != wanted {
            if self.given {
                bail!("{}: {wanted} is taken", self.name);
            }
            say!("{wanted} is taken: {taken} instead ({} sets another)", self.name);
        }
        self.next.set_port(taken.port().saturating_add(1));
        Ok(taken)
    }
}

fn nodes(kind: &str, count: u16, mut http: Option<&mut Addresses>, admin: &mut Addresses) -> anyhow::Result<Vec<Node>> {
    (0..usize::from(count))
        .map(|index| {
            Ok(Node {
                name: numbered(kind, index, count),
                http: http.as_mut().map(|http| http.take()).transpose()?,
                admin: admin.take()?,
            })
        })
        .collect()
}

/// `gateway` if it is the only one, else `gateway-1` and so on.
fn numbered(kind: &str, index: usize, count: u16) -> String {
    if count == 1 { kind.to_owned() } else { format!("{kind}-{}", index + 1) }
}

/// A URL that reaches the address from here.
pub(super) fn url(mut addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    format!("http://{addr}")
}

/// A setting of the environment; empty counts as unset.
pub(super) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str) -> Option<u64> {
    setting(name)?.parse().ok()
}

/// The folder of `gateway` and `persister`: this program's own.
fn programs() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    let folder = me.parent().unwrap_or(Path::new("/")).to_path_buf();
    for program in ["gateway", "persister"] {
        if !folder.join(program).is_file() {
            bail!("no {program} beside {}: build the whole workspace first (make build)", me.display());
        }
    }
    Ok(folder)
}
