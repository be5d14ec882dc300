//! The frames of a measured person.

use uuid::Uuid;

use crate::{clock, marker::Marker};

/// The `ref` of a join; those of messages are their numbers.
pub(crate) const JOIN: &str = "join";

/// A `join_conversation`; with `after`, everything behind it comes.
pub(crate) fn join(conversation: &str, after: Option<u64>) -> String {
    let after = after.map(|held| format!(",\"after\":{held}")).unwrap_or_default();
    format!("{{\"type\":\"join_conversation\",\"ref\":\"{JOIN}\",\"conversation_id\":\"{conversation}\"{after}}}")
}

/// A `send_message` with a marker; the same one has the same `client_id` however often it is sent.
pub(crate) fn message(conversation: &str, marker: Marker, size: usize) -> String {
    let content = marker.content(size);
    let (number, client_id) = (marker.number, client_id(marker));
    format!(
        "{{\"type\":\"send_message\",\"ref\":\"{number}\",\"conversation_id\":\"{conversation}\",\
         \"client_id\":\"{client_id}\",\"content\":\"{content}\"}}"
    )
}

/// The `client_id` of a measured message: a UUID of version 7, as clients make them, of the moment when it was due.
pub(crate) fn client_id(marker: Marker) -> Uuid {
    let (run, number) = (u64::from(marker.run), u64::from(marker.number));
    let high = clock::unix_millis(marker.due) << 16 | 0x7000 | run >> 20;
    Uuid::from_u64_pair(high, 1 << 63 | (run & 0xf_ffff) << 32 | number)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use partyline_shared::{
        timestamp::Timestamp,
        wire::{Command, Request},
    };

    use super::*;

    #[test]
    fn the_server_understands_a_message() {
        let conversation = Uuid::now_v7().to_string();
        let due = clock::now();
        let ids: Vec<_> = [(7, 0), (7, 1), (7 << 20, 0), (7, 1)]
            .into_iter()
            .map(|(run, number)| {
                let marker = Marker { run, number, due };
                let request = Request::parse(&message(&conversation, marker, 200));
                assert_eq!(request.reference, Some(number.to_string()));
                let Ok(Command::SendMessage(message)) = request.command else { panic!("no message") };
                assert_eq!((message.conversation_id.to_string(), message.content.len()), (conversation.clone(), 200));
                message.client_id
            })
            .collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3);
        assert_eq!(ids[1], ids[3]);
        let made = Timestamp::of_uuid(ids[0].0).unwrap();
        assert!(made.age().as_seconds_f64().abs() < 5.0, "{made}");
    }

    #[test]
    fn the_server_understands_a_join() {
        let conversation = Uuid::now_v7().to_string();
        for after in [None, Some(0), Some(7)] {
            let request = Request::parse(&join(&conversation, after));
            let Ok(Command::JoinConversation(join)) = request.command else { panic!("no join") };
            assert_eq!(join.after, after);
        }
    }
}
