//! From an event of a client to the command that every transport knows. A client of the replaced server may name a
//! message by any `temp_id`, or not at all, and mark a conversation as read without a `seq`.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use partyline_shared::{
    ids::{ClientId, UserId},
    timestamp::Timestamp,
    wire::{Command, ErrorCode, MAX_REF_BYTES, MAX_SEQ, Refusal, TemporaryName},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Under which `temp_id`s become UUIDs (RFC 9562, version 5).
const NAMESPACE: Uuid = Uuid::from_u128(0x5f0c_2a51_93f4_4c6e_8b1d_70a4_6c29_e3d8);

/// An event, understood.
#[derive(Debug)]
pub struct Asked {
    pub command: Result<Command, Refusal>,
    /// The client's own name for a message, as JSON.
    pub temp_id: Option<Box<str>>,
}

/// What the `temp_id`s of a connection depend on.
#[derive(Clone, Copy, Debug)]
pub struct Naming<'a> {
    pub user: &'a UserId,
    /// Tells the pages of one user apart, and is the same after a reconnection.
    pub page: Uuid,
    /// How long the same name with the same fields is a repeat.
    pub lifetime: Duration,
    pub now: Timestamp,
}

impl Asked {
    /// Reads an event.
    #[must_use]
    pub fn read(name: &str, argument: Option<&RawValue>, naming: &Naming<'_>) -> Self {
        let mut asked = Self { command: Err(bad_request("an event carries one object")), temp_id: None };
        let Some(fields) = argument.map(RawValue::get).filter(|text| text.starts_with('{')) else { return asked };
        asked.command = match name {
            "send_message" => asked.read_message(fields, naming),
            "mark_read" => read_marker(fields),
            _ => Command::parse(name, fields),
        };
        asked
    }

    fn read_message(&mut self, fields: &str, naming: &Naming<'_>) -> Result<Command, Refusal> {
        #[derive(Deserialize)]
        struct Names<'a> {
            client_id: Option<IgnoredAny>,
            #[serde(borrow)]
            temp_id: Option<&'a RawValue>,
        }
        let names: Names<'_> = serde_json::from_str(fields).map_err(|error| bad_request(error.to_string()))?;
        if let Some(temp_id) = names.temp_id {
            let is_name =
                temp_id.get().starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit());
            if !is_name || temp_id.get().len() > MAX_REF_BYTES {
                return Err(bad_request(format!("temp_id is a string or a number of at most {MAX_REF_BYTES} bytes")));
            }
            self.temp_id = Some(temp_id.get().into());
        }
        if names.client_id.is_some() {
            return Command::parse("send_message", fields);
        }
        let (client_id, temporary) = if self.temp_id.is_some() {
            let (client_id, temporary) = naming.derive(fields);
            (client_id, Some(temporary))
        } else {
            (ClientId::generate(), None)
        };
        let mut command =
            Command::parse("send_message", &with_field(fields, "client_id", &format!("\"{client_id}\""))?)?;
        if let Command::SendMessage(message) = &mut command {
            message.temporary = temporary;
        }
        Ok(command)
    }
}

/// Without a `seq` all is read.
fn read_marker(fields: &str) -> Result<Command, Refusal> {
    #[derive(Deserialize)]
    struct Place {
        seq: Option<IgnoredAny>,
    }
    let place: Place = serde_json::from_str(fields).map_err(|error| bad_request(error.to_string()))?;
    match place.seq {
        Some(_) => Command::parse("mark_read", fields),
        None => Command::parse("mark_read", &with_field(fields, "seq", &MAX_SEQ.to_string())?),
    }
}

fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, message)
}

/// The object with a field, in place of a `null` of that name.
fn with_field(object: &str, name: &str, json: &str) -> Result<String, Refusal> {
    let set = || {
        let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(object)?;
        fields.insert(name.into(), serde_json::from_str(json)?);
        serde_json::to_string(&fields)
    };
    set().map_err(|error| bad_request(error.to_string()))
}

