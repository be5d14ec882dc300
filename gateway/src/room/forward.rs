//! Read markers as clients hear of them: forward only. Two nodes that mark for one person at the same moment do not know
//! of each other, and the lower marker may be logged last. The log keeps what was said; whoever hears it in order is not
//! led back. Pure.

use std::{borrow::Cow, collections::HashMap};

use partyline_shared::{
    event::Event,
    ids::{Seq, UserId},
};

use crate::log::Entry;

/// How every stored marker begins.
const READ: &[u8] = b"{\"type\":\"read\"";

/// The highest marker of each person in a run of events.
#[derive(Debug, Default)]
pub struct Forward(HashMap<UserId, Seq>);

impl Forward {
    /// The next event of the run as clients get it: a marker is no lower than those before it, nor than `known` has it.
    pub fn pass<'a>(&mut self, entry: &'a Entry, known: impl FnOnce(&UserId) -> Seq) -> Cow<'a, Entry> {
        if !entry.payload.starts_with(READ) {
            return Cow::Borrowed(entry);
        }
        let Ok(Event::Read(mut read)) = Event::from_json(&entry.payload) else { return Cow::Borrowed(entry) };
        let known = known(&read.user_id);
        let highest = self.0.entry(read.user_id.clone()).or_default();
        *highest = known.max(read.last_read_seq).max(*highest);
        if read.last_read_seq == *highest {
            return Cow::Borrowed(entry);
        }
        read.last_read_seq = *highest;
        match serde_json::to_vec(&Event::Read(read)) {
            Ok(payload) => Cow::Owned(Entry { payload: payload.into(), ..*entry }),
            Err(_) => Cow::Borrowed(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use partyline_shared::{event::Read, ids::ConversationId, timestamp::Timestamp};

    use super::*;

    fn entry(seq: Seq, user: &str, last_read_seq: Seq) -> Entry {
        let event = Event::Read(Read {
            conversation_id: ConversationId::generate(),
            user_id: UserId::new(user).unwrap(),
            last_read_seq,
            read_at: Timestamp::now(),
        });
        Entry { seq, prev_seq: seq - 1, payload: serde_json::to_vec(&event).unwrap().into() }
    }

    #[test]
    fn a_marker_is_never_told_below_one_before_it() {
        let mut forward = Forward::default();
        let mut told = |entry: &Entry, known: Seq| {
            let passed = forward.pass(entry, |_| known).into_owned();
            let Ok(Event::Read(read)) = Event::from_json(&passed.payload) else { panic!("{passed:?}") };
            assert_eq!((passed.seq, passed.prev_seq), (entry.seq, entry.prev_seq));
            read.last_read_seq
        };
        assert_eq!(told(&entry(5, "a", 4), 0), 4);
        assert_eq!(told(&entry(6, "a", 2), 0), 4);
        assert_eq!(told(&entry(7, "b", 2), 0), 2);
        assert_eq!(told(&entry(8, "a", 7), 0), 7);
        assert_eq!(told(&entry(9, "b", 3), 6), 6);
        assert_eq!(told(&entry(10, "b", 5), 0), 6);
    }

    #[test]
    fn everything_else_passes_as_it_is() {
        let mut forward = Forward::default();
        for payload in [&b"{\"type\":\"new_message\"}"[..], b"{\"type\":\"read\"}", b""] {
            let entry = Entry { seq: 1, prev_seq: 0, payload: payload.into() };
            assert!(matches!(forward.pass(&entry, |_| 9), Cow::Borrowed(_)));
        }
        assert!(matches!(forward.pass(&entry(5, "a", 4), |_| 4), Cow::Borrowed(_)));
    }
}
