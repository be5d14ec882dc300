//! The same conversation in Socket.IO's words (Engine.IO 4, protocol 5, over a WebSocket): whoever listens and sends
//! knows the native frames alone. Every command that has a `ref` asks for a callback under a number, so that its answer
//! is told from others'; the events that repeat an answer are left out.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::outgoing::JOIN;

/// The answer to [`Packet::Ping`].
pub(super) const PONG: &[u8] = b"3";
/// Stands for the `ref` of a join; those of messages are below it.
const JOIN_ID: u64 = 1 << 32;

/// What a text of the server's is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// The transport is open: the client says who it is.
    Open,
    Ping,
    /// Nobody comes in.
    Refused,
    /// A native frame, in the buffer.
    Frame,
    /// Nothing that matters here.
    Nothing,
}

/// What a client says first.
pub(super) fn greeting(token: &str) -> Vec<u8> {
    format!("40{{\"token\":\"{token}\"}}").into_bytes()
}

/// Reads one text; a frame is written into `frame`, as the native protocol has it.
pub(super) fn read(text: &[u8], frame: &mut Vec<u8>) -> Packet {
    frame.clear();
    let done = match text {
        [b'0', ..] => return Packet::Open,
        [b'2'] => return Packet::Ping,
        [b'4', b'4', ..] => return Packet::Refused,
        [b'4', b'2', event @ ..] => read_event(event, frame),
        [b'4', b'3', answer @ ..] => read_answer(answer, frame),
        _ => None,
    };
    if done.is_some() { Packet::Frame } else { Packet::Nothing }
}

/// `["name",{…}]`, without looking into what it carries: this is what comes most.
fn read_event(event: &[u8], frame: &mut Vec<u8>) -> Option<()> {
    let rest = event.strip_prefix(b"[\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let fields = rest[end + 1..].strip_prefix(b",{")?.strip_suffix(b"}]")?;
    let name = match &rest[..end] {
        b"connected" => b"welcome",
        // The callback has told.
        b"joined_conversation" | b"left_conversation" => return None,
        b"error" if fields.starts_with(b"\"event\"") => return None,
        name => name,
    };
    for part in [b"{\"type\":\"", name, b"\",", fields, b"}"] {
        frame.extend_from_slice(part);
    }
    Some(())
}

/// `7[{…}]`.
fn read_answer(answer: &[u8], frame: &mut Vec<u8>) -> Option<()> {
    let digits = answer.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let id: u64 = std::str::from_utf8(&answer[..digits]).ok()?.parse().ok()?;
    let [fields]: [BTreeMap<&str, &RawValue>; 1] = serde_json::from_slice(&answer[digits..]).ok()?;
    let kind = match fields.get("status").map(|status| status.get()) {
        Some("\"error\"") => "error",
        _ if fields.contains_key("events") => "joined",
        _ => "ack",
    };
    let reference = if id == JOIN_ID { JOIN.to_owned() } else { id.to_string() };
    frame.extend_from_slice(format!("{{\"type\":\"{kind}\",\"ref\":\"{reference}\"").as_bytes());
    for (name, value) in fields.into_iter().filter(|(name, _)| *name != "status") {
        frame.extend_from_slice(format!(",\"{name}\":{}", value.get()).as_bytes());
    }
    frame.push(b'}');
    Some(())
}

/// A native command as an event that is emitted; none if it is no command of ours.
pub(super) fn command(json: &[u8]) -> Option<Vec<u8>> {
    let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_slice(json).ok()?;
    let name = fields.remove("type")?.get();
    let id = match fields.remove("ref").map(|reference| reference.get().trim_matches('"')) {
        Some(JOIN) => JOIN_ID.to_string(),
        Some(number) => number.to_owned(),
        None => String::new(),
    };
    Some(format!("42{id}[{name},{}]", serde_json::to_string(&fields).ok()?).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Option<String> {
        let mut frame = b"what was before".to_vec();
        (read(text.as_bytes(), &mut frame) == Packet::Frame).then(|| String::from_utf8(frame).unwrap())
    }

    fn said(json: &str) -> Option<String> {
        command(json.as_bytes()).map(|packet| String::from_utf8(packet).unwrap())
    }

    #[test]
    fn events_are_frames() {
        let message = heard("42[\"new_message\",{\"seq\":7,\"content\":\"a\\\"}]\"}]");
        assert_eq!(message.as_deref(), Some("{\"type\":\"new_message\",\"seq\":7,\"content\":\"a\\\"}]\"}"));
        assert_eq!(heard("42[\"connected\",{\"a\":1}]").as_deref(), Some("{\"type\":\"welcome\",\"a\":1}"));
        for repeated in ["42[\"joined_conversation\",{\"a\":1}]", "42[\"error\",{\"event\":\"typing\",\"code\":\"x\"}]"]
        {
            assert_eq!(heard(repeated), None, "{repeated}");
        }
    }

    #[test]
    fn answers_are_told_by_their_number() {
        let ack = heard("4317[{\"status\":\"ok\",\"seq\":3}]");
        assert_eq!(ack.as_deref(), Some("{\"type\":\"ack\",\"ref\":\"17\",\"seq\":3}"));
        let joined = heard("434294967296[{\"status\":\"ok\",\"events\":[],\"seq\":3}]");
        assert_eq!(joined.as_deref(), Some("{\"type\":\"joined\",\"ref\":\"join\",\"events\":[],\"seq\":3}"));
        let refused = heard("431[{\"status\":\"error\",\"code\":\"forbidden\"}]");
        assert_eq!(refused.as_deref(), Some("{\"type\":\"error\",\"ref\":\"1\",\"code\":\"forbidden\"}"));
    }

    #[test]
    fn commands_are_emitted() {
        assert_eq!(
            said("{\"type\":\"send_message\",\"ref\":\"17\",\"content\":\"x\"}").as_deref(),
            Some("4217[\"send_message\",{\"content\":\"x\"}]")
        );
        let join = said("{\"type\":\"join_conversation\",\"ref\":\"join\",\"after\":4}");
        assert_eq!(join.as_deref(), Some("424294967296[\"join_conversation\",{\"after\":4}]"));
        assert_eq!(said("{\"type\":\"typing\",\"b\":1}").as_deref(), Some("42[\"typing\",{\"b\":1}]"));
        assert_eq!(said("{\"b\":1}"), None);
    }

    #[test]
    fn the_transport_has_words_of_its_own() {
        let read = |text: &str| read(text.as_bytes(), &mut Vec::new());
        assert_eq!(read("0{\"sid\":\"x\"}"), Packet::Open);
        assert_eq!(read("2"), Packet::Ping);
        assert_eq!(read("44{\"message\":\"no\"}"), Packet::Refused);
        for nothing in ["40{\"sid\":\"x\"}", "41", "1", "6", "", "42", "42[1]", "43[]", "43x", "42[\"a\"]"] {
            assert_eq!(read(nothing), Packet::Nothing, "{nothing}");
        }
    }
}
