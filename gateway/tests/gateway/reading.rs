//! Read markers, unread messages, and news of conversations that are not open.

use partyline_shared::{
    event::{Event, Read},
    ids::UserId,
    subjects,
    timestamp::Timestamp,
};
use serde_json::{Value, json};

use crate::{
    socketio::Raw,
    support::{CONVERSATIONS, World, message, seq, until},
};

fn mark(chat: &str, seq: u64) -> Value {
    json!({ "type": "mark_read", "conversation_id": chat, "seq": seq })
}

#[tokio::test]
async fn a_room_that_opens_has_the_newest_markers_however_long_the_tail_is() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.group(&one, &["ann", "bob", "cat"]).await;
    let (mut ann, mut bob) = (world.person(&one, "ann").await, world.person(&one, "bob").await);
    let first = seq(&ann.send(&chat, "one").await);
    // Postgres gets none of it: there is no persister.
    let event = Event::Read(Read {
        conversation_id: chat.parse().unwrap(),
        user_id: UserId::new("ann").unwrap(),
        last_read_seq: first,
        read_at: Timestamp::now(),
    });
    let (nats, payload) = (world.env.nats().await.unwrap(), serde_json::to_vec(&event).unwrap());
    let subject = subjects::log(0, chat.parse().unwrap());
    for _ in 0..5_500 {
        nats.publish(subject.clone(), payload.clone().into()).await.unwrap();
    }
    nats.flush().await.unwrap();
    let stream = async_nats::jetstream::new(nats).get_stream(subjects::log_stream(0)).await.unwrap();
    until("the log to hold all", async || stream.get_info().await.unwrap().state.messages >= 5_501).await;
    bob.get("ack", mark(&chat, first)).await;
    let joined = world.person(&two, "cat").await.join(&chat).await;
    assert_eq!(joined["read_markers"]["bob"], first, "{}", joined["read_markers"]);
}

#[tokio::test]
async fn a_read_marker_never_moves_back() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&one, "ann").await, world.person(&one, "bob").await);
    ann.join(&chat).await;
    let mut seqs = Vec::new();
    for n in 0..5 {
        seqs.push(seq(&ann.send(&chat, &n.to_string()).await));
    }
    let by_request = async |gateway, seq: u64| {
        let path = format!("{CONVERSATIONS}{chat}/mark_read/");
        world.post(gateway, "bob", &path, json!({ "seq": seq })).await.body["last_read_seq"].as_u64().unwrap()
    };
    let ack = bob.get("ack", mark(&chat, seqs[3])).await;
    assert_eq!((&ack["conversation_id"], ack["last_read_seq"].as_u64()), (&json!(chat), Some(seqs[3])));
    let read = ann.expect("read").await;
    assert_eq!((&read["user_id"], read["last_read_seq"].as_u64()), (&json!("bob"), Some(seqs[3])));
    assert!(read["prev_seq"].is_u64() && read["read_at"].is_string() && seq(&read) > seqs[4]);

    // Not on this node, not on one that has never heard of the conversation, not on the way to Postgres.
    let back = bob.get("ack", mark(&chat, seqs[1])).await;
    assert_eq!(back["last_read_seq"].as_u64(), Some(seqs[3]));
    assert_eq!(by_request(&two, seqs[2]).await, seqs[3]);
    assert_eq!(by_request(&one, seqs[0]).await, seqs[3]);
    let persister = world.persister().await;
    world.persisted().await;
    assert_eq!(by_request(&world.gateway().await, seqs[2]).await, seqs[3]);
    drop(persister);
    let fresh = world.gateway().await;
    assert_eq!(world.person(&fresh, "ann").await.join(&chat).await["read_markers"]["bob"].as_u64(), Some(seqs[3]));

    // Nobody was told of a step back; a place that isn't there yet means the end.
    ann.caught_up().await;
    assert!(ann.held("read").is_empty(), "{:?}", ann.held("read"));
    let beyond = bob.get("ack", mark(&chat, 1 << 40)).await["last_read_seq"].as_u64().unwrap();
    assert!(beyond >= seqs[4] && beyond < 1 << 40, "{beyond}");
    let all = world.post(&two, "ann", &format!("{CONVERSATIONS}{chat}/mark_read/"), json!({})).await;
    assert!(all.body["last_read_seq"].as_u64().unwrap() >= seqs[4], "{all:?}");

    // Reading all again when all is read is no event.
    let path = format!("{CONVERSATIONS}{chat}/mark_read/");
    let end = ann.join(&chat).await["seq"].clone();
    for gateway in [&two, &one, &two] {
        assert_eq!(world.post(gateway, "ann", &path, json!({})).await.body, all.body);
    }
    assert_eq!(ann.join(&chat).await["seq"], end);
    // What was read in part is not all.
    let last = seq(&bob.send(&chat, "one").await);
    let end = seq(&bob.send(&chat, "two").await);
    world.post(&two, "ann", &path, json!({ "seq": last })).await;
    let all = world.post(&two, "ann", &path, json!({})).await;
    assert!(all.body["last_read_seq"].as_u64().unwrap() >= end, "{all:?}");
}

