//! Which browser origins may come in.

use hyper::{
    HeaderMap,
    header::{HOST, ORIGIN},
};

/// Whether the request's origin is listed, or is the gateway's own. A request without one is no browser's.
#[must_use]
pub fn allowed(headers: &HeaderMap, listed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if listed.iter().any(|it| it == "*" || it.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let of_origin = origin.split_once("://").map(|(_, host)| host);
    host.is_some() && host.zip(of_origin).is_some_and(|(host, of_origin)| host.eq_ignore_ascii_case(of_origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(origin: Option<&str>, host: &str, listed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        allowed(&headers, &listed.iter().map(|&it| it.to_owned()).collect::<Vec<_>>())
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
}
