//! The frames of a measured person.

use uuid::Uuid;

use crate::marker::Marker;

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

/// The `client_id` of a measured message, a UUID of version 4 by its form.
pub(crate) fn client_id(marker: Marker) -> Uuid {
    Uuid::from_u64_pair(u64::from(marker.run) << 32 | 0x4000, 1 << 63 | u64::from(marker.number))
}

#[cfg(test)]
mod tests {
    use partyline_shared::wire::{Command, Request};

    use super::*;

    #[test]
    fn the_server_understands_a_message() {
        let conversation = Uuid::now_v7().to_string();
        let ids: Vec<_> = (0..2)
            .map(|number| {
                let marker = Marker { run: 7, number, due: u64::MAX };
                let request = Request::parse(&message(&conversation, marker, 200));
                assert_eq!(request.reference, Some(number.to_string()));
                let Ok(Command::SendMessage(message)) = request.command else { panic!("no message") };
                assert_eq!((message.conversation_id.to_string(), message.content.len()), (conversation.clone(), 200));
                message.client_id
            })
            .collect();
        assert_ne!(ids[0], ids[1]);
        assert_eq!((ids[0].0.get_version_num(), ids[0].0.get_variant()), (4, uuid::Variant::RFC4122));
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
