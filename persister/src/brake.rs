//! Tells whether refusals are the fault of events or of the database. A few events that Postgres refuses are put aside; a
//! CHECK, a trigger or a detached partition that refuses what gateways accept must not empty the log into the dead letters
//! (docs/decisions/0026-postgres-behind-the-log.md).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use partyline_shared::event::Event;

use crate::batch::Entry;

/// Written events of a type that make up for one refused event of that type.
const WRITTEN_FOR_ONE: u32 = 100;
/// Refused events that are remembered, to find out whether Postgres takes them now.
const SUSPECTS: usize = 32;
/// Between two attempts while the brake is on: doubled each time.
pub const FIRST_WAIT: Duration = Duration::from_secs(1);
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Counts refusals by type of event. A type's score rises by 1 with each refused event and falls by 1 with every 100 written
/// ones; the brake goes on when a score reaches the limit.
#[derive(Debug)]
pub struct Brake {
    limit: u32,
    /// In hundredths.
    scores: BTreeMap<&'static str, u32>,
    /// The latest refused events, also those that were put aside.
    suspects: VecDeque<Entry>,
}

impl Brake {
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, scores: BTreeMap::new(), suspects: VecDeque::new() }
    }

    /// Postgres took these.
    pub fn written(&mut self, entries: &[Entry]) {
        if self.scores.is_empty() {
            return;
        }
        for entry in entries {
            if let Some(score) = self.scores.get_mut(type_of(&entry.event)) {
                *score = score.saturating_sub(1);
            }
        }
        self.scores.retain(|_, score| *score > 0);
        if self.scores.is_empty() {
            self.suspects.clear();
        }
    }

    /// Counts an event that Postgres refused.
    ///
    /// # Returns
    /// Whether the brake has to go on.
    pub fn refused(&mut self, entry: &Entry) -> bool {
        if self.suspects.len() == SUSPECTS {
            self.suspects.pop_front();
        }
        self.suspects.push_back(entry.clone());
        let score = self.scores.entry(type_of(&entry.event)).or_default();
        *score = score.saturating_add(WRITTEN_FOR_ONE);
        *score >= self.limit.saturating_mul(WRITTEN_FOR_ONE)
    }

    /// The latest refused events, oldest first.
    #[must_use]
    pub fn suspects(&self) -> Vec<Entry> {
        self.suspects.iter().cloned().collect()
    }

    /// Forgets all refusals: Postgres takes what it refused.
    pub fn release(&mut self) {
        self.scores.clear();
        self.suspects.clear();
    }
}

fn type_of(event: &Event) -> &'static str {
    match event {
        Event::NewMessage(_) => "message",
        Event::MessageEdited(_) => "edit",
        Event::MessageDeleted(_) => "deletion",
        Event::Read(_) => "read",
        Event::ParticipantAdded(_) | Event::ParticipantRemoved(_) => "participant",
    }
}

#[cfg(test)]
mod tests {
    use partyline_shared::{
        event::Read,
        ids::{ConversationId, UserId},
        timestamp::Timestamp,
    };

    use super::*;

    fn reads(count: usize) -> Vec<Entry> {
        let read = Read {
            conversation_id: ConversationId::generate(),
            user_id: UserId::new("ann").unwrap(),
            last_read_seq: 1,
            read_at: Timestamp::now(),
        };
        vec![Entry { seq: 1, event: Event::Read(read) }; count]
    }

    #[test]
    fn ten_refusals_in_a_row_apply_the_brake() {
        let mut brake = Brake::new(10);
        let read = reads(1).remove(0);
        assert!((0..9).all(|_| !brake.refused(&read)));
        assert!(brake.refused(&read));
        brake.release();
        assert!(!brake.refused(&read));
    }

    #[test]
    fn one_refusal_in_a_hundred_does_not_and_three_do() {
        let mut brake = Brake::new(10);
        let read = reads(1).remove(0);
        let many = reads(100);
        for _ in 0..1_000 {
            assert!(!brake.refused(&read));
            brake.written(&many);
        }
        let applied = (0..20).any(|_| {
            brake.written(&many);
            (0..3).any(|_| brake.refused(&read))
        });
        assert!(applied);
    }
}
