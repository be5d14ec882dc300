//! The gateway's settings.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser};
use ipnet::IpNet;
use partyline_shared::{
    settings::{Check, DatabaseSettings, NatsSettings, TelemetrySettings},
    wire::{Limits, MAX_CONTENT_CHARS, MAX_METADATA_BYTES},
};

use crate::{auth::AuthSettings, origin};

/// The admin port is never public, so it listens on this machine alone unless told otherwise.
pub const DEFAULT_ADMIN_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9100);

/// Partyline's gateway: WebSocket and REST on one port, health and metrics on another.
#[derive(Clone, Debug, Parser)]
#[command(name = "gateway", version, about)]
pub struct Config {
    /// Where clients connect.
    #[arg(long, env = "PARTYLINE_HTTP_ADDR", default_value = "127.0.0.1:8080")]
    pub http_addr: SocketAddr,
    /// Where `/metrics`, `/livez` and `/readyz` answer; never public.
    #[arg(long, env = "PARTYLINE_ADMIN_ADDR", default_value_t = DEFAULT_ADMIN_ADDR)]
    pub admin_addr: SocketAddr,
    /// Browser origins that may use the API and the socket, comma-separated (`https://shop.example`);
    /// `*` for any. The gateway's own origin always may.
    #[arg(long, env = "PARTYLINE_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
    /// Proxies in front, comma-separated addresses or networks (`10.0.0.0/8`), whose `X-Forwarded-Host` names the host
    /// that the browser asked for. For those that write a name of their own into `Host`.
    #[arg(long, env = "PARTYLINE_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
    /// A folder of static files to serve at `/`: the chat page.
    #[arg(long, env = "PARTYLINE_WEB_DIR")]
    pub web_dir: Option<PathBuf>,
    /// After SIGTERM: time to close all sockets, spread evenly, in seconds.
    #[arg(long, env = "PARTYLINE_DRAIN_SECONDS", default_value_t = 20)]
    pub drain_seconds: u32,
    /// After SIGTERM: time for the balancer to notice that `/readyz` is false, in seconds.
    #[arg(long, env = "PARTYLINE_DRAIN_NOTICE_SECONDS", default_value_t = 0)]
    pub drain_notice_seconds: u32,
    /// Participants of a group at most.
    #[arg(long, env = "PARTYLINE_GROUP_MAX", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub group_max: u32,
    /// Participants of a conversation are read from Postgres again after this time at most, in seconds, in case the notice
    /// of a change was lost on its way from another gateway.
    #[arg(long, env = "PARTYLINE_MEMBERSHIP_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub membership_seconds: u32,
    /// Seconds after a user's last connection has gone until others are told that the user is offline: a page that is
    /// loaded again is back by then.
    #[arg(long, env = "PARTYLINE_PRESENCE_GRACE_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=300))]
    pub presence_grace_seconds: u32,
    /// Socket.IO: seconds after a message in which the same `temp_id` with the same fields is a repeat of it; later it is a
    /// new message. JetStream's window (`PARTYLINE_DEDUP_SECONDS`) at least. The same on all nodes.
    #[arg(long, env = "PARTYLINE_TEMP_ID_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub temp_id_seconds: u32,
    #[command(flatten)]
    pub limits: LimitSettings,
    #[command(flatten)]
    pub auth: AuthSettings,
    #[command(flatten)]
    pub nats: NatsSettings,
    #[command(flatten)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    pub telemetry: TelemetrySettings,
}

