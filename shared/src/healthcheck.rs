//! `gateway healthcheck`, `persister healthcheck`: asks a running process whether it is ready, for container images that
//! have no shell and no curl.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the subcommand if the command line asks for it.
///
/// `healthcheck` asks `/readyz` of the admin port, `healthcheck --live` asks `/livez`. The address is `PARTYLINE_ADMIN_ADDR`,
/// or `default`.
///
/// # Returns
/// The exit code (0 if the answer was 200, else 1; the answer is printed), or `None` without the subcommand.
#[must_use]
pub fn run(default: SocketAddr) -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != "healthcheck" {
        return None;
    }
    let path = if args.next().is_some_and(|arg| arg == "--live") { "/livez" } else { "/readyz" };
    let addr = std::env::var("PARTYLINE_ADMIN_ADDR").ok().and_then(|addr| addr.parse().ok()).unwrap_or(default);
    Some(match ask(addr, path) {
        Ok((is_ok, answer)) => {
            print!("{answer}");
            if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("{addr} does not answer: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Asks over HTTP/1.0, which ends the answer with the connection.
///
/// # Returns
/// Whether the status is 200, and the body.
fn ask(addr: SocketAddr, path: &str) -> std::io::Result<(bool, String)> {
    let mut stream = TcpStream::connect_timeout(&reachable(addr), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.split(' ').nth(1) == Some("200"), body.to_owned()))
}

/// A process that listens on all addresses is reached by the loopback one.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}
