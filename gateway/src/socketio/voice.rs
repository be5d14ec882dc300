//! From the gateway's frames to what a Socket.IO client hears: `type` is the event's name, the rest its argument, moved
//! as bytes. An answer goes to the client's callback, if it gave one.

use std::{cell::RefCell, collections::VecDeque};

use bytes::Bytes;
use partyline_shared::ids::ClientId;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    command::sent::Names,
    encode::{Class, Frame},
};

/// Messages whose `temp_id` a connection remembers until it has seen them.
const TEMP_IDS: usize = 32;

thread_local! {
    /// The frame that was translated last and became the same for everybody, and what it became: the members of a room
    /// hear a frame one after the other, so that it is translated once for all of them.
    static LATEST: RefCell<Option<(Bytes, Frame)>> = const { RefCell::new(None) };
}

/// Whom the command in hand is answered to.
#[derive(Debug, Default)]
pub struct Reply {
    /// The client's callback.
    pub id: Option<u64>,
    /// The event's name, as JSON.
    pub event: String,
    /// The client's own name for a message, as JSON.
    pub temp_id: Option<Box<str>>,
    /// The command has an answer for each of several conversations before the one for the callback.
    pub is_for_many: bool,
}

/// What a connection's translation remembers.
#[derive(Debug, Default)]
pub struct Voice {
    reply: Reply,
    temp_ids: VecDeque<(Names, Box<str>)>,
}

impl Voice {
    /// A command begins; until [`Self::end`] answers are its.
    pub fn begin(&mut self, reply: Reply, names: Option<Names>) {
        if let (Some(names), Some(temp_id)) = (names, &reply.temp_id) {
            if self.temp_ids.len() == TEMP_IDS {
                self.temp_ids.pop_front();
            }
            self.temp_ids.push_back((names, temp_id.clone()));
        }
        self.reply = reply;
    }

    /// The command is done: a callback that got no answer hears that all is well.
    pub fn end(&mut self) -> Option<Frame> {
        let reply = std::mem::take(&mut self.reply);
        reply.id.map(|id| ack(id, &[OK]))
    }

    /// Appends what the client hears of a frame.
    pub fn translate(&mut self, frame: &Frame, into: &mut Vec<Frame>) {
        let Some((kind, fields)) = split(frame.text()) else {
            tracing::error!("a frame without a type");
            return;
        };
        let class = frame.class();
        match kind {
            b"ack" => {
                let temp_id = self.reply.temp_id.as_deref().map(named_temp_id).unwrap_or_default();
                into.extend(self.reply.id.take().map(|id| ack(id, &[OK, &temp_id, fields])));
            }
            b"joined" if self.reply.is_for_many => {
                into.push(self::event(b"joined_conversation", &[OK, fields], Class::Durable));
            }
            b"joined" => self.answer(b"joined_conversation", fields, into),
            b"left" => self.answer(b"left_conversation", fields, into),
            b"error" => {
                let temp_id = self.reply.temp_id.as_deref().map(named_temp_id).unwrap_or_default();
                let event = [b"\"event\":", self.reply.event.as_bytes()].concat();
                let event: &[u8] = if self.reply.event.is_empty() { b"" } else { &event };
                // One of many conversations is refused; the callback waits for all of them.
                let is_of_many = self.reply.is_for_many && names_conversation(frame.text());
                if !is_of_many {
                    into.extend(self.reply.id.take().map(|id| ack(id, &[b"\"status\":\"error\"", &temp_id, fields])));
                }
                into.push(self::event(b"error", &[event, &temp_id, fields], class));
            }
            b"welcome" => {
                let user_id = user_id(frame.text());
                into.push(self::event(b"connected", &[OK, &user_id, fields], class));
            }
            b"new_message" => {
                let temp_id = self.seen(frame.text());
                into.push(if temp_id.is_empty() {
                    for_everybody(frame, kind, fields)
                } else {
                    self::event(kind, &[&temp_id, fields], class)
                });
            }
            _ => into.push(for_everybody(frame, kind, fields)),
        }
    }

    /// The callback, if there is one, and everybody who listens.
    fn answer(&mut self, name: &[u8], fields: &[u8], into: &mut Vec<Frame>) {
        into.extend(self.reply.id.take().map(|id| ack(id, &[OK, fields])));
        into.push(event(name, &[OK, fields], Class::Durable));
    }

    /// The `temp_id` under which this connection sent a message.
    fn seen(&mut self, message: &[u8]) -> Vec<u8> {
        #[derive(Deserialize)]
        struct Named {
            client_id: ClientId,
        }
        if self.temp_ids.is_empty() {
            return Vec::new();
        }
        let Ok(Named { client_id }) = serde_json::from_slice(message) else { return Vec::new() };
        let place = self.temp_ids.iter().position(|(names, _)| names.include(client_id));
        let temp_id = place.and_then(|place| self.temp_ids.remove(place));
        temp_id.map(|(_, temp_id)| named_temp_id(&temp_id)).unwrap_or_default()
    }
}

