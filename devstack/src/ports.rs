//! Free ports on loopback.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use parking_lot::Mutex;

/// Below the range from which Linux takes the ports of outgoing connections, so that none of those comes between.
const FIRST: u16 = 15_000;
const LAST: u16 = 31_999;

static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 that nobody listens on, and that this process was not given before.
///
/// # Errors
/// If all are taken.
pub fn free_port() -> io::Result<u16> {
    let span = LAST - FIRST + 1;
    let mut bytes = [0; 2];
    // Somewhere else in each process: two that look at once rarely meet.
    bytes.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..2]);
    let begin = u16::from_le_bytes(bytes) % span;
    let mut handed_out = HANDED_OUT.lock();
    for step in 0..span {
        let port = FIRST + (begin + step) % span;
        if !handed_out.contains(&port) && is_free(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            handed_out.insert(port);
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port on loopback"))
}

/// The first free address from this one upwards.
///
/// # Errors
/// If there is none among the next 200.
pub fn next_free(mut addr: SocketAddr) -> io::Result<SocketAddr> {
    let wanted = addr;
    let mut handed_out = HANDED_OUT.lock();
    for step in 0..200 {
        let Some(port) = wanted.port().checked_add(step) else { break };
        addr.set_port(port);
        if !handed_out.contains(&port) && is_free(addr) {
            handed_out.insert(port);
            return Ok(addr);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{wanted} and the ports above are taken")))
}

fn is_free(addr: SocketAddr) -> bool {
    TcpListener::bind(addr).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_each_port_once() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn skips_what_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        assert!(next_free(addr).unwrap().port() > addr.port());
    }
}
