//! Events of the log as rows for Postgres: read, sorted and freed of what a later event of the same batch overtakes.
//! Pure.

use std::collections::BTreeMap;

use partyline_shared::{
    event::{Event, EventError, Message, MessageDeleted, MessageEdited},
    ids::{ConversationId, MessageId, Seq, UserId},
    subjects,
};

/// One event with its place in the log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: Seq,
    pub event: Event,
}

/// Why an event of the log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A newer version's event: it waits for a persister of that version.
    #[error("unknown event type {0:?}")]
    UnknownType(String),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("its subject names another conversation, or none")]
    Subject,
    #[error("a seq is beyond what Postgres holds")]
    Range,
}

impl From<EventError> for Unreadable {
    fn from(error: EventError) -> Self {
        match error {
            EventError::UnknownType(kind) => Self::UnknownType(kind),
            EventError::Json(error) => Self::Json(error),
        }
    }
}

/// Reads what the log stores under a subject.
///
/// # Errors
/// [`Unreadable`].
pub fn read(subject: &str, payload: &[u8]) -> Result<Event, Unreadable> {
    let event = Event::from_json(payload)?;
    if subjects::parse_log(subject) != Some(event.conversation_id()) {
        return Err(Unreadable::Subject);
    }
    let named = match &event {
        Event::NewMessage(message) => message.reply_to.unwrap_or(0),
        Event::MessageEdited(edit) => edit.message_seq,
        Event::MessageDeleted(deletion) => deletion.message_seq,
        Event::Read(read) => read.last_read_seq,
        Event::ParticipantAdded(_) | Event::ParticipantRemoved(_) => 0,
    };
    if i64::try_from(named).is_err() {
        return Err(Unreadable::Range);
    }
    Ok(event)
}

/// The message that an edit or a deletion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub conversation_id: ConversationId,
    pub seq: Seq,
    pub message_id: MessageId,
}

/// The message that an event needs to be there first.
#[must_use]
pub fn target(event: &Event) -> Option<Target> {
    let (conversation_id, seq, message_id) = match event {
        Event::MessageEdited(it) => (it.conversation_id, it.message_seq, it.message_id),
        Event::MessageDeleted(it) => (it.conversation_id, it.message_seq, it.message_id),
        _ => return None,
    };
    Some(Target { conversation_id, seq, message_id })
}

/// What a batch writes. Every list is in one order for all persisters, so that they can't wait for each other.
#[derive(Debug, Default)]
pub struct Rows<'a> {
    /// By conversation and `seq`.
    pub messages: Vec<(Seq, &'a Message)>,
    /// The last edit of each message.
    pub edits: BTreeMap<Target, (Seq, &'a MessageEdited)>,
    /// The last deletion of each message.
    pub deletions: BTreeMap<Target, (Seq, &'a MessageDeleted)>,
    /// The highest marker of each reader; sending a message and being added move a marker, too.
    pub reads: BTreeMap<(ConversationId, &'a UserId), Seq>,
    /// Events of participants who come and go. The gateway itself writes the participants.
    pub participants: usize,
}

impl<'a> Rows<'a> {
    /// Sorts events into rows.
    #[must_use]
    pub fn of(entries: &'a [Entry]) -> Self {
        let mut rows = Self::default();
        for Entry { seq, event } in entries {
            match event {
                Event::NewMessage(message) => {
                    rows.messages.push((*seq, message));
                    // Who sends has read what came before.
                    rows.mark(message.conversation_id, &message.sender_id, *seq);
                }
                Event::MessageEdited(edit) => keep_latest(&mut rows.edits, target(event), *seq, edit),
                Event::MessageDeleted(deletion) => keep_latest(&mut rows.deletions, target(event), *seq, deletion),
                Event::Read(read) => rows.mark(read.conversation_id, &read.user_id, read.last_read_seq),
                Event::ParticipantAdded(added) => {
                    rows.participants += 1;
                    // An added participant has read everything before the event.
                    rows.mark(added.conversation_id, &added.participant.user_id, *seq);
                }
                Event::ParticipantRemoved(_) => rows.participants += 1,
            }
        }
        rows.messages.sort_unstable_by_key(|(seq, message)| (message.conversation_id, *seq));
        rows.messages.dedup_by_key(|(seq, message)| (message.conversation_id, *seq));
        rows
    }

    fn mark(&mut self, conversation: ConversationId, user: &'a UserId, seq: Seq) {
        let marker = self.reads.entry((conversation, user)).or_default();
        *marker = seq.max(*marker);
    }

    /// Every message that an edit or a deletion is about, once.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = self.edits.keys().chain(self.deletions.keys()).copied().collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}

fn keep_latest<'a, T>(latest: &mut BTreeMap<Target, (Seq, &'a T)>, target: Option<Target>, seq: Seq, change: &'a T) {
    let Some(target) = target else { return };
    let kept = latest.entry(target).or_insert((seq, change));
    if kept.0 < seq {
        *kept = (seq, change);
    }
}

#[cfg(test)]
mod tests;
