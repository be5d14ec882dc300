use partyline_shared::{
    claims::UserType,
    event::{MessageType, Participant, ParticipantAdded, Read, Role},
    ids::ClientId,
    timestamp::Timestamp,
};
use serde_json::value::RawValue;

use super::*;

fn user() -> UserId {
    UserId::new("u").unwrap()
}

fn message(conversation_id: ConversationId) -> Event {
    Event::NewMessage(Message {
        conversation_id,
        message_id: MessageId::generate(),
        client_id: ClientId::generate(),
        sender_id: user(),
        sender_username: "U".into(),
        sender_type: UserType::Customer,
        content: "hi".into(),
        message_type: MessageType::Text,
        metadata: RawValue::from_string("{}".into()).unwrap(),
        reply_to: None,
        created_at: Timestamp::now(),
    })
}

fn edit(target: Target, content: &str) -> Event {
    Event::MessageEdited(MessageEdited {
        conversation_id: target.conversation_id,
        message_seq: target.seq,
        message_id: target.message_id,
        editor_id: user(),
        content: content.into(),
        edited_at: Timestamp::now(),
    })
}

fn read_to(conversation_id: ConversationId, last_read_seq: Seq) -> Event {
    Event::Read(Read { conversation_id, user_id: user(), last_read_seq, read_at: Timestamp::now() })
}

fn entries(events: impl IntoIterator<Item = (Seq, Event)>) -> Vec<Entry> {
    events.into_iter().map(|(seq, event)| Entry { seq, event }).collect()
}

#[test]
fn messages_come_out_by_conversation_and_place_each_once() {
    let conversations: Vec<_> = (0..5).map(|_| ConversationId::generate()).collect();
    let once = entries((1..=50_u64).map(|seq| (seq, message(conversations[(seq * 7 % 5) as usize]))));
    // Any order of delivery, and any repeats.
    let mut twice: Vec<Entry> = once.iter().chain(&once).cloned().collect();
    twice.sort_by_key(|entry| entry.seq * 31 % 17);
    let (of_once, of_twice) = (Rows::of(&once), Rows::of(&twice));
    let places = |rows: &Rows<'_>| rows.messages.iter().map(|(seq, it)| (it.conversation_id, *seq)).collect::<Vec<_>>();
    assert_eq!(places(&of_once), places(&of_twice));
    assert!(places(&of_once).is_sorted());
    assert_eq!(of_once.messages.len(), 50);
}

#[test]
fn the_last_edit_and_the_highest_marker_stand_whatever_the_order() {
    let conversation_id = ConversationId::generate();
    let target = Target { conversation_id, seq: 1, message_id: MessageId::generate() };
    let mut events = entries([
        (2, edit(target, "second")),
        (3, edit(target, "third")),
        (4, edit(target, "fourth")),
        (5, read_to(conversation_id, 4)),
        (6, read_to(conversation_id, 1)),
        (7, read_to(conversation_id, 3)),
    ]);
    for _ in 0..events.len() {
        events.rotate_left(1);
        let rows = Rows::of(&events);
        assert_eq!(rows.edits.len(), 1);
        assert_eq!(rows.edits[&target].1.content, "fourth");
        assert_eq!(rows.reads.values().collect::<Vec<_>>(), [&4]);
        assert_eq!(rows.targets(), [target]);
    }
}

#[test]
fn a_message_marks_all_before_it_as_read_by_its_sender() {
    let conversation_id = ConversationId::generate();
    let events =
        entries([(3, message(conversation_id)), (5, read_to(conversation_id, 2)), (7, message(conversation_id))]);
    assert_eq!(Rows::of(&events).reads.into_values().collect::<Vec<_>>(), [7]);
}

#[test]
fn an_added_participant_has_read_everything_before() {
    let conversation_id = ConversationId::generate();
    let added = UserId::new("added").unwrap();
    let participant = Participant {
        user_id: added.clone(),
        username: "Added".into(),
        user_type: UserType::Customer,
        role: Role::Member,
        last_read_seq: 0,
    };
    let event = ParticipantAdded { conversation_id, participant, added_by: user() };
    let events =
        entries([(3, message(conversation_id)), (5, Event::ParticipantAdded(event)), (7, message(conversation_id))]);
    assert_eq!(Rows::of(&events).reads[&(conversation_id, &added)], 5);
}

#[test]
fn what_cannot_be_read_is_told_apart() {
    let conversation_id = ConversationId::generate();
    let subject = subjects::log(0, conversation_id);
    let payload = serde_json::to_vec(&message(conversation_id)).unwrap();
    assert!(read(&subject, &payload).is_ok());
    assert!(matches!(read(&subject, b"{"), Err(Unreadable::Json(_))));
    assert!(matches!(read(&subject, br#"{"type":"reaction_added"}"#), Err(Unreadable::UnknownType(_))));
    assert!(matches!(read(&subject, br#"{"type":7}"#), Err(Unreadable::Json(_))));
    let elsewhere = subjects::log(0, ConversationId::generate());
    assert!(matches!(read(&elsewhere, &payload), Err(Unreadable::Subject)));
    let beyond = serde_json::to_vec(&read_to(conversation_id, u64::MAX)).unwrap();
    assert!(matches!(read(&subject, &beyond), Err(Unreadable::Range)));
}