#[tokio::test]
async fn nobody_is_misled_by_a_lower_marker_that_is_logged_last() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.group(&one, &["ann", "bob", "cat"]).await;
    let (mut ann, mut bob) = (world.person(&one, "ann").await, world.person(&two, "bob").await);
    ann.join(&chat).await;
    let mut socketio = Raw::come(&two, &world.token("cat")).await;
    socketio.say(&format!("42{}", json!(["join_conversation", { "conversation_id": chat }]))).await;
    socketio.expect("42[\"joined_conversation\"").await;
    let mut seqs = Vec::new();
    for n in 0..5 {
        seqs.push(seq(&ann.send(&chat, &n.to_string()).await));
    }
    bob.get("ack", mark(&chat, seqs[3])).await;
    let _persister = world.persister().await;
    world.persisted().await;

    // As by a node that did not know yet of the marker that another one moved.
    let stream = async_nats::jetstream::new(world.env.nats().await.unwrap());
    let behind = async |seq: u64| {
        let event = Event::Read(Read {
            conversation_id: chat.parse().unwrap(),
            user_id: UserId::new("bob").unwrap(),
            last_read_seq: seq,
            read_at: Timestamp::now(),
        });
        let subject = subjects::log(0, event.conversation_id());
        stream.publish(subject, serde_json::to_vec(&event).unwrap().into()).await.unwrap().await.unwrap().sequence
    };
    let first = behind(seqs[1]).await;
    behind(seqs[2]).await;

    for _ in 0..3 {
        assert_eq!(ann.expect("read").await["last_read_seq"].as_u64(), Some(seqs[3]));
        let heard = socketio.expect("42[\"read\"").await;
        assert!(heard.contains(&format!("\"last_read_seq\":{},", seqs[3])), "{heard}");
    }
    let pool = world.env.pool().await.unwrap();
    let everywhere = async || {
        // Live rooms, and one that is opened afresh, from memory and from the log.
        let fresh = world.gateway().await;
        for gateway in [&one, &two, &fresh] {
            let mut person = world.person(gateway, "ann").await;
            let after_the_highest = person.join_after(&chat, first - 1).await;
            for joined in [person.join(&chat).await, after_the_highest, person.join_after(&chat, seqs[0]).await] {
                assert_eq!(joined["read_markers"]["bob"].as_u64(), Some(seqs[3]), "{joined}");
                let participants = joined["participants"].as_array().unwrap();
                let listed = participants.iter().find(|it| it["user_id"] == "bob").unwrap();
                assert_eq!(listed["last_read_seq"].as_u64(), Some(seqs[3]), "{joined}");
            }
            let told = person.join_after(&chat, seqs[4]).await;
            let told: Vec<_> = told["events"].as_array().unwrap().iter().filter(|it| it["type"] == "read").collect();
            assert!(told.len() == 3 && told.iter().all(|it| it["last_read_seq"] == json!(seqs[3])), "{told:#?}");
            for path in [CONVERSATIONS.to_owned(), format!("{CONVERSATIONS}{chat}/")] {
                let answer = world.get(gateway, "bob", &path).await.body;
                let entry = answer["results"].get(0).unwrap_or(&answer);
                let mine = (entry["last_read_seq"].as_u64(), entry["unread_count"].as_u64());
                assert_eq!(mine, (Some(seqs[3]), Some(1)), "{answer}");
                let participants = entry["participants"].as_array().unwrap();
                let listed = participants.iter().find(|it| it["user_id"] == "bob").unwrap();
                assert_eq!(listed["last_read_seq"].as_u64(), Some(seqs[3]), "{answer}");
            }
            let path = format!("{CONVERSATIONS}{chat}/mark_read/");
            let back = world.post(gateway, "bob", &path, json!({ "seq": seqs[0] })).await;
            assert_eq!(back.body["last_read_seq"].as_u64(), Some(seqs[3]));
        }
    };
    world.persisted().await;
    everywhere().await;
    let marker = "SELECT last_read_seq FROM participants WHERE user_id = 'bob'";
    let stored: i64 = sqlx::query_scalar(marker).fetch_one(&pool).await.unwrap();
    assert_eq!(stored.cast_unsigned(), seqs[3]);
}

