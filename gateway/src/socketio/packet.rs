//! Engine.IO 4 and Socket.IO 5 as their clients write them: text, without any I/O.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// How a client broke the protocol: the `code` of the goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str);

const BAD_PACKET: Violation = Violation("bad_packet");

/// One packet of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The answer to our ping.
    Pong,
    /// Closes the transport.
    Close,
    /// Enters a namespace. `auth` is JSON.
    Connect { namespace: &'a str, auth: Option<&'a str> },
    /// Leaves the namespace.
    Disconnect,
    /// `json` is a list: the name, then what is emitted. `id` asks for an acknowledgement.
    Event { id: Option<u64>, json: &'a str },
    /// Nothing that is to be done: an answer that nobody asked for, another namespace's packet.
    Nothing,
}

impl<'a> Packet<'a> {
    /// Reads a text frame, or one part of a request's body.
    ///
    /// # Errors
    /// [`Violation`]; the connection is beyond repair.
    pub fn parse(text: &'a str) -> Result<Self, Violation> {
        match text.as_bytes().first() {
            Some(b'1') => Ok(Self::Close),
            Some(b'3') => Ok(Self::Pong),
            Some(b'4') => Self::parse_message(&text[1..]),
            Some(b'b') => Err(Violation("binary_frame")),
            _ => Err(BAD_PACKET),
        }
    }

    fn parse_message(text: &'a str) -> Result<Self, Violation> {
        let Some(kind @ b'0'..=b'6') = text.as_bytes().first().copied() else { return Err(BAD_PACKET) };
        if kind >= b'5' {
            return Err(Violation("binary_frame"));
        }
        let rest = &text[1..];
        let (namespace, rest) = match rest.strip_prefix('/') {
            // Without a comma, all of it is the name.
            Some(named) => {
                let end = named.find(',').map_or(rest.len(), |comma| comma + 1);
                (&rest[..end], rest.get(end + 1..).unwrap_or_default())
            }
            None => ("/", rest),
        };
        if kind == b'0' {
            return Ok(Self::Connect { namespace, auth: (!rest.is_empty()).then_some(rest) });
        }
        if namespace != "/" {
            return Ok(Self::Nothing);
        }
        match kind {
            b'1' => Ok(Self::Disconnect),
            b'2' => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let (id, json) = rest.split_at(digits);
                let id = if id.is_empty() { None } else { Some(id.parse().map_err(|_| BAD_PACKET)?) };
                Ok(Self::Event { id, json })
            }
            _ => Ok(Self::Nothing),
        }
    }
}

/// The name and the first argument of an event.
///
/// # Errors
/// [`Violation`] if it is no list that begins with a name.
pub fn parse_event(json: &str) -> Result<(Cow<'_, str>, Option<&RawValue>), Violation> {
    let parts: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| BAD_PACKET)?;
    let [name, arguments @ ..] = &parts[..] else { return Err(BAD_PACKET) };
    let name: Name<'_> = serde_json::from_str(name.get()).map_err(|_| BAD_PACKET)?;
    Ok((name.0, arguments.first().copied()))
}

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_write() {
        let parse = |text| Packet::parse(text).unwrap();
        assert_eq!(parse("3"), Packet::Pong);
        assert_eq!(parse("1"), Packet::Close);
        assert_eq!(parse("40"), Packet::Connect { namespace: "/", auth: None });
        assert_eq!(parse("40{\"t\":1}"), Packet::Connect { namespace: "/", auth: Some("{\"t\":1}") });
        assert_eq!(parse("40/a,{}"), Packet::Connect { namespace: "/a", auth: Some("{}") });
        assert_eq!(parse("40/a"), Packet::Connect { namespace: "/a", auth: None });
        assert_eq!(parse("40/,{}"), Packet::Connect { namespace: "/", auth: Some("{}") });
        assert_eq!(parse("41"), Packet::Disconnect);
        assert_eq!(parse("41/a,"), Packet::Nothing);
        assert_eq!(parse("42[\"a\"]"), Packet::Event { id: None, json: "[\"a\"]" });
        assert_eq!(parse("4217[\"a\"]"), Packet::Event { id: Some(17), json: "[\"a\"]" });
        assert_eq!(parse("42/a,17[\"a\"]"), Packet::Nothing);
        assert_eq!(parse("435[]"), Packet::Nothing);
    }

    #[test]
    fn refuses_what_no_client_writes() {
        for text in ["", "2", "2probe", "5", "6", "9", "4", "47", "4x", "ü", "4299999999999999999999[\"a\"]"] {
            assert_eq!(Packet::parse(text), Err(Violation("bad_packet")), "{text:?}");
        }
        for text in ["451-[\"a\",{\"_placeholder\":true,\"num\":0}]", "461-1[]", "bAQID"] {
            assert_eq!(Packet::parse(text), Err(Violation("binary_frame")), "{text:?}");
        }
    }

    #[test]
    fn an_event_has_a_name_and_perhaps_an_argument() {
        let (name, argument) = parse_event("[\"a\\u0062\", {\"x\": [1]}, 2]").unwrap();
        assert_eq!((&*name, argument.unwrap().get()), ("ab", "{\"x\": [1]}"));
        assert!(parse_event("[\"a\"]").unwrap().1.is_none());
        for json in ["", "[]", "{}", "[1]", "[\"a\"", "[\"a\"]x", "\"a\""] {
            assert_eq!(parse_event(json).err(), Some(BAD_PACKET), "{json:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_packet_or_a_violation(text in "[0-6b]{0,3}(/[a-z?]{0,5},?)?[0-9]{0,25}(\\[.*\\])?|.*") {
            if let Ok(Packet::Event { json, .. }) = Packet::parse(&text) {
                proptest::prop_assert!(text.ends_with(json));
                let _ = parse_event(json);
            }
        }

        #[test]
        fn an_event_comes_back_as_it_was_written(id in proptest::option::of(proptest::num::u64::ANY), name in ".*", argument in ".*") {
            let json = serde_json::json!([name, argument]).to_string();
            let text = format!("42{}{json}", id.map_or_else(String::new, |id| id.to_string()));
            let Ok(Packet::Event { id: parsed, json }) = Packet::parse(&text) else { panic!("{text}") };
            let (parsed_name, parsed_argument) = parse_event(json).unwrap();
            proptest::prop_assert_eq!((parsed, &*parsed_name), (id, &*name));
            proptest::prop_assert_eq!(parsed_argument.unwrap().get(), serde_json::json!(argument).to_string());
        }
    }
}
