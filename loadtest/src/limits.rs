//! What the machine allows: open files, and ports.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proc;

/// Files besides the sockets: the runtime's own, REST connections, pipes.
const SPARE: u64 = 100;
/// Sockets from one source address. The kernel gives out some 28,000 ports an address.
const PER_ADDRESS: usize = 20_000;

/// Raises the limit of open files of this process, and of those that it starts, as far as it may: root may raise the
/// hard limit, too.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let raised = most
        .filter(|most| limit.maximum.is_some_and(|hard| hard < *most))
        .map(|most| Rlimit { current: Some(most), maximum: Some(most) });
    if raised.is_none_or(|raised| setrlimit(Resource::Nofile, raised).is_err()) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Looks whether this process can hold `sockets`, and each of the gateways (where their processes are known) its share.
///
/// # Errors
/// If they don't fit; says what to do.
pub(crate) fn make_room(sockets: usize, gateway_pids: &[u32]) -> anyhow::Result<()> {
    let needed = sockets as u64 + SPARE;
    if let Some(held) = getrlimit(Resource::Nofile).current.filter(|held| *held < needed) {
        bail!(
            "{sockets} sockets don't fit: this process may hold {held} open files and needs {needed}. Raise the hard \
             limit (`ulimit -Hn`, /etc/security/limits.conf, LimitNOFILE=), or take fewer"
        );
    }
    let share = sockets.div_ceil(gateway_pids.len().max(1)) as u64 + SPARE;
    for pid in gateway_pids {
        if let Some(limit) = proc::open_files(*pid).filter(|limit| *limit < share) {
            bail!(
                "{sockets} sockets don't fit: the gateway (process {pid}) may hold {limit} open files and needs \
                 {share}. Start it after `ulimit -n {share}`"
            );
        }
    }
    Ok(())
}

/// The address to connect from, for the socket with this number: on loopback every 20,000 take another one, so that
/// ports don't run out. Elsewhere the kernel chooses.
pub(crate) fn source(number: usize, to: SocketAddr) -> Option<Ipv4Addr> {
    let SocketAddr::V4(to) = to else { return None };
    let block = number / PER_ADDRESS;
    if !to.ip().is_loopback() || block == 0 {
        return None;
    }
    let [high, low] = u16::try_from(block + 1).ok()?.to_be_bytes();
    Some(Ipv4Addr::new(127, 0, high, low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sockets_come_from_many_loopback_addresses() {
        let loopback: SocketAddr = ([127, 0, 0, 1], 80).into();
        assert_eq!(source(19_999, loopback), None);
        assert_eq!(source(20_000, loopback), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source(6_000_000, loopback), Some(Ipv4Addr::new(127, 0, 1, 45)));
        assert_eq!(source(20_000, ([10, 0, 0, 1], 80).into()), None);
    }

    #[test]
    fn too_many_sockets_are_told_beforehand() {
        raise();
        let Some(held) = getrlimit(Resource::Nofile).current else { return };
        assert!(make_room(1, &[]).is_ok());
        let refusal = make_room(held as usize, &[]).unwrap_err().to_string();
        assert!(refusal.contains("don't fit") && refusal.contains(&held.to_string()), "{refusal}");
    }
}
