//! Joining: what is missing and then what is live, never a gap and never a repeat, wherever the missing part lies.

use async_nats::jetstream;
use devstack::testing::Process;
use futures_util::future::join_all;
use partyline_shared::subjects;
use serde_json::{Value, json};

use crate::{
    person::{Follower, Person},
    support::{CONVERSATIONS, World, messages_of, seq, until},
};

/// Takes from the log what Postgres holds, as its retention would.
async fn forget(world: &World) {
    use jetstream::consumer::pull;
    let js = jetstream::new(world.env.nats().await.unwrap());
    let stream = js.get_stream(subjects::log_stream(0)).await.unwrap();
    let consumer = stream.get_consumer::<pull::Config>(subjects::PERSISTER_CONSUMER).await.unwrap();
    let floor = consumer.get_info().await.unwrap().ack_floor.stream_sequence;
    stream.purge().sequence(floor + 1).await.unwrap();
}

fn kinds(joined: &Value) -> Vec<(&str, u64)> {
    let events = joined["events"].as_array().unwrap();
    events.iter().map(|it| (it["type"].as_str().unwrap(), seq(it))).collect()
}

async fn resumed(world: &World, gateway: &Process, source: &str) -> f64 {
    world.metric(gateway, &format!("partyline_gateway_resumes_total{{source=\"{source}\"}}")).await
}

#[tokio::test]
async fn what_was_missed_comes_from_the_ring_the_log_and_postgres() {
    let world = World::new().await;
    let persister = world.persister().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    let mut old = Vec::new();
    for n in 0..3 {
        old.push(seq(&ann.send(&chat, &format!("old {n}")).await));
    }
    ann.join(&chat).await;
    let change =
        |kind: &str, seq: u64| json!({ "type": kind, "conversation_id": chat, "seq": seq, "content": "edited" });
    let fresh = seq(&ann.send(&chat, "fresh").await);
    let edited = seq(&ann.get("ack", change("edit_message", old[0])).await);
    let deleted = seq(&ann.get("ack", change("delete_message", old[1])).await);
    let again = seq(&ann.get("ack", change("edit_message", fresh)).await);
    let expected =
        [("new_message", fresh), ("message_edited", edited), ("message_deleted", deleted), ("message_edited", again)];

    // The ring has what was delivered here, not what was acknowledged a moment ago.
    while seq(&ann.expect("message_edited").await) != again {}
    let joined = bob.join_after(&chat, old[2]).await;
    assert_eq!(kinds(&joined), expected);
    assert_eq!((seq(&joined), &joined["more"]), (again, &json!(false)));
    until("the join to be counted", async || resumed(&world, &gateway, "ring").await == 1.0).await;
    let other = world.gateway().await;
    let from_log = world.person(&other, "bob").await.join_after(&chat, old[2]).await;
    assert_eq!(from_log["events"], joined["events"]);
    until("the join to be counted", async || resumed(&world, &other, "log").await == 1.0).await;

    let last = world.persisted().await;
    drop(persister);
    forget(&world).await;
    let late = world.gateway().await;
    let mut person = world.person(&late, "bob").await;
    // Postgres keeps what messages are now, and each one's last change.
    let from_postgres = person.join_after(&chat, old[2]).await;
    assert_eq!(
        kinds(&from_postgres),
        [("new_message", fresh), ("message_edited", edited), ("message_deleted", deleted)]
    );
    let found = &from_postgres["events"][0];
    assert_eq!((&found["content"], found["edited_at"].is_string()), (&json!("edited"), true));
    assert_eq!(from_postgres["events"][1]["content"], "edited");
    assert!(seq(&from_postgres) >= last);
    until("the join to be counted", async || resumed(&world, &late, "postgres").await == 1.0).await;

    let live = seq(&ann.send(&chat, "live").await);
    for person in [&mut person, &mut bob] {
        let event = person.expect("new_message").await;
        assert!(seq(&event) == live && event["prev_seq"].as_u64().unwrap() <= last, "{event}");
    }
}

