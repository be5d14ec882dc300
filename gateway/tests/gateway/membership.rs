//! Coming into conversations, and being sent out of them.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use devstack::testing::{Process, UserType};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    person::Person,
    support::{CONVERSATIONS, World, message, messages_of, seq, until},
};

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
async fn added_participant_has_no_unread_messages_while_the_persister_lags() {
    let world = World::new().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let chat = world.group(&here, &["ann", "bob"]).await;
    let mut ann = world.person(&here, "ann").await;
    let mut bob = world.person(&there, "bob").await;
    bob.join(&chat).await;
    let mut eve = world.person(&there, "eve").await;
    for n in 0..3 {
        ann.send(&chat, &n.to_string()).await;
    }
    let people = format!("{CONVERSATIONS}{chat}/participants/");
    assert_eq!(world.post(&here, "ann", &people, json!({ "user_id": "eve" })).await.status, 201);
    let added = seq(&bob.expect("participant_added").await);

    let news = eve.expect("conversation_updated").await;
    assert_eq!((&news["reason"], &news["unread_count"]), (&json!("added"), &json!(0)), "{news}");
    let listed = async || {
        let list = world.get(&there, "eve", CONVERSATIONS).await.body;
        let entry = &list["results"][0];
        (entry["unread_count"].as_u64().unwrap(), entry["last_read_seq"].as_u64().unwrap())
    };
    assert_eq!(listed().await, (0, added), "without a persister");
    // A room that was open before, and one that is opened now.
    for gateway in [&there, &here] {
        let joined = world.person(gateway, "ann").await.join(&chat).await;
        assert_eq!(joined["read_markers"]["eve"], added, "{joined}");
    }
    ann.send(&chat, "after").await;
    let news = eve.expect("conversation_updated").await;
    assert_eq!(news["unread_count"], 1, "{news}");

    let _persister = world.persister().await;
    world.persisted().await;
    assert_eq!(listed().await, (1, added), "with everything in Postgres");
    let fresh = world.gateway().await;
    let joined = world.person(&fresh, "ann").await.join(&chat).await;
    assert_eq!(joined["read_markers"]["eve"], added, "{joined}");
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

#[tokio::test]
async fn a_removal_that_races_with_joins_leaves_nobody_attached() {
    let world = World::new().await;
    let _persister = world.persister().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let chat = world.group(&here, &["ann", "bob", "cat"]).await;
    let mut ann = world.person(&here, "ann").await;
    // A join has something to read between its checks.
    for n in 0..150 {
        ann.send(&chat, &n.to_string()).await;
    }
    let people = format!("{CONVERSATIONS}{chat}/participants/");
    let mut sockets: Vec<Person> =
        join_all([&here, &there, &here, &there].map(|gateway| world.person(gateway, "bob"))).await;
    let mut cats = join_all([&here, &there].map(|gateway| world.person(gateway, "cat"))).await;
    for cat in &mut cats {
        cat.join(&chat).await;
    }
    for round in 0..12 {
        let removed = AtomicBool::new(false);
        let joins = sockets.iter_mut().map(async |bob| {
            let mut join = json!({ "type": "join_conversation", "conversation_id": chat });
            for n in 0.. {
                if n % 2 == 0 {
                    join["after"] = json!(1);
                }
                bob.held.clear();
                let reply = bob.ask(join.clone()).await;
                if reply["code"] == "forbidden" && removed.load(Ordering::Acquire) {
                    break;
                }
            }
        });
        let removal = async {
            tokio::time::sleep(std::time::Duration::from_millis(round * 3)).await;
            assert_eq!(world.delete(&here, "ann", &format!("{people}bob/")).await.status, 204);
            // Both nodes have dealt with the event.
            for cat in &mut cats {
                cat.find(|it| it["type"] == "participant_removed" && it["user_id"] == "bob").await;
            }
            removed.store(true, Ordering::Release);
        };
        tokio::join!(join_all(joins), removal);
        let after = seq(&ann.send(&chat, "not for bob").await);
        for cat in &mut cats {
            cat.find(|it| it["type"] == "new_message" && it["seq"] == after).await;
        }
        for bob in &mut sockets {
            bob.caught_up().await;
            assert!(!bob.held.iter().any(|it| it["seq"] == after), "round {round}: {:?}", bob.held);
        }
        assert_eq!(world.post(&there, "ann", &people, json!({ "user_id": "bob" })).await.status, 201);
    }
}

#[tokio::test]
async fn concurrent_changes_of_participants_end_as_postgres_has_them_on_every_node() {
    let world = World::new().await;
    let gateways = [world.gateway().await, world.gateway().await];
    let chat = world.group(&gateways[0], &["ann", "bob"]).await;
    let mut anns = join_all(gateways.each_ref().map(|gateway| world.person(gateway, "ann"))).await;
    for ann in &mut anns {
        ann.join(&chat).await;
    }
    let people = format!("{CONVERSATIONS}{chat}/participants/");
    let change = async |n: usize| {
        let user = format!("user-{n}");
        for turn in 0..5 {
            let gateway = &gateways[(n + turn) % 2];
            if turn % 2 == 0 {
                assert_eq!(world.post(gateway, "ann", &people, json!({ "user_id": user })).await.status, 201);
            } else {
                assert_eq!(world.delete(gateway, "ann", &format!("{people}{user}/")).await.status, 204);
            }
        }
    };
    join_all((0..8).map(change)).await;
    let wanted: BTreeSet<String> = (0..8).map(|n| format!("user-{n}")).chain(["ann".into(), "bob".into()]).collect();
    for ann in &mut anns {
        let mut last = json!(null);
        until("the participants to be what they are", async || {
            last = ann.join(&chat).await["participants"].clone();
            let users: BTreeSet<String> =
                last.as_array().unwrap().iter().map(|it| it["user_id"].as_str().unwrap().to_owned()).collect();
            users == wanted
        })
        .await;
    }
}

#[tokio::test]
async fn a_change_whose_notice_was_lost_is_noticed_in_time() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_MEMBERSHIP_SECONDS", "1").start().await.unwrap();
    let [open, closed] = [world.group(&gateway, &["ann", "bob"]).await, world.group(&gateway, &["ann", "bob"]).await];
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    bob.join(&open).await;
    bob.send(&closed, "cached").await;
    // As by a node whose broadcast went lost.
    let postgres = world.env.pool().await.unwrap();
    sqlx::query("DELETE FROM participants WHERE user_id = 'bob'").execute(&postgres).await.unwrap();
    until("the cache to end", async || bob.ask(message(&closed, "x")).await["code"] == "forbidden").await;
    bob.find(|it| it["type"] == "conversation_updated" && it["reason"] == "removed").await;
    let after = seq(&ann.send(&open, "not for bob").await);
    bob.caught_up().await;
    assert!(!bob.held.iter().any(|it| it["seq"] == after), "{:?}", bob.held);
}

