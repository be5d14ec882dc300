//! Edits and deletions: in the log in an order that makes sense, and in the lists of people who have not joined.

use std::collections::HashMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    person::Person,
    support::{CONVERSATIONS, World, seq, until},
};

fn edit(chat: &str, seq: &Value, content: &str) -> Value {
    json!({ "type": "edit_message", "conversation_id": chat, "seq": seq, "content": content })
}

fn delete(chat: &str, seq: &Value) -> Value {
    json!({ "type": "delete_message", "conversation_id": chat, "seq": seq })
}

#[tokio::test]
async fn edit_never_follows_the_deletion_of_its_message() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let (mut left, mut right) = (world.person(&one, "ann").await, world.person(&two, "ann").await);
    let (mut bob, mut noise) = (world.person(&two, "bob").await, world.person(&one, "bob").await);
    bob.join(&chat).await;
    let mut replies = HashMap::new();
    for n in 0..30 {
        let sent = left.send(&chat, &n.to_string()).await["seq"].clone();
        let (edited, deleted, _) = tokio::join!(
            left.ask(edit(&chat, &sent, "edited")),
            right.get("ack", delete(&chat, &sent)),
            // Whatever else is said meanwhile hinders neither.
            noise.send(&chat, "noise"),
        );
        assert_eq!(deleted["message_seq"], sent);
        if edited["type"] == "error" {
            assert_eq!(edited["code"], "conflict", "{edited}");
        }
        replies.insert(sent.as_u64().unwrap(), (edited, deleted));
    }
    left.send(&chat, "end").await;
    bob.find(|it| it["content"] == "end").await;
    for (sent, (edited, deleted)) in replies {
        let places = |kind: &str| {
            let of_message = |it: &&Value| it["message_seq"] == sent;
            bob.held(kind).into_iter().filter(of_message).map(seq).collect::<Vec<_>>()
        };
        // The acknowledgements say what everybody hears: one deletion, and an edit before it or none.
        assert_eq!(places("message_deleted"), [seq(&deleted)]);
        let edits = places("message_edited");
        assert_eq!(edits, edited["seq"].as_u64().into_iter().collect::<Vec<_>>());
        assert!(edits.iter().all(|edit| *edit < seq(&deleted)), "{edits:?} {deleted}");
    }
}

#[tokio::test]
async fn message_is_deleted_once_however_many_ask_for_it() {
    let world = World::new().await;
    let gateways = [world.gateway().await, world.gateway().await];
    let persister = world.persister().await;
    let chat = world.direct(&gateways[0], ["ann", "bob"]).await;
    let mut bob = world.person(&gateways[1], "bob").await;
    bob.join(&chat).await;
    let mut people = Vec::new();
    for n in 0..9 {
        people.push(world.person(&gateways[n % 2], "ann").await);
    }
    let sent = people[0].send(&chat, "to be deleted").await["seq"].clone();
    let acks = join_all(people.iter_mut().map(|person| person.get("ack", delete(&chat, &sent)))).await;
    let places: Vec<u64> = acks.iter().map(seq).collect();
    assert_eq!(places, [places[0]; 9]);
    // Later ones, too, wherever the deletion stands by then.
    assert_eq!(seq(&people[0].get("ack", delete(&chat, &sent)).await), places[0]);
    world.persisted().await;
    assert_eq!(seq(&people[1].get("ack", delete(&chat, &sent)).await), places[0]);
    assert_eq!(people[0].refused(edit(&chat, &sent, "x")).await, "conflict");
    people[0].send(&chat, "end").await;
    bob.find(|it| it["content"] == "end").await;
    assert_eq!(bob.held("message_deleted").len(), 1, "{:?}", bob.held);
    drop(persister);
}

async fn news(person: &mut Person, reason: &str) -> Value {
    person.find(|it| it["type"] == "conversation_updated" && it["reason"] == reason).await
}

