//! The server's frames, as far as a load test looks at them.

use std::borrow::Cow;

use partyline_shared::wire::Limits;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Any frame of the server.
#[derive(Debug, Deserialize)]
pub(crate) struct Incoming<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(rename = "ref", borrow, default)]
    reference: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) seq: Option<u64>,
    #[serde(default)]
    pub(crate) prev_seq: Option<u64>,
    #[serde(borrow, default)]
    pub(crate) content: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) code: Option<String>,
    /// Of an ack: the message had been stored before.
    #[serde(default)]
    pub(crate) duplicate: bool,
    /// Of `joined`: there is more to come before live events.
    #[serde(default)]
    pub(crate) more: bool,
    /// Of `joined`: what came before live events.
    #[serde(borrow, default)]
    pub(crate) events: Vec<&'a RawValue>,
    /// Of an error that passes.
    #[serde(default)]
    pub(crate) retry_after_ms: Option<u64>,
    /// Of `welcome`.
    #[serde(borrow, default)]
    limits: Option<&'a RawValue>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn parse(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// The `ref`, which is always one of ours: no escapes.
    pub(crate) fn reference(&self) -> Option<&'a str> {
        self.reference?.get().strip_prefix('"')?.strip_suffix('"')
    }

    /// The limits in force, of a `welcome`.
    pub(crate) fn limits(&self) -> Option<Limits> {
        serde_json::from_str(self.limits?.get()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_matters_and_ignores_the_rest() {
        let json = br#"{"type":"new_message","seq":7,"prev_seq":3,"content":"a\"b","metadata":{"seq":9},"x":[1]}"#;
        let frame = Incoming::parse(json).unwrap();
        assert_eq!((&*frame.kind, frame.seq, frame.prev_seq), ("new_message", Some(7), Some(3)));
        assert_eq!(frame.content.unwrap().get(), r#""a\"b""#);
        assert_eq!(frame.reference(), None);

        let frame = Incoming::parse(br#"{"type":"error","ref":"12","code":"rate_limited","message":"m"}"#).unwrap();
        assert_eq!((frame.reference(), frame.code.as_deref()), (Some("12"), Some("rate_limited")));
        assert!(Incoming::parse(b"[]").is_none());
    }
}
