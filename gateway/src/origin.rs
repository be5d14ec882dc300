//! Which browser origins may come in.

use std::sync::atomic::{AtomicU32, Ordering};

use hyper::{
    HeaderMap,
    header::{HOST, HeaderName, ORIGIN},
};
use partyline_shared::wire::{ErrorCode, Refusal};
use reqwest::Url;

use crate::clock;

/// The host that a client asked a proxy for. Only requests of trusted proxies still have it here.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Refused origins are logged at most this often, in seconds: strangers decide how many there are.
const LOG_GAP: u32 = 10;
/// As much of a header is repeated in a refusal and in the log, in characters.
const SHOWN: usize = 128;

/// A scheme, a host and a port, written in one way only: WebSocket's schemes are HTTP's, and a port is always there.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: &'static str,
    authority: (String, u16),
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, host) = text.split_once("://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => "https",
            "http" | "ws" => "http",
            _ => return None,
        };
        Some(Self { scheme, authority: authority(scheme, host)? })
    }
}

/// Returns host and port, which is the scheme's own if the text has none.
fn authority(scheme: &str, text: &str) -> Option<(String, u16)> {
    if text.contains(|it: char| matches!(it, '/' | '\\' | '?' | '#' | '@') || it.is_whitespace()) {
        return None;
    }
    let url = Url::parse(&format!("{scheme}://{text}")).ok()?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

/// Returns whether a text is an origin that a browser may name: `https://host[:port]`, and nothing after it.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    Origin::parse(text).is_some()
}

/// Checks whether the request's origin is listed, or is the gateway's own: the one of its `Host`, or of the
/// `X-Forwarded-Host` of a trusted proxy. A request without an origin is no browser's.
///
/// # Errors
/// `forbidden`, which names origin, host and setting; so does the log.
pub fn check(headers: &HeaderMap, listed: &[String]) -> Result<(), Refusal> {
    if !headers.contains_key(ORIGIN) || listed.iter().any(|it| it == "*") {
        return Ok(());
    }
    let mut named = headers.get_all(ORIGIN).iter();
    let origin = named.next().and_then(|it| it.to_str().ok()).filter(|_| named.next().is_none());
    let is_allowed = origin.and_then(Origin::parse).is_some_and(|origin| {
        listed.iter().any(|it| Origin::parse(it).as_ref() == Some(&origin))
            || hosts(headers).any(|host| authority(origin.scheme, host).as_ref() == Some(&origin.authority))
    });
    if is_allowed { Ok(()) } else { Err(refuse(origin.unwrap_or("no origin"), headers)) }
}

/// The hosts that the request was sent to. A proxy may have replaced or extended the list of the one before it; no
/// browser lets a page of another origin write it.
fn hosts(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let forwarded = headers.get_all(FORWARDED_HOST).iter().filter_map(|it| it.to_str().ok());
    let forwarded = forwarded.flat_map(|it| it.split(',')).map(str::trim);
    headers.get(HOST).and_then(|it| it.to_str().ok()).into_iter().chain(forwarded)
}

fn refuse(origin: &str, headers: &HeaderMap) -> Refusal {
    static LOGGED: AtomicU32 = AtomicU32::new(0);
    let shown = |text: &str| text.chars().take(SHOWN).collect::<String>();
    let (origin, host) = (shown(origin), shown(&hosts(headers).collect::<Vec<_>>().join(", ")));
    // 0 is never.
    let (now, logged) = (clock::seconds().max(1), LOGGED.load(Ordering::Relaxed));
    let is_due = logged == 0 || now.saturating_sub(logged) >= LOG_GAP;
    if is_due && LOGGED.compare_exchange(logged, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        tracing::warn!(
            origin,
            host,
            "origin refused: it is neither this host's nor in PARTYLINE_ALLOWED_ORIGINS; a proxy that writes its own \
             name into Host can tell the client's in X-Forwarded-Host (PARTYLINE_TRUSTED_PROXIES)"
        );
    }
    let message =
        format!("the origin {origin:?} is neither the one of this host ({host:?}) nor in PARTYLINE_ALLOWED_ORIGINS");
    Refusal::new(ErrorCode::Forbidden, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(origin: Option<&str>, host: &str, listed: &[&str]) -> bool {
        check_forwarded(origin, host, None, listed)
    }

    fn check_forwarded(origin: Option<&str>, host: &str, forwarded: Option<&str>, listed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        for (name, value) in [(ORIGIN, origin), (FORWARDED_HOST, forwarded)] {
            headers.extend(value.map(|value| (name, value.parse().unwrap())));
        }
        super::check(&headers, &listed.iter().map(|&it| it.to_owned()).collect::<Vec<_>>()).is_ok()
    }

    #[test]
    fn own_and_listed_origins_come_in() {
        assert!(check(None, "chat.example", &[]));
        assert!(check(Some("https://chat.example"), "chat.example", &[]));
        assert!(!check(Some("https://evil.example"), "chat.example", &[]));
        assert!(!check(Some("null"), "chat.example", &[]));
        assert!(check(Some("https://shop.example"), "chat.example", &["https://shop.example"]));
        assert!(!check(Some("https://shop.example.evil"), "chat.example", &["https://shop.example"]));
        assert!(check(Some("null"), "chat.example", &["*"]));
    }

    #[test]
    fn default_ports_equal_none_and_websocket_schemes_equal_http() {
        for origin in
            ["https://chat.example", "https://chat.example:443", "wss://chat.example", "WSS://Chat.Example:443"]
        {
            for host in ["chat.example", "chat.example:443", "CHAT.example"] {
                assert!(check(Some(origin), host, &[]), "{origin} {host}");
            }
            for listed in ["https://chat.example", "https://chat.example:443", "wss://chat.example"] {
                assert!(check(Some(origin), "gateway:8080", &[listed]), "{origin} {listed}");
            }
            for (host, listed) in
                [("chat.example:80", "http://chat.example"), ("chat.example:8443", "ws://chat.example")]
            {
                assert!(!check(Some(origin), host, &[listed]), "{origin} {host} {listed}");
            }
        }
        assert!(check(Some("ws://chat.example"), "chat.example:80", &[]));
        assert!(check(Some("http://[::1]:8080"), "[0:0::1]:8080", &[]));
        assert!(!check(Some("https://chat.example:8443"), "chat.example", &[]));
        assert!(!check(Some("https://chat.example:8443"), "chat.example", &["https://chat.example"]));
        for wrong in
            ["chat.example", "https://chat.example/", "https://a@chat.example", "ftp://chat.example", "https://"]
        {
            assert!(!check(Some(wrong), "chat.example", &["https://chat.example"]) && !is_origin(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_host_that_a_proxy_forwards_is_an_own_one() {
        let origin = Some("https://chat.example");
        for forwarded in
            ["chat.example", "chat.example:443", "chat.example, edge.internal", "edge.internal,chat.example"]
        {
            assert!(check_forwarded(origin, "gateway:8080", Some(forwarded), &[]), "{forwarded}");
        }
        for forwarded in ["chat.example:8443", "evil.example", ""] {
            assert!(!check_forwarded(origin, "gateway:8080", Some(forwarded), &[]), "{forwarded}");
        }
    }

    #[test]
    fn a_request_names_one_origin() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "chat.example".parse().unwrap());
        headers.append(ORIGIN, "https://chat.example".parse().unwrap());
        headers.append(ORIGIN, "https://evil.example".parse().unwrap());
        assert!(super::check(&headers, &[]).is_err());
    }
}