const OK: &[u8] = b"\"status\":\"ok\"";

fn named_temp_id(json: &str) -> Vec<u8> {
    [b"\"temp_id\":", json.as_bytes()].concat()
}

fn names_conversation(error: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Error {
        conversation_id: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Error>(error).is_ok_and(|error| error.conversation_id.is_some())
}

fn user_id(welcome: &[u8]) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Welcome<'a> {
        #[serde(borrow)]
        user: User<'a>,
    }
    #[derive(Deserialize)]
    struct User<'a> {
        #[serde(borrow)]
        user_id: &'a RawValue,
    }
    serde_json::from_slice::<Welcome<'_>>(welcome)
        .map(|welcome| [b"\"user_id\":", welcome.user.user_id.get().as_bytes()].concat())
        .unwrap_or_default()
}

/// A frame's type, and its other fields without the braces around them.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = text.strip_prefix(b"{\"type\":\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let fields = rest[end + 1..].strip_suffix(b"}")?;
    Some((&rest[..end], fields.strip_prefix(b",").unwrap_or(fields)))
}

/// An event with a frame's fields as they are.
fn for_everybody(frame: &Frame, kind: &[u8], fields: &[u8]) -> Frame {
    LATEST.with_borrow_mut(|latest| match latest {
        // The one that is held keeps its memory: no other frame lies there.
        Some((wire, heard)) if std::ptr::eq(&wire[..], &frame.wire()[..]) => heard.clone(),
        _ => {
            let heard = event(kind, &[fields], frame.class());
            *latest = Some((frame.wire().clone(), heard.clone()));
            heard
        }
    })
}

/// An event with one object, made of `fields`; those that are empty fall out.
fn event(name: &[u8], fields: &[&[u8]], class: Class) -> Frame {
    object(&[b"42[\"", name, b"\",{"], fields, class)
}

/// The answer to a callback.
fn ack(id: u64, fields: &[&[u8]]) -> Frame {
    object(&[b"43", id.to_string().as_bytes(), b"[{"], fields, Class::Durable)
}

