//! Messages as pages show them, whether Postgres holds them yet or not.

use partyline_shared::{event::Message, ids::Seq, timestamp::Timestamp};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A message in its current state, with its place.
#[derive(Clone, Debug)]
pub struct HistoryMessage {
    pub message: Message,
    pub seq: Seq,
    /// In pages: the message before it in the conversation; 0 for the first.
    pub prev_seq: Seq,
    pub edited_at: Option<Timestamp>,
    /// The place of the last edit in the log.
    pub edited_seq: Option<Seq>,
    pub deleted_at: Option<Timestamp>,
    /// The place of the deletion in the log.
    pub deleted_seq: Option<Seq>,
}

impl HistoryMessage {
    /// A deleted message keeps its place and loses what it said.
    pub fn hide_deleted(&mut self) {
        if self.deleted_seq.is_some() {
            self.message.content.clear();
            self.message.metadata = empty_object();
        }
    }
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

impl Serialize for HistoryMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let message = &self.message;
        let mut fields = serializer.serialize_struct("Message", 15)?;
        fields.serialize_field("conversation_id", &message.conversation_id)?;
        fields.serialize_field("seq", &self.seq)?;
        fields.serialize_field("prev_seq", &self.prev_seq)?;
        fields.serialize_field("message_id", &message.message_id)?;
        fields.serialize_field("client_id", &message.client_id)?;
        fields.serialize_field("sender_id", &message.sender_id)?;
        fields.serialize_field("sender_username", &message.sender_username)?;
        fields.serialize_field("sender_type", &message.sender_type)?;
        fields.serialize_field("content", &message.content)?;
        fields.serialize_field("message_type", &message.message_type)?;
        fields.serialize_field("metadata", &message.metadata)?;
        fields.serialize_field("reply_to", &message.reply_to)?;
        fields.serialize_field("created_at", &message.created_at)?;
        fields.serialize_field("edited_at", &self.edited_at)?;
        fields.serialize_field("deleted_at", &self.deleted_at)?;
        fields.end()
    }
}
