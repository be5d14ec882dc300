//! Finished WebSocket frames: built once a node, shared by every socket that gets them.

use bytes::Bytes;
use fastwebsockets::Payload;
use partyline_shared::{
    ids::ConversationId,
    wire::{CloseCode, ErrorCode, Refusal},
};
use serde::Serialize;

use crate::log::Entry;

/// What may be dropped when a reader is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Never dropped: rather the socket is closed.
    Durable,
    /// Typing, presence: worth nothing later.
    Ephemeral,
}

/// A complete text frame of the server.
#[derive(Clone, Debug)]
pub struct Frame {
    wire: Bytes,
    head: u8,
    class: Class,
}

impl Frame {
    /// Frames what `write` writes, `length` bytes of JSON.
    fn build(length: usize, class: Class, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut wire = Vec::with_capacity(length + 10);
        let head = text_head(length, &mut wire);
        write(&mut wire);
        debug_assert_eq!(wire.len(), length + head);
        Self { wire: wire.into(), head: head as u8, class }
    }

    /// Frames ready JSON.
    #[must_use]
    pub fn json(json: &[u8], class: Class) -> Self {
        Self::build(json.len(), class, |wire| wire.extend_from_slice(json))
    }

    /// Frames a text that lies in parts.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]], class: Class) -> Self {
        let length = parts.iter().map(|part| part.len()).sum();
        Self::build(length, class, |wire| parts.iter().for_each(|part| wire.extend_from_slice(part)))
    }

    /// Frames a value that has JSON.
    #[must_use]
    pub fn of(value: &impl Serialize, class: Class) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => Self::json(&json, class),
            Err(error) => {
                tracing::error!(%error, "a frame has no JSON");
                Self::json(br#"{"type":"error","code":"internal","message":"no answer could be made"}"#, class)
            }
        }
    }

    /// The bytes for the socket.
    #[must_use]
    pub fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// The JSON within.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.wire[usize::from(self.head)..]
    }

    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }
}

fn text_head(length: usize, wire: &mut Vec<u8>) -> usize {
    // RFC 6455, 5.2: FIN and opcode text, then 7, 16 or 64 bits of length, no mask from a server.
    wire.push(0x81);
    match length {
        0..=125 => wire.push(length as u8),
        126..=0xffff => {
            wire.push(126);
            wire.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            wire.push(127);
            wire.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    wire.len()
}

/// The frame of a stored event: its JSON, with its place added.
#[must_use]
pub fn event(entry: &Entry) -> Frame {
    let place = place(entry);
    let body = body(&entry.payload);
    Frame::build(body.len() + place.len(), Class::Durable, |wire| {
        wire.extend_from_slice(body);
        wire.extend_from_slice(place.as_bytes());
    })
}

/// The same JSON, appended to a list.
pub fn event_json(entry: &Entry, into: &mut Vec<u8>) {
    into.extend_from_slice(body(&entry.payload));
    into.extend_from_slice(place(entry).as_bytes());
}

fn body(payload: &[u8]) -> &[u8] {
    payload.strip_suffix(b"}").unwrap_or(payload)
}

fn place(entry: &Entry) -> String {
    format!(",\"seq\":{},\"prev_seq\":{}}}", entry.seq, entry.prev_seq)
}

/// The frame of a refusal.
#[must_use]
pub fn error(reference: Option<&str>, refusal: &Refusal) -> Frame {
    error_of(reference, None, refusal)
}

/// A refusal that concerns one of several conversations.
#[must_use]
pub fn error_of(reference: Option<&str>, conversation_id: Option<ConversationId>, refusal: &Refusal) -> Frame {
    #[derive(Serialize)]
    struct Error<'a> {
        r#type: &'static str,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        conversation_id: Option<ConversationId>,
        code: ErrorCode,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    }
    Frame::of(
        &Error {
            r#type: "error",
            reference,
            conversation_id,
            code: refusal.code,
            message: &refusal.message,
            retry_after_ms: refusal.retry_after_ms,
        },
        Class::Durable,
    )
}

/// A reply: its type, the client's `ref`, and its fields.
#[must_use]
pub fn reply(kind: &'static str, reference: Option<&str>, fields: &impl Serialize) -> Frame {
    #[derive(Serialize)]
    struct Reply<'a, T> {
        r#type: &'static str,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
        #[serde(flatten)]
        fields: &'a T,
    }
    Frame::of(&Reply { r#type: kind, reference, fields }, Class::Durable)
}

/// A close frame; its reason is JSON of at most 123 bytes.
#[must_use]
pub fn close(code: CloseCode, special: Option<&str>, retry_after_ms: Option<u64>) -> Bytes {
    let name = special.unwrap_or(code.as_str());
    let reason = match retry_after_ms {
        Some(after) => format!("{{\"code\":\"{name}\",\"retry_after_ms\":{after}}}"),
        None => format!("{{\"code\":\"{name}\"}}"),
    };
    debug_assert!(reason.len() <= 123);
    control(fastwebsockets::Frame::close(code.code(), reason.as_bytes()))
}

/// The answer to a client's close frame: the same code, if it sent one.
#[must_use]
pub fn close_echo(payload: &[u8]) -> Bytes {
    let code = payload.get(..2).unwrap_or_default().to_vec();
    control(fastwebsockets::Frame::close_raw(Payload::Owned(code)))
}

/// A pong with the ping's payload.
#[must_use]
pub fn pong(payload: &[u8]) -> Bytes {
    control(fastwebsockets::Frame::pong(Payload::Borrowed(payload)))
}

/// An empty ping.
pub const PING: Bytes = Bytes::from_static(&[0x89, 0x00]);

fn control(mut frame: fastwebsockets::Frame<'_>) -> Bytes {
    // `write` may leave more in its buffer than the frame, which it returns.
    Bytes::copy_from_slice(frame.write(&mut Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_gets_its_place_and_nothing_else() {
        for size in [0, 50, 200, 70_000] {
            let payload = format!("{{\"type\":\"new_message\",\"content\":\"{}\"}}", "x".repeat(size));
            let frame = event(&Entry { seq: 12, prev_seq: 7, payload: payload.clone().into() });
            let value: serde_json::Value = serde_json::from_slice(frame.text()).unwrap();
            assert_eq!((&value["seq"], &value["prev_seq"]), (&12.into(), &7.into()));
            assert_eq!(value["content"].as_str().unwrap().len(), size);
            let mut buffer = Vec::new();
            let mut same = fastwebsockets::Frame::text(Payload::Borrowed(frame.text()));
            assert_eq!(frame.wire(), same.write(&mut buffer));
        }
    }

    #[test]
    fn close_reasons_fit_and_are_json() {
        let wire = close(CloseCode::ProtocolError, Some("continuation_without_start"), Some(u64::MAX));
        assert!(wire.len() <= 127, "{}", wire.len());
        let reason: serde_json::Value = serde_json::from_slice(&wire[4..]).unwrap();
        assert_eq!(reason["code"], "continuation_without_start");
        assert_eq!(u16::from_be_bytes([wire[2], wire[3]]), 4500);
    }
}
