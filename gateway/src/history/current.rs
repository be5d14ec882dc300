//! A message in its current state, for a change that is only right while that state holds.

use partyline_shared::{
    event::{Event, MessageDeleted, MessageEdited},
    ids::{ConversationId, Seq},
    wire::Refusal,
};

use super::{HistoryMessage, message_of, stored};
use crate::{
    log::{Entry, Log},
    store::Store,
};

/// Events in one read.
const BATCH: usize = 512;

/// A message, and the place up to which the log was read for it.
#[derive(Clone, Debug)]
pub struct Current {
    pub message: HistoryMessage,
    /// The newest event of the conversation in the log; 0 if the log has none. No event up to here changes the message
    /// further.
    pub head: Seq,
    /// A newer message was seen in the log.
    has_successor: bool,
    /// Messages up to here were not looked at.
    unread_up_to: Seq,
}

impl Current {
    /// Reads the message at a place: from the log if it still holds it, from Postgres otherwise, and what happened to it
    /// since. If Postgres is away, a message in the log is followed through the log alone.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn read(
        store: &Store,
        log: &Log,
        conversation: ConversationId,
        seq: Seq,
    ) -> Result<Option<Self>, Refusal> {
        // The floor is known before Postgres is asked, which therefore holds everything up to it.
        let floor = log.watermark(conversation).await?.floor;
        let (message, after) = match log.at(conversation, seq).await? {
            None => (stored(store, conversation, seq).await?, floor),
            Some(entry) => {
                let Some(message) = message_of(&entry) else { return Ok(None) };
                let sent = HistoryMessage {
                    message,
                    seq,
                    prev_seq: 0,
                    edited_at: None,
                    edited_seq: None,
                    deleted_at: None,
                    deleted_seq: None,
                };
                let held = if seq <= floor { stored(store, conversation, seq).await.ok().flatten() } else { None };
                // What the log still holds of the message, it holds of everything later.
                let after = if held.is_some() { floor } else { seq };
                (Some(held.unwrap_or(sent)), after)
            }
        };
        let Some(message) = message else { return Ok(None) };
        let unread_up_to = if after > seq { after } else { 0 };
        let mut current = Self { message, head: after, has_successor: false, unread_up_to };
        current.catch_up(log).await?;
        Ok(Some(current))
    }

    /// Takes in what was appended since the last look.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn catch_up(&mut self, log: &Log) -> Result<(), Refusal> {
        let conversation = self.message.message.conversation_id;
        let head = log.head(conversation).await?.map_or(0, |entry| entry.seq);
        let (mut cursor, mut newest) = (self.head, head);
        while cursor < head {
            let entries = log.read_up_to(conversation, cursor, head, BATCH).await?;
            let Some(last) = entries.last() else { break };
            cursor = last.seq;
            // There may be more by now than the head that was read.
            newest = newest.max(cursor);
            entries.iter().for_each(|entry| self.take(entry));
        }
        self.head = newest;
        Ok(())
    }

    fn take(&mut self, entry: &Entry) {
        match Event::from_json(&entry.payload) {
            Ok(Event::NewMessage(_)) => self.has_successor |= entry.seq > self.message.seq,
            Ok(Event::MessageEdited(edit)) if edit.message_seq == self.message.seq => self.edit(entry.seq, edit),
            Ok(Event::MessageDeleted(it)) if it.message_seq == self.message.seq => self.delete(entry.seq, &it),
            _ => {}
        }
    }

    /// Applies an edit that stands at `seq`.
    pub fn edit(&mut self, seq: Seq, edit: MessageEdited) {
        if self.message.deleted_seq.is_none() && self.message.edited_seq.is_none_or(|held| held < seq) {
            self.message.message.content = edit.content;
            self.message.edited_at = Some(edit.edited_at);
            self.message.edited_seq = Some(seq);
        }
    }

    /// Applies a deletion that stands at `seq`.
    pub fn delete(&mut self, seq: Seq, deletion: &MessageDeleted) {
        self.message.deleted_at.get_or_insert(deletion.deleted_at);
        self.message.deleted_seq.get_or_insert(seq);
        self.message.hide_deleted();
    }

    /// Whether no later message of the conversation is known. `false` also if that can't be told now.
    pub async fn is_newest(&self, store: &Store) -> bool {
        if self.has_successor {
            return false;
        }
        if self.unread_up_to == 0 {
            return true;
        }
        let message = &self.message;
        let later = store.messages_after(message.message.conversation_id, message.seq, 1).await;
        later.is_ok_and(|later| later.is_empty())
    }
}