#[tokio::test]
async fn unread_messages_are_counted_wherever_they_are() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    let unread = async |user: &str| {
        let list = world.get(&gateway, user, CONVERSATIONS).await.body;
        list["results"][0]["unread_count"].as_u64().unwrap()
    };
    let persister = world.persister().await;
    let mut seqs = Vec::new();
    for n in 0..4 {
        seqs.push(seq(&ann.send(&chat, &n.to_string()).await));
    }
    world.persisted().await;
    persister.kill().await;
    // Four in Postgres, and from here on everything in the log alone.
    for n in 4..7 {
        seqs.push(seq(&ann.send(&chat, &n.to_string()).await));
    }
    assert_eq!((unread("bob").await, unread("ann").await), (7, 0));
    bob.get("ack", mark(&chat, seqs[1])).await;
    assert_eq!(unread("bob").await, 5);
    bob.get("ack", mark(&chat, seqs[5])).await;
    assert_eq!(unread("bob").await, 1);
    ann.get("ack", json!({ "type": "delete_message", "conversation_id": chat, "seq": seqs[6] })).await;
    assert_eq!(unread("bob").await, 0);
    bob.send(&chat, "my own").await;
    assert_eq!((unread("bob").await, unread("ann").await), (0, 1));
    let persister = world.persister().await;
    world.persisted().await;
    assert_eq!((unread("bob").await, unread("ann").await), (0, 1));
    drop(persister);
}

#[tokio::test]
async fn unread_messages_are_counted_while_a_persister_holds_some_back() {
    use async_nats::jetstream::{self, consumer::pull};
    use futures_util::StreamExt;
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    ann.send(&chat, "first").await;
    // Taken, and never written: as by one that was stopped. What comes later is written before it.
    let stream = jetstream::new(world.env.nats().await.unwrap()).get_stream(subjects::log_stream(0)).await.unwrap();
    let consumer = stream.get_consumer::<pull::Config>(subjects::PERSISTER_CONSUMER).await.unwrap();
    let _held = consumer.fetch().max_messages(1).messages().await.unwrap().next().await.unwrap().unwrap();
    let persister = world.persister().await;
    let second = seq(&ann.send(&chat, "second").await);
    let pool = world.env.pool().await.unwrap();
    until("the second to be written", async || {
        let written = "SELECT count(*) FROM messages WHERE seq = $1";
        sqlx::query_scalar::<_, i64>(written).bind(second.cast_signed()).fetch_one(&pool).await.unwrap() == 1
    })
    .await;
    let list = world.get(&gateway, "bob", CONVERSATIONS).await.body;
    assert_eq!(list["results"][0]["unread_count"], 2, "{list}");
    ann.send(&chat, "third").await;
    let news = bob.find(|it| it["last_message"]["content"] == "third").await;
    assert_eq!(news["unread_count"], 3, "{news}");
    drop(persister);
}

