//! Messages as pages show them, whether Postgres holds them yet or not.

pub mod current;
pub mod overlay;
pub mod resume;
pub mod tail;

use partyline_shared::{
    event::{Event, Message},
    ids::{ConversationId, Seq},
    timestamp::Timestamp,
    wire::Refusal,
};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use self::tail::Tail;
use crate::{
    log::{Entry, Log},
    store::Store,
};

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

/// Which messages a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// The newest.
    Last,
    /// The newest before a place.
    Before(Seq),
    /// The oldest after a place.
    After(Seq),
}

/// Messages in order, oldest first.
#[derive(Clone, Debug)]
pub struct Page {
    pub messages: Vec<HistoryMessage>,
    /// There are messages before the first one.
    pub has_older: bool,
    /// There are messages after the last one.
    pub has_newer: bool,
}

/// A page of a conversation, with what was acknowledged a moment ago.
///
/// # Errors
/// `unavailable`.
pub async fn page(
    store: &Store,
    log: &Log,
    conversation: ConversationId,
    range: Range,
    limit: u32,
) -> Result<Page, Refusal> {
    // The tail's floor is read before Postgres, which therefore holds everything up to it.
    let tail = Tail::read(log, conversation, range, limit as usize + 1).await?;
    // One more tells whether there are others, and the first one's predecessor.
    let stored = match range {
        Range::Last => store.messages_before(conversation, None, limit + 1).await,
        Range::Before(before) => store.messages_before(conversation, Some(before), limit + 1).await,
        Range::After(after) => store.messages_after(conversation, after, limit + 1).await,
    };
    let stored = stored.map_err(unavailable)?;
    let mut page = assemble(&tail, stored, range, limit as usize);
    if let Some(first) = lacks_predecessor(&page, range) {
        let before = store.messages_before(conversation, Some(first), 1).await.map_err(unavailable)?;
        set_predecessor(&mut page, before.last().map_or(0, |it| it.seq));
    }
    Ok(page)
}

/// The page out of what the tail and Postgres have of it, each with one message more than the page if there are more.
fn assemble(tail: &Tail, stored: Vec<HistoryMessage>, range: Range, limit: usize) -> Page {
    let mut messages = tail.merge(stored);
    let has_more = messages.len() > limit;
    if let Range::After(after) = range {
        messages.truncate(limit);
        if let Some(first) = messages.first_mut() {
            // Postgres may hold the first message and lack the one before it.
            first.prev_seq = first.prev_seq.max(tail.before_range);
        }
        let has_older = messages.first().map_or(after > 0, |first| first.prev_seq > 0);
        return Page { messages, has_older, has_newer: has_more };
    }
    if has_more {
        messages.drain(..messages.len() - limit);
    }
    Page { messages, has_older: has_more, has_newer: matches!(range, Range::Before(_)) }
}

/// The first message of a page after a place, if what stands before it is not known: it is not in the tail.
fn lacks_predecessor(page: &Page, range: Range) -> Option<Seq> {
    let first = page.messages.first().filter(|first| first.prev_seq == 0)?;
    matches!(range, Range::After(after) if after > 0).then_some(first.seq)
}

/// Names the message before a page's first one; 0 for none.
fn set_predecessor(page: &mut Page, seq: Seq) {
    if let Some(first) = page.messages.first_mut() {
        first.prev_seq = seq;
        page.has_older = seq > 0;
    }
}

/// The message at a place, as it was sent. The log is asked first, and Postgres only for what the log no longer holds.
///
/// # Errors
/// `unavailable`.
pub async fn original(
    store: &Store,
    log: &Log,
    conversation: ConversationId,
    seq: Seq,
) -> Result<Option<Message>, Refusal> {
    match log.at(conversation, seq).await? {
        Some(entry) => Ok(message_of(&entry)),
        None => Ok(stored(store, conversation, seq).await?.map(|it| it.message)),
    }
}

fn message_of(entry: &Entry) -> Option<Message> {
    match Event::from_json(&entry.payload) {
        Ok(Event::NewMessage(message)) => Some(message),
        _ => None,
    }
}

/// The message at a place, as Postgres holds it.
async fn stored(store: &Store, conversation: ConversationId, seq: Seq) -> Result<Option<HistoryMessage>, Refusal> {
    store.message(conversation, seq).await.map_err(unavailable)
}

fn unavailable(error: sqlx::Error) -> Refusal {
    tracing::warn!(%error, "history not read");
    Refusal::unavailable("the database")
}

#[cfg(test)]
mod tests;
