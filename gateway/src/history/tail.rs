//! The end of a conversation's log that Postgres may not hold yet.

use std::collections::{BTreeMap, HashMap};

use partyline_shared::{
    event::{Event, MessageDeleted, MessageEdited},
    ids::{ConversationId, Seq, UserId},
    wire::Refusal,
};

use super::{HistoryMessage, Range};
use crate::log::{Entry, Log};

/// Events in one read.
const BATCH: usize = 512;

/// What the log's end says of a conversation's messages. Bounded by the page that is wanted and by the number of
/// edits and deletions, not by the length of the tail.
#[derive(Debug, Default)]
pub struct Tail {
    messages: BTreeMap<Seq, HistoryMessage>,
    edits: HashMap<Seq, (Seq, MessageEdited)>,
    deletions: HashMap<Seq, (Seq, MessageDeleted)>,
    /// Where read markers went: by a `read` event, by a message of one's own, or by being added.
    markers: HashMap<UserId, Seq>,
    /// The newest message that lies before the range.
    pub before_range: Seq,
    /// Postgres holds everything up to here; everything later is in the tail.
    pub floor: Seq,
}

impl Tail {
    /// Reads what is after the persister's floor; keeps at most `keep` messages of the range.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn read(log: &Log, conversation: ConversationId, range: Range, keep: usize) -> Result<Self, Refusal> {
        let floor = log.watermark(conversation).await?.floor;
        Self::read_from(log, conversation, floor, range, keep).await
    }

    /// The same from a floor that was read before.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn read_from(
        log: &Log,
        conversation: ConversationId,
        floor: Seq,
        range: Range,
        keep: usize,
    ) -> Result<Self, Refusal> {
        let mut tail = Self { floor, ..Self::default() };
        let head = log.head(conversation).await?.map_or(0, |entry| entry.seq);
        let mut cursor = floor;
        while cursor < head {
            // What retention removes meanwhile is in Postgres, which is read afterwards.
            let entries = log.read_stored(conversation, cursor, head, BATCH).await?;
            let Some(last) = entries.last() else { break };
            cursor = last.seq;
            entries.iter().for_each(|entry| tail.add(entry, range, keep));
        }
        Ok(tail)
    }

    pub(super) fn add(&mut self, entry: &Entry, range: Range, keep: usize) {
        match Event::from_json(&entry.payload) {
            Ok(Event::NewMessage(message)) => {
                self.mark(&message.sender_id, entry.seq);
                let message = HistoryMessage {
                    message,
                    seq: entry.seq,
                    prev_seq: 0,
                    edited_at: None,
                    edited_seq: None,
                    deleted_at: None,
                    deleted_seq: None,
                };
                self.keep(message, range, keep);
            }
            Ok(Event::MessageEdited(it)) => drop(self.edits.insert(it.message_seq, (entry.seq, it))),
            Ok(Event::MessageDeleted(it)) => drop(self.deletions.insert(it.message_seq, (entry.seq, it))),
            Ok(Event::Read(it)) => self.mark(&it.user_id, it.last_read_seq),
            // An added participant has read everything before the event.
            Ok(Event::ParticipantAdded(it)) => self.mark(&it.participant.user_id, entry.seq),
            Ok(Event::ParticipantRemoved(_)) => {}
            // The error may quote the event.
            Err(_) => tracing::warn!(seq = entry.seq, "an event that this version doesn't know"),
        }
    }

    fn mark(&mut self, user: &UserId, seq: Seq) {
        match self.markers.get_mut(user) {
            Some(marker) => *marker = seq.max(*marker),
            None => drop(self.markers.insert(user.clone(), seq)),
        }
    }

    fn keep(&mut self, message: HistoryMessage, range: Range, keep: usize) {
        let seq = message.seq;
        match range {
            Range::Before(before) if seq >= before => {}
            Range::After(after) if seq <= after => self.before_range = self.before_range.max(seq),
            Range::After(_) if self.messages.len() >= keep => {}
            _ => {
                self.messages.insert(seq, message);
                // The newest count, unless the range begins at a place.
                if self.messages.len() > keep {
                    self.messages.pop_first();
                }
            }
        }
    }

    /// Others' messages after a place that `user` has not read.
    #[must_use]
    pub fn unread(&self, user: &UserId, after: Seq) -> u32 {
        let after = after.max(self.marker(user));
        let unread = |it: &&HistoryMessage| {
            it.seq > after && it.message.sender_id != *user && !self.deletions.contains_key(&it.seq)
        };
        u32::try_from(self.messages.values().filter(unread).count()).unwrap_or(u32::MAX)
    }

    /// Whether nothing in it moves what is unread.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.messages.is_empty() && self.markers.is_empty() && self.deletions.is_empty()
    }

    /// Places of the messages that were deleted in the tail, whether they stand in it or before.
    #[must_use]
    pub fn deleted(&self) -> Vec<Seq> {
        self.deletions.keys().copied().collect()
    }

    /// Where somebody's read marker went; 0 if it didn't move.
    #[must_use]
    pub fn marker(&self, user: &UserId) -> Seq {
        self.markers.get(user).copied().unwrap_or(0)
    }

    /// Where read markers went, by user.
    #[must_use]
    pub fn into_markers(self) -> HashMap<UserId, Seq> {
        self.markers
    }

    /// The messages of the tail alone, changes applied.
    #[must_use]
    pub fn messages(&self) -> Vec<HistoryMessage> {
        self.merge(Vec::new())
    }

    /// Stored messages and those of the tail in one order, each with what happened to it and its predecessor.
    /// The first keeps the predecessor that Postgres named.
    #[must_use]
    pub fn merge(&self, stored: Vec<HistoryMessage>) -> Vec<HistoryMessage> {
        let mut all = self.messages.clone();
        all.extend(stored.into_iter().map(|message| (message.seq, message)));
        let mut merged: Vec<_> = all.into_values().collect();
        for message in &mut merged {
            self.apply(message);
        }
        for place in 1..merged.len() {
            merged[place].prev_seq = merged[place - 1].seq;
        }
        merged
    }

    fn apply(&self, message: &mut HistoryMessage) {
        if let Some((seq, edit)) = self.edits.get(&message.seq)
            && message.edited_seq.is_none_or(|held| held < *seq)
        {
            message.message.content.clone_from(&edit.content);
            message.edited_at = Some(edit.edited_at);
            message.edited_seq = Some(*seq);
        }
        if let Some((seq, deletion)) = self.deletions.get(&message.seq) {
            message.deleted_at.get_or_insert(deletion.deleted_at);
            message.deleted_seq.get_or_insert(*seq);
        }
        message.hide_deleted();
    }
}

