//! Pages and resumption against a model: whatever part of the log Postgres holds, they show what a fold of all events
//! shows. Plans are random and told by their seed.

use std::collections::BTreeMap;

use partyline_shared::{
    claims::UserType,
    event::{Event, Message, MessageDeleted, MessageEdited, MessageType, Read},
    ids::{ClientId, ConversationId, MessageId, Seq, UserId},
    timestamp::Timestamp,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;

use super::{HistoryMessage, Page, Range, Tail, assemble, lacks_predecessor, resume, set_predecessor};
use crate::{encode, log::Entry};

const SEEDS: u64 = 500;

/// One conversation's log: places grow and are not dense.
struct Plan {
    events: Vec<(Seq, Event)>,
}

fn plan(random: &mut StdRng) -> Plan {
    let conversation_id = ConversationId::generate();
    let user = UserId::new("u").unwrap();
    let at = Timestamp::now();
    let mut events: Vec<(Seq, Event)> = Vec::new();
    let mut alive: Vec<(Seq, MessageId)> = Vec::new();
    let mut seq = random.random_range(0..5);
    for _ in 0..random.random_range(0..40) {
        seq += random.random_range(1..4);
        let event = match random.random_range(0..10) {
            0..=4 => {
                let message_id = MessageId::generate();
                alive.push((seq, message_id));
                Event::NewMessage(Message {
                    conversation_id,
                    message_id,
                    client_id: ClientId::generate(),
                    sender_id: user.clone(),
                    sender_username: "U".into(),
                    sender_type: UserType::Customer,
                    content: format!("m{seq}"),
                    message_type: MessageType::Text,
                    metadata: super::empty_object(),
                    reply_to: None,
                    created_at: at,
                })
            }
            kind @ 5..=8 if !alive.is_empty() => {
                let place = random.random_range(0..alive.len());
                let (message_seq, message_id) = alive[place];
                if kind == 8 {
                    alive.swap_remove(place);
                    let deleted_by = user.clone();
                    Event::MessageDeleted(MessageDeleted {
                        conversation_id,
                        message_seq,
                        message_id,
                        deleted_by,
                        deleted_at: at,
                    })
                } else {
                    Event::MessageEdited(MessageEdited {
                        conversation_id,
                        message_seq,
                        message_id,
                        editor_id: user.clone(),
                        content: format!("e{seq}"),
                        edited_at: at,
                    })
                }
            }
            _ => Event::Read(Read { conversation_id, user_id: user.clone(), last_read_seq: seq - 1, read_at: at }),
        };
        events.push((seq, event));
    }
    Plan { events }
}

/// Messages as the persister's statements leave them.
#[derive(Clone, Default)]
struct Rows(BTreeMap<Seq, HistoryMessage>);

impl Rows {
    fn write(&mut self, seq: Seq, event: &Event) {
        match event {
            Event::NewMessage(message) => {
                let (edited_at, edited_seq, deleted_at, deleted_seq) = Default::default();
                let message = message.clone();
                let row = HistoryMessage { message, seq, prev_seq: 0, edited_at, edited_seq, deleted_at, deleted_seq };
                self.0.insert(seq, row);
            }
            Event::MessageEdited(edit) => {
                if let Some(row) = self.0.get_mut(&edit.message_seq)
                    && row.deleted_seq.is_none()
                    && row.edited_seq.is_none_or(|held| held < seq)
                {
                    row.message.content.clone_from(&edit.content);
                    row.edited_at = Some(edit.edited_at);
                    row.edited_seq = Some(seq);
                }
            }
            Event::MessageDeleted(deletion) => {
                if let Some(row) = self.0.get_mut(&deletion.message_seq) {
                    row.deleted_at = Some(deletion.deleted_at);
                    row.deleted_seq = Some(seq);
                    row.hide_deleted();
                }
            }
            _ => {}
        }
    }

    /// `Store::messages_before`.
    fn before(&self, before: Seq, limit: usize) -> Vec<HistoryMessage> {
        let mut found: Vec<_> = self.0.range(..before).rev().take(limit + 1).map(|(_, row)| row.clone()).collect();
        found.reverse();
        let found = chain(found, 0);
        found[found.len().saturating_sub(limit)..].to_vec()
    }

    /// `Store::messages_after`.
    fn after(&self, after: Seq, limit: usize) -> Vec<HistoryMessage> {
        let before = self.0.range(..=after).next_back().map_or(0, |(seq, _)| *seq);
        chain(self.0.range(after + 1..).take(limit).map(|(_, row)| row.clone()).collect(), before)
    }

    /// `Store::changes_after`.
    fn changes(&self, after: Seq, limit: usize) -> Vec<HistoryMessage> {
        let changed = |row: &&HistoryMessage| row.edited_seq > Some(after) || row.deleted_seq > Some(after);
        let mut found: Vec<_> = self.0.range(..=after).map(|(_, row)| row).filter(changed).cloned().collect();
        found.sort_by_key(|row| row.edited_seq.max(row.deleted_seq));
        found.truncate(limit);
        found
    }
}

fn chain(mut rows: Vec<HistoryMessage>, mut before: Seq) -> Vec<HistoryMessage> {
    for row in &mut rows {
        row.prev_seq = before;
        before = row.seq;
    }
    rows
}

/// Everything up to the floor, and of what follows whatever the persisters' batches have written in whatever order.
fn postgres(random: &mut StdRng, plan: &Plan, floor: Seq) -> Rows {
    let mut rows = Rows::default();
    let (done, rest): (Vec<_>, Vec<_>) = plan.events.iter().partition(|(seq, _)| *seq <= floor);
    done.iter().for_each(|(seq, event)| rows.write(*seq, event));
    let mut batches: Vec<_> = rest.chunks(random.random_range(1..5)).filter(|_| random.random()).collect();
    batches.reverse();
    batches.concat().iter().for_each(|(seq, event)| rows.write(*seq, event));
    rows
}

/// What is compared of a message. A deleted message shows nothing of its edits.
fn shown(message: &HistoryMessage) -> (Seq, Seq, String, Option<Seq>, bool) {
    let deleted = message.deleted_seq.is_some();
    let edited = message.edited_seq.filter(|_| !deleted);
    (message.seq, message.prev_seq, message.message.content.clone(), edited, deleted)
}

fn entries(plan: &Plan) -> Vec<Entry> {
    let mut prev_seq = 0;
    let entry = |(seq, event): &(Seq, Event)| {
        let entry = Entry { seq: *seq, prev_seq, payload: serde_json::to_vec(event).unwrap().into() };
        prev_seq = *seq;
        entry
    };
    plan.events.iter().map(entry).collect()
}

/// A page as [`super::page`] makes it.
fn page(rows: &Rows, log: &[Entry], floor: Seq, range: Range, limit: usize) -> Page {
    let mut tail = Tail::default();
    log.iter().filter(|entry| entry.seq > floor).for_each(|entry| tail.add(entry, range, limit + 1));
    let stored = match range {
        Range::Last => rows.before(Seq::MAX, limit + 1),
        Range::Before(before) => rows.before(before, limit + 1),
        Range::After(after) => rows.after(after, limit + 1),
    };
    let mut page = assemble(&tail, stored, range, limit);
    if let Some(first) = lacks_predecessor(&page, range) {
        set_predecessor(&mut page, rows.before(first, 1).last().map_or(0, |row| row.seq));
    }
    page
}

#[test]
fn pages_show_what_a_fold_of_all_events_shows() {
    for seed in 0..SEEDS {
        let random = &mut StdRng::seed_from_u64(seed);
        let plan = plan(random);
        let log = entries(&plan);
        let end = log.last().map_or(0, |entry| entry.seq);
        let floor = random.random_range(0..=end + 2);
        let rows = postgres(random, &plan, floor);
        let mut all = Rows::default();
        plan.events.iter().for_each(|(seq, event)| all.write(*seq, event));
        let all = chain(all.0.into_values().collect(), 0);
        let place = random.random_range(0..=end + 3);
        let limit = *[1, 2, 5, 50].choose(random).unwrap();
        for range in [Range::Last, Range::Before(place), Range::After(place)] {
            let got = page(&rows, &log, floor, range, limit);
            let fits = |it: &&HistoryMessage| match range {
                Range::Last => true,
                Range::Before(before) => it.seq < before,
                Range::After(after) => it.seq > after,
            };
            let fitting: Vec<_> = all.iter().filter(fits).collect();
            let cut = fitting.len().saturating_sub(limit);
            let wanted = match range {
                Range::After(_) => &fitting[..fitting.len() - cut],
                _ => &fitting[cut..],
            };
            let context = format!("seed {seed}, {range:?}, limit {limit}, floor {floor}");
            let (got_shown, wanted_shown): (Vec<_>, Vec<_>) =
                (got.messages.iter().map(shown).collect(), wanted.iter().map(|it| shown(it)).collect());
            assert_eq!(got_shown, wanted_shown, "{context}");
            match range {
                Range::After(_) => assert_eq!(got.has_newer, cut > 0, "{context}"),
                _ => assert_eq!(got.has_older, cut > 0, "{context}"),
            }
        }
    }
}

/// What a client shows, built up from frames.
#[derive(Clone, Debug, Default, PartialEq)]
struct View(BTreeMap<Seq, (String, bool)>);

impl View {
    fn take(&mut self, frame: &Value) {
        let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
        let target = frame["message_seq"].as_u64();
        match frame["type"].as_str() {
            Some("new_message") => {
                let state = (text("content"), frame["deleted_at"].is_string());
                self.0.insert(frame["seq"].as_u64().unwrap(), state);
            }
            Some("message_edited") => {
                if let Some(it) = self.0.get_mut(&target.unwrap()).filter(|it| !it.1) {
                    it.0 = text("content");
                }
            }
            Some("message_deleted") => {
                if let Some(it) = self.0.get_mut(&target.unwrap()) {
                    *it = (String::new(), true);
                }
            }
            _ => {}
        }
    }

    fn of(log: &[Entry]) -> Self {
        let mut view = Self::default();
        log.iter().for_each(|entry| view.take(&frame(entry)));
        view
    }
}

fn frame(entry: &Entry) -> Value {
    let mut json = Vec::new();
    encode::event_json(entry, &mut json);
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn resuming_from_postgres_and_then_the_log_ends_where_a_fold_of_all_events_ends() {
    for seed in 0..SEEDS {
        let random = &mut StdRng::seed_from_u64(seed);
        let plan = plan(random);
        let log = entries(&plan);
        let end = log.last().map_or(0, |entry| entry.seq);
        let floor = random.random_range(0..=end + 2);
        let rows = postgres(random, &plan, floor);
        let limit = *[1, 2, 5, 50].choose(random).unwrap();
        let mut cursor = random.random_range(0..=end + 3);
        let held = log.iter().take_while(|entry| entry.seq <= cursor).count();
        let mut view = View::of(&log[..held]);
        while cursor < floor {
            let (messages, changed) = (rows.after(cursor, limit), rows.changes(cursor, limit));
            let part = resume::chain(messages, changed, cursor, floor, limit);
            let mut prev_seq = cursor;
            for event in &part.events {
                let frame: Value = serde_json::from_slice(&event.json).unwrap();
                let places = (frame["seq"].as_u64(), frame["prev_seq"].as_u64());
                assert_eq!(places, (Some(event.seq), Some(prev_seq)), "seed {seed}: {frame}");
                prev_seq = event.seq;
                view.take(&frame);
            }
            assert!(part.reaches >= prev_seq, "seed {seed}");
            assert!(part.reaches > cursor || !part.more, "seed {seed}: no way on from {cursor}");
            cursor = cursor.max(part.reaches);
            if !part.more {
                break;
            }
        }
        log.iter().filter(|entry| entry.seq > cursor).for_each(|entry| view.take(&frame(entry)));
        assert_eq!(view, View::of(&log), "seed {seed}, floor {floor}, limit {limit}");
    }
}