impl Naming<'_> {
    /// Makes the `client_id` of a message. A client that repeats a message repeats it whole, from the page that made its
    /// `temp_id`, and soon. Another page, or the same one later, may count its `temp_id`s from 1 again and means another
    /// message by the same words. So the `client_id` is another one in each period as long as a repeat is one, and a
    /// repeat is found under the one of this period or of the period before.
    fn derive(&self, fields: &str) -> (ClientId, TemporaryName) {
        let name = [self.user.as_str().as_bytes(), &[0], self.page.as_bytes(), fields.as_bytes()].concat();
        let root = Uuid::new_v5(&NAMESPACE, &name);
        let length = i64::try_from(self.lifetime.as_millis()).unwrap_or(i64::MAX).max(1);
        let period = self.now.unix_millis().div_euclid(length);
        let of_period = |period: i64| ClientId(Uuid::new_v5(&root, &period.to_be_bytes()));
        let temporary =
            TemporaryName { root: ClientId(root), previous: of_period(period - 1), lifetime: self.lifetime };
        (of_period(period), temporary)
    }
}

/// Tells the pages of one user apart, as far as a client can: by a `nonce` of its own, or by the `pid` that this server
/// gave it for this purpose and that it brings back when it reconnects (Socket.IO 4.6 and later).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub id: Uuid,
    /// Counts the page's connections: a client that gets back the `pid` that it brought takes its rooms for kept.
    connection: u64,
}

impl Page {
    /// The page behind a connection, from what the client authenticates with.
    #[must_use]
    pub fn of(nonce: Option<&str>, pid: Option<&str>) -> Self {
        let brought = pid.and_then(|pid| {
            let (id, connection) = pid.split_once('.')?;
            Some(Self { id: id.parse().ok()?, connection: connection.parse::<u64>().ok()?.wrapping_add(1) })
        });
        let mut page = brought.unwrap_or_else(|| Self { id: Uuid::new_v4(), connection: 1 });
        if let Some(nonce) = nonce {
            page.id = Uuid::new_v5(&NAMESPACE, nonce.as_bytes());
        }
        page
    }

    /// What the client gets, to bring it back.
    #[must_use]
    pub fn pid(&self) -> String {
        format!("{}.{}", self.id.simple(), self.connection)
    }
}

#[cfg(test)]
mod tests {
    use partyline_shared::wire::SendMessage;
    use time::OffsetDateTime;

    use super::*;

    const CONVERSATION: &str = "\"conversation_id\":\"0198f0a2-0000-7000-8000-000000000001\"";

    const PAGE: Uuid = Uuid::from_u128(7);

    const LIFETIME: Duration = Duration::from_secs(600);