/// What one client may cost. 0 lifts a limit where the text says so.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// Messages and edits a minute a user, over all nodes; 0 lifts the limit.
    #[arg(long, env = "PARTYLINE_MESSAGES_PER_MINUTE", default_value_t = 10)]
    pub messages_per_minute: u32,
    /// Messages that a rested user may send at once.
    #[arg(long, env = "PARTYLINE_MESSAGES_BURST", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub messages_burst: u32,
    /// Messages and edits a minute a service (scope `service`), over all nodes, and as many at once; 0 lifts the limit.
    #[arg(long, env = "PARTYLINE_SERVICE_MESSAGES_PER_MINUTE", default_value_t = 6_000)]
    pub service_messages_per_minute: u32,
    /// Frames a second a connection, beyond as many at once as it may join conversations; what comes faster is read
    /// later. 0 lifts the limit.
    #[arg(long, env = "PARTYLINE_FRAMES_PER_SECOND", default_value_t = 20)]
    pub frames_per_second: u32,
    /// REST requests a second a user, to one node, and twice as many at once; services have no limit. 0 lifts it.
    #[arg(long, env = "PARTYLINE_REQUESTS_PER_SECOND", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub requests_per_second: u32,
    /// Connections of one user to one node; a further one replaces the oldest. 0 lifts the limit.
    #[arg(long, env = "PARTYLINE_CONNECTIONS_PER_USER", default_value_t = 10)]
    pub connections_per_user: u32,
    /// Sockets at most, handshakes included.
    #[arg(long, env = "PARTYLINE_MAX_CONNECTIONS", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Time to finish the HTTP request or handshake, and for a client that takes nothing of an answer, in seconds.
    #[arg(long, env = "PARTYLINE_HANDSHAKE_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub handshake_seconds: u32,
    /// Time between two requests on one HTTP connection, in seconds: longer than a balancer in front keeps a connection that
    /// it does not use, or it sends a request into one that is being closed.
    #[arg(long, env = "PARTYLINE_KEEP_ALIVE_SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub keep_alive_seconds: u32,
    /// A client's message at most, fragments together, in bytes.
    #[arg(long, env = "PARTYLINE_MAX_FRAME_BYTES", default_value_t = 20_480, value_parser = clap::value_parser!(u32).range(8_192..=1_048_576))]
    pub max_frame_bytes: u32,
    /// What may wait for a slow reader before it is closed with 4008, in bytes.
    #[arg(long, env = "PARTYLINE_OUTBOUND_QUEUE_BYTES", default_value_t = 1_048_576, value_parser = clap::value_parser!(u32).range(65_536..))]
    pub outbound_queue_bytes: u32,
    /// Conversations that one connection may have joined.
    #[arg(long, env = "PARTYLINE_JOINED_MAX", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub joined_max: u32,
    /// Seconds between pings.
    #[arg(long, env = "PARTYLINE_PING_SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub ping_seconds: u32,
    /// Socket.IO: seconds that a client has to answer a ping, as its own servers' `pingTimeout`.
    #[arg(long, env = "PARTYLINE_PING_TIMEOUT_SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub ping_timeout_seconds: u32,
    /// Seconds without a sign of life before a native socket is closed.
    #[arg(long, env = "PARTYLINE_IDLE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..=7_200))]
    pub idle_seconds: u32,
}

/// Reads a network, or an address as the network of that one.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| "not an address (10.0.0.1) and not a network (10.0.0.0/8)".to_owned())
}

impl LimitSettings {
    /// As `welcome` tells them to a person or a service.
    #[must_use]
    pub fn told(&self, service: bool) -> Limits {
        let (messages_per_minute, messages_burst) = if service {
            (self.service_messages_per_minute, self.service_messages_per_minute)
        } else {
            (self.messages_per_minute, self.messages_burst)
        };
        Limits {
            messages_per_minute,
            messages_burst,
            frames_per_second: self.frames_per_second,
            frames_burst: self.frames_per_second.max(self.joined_max),
            connections_per_user: self.connections_per_user,
            max_frame_bytes: self.max_frame_bytes as usize,
            max_content_chars: MAX_CONTENT_CHARS,
            max_metadata_bytes: MAX_METADATA_BYTES,
            outbound_queue_bytes: self.outbound_queue_bytes as usize,
            ping_interval_ms: u64::from(self.ping_seconds) * 1_000,
            idle_timeout_ms: u64::from(self.idle_seconds) * 1_000,
        }
    }
}

impl Config {
    /// Returns how long after a message the same `temp_id` is a repeat. JetStream takes it for one within its window.
    #[must_use]
    pub fn temp_id_lifetime(&self) -> Duration {
        Duration::from_secs(u64::from(self.temp_id_seconds.max(self.nats.dedup_seconds)))
    }
}

impl Check for Config {
    fn problems(&self) -> Vec<String> {
        let mut problems =
            [self.nats.problems(), self.database.problems(), self.telemetry.problems(), self.auth.problems()].concat();
        for origin in &self.allowed_origins {
            if origin != "*" && !origin::is_origin(origin) {
                problems.push(format!(
                    "PARTYLINE_ALLOWED_ORIGINS: {origin:?} is no origin (https://host[:port], no path) and not *"
                ));
            }
        }
        if self.limits.idle_seconds <= self.limits.ping_seconds {
            problems.push("PARTYLINE_IDLE_SECONDS: must be above PARTYLINE_PING_SECONDS".into());
        }
        if let Some(dir) = &self.web_dir
            && !dir.is_dir()
        {
            problems.push(format!("PARTYLINE_WEB_DIR: no folder at {}", dir.display()));
        }
        problems
    }
}
