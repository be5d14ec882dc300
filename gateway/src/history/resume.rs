//! What happened after a place, from Postgres: for clients who were away longer than the log keeps events. Read markers
//! and participants are not among it, since every answer to a join tells them whole.

use partyline_shared::{
    event::{Event, MessageDeleted, MessageEdited},
    ids::{ConversationId, Seq},
    wire::Refusal,
};
use serde_json::value::RawValue;

use super::HistoryMessage;
use crate::{encode, log::Entry, store::Store};

/// An event as a client gets it.
#[derive(Clone, Debug)]
pub struct Resumed {
    pub seq: Seq,
    pub json: Vec<u8>,
}

/// Events from Postgres.
#[derive(Clone, Debug)]
pub struct FromStore {
    pub events: Vec<Resumed>,
    /// There are more after the last one.
    pub more: bool,
    /// Everything up to here is among the events.
    pub reaches: Seq,
}

/// Writes a message as the frame that made it, in its current state.
pub fn write_message(message: &HistoryMessage, json: &mut Vec<u8>) {
    json.extend_from_slice(b"{\"type\":\"new_message\",");
    let start = json.len();
    match serde_json::to_writer(&mut *json, message) {
        // The type stands in for the object's own brace.
        Ok(()) => drop(json.remove(start)),
        Err(error) => tracing::error!(%error, "a message has no JSON"),
    }
}

/// The same as a JSON value of its own.
#[must_use]
pub fn raw_message(message: &HistoryMessage) -> Option<Box<RawValue>> {
    let mut json = Vec::new();
    write_message(message, &mut json);
    RawValue::from_string(String::from_utf8(json).ok()?).ok()
}

/// Events after `after` up to `floor`, at most `limit` messages: new messages in their current state, and the last
/// edit or deletion of older ones. `prev_seq` chains what is told.
///
/// # Errors
/// `unavailable`.
pub async fn from_store(
    store: &Store,
    conversation: ConversationId,
    after: Seq,
    floor: Seq,
    limit: u32,
) -> Result<FromStore, Refusal> {
    let unavailable = |error: sqlx::Error| {
        tracing::warn!(%error, "history not read");
        Refusal::unavailable("the database")
    };
    let messages = store.messages_after(conversation, after, limit).await.map_err(unavailable)?;
    let changed = store.changes_after(conversation, after, limit).await.map_err(unavailable)?;
    Ok(chain(messages, changed, after, floor, limit as usize))
}

pub(super) fn chain(
    messages: Vec<HistoryMessage>,
    changed: Vec<HistoryMessage>,
    after: Seq,
    floor: Seq,
    limit: usize,
) -> FromStore {
    // A full list ends at its last entry; what the other list has beyond that comes with the next page.
    let mut reaches = floor;
    let messages_full = messages.len() >= limit;
    let changed_full = changed.len() >= limit;
    if messages_full {
        reaches = reaches.min(messages.last().map_or(after, |it| it.seq));
    }
    let mut changes: Vec<(Seq, Event)> = changed.iter().flat_map(changes_of).filter(|(seq, _)| *seq > after).collect();
    changes.sort_by_key(|(seq, _)| *seq);
    if changed_full {
        reaches = reaches.min(changes.last().map_or(after, |(seq, _)| *seq));
    }
    let mut events: Vec<(Seq, Told)> = messages
        .into_iter()
        .map(|it| (it.seq, Told::Message(Box::new(it))))
        .chain(changes.into_iter().map(|(seq, event)| (seq, Told::Change(event))))
        .filter(|(seq, _)| *seq <= reaches)
        .collect();
    events.sort_by_key(|(seq, _)| *seq);
    let mut prev_seq = after;
    let events = events
        .into_iter()
        .map(|(seq, told)| {
            let json = told.json(seq, prev_seq);
            prev_seq = seq;
            Resumed { seq, json }
        })
        .collect();
    FromStore { events, more: messages_full || changed_full, reaches }
}

enum Told {
    Message(Box<HistoryMessage>),
    Change(Event),
}

impl Told {
    fn json(self, seq: Seq, prev_seq: Seq) -> Vec<u8> {
        let mut json = Vec::new();
        match self {
            Self::Message(message) => write_message(&HistoryMessage { prev_seq, ..*message }, &mut json),
            Self::Change(event) => match serde_json::to_vec(&event) {
                Ok(payload) => encode::event_json(&Entry { seq, prev_seq, payload: payload.into() }, &mut json),
                Err(error) => tracing::error!(%error, "an event has no JSON"),
            },
        }
        json
    }
}

/// The last edit and the deletion of a message, as the events that they were. A deletion tells who only if it was the
/// sender; a service's name is not kept.
fn changes_of(it: &HistoryMessage) -> Vec<(Seq, Event)> {
    let message = &it.message;
    let mut changes = Vec::new();
    if let (Some(seq), Some(edited_at), None) = (it.edited_seq, it.edited_at, it.deleted_seq) {
        changes.push((
            seq,
            Event::MessageEdited(MessageEdited {
                conversation_id: message.conversation_id,
                message_seq: it.seq,
                message_id: message.message_id,
                editor_id: message.sender_id.clone(),
                content: message.content.clone(),
                edited_at,
            }),
        ));
    }
    if let (Some(seq), Some(deleted_at)) = (it.deleted_seq, it.deleted_at) {
        changes.push((
            seq,
            Event::MessageDeleted(MessageDeleted {
                conversation_id: message.conversation_id,
                message_seq: it.seq,
                message_id: message.message_id,
                deleted_by: message.sender_id.clone(),
                deleted_at,
            }),
        ));
    }
    changes
}