#[tokio::test]
async fn names_and_types_change_on_every_node_at_once() {
    let world = World::new().await;
    let gateways = [world.gateway().await, world.gateway().await];
    let chat = world.direct(&gateways[0], ["ann", "shop"]).await;
    let mut anns = join_all(gateways.each_ref().map(|gateway| world.person(gateway, "ann"))).await;
    let shown = |joined: &Value| {
        let people = joined["participants"].as_array().unwrap();
        let shop = people.iter().find(|it| it["user_id"] == "shop").unwrap();
        (shop["username"].as_str().unwrap().to_owned(), shop["user_type"].as_str().unwrap().to_owned())
    };
    // The rooms stay open from here on.
    for ann in &mut anns {
        assert_eq!(shown(&ann.join(&chat).await), ("shop".into(), "customer".into()));
    }
    let token = |name: &str, kind| world.env.jwt_with("shop", name, kind, None, 3_600).unwrap();
    let come = async |gateway: &Process, name: &str, kind| Person::come(gateway, &token(name, kind)).await;

    // The first connection of all.
    let mut shop = come(&gateways[0], "The Shop", UserType::Vendor).await;
    assert_eq!(shown(&shop.join(&chat).await), ("The Shop".into(), "vendor".into()));
    let all_show = async |anns: &mut Vec<Person>, name: &str, kind: &str| {
        for ann in anns {
            until("the name to be shown", async || shown(&ann.join(&chat).await) == (name.into(), kind.into())).await;
        }
    };
    all_show(&mut anns, "The Shop", "vendor").await;
    // A new token on the other node; the same connection with a new one; and back to a name that the first node knows.
    let _second = come(&gateways[1], "The Store", UserType::Vendor).await;
    all_show(&mut anns, "The Store", "vendor").await;
    shop.get("ack", json!({ "type": "refresh_token", "token": token("The Shop", UserType::Customer) })).await;
    all_show(&mut anns, "The Shop", "customer").await;
    let _third = come(&gateways[1], "The Store", UserType::Vendor).await;
    all_show(&mut anns, "The Store", "vendor").await;
    let _fourth = come(&gateways[0], "The Shop", UserType::Customer).await;
    all_show(&mut anns, "The Shop", "customer").await;
}