    fn naming(user: &UserId) -> Naming<'_> {
        // In the middle of a period.
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_300).unwrap().into();
        Naming { user, page: PAGE, lifetime: LIFETIME, now }
    }

    fn asked(name: &str, fields: &str, user: &str) -> Asked {
        let raw = RawValue::from_string(fields.into()).unwrap();
        Asked::read(name, Some(&raw), &naming(&UserId::new(user).unwrap()))
    }

    fn sent(fields: &str, user: &str) -> (SendMessage, Option<Box<str>>) {
        let asked = asked("send_message", &format!("{{{CONVERSATION},{fields}}}"), user);
        let Ok(Command::SendMessage(message)) = asked.command else { panic!("{asked:?}") };
        (message, asked.temp_id)
    }

    fn code(name: &str, fields: &str) -> ErrorCode {
        asked(name, fields, "u").command.unwrap_err().code
    }

    #[test]
    fn a_temp_id_names_what_a_page_of_a_user_emitted() {
        let hi = "\"content\":\"hi\",\"temp_id\":\"1\"";
        let (first, temp_id) = sent(hi, "u");
        assert_eq!(temp_id.as_deref(), Some("\"1\""));
        assert_eq!(first.content, "hi");
        assert_eq!(sent(hi, "u").0.client_id, first.client_id);
        assert_ne!(sent(hi, "v").0.client_id, first.client_id);
        assert_ne!(sent("\"content\":\"ho\",\"temp_id\":\"1\"", "u").0.client_id, first.client_id);
        assert_ne!(sent("\"content\":\"hi\",\"temp_id\":\"2\"", "u").0.client_id, first.client_id);
        assert_eq!(sent("\"content\":\"hi\",\"temp_id\":17", "u").1.as_deref(), Some("17"));
        let user = UserId::new("u").unwrap();
        let other_page = Naming { page: Uuid::from_u128(8), ..naming(&user) };
        assert_eq!(naming(&user).derive("x"), naming(&user).derive("x"));
        assert_ne!(naming(&user).derive("x").1.root, other_page.derive("x").1.root);
        assert_eq!(sent("\"content\":\"hi\"", "u").0.temporary, None);
    }

    #[test]
    fn client_id_of_a_temp_id_lasts_for_two_periods() {
        let user = UserId::new("u").unwrap();
        let after = |seconds: i64| {
            let now = naming(&user).now.to_datetime() + time::Duration::seconds(seconds);
            Naming { now: now.into(), ..naming(&user) }.derive("x")
        };
        let (first, temporary) = after(0);
        assert_eq!(temporary.lifetime, LIFETIME);
        assert_eq!(after(299), (first, temporary));
        let (next, of_next) = after(301);
        assert_ne!(next, first);
        assert_eq!((of_next.previous, of_next.root), (first, temporary.root));
        let (later, of_later) = after(901);
        assert!(later != first && of_later.previous == next);
        assert_eq!(of_later.root, temporary.root);
    }

    #[test]
    fn a_page_is_known_by_its_nonce_or_by_the_pid_that_it_brings_back() {
        let first = Page::of(None, None);
        assert_ne!(Page::of(None, None).id, first.id);
        let again = Page::of(None, Some(&first.pid()));
        assert_eq!(again.id, first.id);
        assert_ne!(again.pid(), first.pid());
        assert_eq!(Page::of(None, Some(&again.pid())).id, first.id);
        let named = Page::of(Some("n"), None);
        assert_eq!(Page::of(Some("n"), Some(&first.pid())).id, named.id);
        assert_ne!(Page::of(Some("m"), None).id, named.id);
        for not_ours in ["", "x", "x.1", "0198f0a2000070008000000000000001", "0198f0a2000070008000000000000001.x"] {
            assert_eq!(Page::of(None, Some(not_ours)).connection, 1, "{not_ours}");
        }
    }

    #[test]
    fn the_clients_own_name_goes_first() {
        let id = ClientId::generate();
        let (message, temp_id) = sent(&format!("\"content\":\"hi\",\"temp_id\":\"1\",\"client_id\":\"{id}\""), "u");
        assert_eq!((message.client_id, temp_id.as_deref()), (id, Some("\"1\"")));
        assert_ne!(sent("\"content\":\"hi\"", "u").0.client_id, sent("\"content\":\"hi\"", "u").0.client_id);
        assert_eq!(sent("\"content\":\"hi\",\"client_id\":null,\"temp_id\":null", "u").1, None);
    }

    #[test]
    fn without_a_seq_all_is_read() {
        let all = asked("mark_read", &format!("{{{CONVERSATION}}}"), "u").command;
        assert!(matches!(all, Ok(Command::MarkRead(it)) if it.seq == MAX_SEQ));
        let some = asked("mark_read", &format!("{{{CONVERSATION},\"seq\":5}}"), "u").command;
        assert!(matches!(some, Ok(Command::MarkRead(it)) if it.seq == 5));
        let null = asked("mark_read", &format!("{{{CONVERSATION},\"seq\":null}}"), "u").command;
        assert!(matches!(null, Ok(Command::MarkRead(it)) if it.seq == MAX_SEQ));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert_eq!(code("dance", "{}"), ErrorCode::UnknownType);
        assert_eq!(code("send_message", "{}"), ErrorCode::BadRequest);
        assert_eq!(code("send_message", "{\"temp_id\":{}}"), ErrorCode::BadRequest);
        assert_eq!(code("send_message", &format!("{{\"temp_id\":\"{}\"}}", "x".repeat(127))), ErrorCode::BadRequest);
        assert_eq!(code("send_message", "[]"), ErrorCode::BadRequest);
        assert_eq!(code("mark_read", "{}"), ErrorCode::BadRequest);
        let none = Asked::read("typing", None, &naming(&UserId::new("u").unwrap())).command;
        assert_eq!(none.unwrap_err().code, ErrorCode::BadRequest);
    }
}
