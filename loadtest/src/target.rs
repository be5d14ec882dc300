//! What is measured: gateways by URL, and what `make run` left in its data folder about them.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::Path,
};

use anyhow::{Context, bail};

/// What a gateway's URL looks like.
const EXAMPLE: &str = "ws://127.0.0.1:8080/ws";

/// How sockets speak with a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    #[default]
    Native,
    /// Socket.IO 5 over a WebSocket.
    Socketio,
}

impl Protocol {
    /// Where a gateway answers.
    fn path(self) -> &'static str {
        match self {
            Self::Native => "/ws",
            Self::Socketio => "/socket.io/",
        }
    }
}

/// One gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) addr: SocketAddr,
    /// `host:port`, for the `Host` header.
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) protocol: Protocol,
}

impl Gateway {
    /// Reads `ws://host[:port][/path]`; without a path, or with another protocol's, it is the protocol's own.
    ///
    /// # Errors
    /// If it is no such URL, or the host has no address.
    pub(crate) fn parse(url: &str, protocol: Protocol) -> anyhow::Result<Self> {
        let rest = match url.split_once("://") {
            Some(("ws" | "http", rest)) => rest,
            Some(("wss" | "https", _)) => {
                bail!("{url}: no TLS here; measure the gateway itself, not the proxy before it")
            }
            _ => bail!("{url}: a gateway's URL looks like {EXAMPLE}"),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let port_given = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if port_given { authority.to_owned() } else { format!("{authority}:80") };
        let addr = authority
            .to_socket_addrs()
            .with_context(|| url.to_owned())?
            .next()
            .with_context(|| format!("{url}: the host has no address"))?;
        let path = if matches!(path, "/" | "/ws") { protocol.path() } else { path };
        Ok(Self { addr, authority, path: path.to_owned(), protocol })
    }

    /// Where its sockets connect.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}{}", self.authority, self.path)
    }

    /// A URL of the REST API, on the same port.
    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }
}

/// The settings in a data folder's `env` file; none without the file.
pub(crate) fn env_file(data_dir: &Path) -> HashMap<String, String> {
    std::fs::read_to_string(data_dir.join("env")).map(|text| settings(&text)).unwrap_or_default()
}

/// Reads lines of `NAME='value'`, quoted for a shell.
fn settings(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| {
            let bare = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value);
            (name.trim().to_owned(), bare.replace(r"'\''", "'"))
        })
        .collect()
}

/// Gateways that `make run` or `make cluster` has started and noted: process ids and URLs.
pub(crate) fn noted(data_dir: &Path) -> Vec<(u32, String)> {
    #[derive(serde::Deserialize)]
    struct Process {
        pid: u32,
    }
    let json = std::fs::read(data_dir.join("pids.json")).unwrap_or_default();
    let parts: BTreeMap<String, Process> = serde_json::from_slice(&json).unwrap_or_default();
    let gateways = parts.into_iter().filter(|(part, _)| part.starts_with("gateway"));
    // The address is in the process's own settings: its port gives way to one that was taken.
    gateways
        .filter_map(|(_, Process { pid })| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            Some((pid, format!("ws://{}/ws", http_addr(&environ)?)))
        })
        .collect()
}

/// The address that a gateway's environment gives it, as it is reached from here.
fn http_addr(environ: &[u8]) -> Option<SocketAddr> {
    let mut settings = environ.split(|byte| *byte == 0);
    let addr = settings.find_map(|setting| setting.strip_prefix(b"PARTYLINE_HTTP_ADDR="))?;
    let mut addr: SocketAddr = std::str::from_utf8(addr).ok()?.parse().ok()?;
    if addr.ip().is_unspecified() {
        addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    Some(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_an_address_and_a_path() {
        let parse = |url| Gateway::parse(url, Protocol::Native);
        let gateway = parse("ws://127.0.0.1:9000").unwrap();
        assert_eq!((gateway.addr, gateway.path.as_str()), (([127, 0, 0, 1], 9000).into(), "/ws"));
        assert_eq!(gateway.http("/livez"), "http://127.0.0.1:9000/livez");
        let gateway = parse("ws://127.0.0.1/chat/ws").unwrap();
        assert_eq!((gateway.authority.as_str(), gateway.path.as_str()), ("127.0.0.1:80", "/chat/ws"));
        for bad in ["wss://127.0.0.1:1", "127.0.0.1:1", "ws://:x:/", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for url in ["ws://127.0.0.1:9000", "ws://127.0.0.1:9000/ws"] {
            assert_eq!(Gateway::parse(url, Protocol::Socketio).unwrap().path, "/socket.io/");
        }
    }

    #[test]
    fn settings_are_unquoted() {
        let found = settings("PARTYLINE_NATS_URL='nats://a'\nPARTYLINE_JWT_SECRET='it'\\''s'\n\nBARE=x\n");
        assert_eq!(found["PARTYLINE_NATS_URL"], "nats://a");
        assert_eq!(found["PARTYLINE_JWT_SECRET"], "it's");
        assert_eq!(found["BARE"], "x");
    }

    #[test]
    fn addresses_are_as_reached_from_here() {
        let addr = |environ: &str| http_addr(environ.as_bytes()).map(|addr| addr.to_string());
        assert_eq!(addr("A=b\0PARTYLINE_HTTP_ADDR=127.0.0.1:8081\0C=d\0").as_deref(), Some("127.0.0.1:8081"));
        assert_eq!(addr("PARTYLINE_HTTP_ADDR=0.0.0.0:1\0").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(addr("PARTYLINE_HTTP_ADDR=[::]:1").as_deref(), Some("[::1]:1"));
        assert_eq!(addr("PARTYLINE_ADMIN_ADDR=127.0.0.1:1"), None);
    }
}