#[cfg(test)]
mod tests {
    use partyline_shared::{
        claims::UserType,
        event::{Message, MessageType},
        ids::{ClientId, MessageId},
        timestamp::Timestamp,
    };

    use super::*;

    fn message(seq: Seq) -> Entry {
        let event = Event::NewMessage(Message {
            conversation_id: ConversationId::generate(),
            message_id: MessageId::generate(),
            client_id: ClientId::generate(),
            sender_id: UserId::new("u").unwrap(),
            sender_username: "U".into(),
            sender_type: UserType::Customer,
            content: format!("m{seq}"),
            message_type: MessageType::Text,
            metadata: super::super::empty_object(),
            reply_to: None,
            created_at: Timestamp::now(),
        });
        entry(seq, &event)
    }

    fn entry(seq: Seq, event: &Event) -> Entry {
        Entry { seq, prev_seq: 0, payload: serde_json::to_vec(event).unwrap().into() }
    }

    fn tail(entries: &[Entry], range: Range, keep: usize) -> Tail {
        let mut tail = Tail::default();
        entries.iter().for_each(|entry| tail.add(entry, range, keep));
        tail
    }

    fn seqs(messages: &[HistoryMessage]) -> Vec<(Seq, Seq)> {
        messages.iter().map(|it| (it.seq, it.prev_seq)).collect()
    }

    #[test]
    fn a_tail_keeps_what_its_page_needs() {
        let entries: Vec<_> = [3, 5, 8, 9].map(message).into();
        assert_eq!(seqs(&tail(&entries, Range::Last, 2).messages()), [(8, 0), (9, 8)]);
        assert_eq!(seqs(&tail(&entries, Range::Before(8), 9).messages()), [(3, 0), (5, 3)]);
        let after = tail(&entries, Range::After(3), 2);
        assert_eq!(seqs(&after.messages()), [(5, 0), (8, 5)]);
        assert_eq!(after.before_range, 3);
    }

    #[test]
    fn stored_and_new_messages_are_one_list_with_their_changes() {
        let stored = tail(&[message(2), message(4)], Range::Last, 9).messages();
        let conversation_id = ConversationId::generate();
        let (message_id, at) = (MessageId::generate(), Timestamp::now());
        let user = UserId::new("u").unwrap();
        let edit = |content: &str| {
            Event::MessageEdited(MessageEdited {
                conversation_id,
                message_seq: 4,
                message_id,
                editor_id: user.clone(),
                content: content.into(),
                edited_at: at,
            })
        };
        let deletion = Event::MessageDeleted(MessageDeleted {
            conversation_id,
            message_seq: 2,
            message_id,
            deleted_by: user.clone(),
            deleted_at: at,
        });
        let entries = [message(4), message(6), entry(7, &edit("one")), entry(8, &deletion), entry(9, &edit("two"))];
        let merged = tail(&entries, Range::Last, 9).merge(stored);
        assert_eq!(seqs(&merged), [(2, 0), (4, 2), (6, 4)]);
        assert_eq!(merged[0].message.content, "");
        assert!(merged[0].deleted_at.is_some());
        assert_eq!(merged[1].message.content, "two");
        assert_eq!(merged[1].edited_seq, Some(9));
        assert_eq!(merged[2].message.content, "m6");
    }
}
