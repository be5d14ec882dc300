//! Coming into conversations, and being sent out of them.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{CONVERSATIONS, World, message, messages_of, seq, until};

#[tokio::test]
async fn the_removed_hear_nothing_from_that_moment_on() {
    let world = World::new().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let chat = world.group(&here, &["ann", "bob", "cat"]).await;
    let mut ann = world.person(&here, "ann").await;
    let (mut bob, mut cat) = (world.person(&there, "bob").await, world.person(&there, "cat").await);
    bob.join(&chat).await;
    cat.join(&chat).await;
    // While people talk, so that the removal has neighbours.
    let removal = async {
        let path = format!("{CONVERSATIONS}{chat}/participants/bob/");
        assert_eq!(world.delete(&here, "ann", &path).await.status, 204);
    };
    let talk = async {
        let mut last = 0;
        for n in 0..60 {
            last = seq(&ann.send(&chat, &n.to_string()).await);
        }
        last
    };
    let ((), last) = tokio::join!(removal, talk);
    let removed = cat.expect("participant_removed").await;
    assert_eq!((&removed["user_id"], &removed["removed_by"]), (&json!("bob"), &json!("ann")));
    cat.find(|it| it["type"] == "new_message" && it["seq"] == last).await;
    bob.find(|it| it["type"] == "conversation_updated" && it["reason"] == "removed").await;
    bob.caught_up().await;
    // Neither as a member nor as news.
    let after = |it: &Value| it["seq"].as_u64() > removed["seq"].as_u64();
    let late: Vec<_> = bob.held.iter().filter(|it| after(it) || after(&it["last_message"])).collect();
    assert!(late.is_empty(), "after {}: {late:?}", removed["seq"]);

    for kind in ["join_conversation", "send_message", "typing", "mark_read"] {
        let mut frame = message(&chat, "x");
        frame["type"] = json!(kind);
        frame["is_typing"] = json!(true);
        frame["seq"] = json!(1);
        assert_eq!(bob.refused(frame).await, "forbidden", "{kind}");
    }
    let page = world.get(&there, "bob", &messages_of(&chat)).await;
    assert_eq!((page.status, page.code()), (403, "forbidden"));
    assert_eq!(world.get(&there, "bob", CONVERSATIONS).await.body["results"], json!([]));
    assert_eq!(cat.join(&chat).await["participants"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_added_are_told_and_have_read_everything_so_far() {
    let world = World::new().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let chat = world.group(&here, &["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&here, "ann").await, world.person(&there, "bob").await);
    let mut eve = world.person(&there, "eve").await;
    bob.join(&chat).await;
    ann.send(&chat, "before").await;
    assert_eq!(eve.refused(message(&chat, "x")).await, "forbidden");
    let people = format!("{CONVERSATIONS}{chat}/participants/");
    assert_eq!(world.post(&there, "bob", &people, json!({ "user_id": "eve" })).await.code(), "forbidden");
    let added = world.post(&here, "ann", &people, json!({ "user_id": "eve" })).await;
    assert_eq!((added.status, &added.body["user_id"], &added.body["role"]), (201, &json!("eve"), &json!("member")));
    assert_eq!(world.post(&here, "ann", &people, json!({ "user_id": "eve" })).await.status, 200);

    let news = eve.expect("conversation_updated").await;
    assert_eq!((&news["conversation_id"], &news["reason"]), (&json!(chat), &json!("added")));
    assert_eq!(bob.expect("participant_added").await["participant"]["user_id"], "eve");
    // Names come from tokens, written behind.
    until("her name to be known", async || {
        let one = world.get(&here, "ann", &format!("{CONVERSATIONS}{chat}/")).await.body;
        one["participants"].as_array().unwrap().iter().any(|it| it["username"] == "EVE")
    })
    .await;
    eve.join(&chat).await;
    eve.send(&chat, "hello").await;
    assert_eq!(bob.find(|it| it["sender_id"] == "eve").await["content"], "hello");
}

#[tokio::test]
async fn groups_outlive_their_owners_and_pairs_stay_pairs() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_GROUP_MAX", "3").start().await.unwrap();
    let group = world.group(&gateway, &["ann", "bob", "cat"]).await;
    let people = format!("{CONVERSATIONS}{group}/participants/");
    let full = world.post(&gateway, "ann", &people, json!({ "user_id": "dan" })).await;
    assert_eq!((full.status, full.code()), (409, "conflict"));
    assert_eq!(world.delete(&gateway, "bob", &format!("{people}cat/")).await.code(), "forbidden");
    assert_eq!(world.delete(&gateway, "ann", &format!("{people}ann/")).await.status, 204);
    // The oldest member takes over.
    let left = world.get(&gateway, "bob", &format!("{CONVERSATIONS}{group}/")).await;
    let roles: Vec<_> = left.body["participants"].as_array().unwrap().iter().map(|it| it["role"].clone()).collect();
    assert_eq!(roles.iter().filter(|role| *role == "owner").count(), 1, "{left:?}");
    let owner = if left.body["participants"][0]["role"] == "owner" { 0 } else { 1 };
    let owner = left.body["participants"][owner]["user_id"].as_str().unwrap();
    assert_eq!(world.post(&gateway, owner, &people, json!({ "user_id": "dan" })).await.status, 201);
    assert_eq!(world.delete(&gateway, owner, &format!("{people}nobody/")).await.code(), "not_found");

    let pair = world.direct(&gateway, ["ann", "bob"]).await;
    let found = world.post(&gateway, "bob", CONVERSATIONS, json!({ "participant_ids": ["ann"] })).await;
    assert_eq!((found.status, &found.body["id"]), (200, &json!(pair)));
    let people = format!("{CONVERSATIONS}{pair}/participants/");
    assert_eq!(world.post(&gateway, "ann", &people, json!({ "user_id": "dan" })).await.code(), "conflict");
    assert_eq!(world.delete(&gateway, "ann", &format!("{people}bob/")).await.code(), "conflict");
}

#[tokio::test]
async fn two_who_begin_to_talk_at_the_same_moment_have_one_conversation() {
    let world = World::new().await;
    let gateways = [world.gateway().await, world.gateway().await];
    let create = async |n: usize| {
        let (me, other) = if n % 4 < 2 { ("ann", "bob") } else { ("bob", "ann") };
        world.post(&gateways[n % 2], me, CONVERSATIONS, json!({ "participant_ids": [other] })).await
    };
    let answers = join_all((0..12).map(create)).await;
    let ids: BTreeSet<_> = answers.iter().map(|it| it.body["id"].as_str().unwrap()).collect();
    let made = answers.iter().filter(|it| it.status == 201).count();
    assert_eq!((ids.len(), made), (1, 1), "{answers:?}");
    assert!(answers.iter().all(|it| matches!(it.status, 200 | 201)));
}