fn object(head: &[&[u8]], fields: &[&[u8]], class: Class) -> Frame {
    let mut parts = head.to_vec();
    for (count, field) in fields.iter().filter(|field| !field.is_empty()).enumerate() {
        if count > 0 {
            parts.push(b",");
        }
        parts.push(field);
    }
    parts.push(b"}]");
    Frame::of_parts(&parts, class)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use partyline_shared::{
        ids::ConversationId,
        wire::{SendMessage, TemporaryName},
    };
    use serde_json::json;

    use super::*;

    fn heard(voice: &mut Voice, text: &str) -> Vec<String> {
        let mut frames = Vec::new();
        voice.translate(&Frame::json(text.as_bytes(), Class::Durable), &mut frames);
        frames.iter().map(|frame| String::from_utf8(frame.text().to_vec()).unwrap()).collect()
    }

    fn reply(id: Option<u64>, temp_id: Option<&str>) -> Reply {
        Reply { id, event: "\"send_message\"".into(), temp_id: temp_id.map(Into::into), is_for_many: false }
    }

    #[test]
    fn a_frame_is_an_event_of_its_type() {
        let mut voice = Voice::default();
        let frame = "{\"type\":\"typing\",\"user_id\":\"a\\\"}\",\"is_typing\":true}";
        assert_eq!(heard(&mut voice, frame), ["42[\"typing\",{\"user_id\":\"a\\\"}\",\"is_typing\":true}]"]);
        assert_eq!(heard(&mut voice, "{\"type\":\"x\"}"), ["42[\"x\",{}]"]);
        assert!(heard(&mut voice, "[]").is_empty());
    }

    #[test]
    fn an_answer_goes_to_the_callback_once() {
        let mut voice = Voice::default();
        assert!(heard(&mut voice, "{\"type\":\"ack\",\"seq\":3}").is_empty());
        voice.begin(reply(Some(7), None), None);
        assert_eq!(heard(&mut voice, "{\"type\":\"ack\",\"seq\":3}"), ["437[{\"status\":\"ok\",\"seq\":3}]"]);
        assert!(voice.end().is_none());
        voice.begin(reply(Some(8), None), None);
        assert_eq!(voice.end().unwrap().text(), b"438[{\"status\":\"ok\"}]");
        voice.begin(reply(Some(9), None), None);
        let joined = heard(&mut voice, "{\"type\":\"joined\",\"more\":false}");
        assert_eq!(joined[0], "439[{\"status\":\"ok\",\"more\":false}]");
        assert_eq!(joined[1], "42[\"joined_conversation\",{\"status\":\"ok\",\"more\":false}]");
    }

    #[test]
    fn a_refusal_goes_to_the_callback_and_to_everybody() {
        let mut voice = Voice::default();
        voice.begin(reply(Some(1), Some("\"t\"")), None);
        assert_eq!(
            heard(&mut voice, "{\"type\":\"error\",\"code\":\"forbidden\"}"),
            [
                "431[{\"status\":\"error\",\"temp_id\":\"t\",\"code\":\"forbidden\"}]",
                "42[\"error\",{\"event\":\"send_message\",\"temp_id\":\"t\",\"code\":\"forbidden\"}]"
            ]
        );
    }

    #[test]
    fn the_callback_of_many_joins_hears_of_all_of_them_once() {
        let mut voice = Voice::default();
        voice.begin(
            Reply { id: Some(4), event: "\"join_conversations\"".into(), is_for_many: true, ..Reply::default() },
            None,
        );
        assert_eq!(
            heard(&mut voice, "{\"type\":\"joined\",\"seq\":3}"),
            ["42[\"joined_conversation\",{\"status\":\"ok\",\"seq\":3}]"]
        );
        assert_eq!(
            heard(&mut voice, "{\"type\":\"error\",\"conversation_id\":\"c\",\"code\":\"forbidden\"}"),
            ["42[\"error\",{\"event\":\"join_conversations\",\"conversation_id\":\"c\",\"code\":\"forbidden\"}]"]
        );
        assert_eq!(
            heard(&mut voice, "{\"type\":\"ack\",\"joined\":1,\"refused\":1}"),
            ["434[{\"status\":\"ok\",\"joined\":1,\"refused\":1}]"]
        );
        assert!(voice.end().is_none());
        // Refused as a whole: the callback hears it.
        voice.begin(Reply { id: Some(5), is_for_many: true, ..Reply::default() }, None);
        let refused = heard(&mut voice, "{\"type\":\"error\",\"code\":\"bad_request\"}");
        assert_eq!(refused[0], "435[{\"status\":\"error\",\"code\":\"bad_request\"}]");
    }

    #[test]
    fn a_message_comes_back_with_its_temp_id_once() {
        let mut voice = Voice::default();
        let id = ClientId::generate();
        let message = format!("{{\"type\":\"new_message\",\"client_id\":\"{id}\"}}");
        let bare = format!("42[\"new_message\",{{\"client_id\":\"{id}\"}}]");
        assert_eq!(heard(&mut voice, &message), std::slice::from_ref(&bare));
        let of = |client_id: ClientId, previous: ClientId| {
            let name = json!({ "conversation_id": ConversationId::generate(), "client_id": client_id, "content": "x" });
            let mut message: SendMessage = serde_json::from_value(name).unwrap();
            message.temporary =
                Some(TemporaryName { root: ClientId::generate(), previous, lifetime: Duration::from_secs(600) });
            Names::of(&message)
        };
        // A repeat may find the message under the name of the period before.
        for names in [of(id, ClientId::generate()), of(ClientId::generate(), id)] {
            voice.begin(reply(None, Some("17")), Some(names));
            voice.end();
            assert_eq!(
                heard(&mut voice, &message),
                [format!("42[\"new_message\",{{\"temp_id\":17,\"client_id\":\"{id}\"}}]")]
            );
            assert_eq!(heard(&mut voice, &message), std::slice::from_ref(&bare));
        }
    }

    #[test]
    fn a_room_hears_one_translation() {
        let frame = Frame::json(b"{\"type\":\"new_message\",\"seq\":1}", Class::Durable);
        let heard = |frame: &Frame| {
            let mut frames = Vec::new();
            Voice::default().translate(frame, &mut frames);
            frames.remove(0).wire().clone()
        };
        let first = heard(&frame);
        assert_eq!(heard(&frame).as_ptr(), first.as_ptr());
        let same = Frame::json(frame.text(), Class::Durable);
        let again = heard(&same);
        assert_ne!(again.as_ptr(), first.as_ptr());
        assert_eq!(again, first);
    }

    #[test]
    fn the_first_event_says_who_one_is() {
        let heard = heard(&mut Voice::default(), "{\"type\":\"welcome\",\"user\":{\"user_id\":\"1\"}}");
        assert_eq!(heard, ["42[\"connected\",{\"status\":\"ok\",\"user_id\":\"1\",\"user\":{\"user_id\":\"1\"}}]"]);
    }
}