#[tokio::test]
async fn a_conversation_that_the_log_has_forgotten_is_whole() {
    let world = World::new().await;
    let persister = world.persister().await;
    let first = world.gateway().await;
    let chat = world.direct(&first, ["ann", "bob"]).await;
    let mut ann = world.person(&first, "ann").await;
    let mut seqs = Vec::new();
    for n in 0..3 {
        seqs.push(seq(&ann.send(&chat, &n.to_string()).await));
    }
    world.persisted().await;
    forget(&world).await;
    let gateway = world.gateway().await;
    let mut bob = world.person(&gateway, "bob").await;
    let joined = bob.join(&chat).await;
    assert_eq!(kinds(&joined), seqs.iter().map(|seq| ("new_message", *seq)).collect::<Vec<_>>());
    assert!(seq(&joined) >= seqs[2], "{joined}");
    let again = world.person(&gateway, "bob").await.join_after(&chat, seqs[1]).await;
    assert_eq!(kinds(&again), [("new_message", seqs[2])]);

    let page = world.get(&gateway, "bob", &messages_of(&chat)).await;
    assert_eq!(page.body["results"].as_array().unwrap().len(), 3);
    let one = format!("{CONVERSATIONS}{chat}/");
    assert_eq!(world.get(&gateway, "bob", &one).await.body["unread_count"], 3);
    let marked = world.post(&world.gateway().await, "bob", &format!("{one}mark_read/"), json!({})).await;
    assert!(marked.body["last_read_seq"].as_u64().unwrap() >= seqs[2], "{marked:?}");
    assert_eq!(world.get(&gateway, "bob", &one).await.body["unread_count"], 0);
    drop(persister);
    ann.send(&chat, "live").await;
    assert_eq!(bob.expect("new_message").await["content"], "live");
}

/// Ann joins on a node that opens the conversation now, and again on one that has had it open, as after the end of her
/// node, while nobody says anything in it.
async fn join_elsewhere(world: &World, second: &Process, chat: &str, floor: u64) -> Person {
    let first = world.gateway().await;
    let seen = seq(&world.person(&first, "ann").await.join(chat).await);
    assert!(seen >= floor, "{seen} of {floor}");
    drop(first);
    let mut ann = world.person(second, "ann").await;
    let joined = ann.join_after(chat, seen).await;
    assert_eq!((&joined["more"], &joined["events"]), (&json!(false), &json!([])), "{joined}");
    ann
}

#[tokio::test]
async fn a_conversation_without_events_is_joined_again_on_another_node() {
    let world = World::new().await;
    let _persister = world.persister().await;
    let gateway = world.gateway().await;
    let (quiet, busy) = (world.direct(&gateway, ["ann", "bob"]).await, world.direct(&gateway, ["eve", "bob"]).await);
    let mut bob = world.person(&gateway, "bob").await;
    bob.join(&quiet).await;
    let mut eve = world.person(&gateway, "eve").await;
    for n in 0..20 {
        eve.send(&busy, &n.to_string()).await;
    }
    let floor = world.persisted().await;
    let mut ann = join_elsewhere(&world, &gateway, &quiet, floor).await;
    ann.send(&quiet, "hello").await;
    for person in [&mut ann, &mut bob] {
        assert_eq!(person.expect("new_message").await["content"], "hello");
    }
}

#[tokio::test]
async fn a_conversation_that_is_open_longer_than_the_log_keeps_its_events_is_joined_again_on_another_node() {
    let world = World::new().await;
    let _persister = world.persister().await;
    let gateway = world.gateway().await;
    let (quiet, busy) = (world.direct(&gateway, ["ann", "bob"]).await, world.direct(&gateway, ["eve", "bob"]).await);
    let mut bob = world.person(&gateway, "bob").await;
    let mut seqs = Vec::new();
    bob.join(&quiet).await;
    // More than a node keeps in memory.
    for n in 0..140 {
        bob.say(&crate::support::message(&quiet, &n.to_string())).await;
    }
    for _ in 0..140 {
        seqs.push(seq(&bob.expect("ack").await));
    }
    bob.find(|it| it["type"] == "new_message" && it["seq"] == seqs[139]).await;
    let mut eve = world.person(&gateway, "eve").await;
    for n in 0..5 {
        eve.send(&busy, &n.to_string()).await;
    }
    let floor = world.persisted().await;
    forget(&world).await;
    // Who was away for long gets everything from Postgres.
    let missed = world.person(&gateway, "ann").await.join_after(&quiet, seqs[0]).await;
    assert_eq!(kinds(&missed).iter().map(|it| it.1).collect::<Vec<_>>(), seqs[1..]);
    let mut ann = join_elsewhere(&world, &gateway, &quiet, floor).await;
    bob.held.clear();
    ann.send(&quiet, "hello").await;
    for person in [&mut ann, &mut bob] {
        assert_eq!(person.expect("new_message").await["content"], "hello");
    }
}