#[tokio::test]
async fn news_comes_of_conversations_that_are_not_joined() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let mut bob = world.person(&two, "bob").await;
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let added = bob.expect("conversation_updated").await;
    assert_eq!((&added["conversation_id"], &added["reason"]), (&json!(chat), &json!("added")));
    let mut ann = world.person(&one, "ann").await;
    ann.join(&chat).await;
    for n in 1..=2 {
        let frame = message(&chat, &format!("message {n}"));
        let ack = ann.get("ack", frame.clone()).await;
        let news = bob.expect("conversation_updated").await;
        assert_eq!((&news["reason"], &news["unread_count"]), (&json!("message"), &json!(n)));
        for key in ["seq", "message_id", "client_id"] {
            assert_eq!(news["last_message"][key], ack[key], "{key}");
        }
        assert_eq!(news["last_message"]["content"], frame["content"]);
    }
    // Another device of hers reads: this one's badge goes.
    let mut other = world.person(&one, "bob").await;
    let end = other.join(&chat).await["seq"].as_u64().unwrap();
    other.get("ack", mark(&chat, end)).await;
    let news = bob.find(|it| it["reason"] == "read").await;
    assert_eq!(news["unread_count"], 0);

    // Joined, she gets the event itself and no news of it; having left, news again.
    bob.join(&chat).await;
    ann.send(&chat, "message 3").await;
    assert_eq!(bob.expect("new_message").await["content"], "message 3");
    bob.get("left", json!({ "type": "leave_conversation", "conversation_id": chat })).await;
    ann.send(&chat, "message 4").await;
    bob.find(|it| it["type"] == "conversation_updated" && it["last_message"]["content"] == "message 4").await;
    assert_eq!(bob.held("new_message").len(), 0);
}

#[tokio::test]
async fn in_a_large_conversation_too_news_comes_to_whoever_has_not_joined() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let people: Vec<String> =
        ["ann", "bob", "cat"].map(Into::into).into_iter().chain((0..40).map(|n| format!("p{n}"))).collect();
    let chat = world.group(&one, &people.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let is_news =
        |it: &Value, content: &str| it["type"] == "conversation_updated" && it["last_message"]["content"] == content;
    let mut ann = world.person(&one, "ann").await;
    ann.join(&chat).await;
    // Nobody is to be told: that is remembered, and must be forgotten each time that somebody comes, joins or leaves.
    ann.send(&chat, "to nobody").await;
    let mut bob = world.person(&one, "bob").await;
    ann.send(&chat, "bob is here").await;
    bob.find(|it| is_news(it, "bob is here")).await;
    bob.join(&chat).await;
    ann.send(&chat, "bob has joined").await;
    bob.find(|it| it["type"] == "new_message" && it["content"] == "bob has joined").await;
    bob.get("left", json!({ "type": "leave_conversation", "conversation_id": chat })).await;
    ann.send(&chat, "bob has left").await;
    bob.find(|it| is_news(it, "bob has left")).await;
    assert!(!bob.held.iter().any(|it| is_news(it, "bob has joined")));

    let mut cat = world.person(&two, "cat").await;
    ann.find(|it| it["type"] == "presence" && it["user_id"] == "cat" && it["online"] == true).await;
    ann.send(&chat, "cat is elsewhere").await;
    cat.find(|it| is_news(it, "cat is elsewhere")).await;
}

#[tokio::test]
async fn a_message_of_ones_own_marks_everything_before_it_as_read() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let mut ann = world.person(&one, "ann").await;
    // Two devices of one person; the second has not joined.
    let (mut bob, mut phone) = (world.person(&two, "bob").await, world.person(&two, "bob").await);
    for n in 0..3 {
        ann.send(&chat, &n.to_string()).await;
    }
    phone.find(|it| it["type"] == "conversation_updated" && it["unread_count"] == 3).await;
    bob.join(&chat).await;
    let reply = seq(&bob.send(&chat, "a reply").await);
    phone.find(|it| it["last_message"]["content"] == "a reply" && it["unread_count"] == 0).await;
    ann.send(&chat, "one more").await;
    phone.find(|it| it["last_message"]["content"] == "one more" && it["unread_count"] == 1).await;
    // In lists and joins, on a node that had the room open and on one that did not, before Postgres has it and after.
    let told = async || {
        let fresh = world.gateway().await;
        for gateway in [&one, &two, &fresh] {
            let list = world.get(gateway, "bob", CONVERSATIONS).await.body;
            let entry = &list["results"][0];
            assert_eq!((&entry["unread_count"], entry["last_read_seq"].as_u64()), (&json!(1), Some(reply)), "{list}");
            let joined = world.person(gateway, "ann").await.join(&chat).await;
            assert_eq!(joined["read_markers"]["bob"].as_u64(), Some(reply), "{joined}");
        }
    };
    told().await;
    let _persister = world.persister().await;
    world.persisted().await;
    told().await;
    let back = bob.get("ack", mark(&chat, reply - 1)).await;
    assert_eq!(back["last_read_seq"].as_u64(), Some(reply));
}
