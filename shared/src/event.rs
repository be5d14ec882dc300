//! What the log stores. An event's JSON is already the client's frame but for `seq` and `prev_seq`,
//! which only JetStream knows; a gateway adds those two and changes nothing else.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    claims::UserType,
    ids::{ClientId, ConversationId, MessageId, Seq, UserId},
    timestamp::Timestamp,
};

/// What a message is; the client renders by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    #[default]
    Text,
    Quote,
    BookingUpdate,
    File,
    /// Only by `scope: service`.
    System,
}

impl MessageType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Quote => "quote",
            Self::BookingUpdate => "booking_update",
            Self::File => "file",
            Self::System => "system",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "text" => Self::Text,
            "quote" => Self::Quote,
            "booking_update" => Self::BookingUpdate,
            "file" => Self::File,
            "system" => Self::System,
            _ => return None,
        })
    }
}

/// A message as sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    pub conversation_id: ConversationId,
    pub message_id: MessageId,
    pub client_id: ClientId,
    pub sender_id: UserId,
    pub sender_username: String,
    pub sender_type: UserType,
    pub content: String,
    pub message_type: MessageType,
    /// A JSON object of at most 4 KiB as it came, made compact.
    pub metadata: Box<RawValue>,
    /// The `seq` of the message that this one answers.
    pub reply_to: Option<Seq>,
    pub created_at: Timestamp,
}

/// A participant's part in a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Made the group; may add and remove others.
    Owner,
    #[default]
    Member,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Member => "member",
        }
    }

    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        if text == "owner" { Self::Owner } else { Self::Member }
    }
}

/// A participant as events and lists show one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Participant {
    pub user_id: UserId,
    pub username: String,
    pub user_type: UserType,
    pub role: Role,
    /// The last `seq` that this participant has read; 0 before the first.
    pub last_read_seq: Seq,
}

/// A message's content was replaced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageEdited {
    pub conversation_id: ConversationId,
    /// The message's `seq`.
    pub message_seq: Seq,
    pub message_id: MessageId,
    pub editor_id: UserId,
    pub content: String,
    pub edited_at: Timestamp,
}

/// A message was taken back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageDeleted {
    pub conversation_id: ConversationId,
    /// The message's `seq`.
    pub message_seq: Seq,
    pub message_id: MessageId,
    pub deleted_by: UserId,
    pub deleted_at: Timestamp,
}

/// A read marker moved; it never moves back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Read {
    pub conversation_id: ConversationId,
    pub user_id: UserId,
    pub last_read_seq: Seq,
    pub read_at: Timestamp,
}

/// Somebody takes part from here on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ParticipantAdded {
    pub conversation_id: ConversationId,
    pub participant: Participant,
    pub added_by: UserId,
}

/// Somebody left or was removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ParticipantRemoved {
    pub conversation_id: ConversationId,
    pub user_id: UserId,
    pub removed_by: UserId,
}

/// One event of a conversation's log. The names of the variants are the `type` of the client's frame.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    NewMessage(Message),
    MessageEdited(MessageEdited),
    MessageDeleted(MessageDeleted),
    Read(Read),
    ParticipantAdded(ParticipantAdded),
    ParticipantRemoved(ParticipantRemoved),
}

/// Why an event can't be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// An event of a newer version, in all likelihood.
    #[error("unknown event type {0:?}")]
    UnknownType(String),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Event {
    /// Reads what the log stores.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn from_json(json: &[u8]) -> Result<Self, EventError> {
        // Not derived: serde buffers internally tagged enums, which a raw `metadata` doesn't survive.
        #[derive(Deserialize)]
        struct Tag<'a> {
            #[serde(rename = "type", borrow)]
            kind: std::borrow::Cow<'a, str>,
        }
        let Tag { kind } = serde_json::from_slice(json)?;
        Ok(match &*kind {
            "new_message" => Self::NewMessage(serde_json::from_slice(json)?),
            "message_edited" => Self::MessageEdited(serde_json::from_slice(json)?),
            "message_deleted" => Self::MessageDeleted(serde_json::from_slice(json)?),
            "read" => Self::Read(serde_json::from_slice(json)?),
            "participant_added" => Self::ParticipantAdded(serde_json::from_slice(json)?),
            "participant_removed" => Self::ParticipantRemoved(serde_json::from_slice(json)?),
            other => return Err(EventError::UnknownType(other.to_owned())),
        })
    }

    #[must_use]
    pub fn conversation_id(&self) -> ConversationId {
        match self {
            Self::NewMessage(it) => it.conversation_id,
            Self::MessageEdited(it) => it.conversation_id,
            Self::MessageDeleted(it) => it.conversation_id,
            Self::Read(it) => it.conversation_id,
            Self::ParticipantAdded(it) => it.conversation_id,
            Self::ParticipantRemoved(it) => it.conversation_id,
        }
    }
}

/// The value of `Nats-Msg-Id` for a message: deduplication spans a whole stream, so it names all three.
#[must_use]
pub fn dedup_id(conversation: ConversationId, sender: &UserId, client_id: ClientId) -> String {
    format!("{conversation}.{client_id}.{sender}")
}

/// The value of `Nats-Msg-Id` for a change that comes from the outbox.
#[must_use]
pub fn outbox_dedup_id(conversation: ConversationId, event_id: uuid::Uuid) -> String {
    format!("{conversation}.{event_id}.outbox")
}

/// The value of `Nats-Msg-Id` for a deletion: a message is deleted once. No `client_id` looks like this.
#[must_use]
pub fn deletion_dedup_id(conversation: ConversationId, message: MessageId) -> String {
    format!("{conversation}.deleted.{message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_clients_frame_without_its_place() {
        let event = Event::NewMessage(Message {
            conversation_id: ConversationId::generate(),
            message_id: MessageId::generate(),
            client_id: ClientId::generate(),
            sender_id: UserId::new("u").unwrap(),
            sender_username: "U".into(),
            sender_type: UserType::Vendor,
            content: "hi \"there\"".into(),
            message_type: MessageType::Text,
            metadata: RawValue::from_string("{\"k\": 1}".into()).unwrap(),
            reply_to: None,
            created_at: Timestamp::now(),
        });
        let json = serde_json::to_string(&event).unwrap();
        assert!(json.starts_with("{\"type\":\"new_message\","), "{json}");
        assert!(json.contains("\"metadata\":{\"k\": 1}"), "{json}");
        let back = Event::from_json(json.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), json);
    }
}
