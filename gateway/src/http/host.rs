//! The header that every request by HTTP/1.1 has.

use hyper::{HeaderMap, Version, header::HOST, http::uri::Authority};
use partyline_shared::wire::{ErrorCode, Refusal};

/// RFC 9112, 3.2: HTTP/1.1 names the host, and nobody names it twice or as something else than a host. A balancer and
/// a gateway that read two names differently would not speak of the same request.
///
/// # Errors
/// `bad_request`.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::new(ErrorCode::BadRequest, why));
    let mut named = headers.get_all(HOST).iter();
    let Some(host) = named.next() else {
        return if version < Version::HTTP_11 { Ok(()) } else { refuse("a request by HTTP/1.1 names a Host") };
    };
    if named.next().is_some() {
        return refuse("a request names one Host");
    }
    // Empty is what a client says whose target has no host.
    let is_host = host.is_empty()
        || Authority::try_from(host.as_bytes()).is_ok_and(|authority| !authority.as_str().contains('@'));
    if is_host { Ok(()) } else { refuse("Host is no name or address") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(version: Version, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        check(version, &headers).is_ok()
    }

    #[test]
    fn one_host_is_named() {
        assert!(passes(Version::HTTP_10, &[]) && !passes(Version::HTTP_11, &[]));
        for host in
            ["", "chat.example", "chat.example:8080", "127.0.0.1:1", "[::1]:8080", "a_b", "xn--bcher-kva.example"]
        {
            assert!(passes(Version::HTTP_11, &[host]), "{host}");
        }
        for host in ["a b", "a/b", "user@a", "a,b c", "a:b:c", "a?b"] {
            assert!(!passes(Version::HTTP_11, &[host]), "{host}");
        }
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert!(!passes(version, &["a", "a"]) && !passes(version, &["a", "b"]));
        }
    }
}
