//! What a persister does with a batch before Postgres gets it: `make bench`.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partyline_persister::batch::{self, Entry, Rows};
use partyline_shared::{
    claims::UserType,
    event::{Event, Message, MessageEdited, MessageType, Read},
    ids::{ClientId, ConversationId, MessageId, UserId},
    subjects,
    timestamp::Timestamp,
};
use serde_json::value::RawValue;

/// The largest batch, by default.
const EVENTS: u64 = 1_000;

/// Of ten events seven messages, two read markers and an edit, in 100 conversations.
fn events() -> Vec<Event> {
    let conversations: Vec<_> = (0..100).map(|_| ConversationId::generate()).collect();
    let event = |seq: u64| {
        let conversation_id = conversations[(seq * 7 % 100) as usize];
        let user_id = UserId::new(&format!("{}", seq % 13)).unwrap();
        match seq % 10 {
            0 => Event::MessageEdited(MessageEdited {
                conversation_id,
                message_seq: seq,
                message_id: MessageId::generate(),
                editor_id: user_id,
                content: "We could set up from eleven".into(),
                edited_at: Timestamp::now(),
            }),
            1 | 2 => Event::Read(Read { conversation_id, user_id, last_read_seq: seq, read_at: Timestamp::now() }),
            _ => Event::NewMessage(Message {
                conversation_id,
                message_id: MessageId::generate(),
                client_id: ClientId::generate(),
                sender_id: user_id,
                sender_username: "Garden Catering".into(),
                sender_type: UserType::Vendor,
                content: "Thank you! We could set up from ten, the garden would be best for the buffet.".into(),
                message_type: MessageType::Text,
                metadata: RawValue::from_string("{}".into()).unwrap(),
                reply_to: None,
                created_at: Timestamp::now(),
            }),
        }
    };
    (1..=EVENTS).map(event).collect()
}

fn building(c: &mut Criterion) {
    let events = events();
    let stored: Vec<_> = events
        .iter()
        .map(|event| (subjects::log(0, event.conversation_id()), serde_json::to_vec(event).unwrap()))
        .collect();
    let entries: Vec<_> = (1..).zip(events).map(|(seq, event)| Entry { seq, event }).collect();
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("read 1,000 events of the log", |b| {
        b.iter(|| {
            stored.iter().map(|(subject, json)| batch::read(subject, black_box(json)).unwrap()).collect::<Vec<_>>()
        });
    });
    group.bench_function("1,000 events to rows", |b| b.iter(|| Rows::of(black_box(&entries)).targets().len()));
    group.finish();
}

criterion_group!(benches, building);
criterion_main!(benches);