#[tokio::test]
async fn a_heavy_first_page_has_the_newest_messages() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let mut seqs = Vec::new();
    for _ in 0..60 {
        let mut heavy = crate::support::message(&chat, &"\u{1f600}".repeat(900));
        heavy["metadata"] = json!({ "note": "x".repeat(3_900) });
        ann.say(&heavy).await;
    }
    for _ in 0..60 {
        seqs.push(seq(&ann.expect("ack").await));
    }
    let mut bob = world.person(&gateway, "bob").await;
    // From the log's tail, and from Postgres.
    let mut persister = None;
    for stored in [false, true] {
        if stored {
            persister = Some(world.persister().await);
            world.persisted().await;
            // No longer than a node takes what it knows of the persister for true.
            tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        }
        let joined = bob.join(&chat).await;
        let got: Vec<u64> = kinds(&joined).iter().map(|it| it.1).collect();
        assert_eq!((seq(&joined), &joined["more"], &joined["has_older"]), (seqs[59], &json!(false), &json!(true)));
        assert!((20..50).contains(&got.len()), "{}", got.len());
        assert_eq!(got, seqs[60 - got.len()..]);
        // What did not fit is what REST has before the page.
        let older = format!("{}?before={}&limit=10", messages_of(&chat), got[0]);
        let older = world.get(&gateway, "bob", &older).await;
        let older: Vec<u64> = older.body["results"].as_array().unwrap().iter().map(seq).collect();
        assert_eq!(older, seqs[50 - got.len()..60 - got.len()]);
    }
    drop(persister);
    let live = seq(&ann.send(&chat, "live").await);
    assert_eq!(seq(&bob.expect("new_message").await), live);
}

#[tokio::test]
async fn a_long_absence_comes_in_pages() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    let mut seqs = Vec::new();
    for n in 0..450 {
        ann.say(&crate::support::message(&chat, &n.to_string())).await;
    }
    for _ in 0..450 {
        seqs.push(seq(&ann.expect("ack").await));
    }
    let last_page = bob.join(&chat).await;
    assert_eq!(last_page["has_older"], true);
    assert_eq!(kinds(&last_page).iter().map(|it| it.1).collect::<Vec<_>>(), seqs[400..]);
    let (mut got, mut pages, mut after) = (Vec::new(), 0, 0);
    loop {
        let joined = bob.join_after(&chat, after).await;
        got.extend(kinds(&joined).iter().map(|it| it.1));
        pages += 1;
        after = seq(&joined);
        if joined["more"] == false {
            break;
        }
        // Until the last page nothing live comes in between.
        ann.send(&chat, "in between").await;
        bob.caught_up().await;
        assert!(bob.held("new_message").is_empty());
    }
    assert_eq!((got.len(), pages), (452, 3));
    assert_eq!(got[..450], seqs);
    ann.send(&chat, "live").await;
    bob.expect("new_message").await;
}

/// Joins until nothing is missing.
async fn catch_up(follower: &mut Follower, person: &mut Person, chat: &str) {
    loop {
        let joined = person.join_after(chat, follower.last).await;
        for event in joined["events"].as_array().unwrap() {
            follower.take(event, "caught up");
        }
        assert!(seq(&joined) >= follower.last, "{joined}");
        follower.last = seq(&joined);
        if joined["more"] == false {
            return;
        }
    }
}

#[tokio::test]
async fn joining_again_and_again_under_traffic_nothing_is_missed_or_repeated() {
    const EACH: usize = 150;
    let world = World::new().await;
    let _persister = world.persister().await;
    let gateways = [world.gateway().await, world.gateway().await];
    let chat = world.group(&gateways[0], &["a", "b", "c", "eve"]).await;
    let done = tokio_util::sync::CancellationToken::new();
    let send = async |n: usize| {
        let mut person = world.person(&gateways[n % 2], ["a", "b", "c"][n]).await;
        let mut seqs = Vec::new();
        for n in 0..EACH {
            seqs.push(seq(&person.send(&chat, &n.to_string()).await));
        }
        seqs
    };
    let sending = async {
        let mut seqs = join_all((0..3).map(send)).await.concat();
        seqs.sort_unstable();
        done.cancel();
        seqs
    };
    // The log's beginning goes away all the time.
    let forgetting = async {
        while !done.is_cancelled() {
            forget(&world).await;
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        }
    };
    let follow = async |n: usize| {
        let mut follower = Follower::default();
        let mut turn = n;
        while !done.is_cancelled() {
            turn += 1;
            let mut person = world.person(&gateways[turn % 2], "eve").await;
            catch_up(&mut follower, &mut person, &chat).await;
            // A few live events: one hurries, one stays.
            for _ in 0..[0, 3, 20][n] {
                tokio::select! {
                    event = person.expect("new_message") => follower.take(&event, "live"),
                    () = done.cancelled() => break,
                }
            }
        }
        let mut person = world.person(&gateways[0], "eve").await;
        catch_up(&mut follower, &mut person, &chat).await;
        follower.seqs
    };
    let (sent, (), followed) = tokio::join!(sending, forgetting, join_all((0..3).map(follow)));
    assert_eq!(sent.len(), 3 * EACH);
    for seqs in followed {
        assert_eq!(seqs, sent);
    }
    // And from the very beginning, on a node that never saw any of it.
    let fresh = world.gateway().await;
    let mut late = Follower::default();
    catch_up(&mut late, &mut world.person(&fresh, "eve").await, &chat).await;
    assert_eq!(late.seqs, sent);
}
