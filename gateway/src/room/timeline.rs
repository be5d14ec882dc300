//! What a node holds of a conversation's log: its head, and the last events. Pure: gaps are told, not filled.

use std::collections::VecDeque;

use partyline_shared::ids::Seq;

use crate::encode::Frame;

/// Events kept at most.
const KEPT: usize = 128;
/// How long an event is kept, in milliseconds: as long as clients need to come back.
const KEPT_MILLIS: u64 = 60_000;

#[derive(Debug)]
struct Held {
    seq: Seq,
    frame: Frame,
    at: u64,
}

/// Where an event belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Right after the head.
    Next,
    /// It was there already.
    Known,
    /// Something before it is missing.
    Gap,
}

/// Head and last events of one log.
#[derive(Debug)]
pub struct Timeline {
    head: Seq,
    /// Every event after this, up to the head, is held.
    floor: Seq,
    held: VecDeque<Held>,
}

impl Timeline {
    /// Begins at a head, holding nothing.
    #[must_use]
    pub fn new(head: Seq) -> Self {
        Self { head, floor: head, held: VecDeque::new() }
    }

    #[must_use]
    pub fn head(&self) -> Seq {
        self.head
    }

    /// Where an event belongs. A `prev_seq` below the head is no gap: the log's end may have been cut since.
    #[must_use]
    pub fn place(&self, seq: Seq, prev_seq: Seq) -> Place {
        if seq <= self.head {
            Place::Known
        } else if prev_seq > self.head {
            Place::Gap
        } else {
            Place::Next
        }
    }

    /// Takes an event whose place is [`Place::Next`], at `now` in milliseconds.
    pub fn push(&mut self, seq: Seq, frame: Frame, now: u64) {
        self.held.push_back(Held { seq, frame, at: now });
        self.head = seq;
        if self.held.len() > KEPT {
            self.drop_oldest();
        }
        self.trim(now);
    }

    /// Drops what is too old.
    pub fn trim(&mut self, now: u64) {
        while self.held.front().is_some_and(|held| held.at + KEPT_MILLIS < now) {
            self.drop_oldest();
        }
        if self.held.is_empty() {
            self.held = VecDeque::new();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(held) = self.held.pop_front() {
            self.floor = held.seq;
        }
    }

    /// Every event after a place, oldest first; `None` if some of them are no longer held.
    #[must_use]
    pub fn after(&self, after: Seq) -> Option<impl Iterator<Item = (Seq, &Frame)>> {
        (after >= self.floor)
            .then(|| self.held.iter().filter(move |held| held.seq > after).map(|held| (held.seq, &held.frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Class;

    fn push(timeline: &mut Timeline, seq: Seq, now: u64) {
        timeline.push(seq, Frame::json(b"{}", Class::Durable), now);
    }

    fn after(timeline: &Timeline, after: Seq) -> Option<Vec<Seq>> {
        timeline.after(after).map(|events| events.map(|(seq, _)| seq).collect())
    }

    #[test]
    fn tells_where_an_event_belongs() {
        let mut timeline = Timeline::new(10);
        assert_eq!(timeline.place(10, 7), Place::Known);
        assert_eq!(timeline.place(14, 12), Place::Gap);
        assert_eq!(timeline.place(12, 10), Place::Next);
        push(&mut timeline, 12, 0);
        assert_eq!(timeline.place(14, 12), Place::Next);
        assert_eq!(timeline.place(14, 0), Place::Next);
    }

    #[test]
    fn gives_all_or_nothing_after_a_place() {
        let mut timeline = Timeline::new(10);
        assert_eq!(after(&timeline, 9), None);
        assert_eq!(after(&timeline, 10), Some(vec![]));
        for seq in [12, 15, 19] {
            push(&mut timeline, seq, 0);
        }
        assert_eq!(after(&timeline, 12), Some(vec![15, 19]));
        assert_eq!(after(&timeline, 99), Some(vec![]));
        for seq in 20..20 + KEPT as u64 {
            push(&mut timeline, seq, 1);
        }
        assert_eq!(after(&timeline, 15), None);
        assert_eq!(after(&timeline, 19).map(|events| events.len()), Some(KEPT));
        timeline.trim(KEPT_MILLIS + 2);
        assert_eq!(after(&timeline, 19), None);
        assert_eq!(after(&timeline, timeline.head()), Some(vec![]));
    }
}