#[tokio::test]
async fn people_who_have_not_joined_hear_of_changes_to_their_lists() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let persister = world.persister().await;
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let mut ann = world.person(&one, "ann").await;
    let mut bobs = [world.person(&one, "bob").await, world.person(&two, "bob").await];
    let mut sent = Vec::new();
    for content in ["first", "second", "third"] {
        sent.push(ann.send(&chat, content).await["seq"].clone());
    }
    for bob in &mut bobs {
        bob.find(|it| it["last_message"]["content"] == "third").await;
    }
    // From here on Postgres knows of the messages, and not of what happens to them.
    world.persisted().await;
    persister.kill().await;

    // No list shows the second.
    ann.get("ack", edit(&chat, &sent[1], "second, edited")).await;
    ann.get("ack", edit(&chat, &sent[2], "third, edited")).await;
    for bob in &mut bobs {
        let edited = news(bob, "edited").await;
        let last = &edited["last_message"];
        assert_eq!((&last["seq"], &last["content"]), (&sent[2], &json!("third, edited")), "{edited}");
        assert!(last["edited_at"].is_string() && last["type"] == "new_message", "{edited}");
        assert_eq!((&edited["unread_count"], &edited["conversation_id"]), (&json!(3), &json!(chat)), "{edited}");
    }
    ann.get("ack", delete(&chat, &sent[0])).await;
    for bob in &mut bobs {
        let deleted = news(bob, "deleted").await;
        assert_eq!((&deleted["last_message"], &deleted["unread_count"]), (&Value::Null, &json!(2)), "{deleted}");
    }
    ann.get("ack", delete(&chat, &sent[2])).await;
    for bob in &mut bobs {
        let deleted = news(bob, "deleted").await;
        let last = &deleted["last_message"];
        assert_eq!(
            (&last["seq"], &last["content"], &last["metadata"]),
            (&sent[2], &json!(""), &json!({})),
            "{deleted}"
        );
        assert!(last["deleted_at"].is_string(), "{deleted}");
        assert_eq!(deleted["unread_count"], 1, "{deleted}");
    }
    // The list says the same, also when Postgres has all of it.
    let listed = async || {
        let list = world.get(&two, "bob", CONVERSATIONS).await.body;
        let conversation = &list["results"][0];
        (conversation["unread_count"].clone(), conversation["last_message"]["content"].clone())
    };
    assert_eq!(listed().await, (json!(1), json!("")));
    let persister = world.persister().await;
    world.persisted().await;
    assert_eq!(listed().await, (json!(1), json!("")));
    // A message that only Postgres holds.
    use async_nats::jetstream;
    use partyline_shared::subjects;
    let stream = jetstream::new(world.env.nats().await.unwrap()).get_stream(subjects::log_stream(0)).await.unwrap();
    stream.purge().await.unwrap();
    ann.get("ack", delete(&chat, &sent[1])).await;
    for bob in &mut bobs {
        let deleted = news(bob, "deleted").await;
        assert_eq!((&deleted["last_message"], &deleted["unread_count"]), (&Value::Null, &json!(0)), "{deleted}");
        // One edit changed a list, and no more than one was told.
        bob.caught_up().await;
        assert!(bob.held("conversation_updated").iter().all(|it| it["reason"] == "message"), "{:?}", bob.held);
    }
    until("the list to agree", async || listed().await == (json!(0), json!(""))).await;
    drop(persister);
}

#[tokio::test]
async fn deletion_does_not_hide_a_message_that_came_at_the_same_moment() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    let first = ann.send(&chat, "first").await["seq"].clone();
    for n in 0..10 {
        let content = format!("message {n}");
        ann.say(&crate::support::message(&chat, &content)).await;
        ann.say(&delete(&chat, &first)).await;
        ann.expect("ack").await;
        ann.expect("ack").await;
        bob.find(|it| it["last_message"]["content"] == content).await;
    }
}
