//! From an address and a token to an open WebSocket.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use partyline_shared::wire::SUBPROTOCOL;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::socketio;
use crate::target::{Gateway, Protocol};

const PATIENCE: Duration = Duration::from_secs(30);
const MAX_HEAD: usize = 8 * 1_024;
/// Key and answer of RFC 6455, section 1.3: they guard against caches, which a load test has none of.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A socket behind its handshake.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: TcpStream,
    /// What came right behind the handshake.
    pub(crate) early: Vec<u8>,
    /// What is to be said first, if it speaks Socket.IO.
    pub(crate) socketio: Option<Vec<u8>>,
}

/// Connects, from `source` if one is given.
///
/// # Errors
/// What failed, in one or two words, fit to be counted.
pub(crate) async fn open_tcp(addr: SocketAddr, source: Option<Ipv4Addr>) -> Result<TcpStream, String> {
    let connect = async {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        let stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match timeout(PATIENCE, connect).await {
        Ok(connected) => connected.map_err(|error| name(&error)),
        Err(_) => Err("connect timed out".into()),
    }
}

/// Connects and upgrades.
///
/// # Errors
/// As [`open_tcp`]; `http 401` and the like for a refusal.
pub(crate) async fn open(gateway: &Gateway, source: Option<Ipv4Addr>, token: &str) -> Result<Opened, String> {
    let mut stream = open_tcp(gateway.addr, source).await?;
    let (query, headers, subprotocol) = match gateway.protocol {
        Protocol::Native => {
            let headers = format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\nAuthorization: Bearer {token}\r\n");
            ("", headers, Some(SUBPROTOCOL))
        }
        Protocol::Socketio => ("?EIO=4&transport=websocket", String::new(), None),
    };
    let request = format!(
        "GET {}{query} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n",
        gateway.path, gateway.authority
    );
    let upgrade = async {
        stream.write_all(request.as_bytes()).await.map_err(|error| name(&error))?;
        let mut read = Vec::with_capacity(1_024);
        let end = loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if read.len() > MAX_HEAD {
                return Err("handshake too long".into());
            }
            if stream.read_buf(&mut read).await.map_err(|error| name(&error))? == 0 {
                return Err("closed in the handshake".into());
            }
        };
        accepted(&read[..end], subprotocol)?;
        read.drain(..end + 4);
        Ok::<_, String>(read)
    };
    let early = timeout(PATIENCE, upgrade).await.unwrap_or_else(|_| Err("handshake timed out".into()))?;
    let socketio = (gateway.protocol == Protocol::Socketio).then(|| socketio::greeting(token));
    Ok(Opened { stream, early, socketio })
}

/// Whether a response's head is an upgrade, to the subprotocol if there is one.
fn accepted(head: &[u8], subprotocol: Option<&str>) -> Result<(), String> {
    let head = std::str::from_utf8(head).map_err(|_| "handshake is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("without status");
    if status != "101" {
        return Err(format!("http {status}"));
    }
    let has = |name: &str, value: &str| {
        lines
            .clone()
            .filter_map(|line| line.split_once(':'))
            .any(|(it, of)| it.eq_ignore_ascii_case(name) && of.trim() == value)
    };
    if !has("sec-websocket-accept", ACCEPT) {
        return Err("handshake with a wrong key".into());
    }
    if subprotocol.is_some_and(|name| !has("sec-websocket-protocol", name)) {
        return Err("handshake with another subprotocol".into());
    }
    Ok(())
}

/// An error's kind, which is the same for all sockets that fail alike.
fn name(error: &io::Error) -> String {
    error.kind().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connects_from_the_address_that_is_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Ipv4Addr::new(127, 0, 0, 2);
        let _stream = open_tcp(listener.local_addr().unwrap(), Some(source)).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), source);
    }

    #[test]
    fn only_an_upgrade_to_partyline_is_taken() {
        let good = format!(
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\nsec-websocket-protocol: {SUBPROTOCOL}"
        );
        let accepted = |head: &[u8]| accepted(head, Some(SUBPROTOCOL));
        assert_eq!(accepted(good.as_bytes()), Ok(()));
        assert_eq!(accepted(b"HTTP/1.1 401 Unauthorized\r\nx: y"), Err("http 401".into()));
        assert!(accepted(good.replace(ACCEPT, "AAAA").as_bytes()).is_err());
        assert!(accepted(good.replace(SUBPROTOCOL, "chat").as_bytes()).is_err());
        assert!(accepted(b"").is_err());
        assert_eq!(super::accepted(good.replace("chat", "").as_bytes(), None), Ok(()));
    }
}
