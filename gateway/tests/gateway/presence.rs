//! Who is there, and who types: never stored, and never for long.

use std::time::Duration;

use async_nats::jetstream::{self, kv};
use devstack::testing::{Process, Proxy, Signal};
use futures_util::TryStreamExt;
use partyline_shared::{streams::PRESENCE_MARKER_TTL, subjects};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, interval};

use crate::{
    person::Person,
    support::{CONVERSATIONS, PATIENCE, World, client_id, messages_of, until},
};

/// Waits for word of somebody coming or going.
async fn told(person: &mut Person, user: &str, online: bool) {
    let frame = person.find(|it| it["type"] == "presence" && it["user_id"] == user).await;
    assert_eq!(frame["online"], online, "{frame}");
    assert_eq!(frame["last_seen"].is_string(), !online, "{frame}");
}

/// Whether a list shows somebody as online.
async fn listed(world: &World, gateway: &Process, reader: &str, user: &str) -> bool {
    let list = world.get(gateway, reader, CONVERSATIONS).await.body;
    let people = list["results"][0]["participants"].as_array().unwrap().clone();
    people.iter().find(|it| it["user_id"] == user).unwrap()["online"] == true
}

#[tokio::test]
async fn people_come_and_go_by_their_first_and_last_socket_on_any_node() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let mut bob = world.person(&one, "bob").await;
    assert_eq!(bob.join(&chat).await["online"], json!(["bob"]));
    let here = world.person(&one, "ann").await;
    told(&mut bob, "ann", true).await;
    let there = world.person(&two, "ann").await;
    until("both nodes to know", async || listed(&world, &two, "bob", "ann").await).await;
    // She is still there once the first is gone: nothing is told until the last one goes.
    here.leave().await;
    until("the node to know", async || {
        world.metric(&one, "partyline_gateway_connections{protocol=\"native\"}").await == 1.0
    })
    .await;
    assert!(listed(&world, &one, "bob", "ann").await);
    there.leave().await;
    told(&mut bob, "ann", false).await;
    assert!(bob.held("presence").is_empty(), "{:?}", bob.held);
    assert!(!listed(&world, &one, "bob", "ann").await);
    // Strangers are told nothing.
    let mut eve = world.person(&one, "eve").await;
    let ann = world.person(&two, "ann").await;
    told(&mut bob, "ann", true).await;
    eve.caught_up().await;
    assert!(eve.held.is_empty(), "{:?}", eve.held);
    ann.leave().await;
}

#[tokio::test]
async fn reconnecting_within_the_grace_sends_no_presence() {
    let world = World::new().await;
    // The grace is longer than the test: whatever is told of going is told too soon.
    let launch = || world.launch().env("PARTYLINE_PRESENCE_GRACE_SECONDS", "300");
    let (one, two) = (launch().start().await.unwrap(), launch().start().await.unwrap());
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let mut bob = world.person(&one, "bob").await;
    bob.join(&chat).await;
    let mut ann = world.person(&one, "ann").await;
    told(&mut bob, "ann", true).await;
    let bucket = presence_bucket(&world).await;
    // Reloads, on the same node and on another; each is waited for until everybody can know of it.
    for gateway in [&one, &one, &two, &two, &one] {
        ann.leave().await;
        until("the key to go", async || keys(&bucket).await.iter().all(|key| !key.ends_with(".ann"))).await;
        assert!(listed(&world, &one, "bob", "ann").await && listed(&world, &two, "bob", "ann").await);
        ann = world.person(gateway, "ann").await;
        until("the key to come", async || keys(&bucket).await.iter().any(|key| key.ends_with(".ann"))).await;
    }
    // Frames of presence keep their order: this one comes after all that may have been told of her.
    let group = world.group(&one, &["bob", "cat"]).await;
    bob.join(&group).await;
    let _cat = world.person(&one, "cat").await;
    told(&mut bob, "cat", true).await;
    assert!(bob.held("presence").is_empty(), "{:?}", bob.held);
    // Somebody who joins while she is away for a moment finds her there.
    ann.leave().await;
    until("the key to go", async || keys(&bucket).await.iter().all(|key| !key.ends_with(".ann"))).await;
    let mut again = world.person(&two, "bob").await;
    assert_eq!(again.join(&chat).await["online"], json!(["ann", "bob"]));
}

#[tokio::test]
async fn leaving_is_told_once_the_grace_is_over() {
    let world = World::new().await;
    let launch = || world.launch().env("PARTYLINE_PRESENCE_GRACE_SECONDS", "2");
    let (one, two) = (launch().start().await.unwrap(), launch().start().await.unwrap());
    let chat = world.group(&one, &["ann", "bob", "cat"]).await;
    let (mut bob, mut cat) = (world.person(&one, "bob").await, world.person(&two, "cat").await);
    bob.join(&chat).await;
    cat.join(&chat).await;
    let ann = world.person(&one, "ann").await;
    told(&mut bob, "ann", true).await;
    told(&mut cat, "ann", true).await;
    let grace = Duration::from_secs(2);
    let before = OffsetDateTime::now_utc();
    ann.leave().await;
    for person in [&mut bob, &mut cat] {
        let frame = person.find(|it| it["type"] == "presence" && it["user_id"] == "ann").await;
        let now = OffsetDateTime::now_utc();
        assert_eq!(frame["online"], false);
        // When she went, not when it was told.
        let last_seen = OffsetDateTime::parse(frame["last_seen"].as_str().unwrap(), &Rfc3339).unwrap();
        let precision = Duration::from_millis(1);
        assert!(before - precision <= last_seen && last_seen + grace <= now + precision, "{before} {last_seen} {now}");
    }
    assert!(!listed(&world, &one, "bob", "ann").await && !listed(&world, &two, "bob", "ann").await);
}

async fn presence_bucket(world: &World) -> kv::Store {
    jetstream::new(world.env.nats().await.unwrap()).get_key_value(subjects::PRESENCE_BUCKET).await.unwrap()
}

async fn keys(bucket: &kv::Store) -> Vec<String> {
    bucket.keys().await.unwrap().try_collect().await.unwrap()
}

/// Messages in the bucket's stream: keys and markers of removed ones.
async fn entries(bucket: &kv::Store) -> u64 {
    bucket.stream.get_info().await.unwrap().state.messages
}

#[tokio::test]
async fn the_presence_bucket_holds_nothing_of_those_who_have_gone() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let stays = world.person(&one, "bob").await;
    let bucket = presence_bucket(&world).await;
    for n in 0..40 {
        let user = format!("visitor-{n}");
        let (here, there) = (world.person(&one, &user).await, world.person(&two, &user).await);
        tokio::join!(here.leave(), there.leave());
    }
    until("only one key to be left", async || keys(&bucket).await.len() == 1).await;
    // The node that leaves with people on it leaves no key and no marker of its own, and takes its lease along.
    let _last = [world.person(&two, "ann").await, world.person(&two, "cat").await];
    until("all to be written", async || keys(&bucket).await.len() == 3).await;
    two.terminate(PATIENCE).await;
    until("the node's keys to be gone", async || keys(&bucket).await.len() == 1).await;
    // Markers end by themselves, 30 s after the last one was written.
    let deadline = Instant::now() + PRESENCE_MARKER_TTL + PATIENCE;
    while entries(&bucket).await > 1 {
        assert!(Instant::now() < deadline, "{} entries for one key", entries(&bucket).await);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(entries(&bucket).await, 1);
    stays.leave().await;
}

#[tokio::test]
async fn a_node_that_missed_a_removal_finds_out_when_it_is_back() {
    let world = World::new().await;
    let nats = Proxy::start(world.env.nats_url()).await.unwrap();
    let launch = || world.launch().env("PARTYLINE_PRESENCE_GRACE_SECONDS", "0");
    let well = launch().start().await.unwrap();
    let cut_off = launch().env("PARTYLINE_NATS_URL", nats.through(world.env.nats_url())).start().await.unwrap();
    let chat = world.direct(&well, ["ann", "bob"]).await;
    let mut bob = world.person(&cut_off, "bob").await;
    bob.join(&chat).await;
    let ann = world.person(&well, "ann").await;
    told(&mut bob, "ann", true).await;
    nats.cut();
    until("the node to notice", async || !world.is_ready(&cut_off).await).await;
    let bucket = presence_bucket(&world).await;
    ann.leave().await;
    until("the key to go", async || keys(&bucket).await.iter().all(|key| !key.ends_with(".ann"))).await;
    // As if it had been away for longer than a marker lasts.
    let js = jetstream::new(world.env.nats().await.unwrap());
    let stream = js.get_stream(format!("KV_{}", subjects::PRESENCE_BUCKET)).await.unwrap();
    stream.purge().filter(format!("$KV.{}.*.ann", subjects::PRESENCE_BUCKET)).await.unwrap();
    nats.resume();
    told(&mut bob, "ann", false).await;
}

#[tokio::test]
async fn the_people_of_a_killed_node_are_offline_when_its_lease_ends() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let persister = world.persister().await;
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let mut bob = world.person(&one, "bob").await;
    bob.join(&chat).await;
    let _ann = world.person(&two, "ann").await;
    told(&mut bob, "ann", true).await;
    two.kill().await;
    told(&mut bob, "ann", false).await;
    assert!(!listed(&world, &one, "bob", "ann").await);
    until("the time to be kept", async || {
        let one = world.get(&one, "bob", &format!("{CONVERSATIONS}{chat}/")).await.body;
        one["participants"].as_array().unwrap().iter().any(|it| it["user_id"] == "ann" && it["last_seen"].is_string())
    })
    .await;
    drop(persister);
}

#[tokio::test]
async fn a_node_that_was_stopped_for_longer_than_its_lease_takes_its_place_again() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let mut bob = world.person(&one, "bob").await;
    bob.join(&chat).await;
    let mut ann = world.person(&two, "ann").await;
    told(&mut bob, "ann", true).await;
    until("all to be there", async || listed(&world, &two, "bob", "bob").await).await;
    two.signal(Signal::STOP);
    told(&mut bob, "ann", false).await;
    two.signal(Signal::CONT);
    // Her socket has outlived it, so she is there, for everybody: news finds her.
    told(&mut bob, "ann", true).await;
    bob.send(&chat, "there you are").await;
    ann.find(|it| it["type"] == "conversation_updated" && it["last_message"]["content"] == "there you are").await;
    // And it has taken nobody else for dead.
    assert!(listed(&world, &two, "ann", "bob").await);
    let third = world.gateway().await;
    until("a new node to know both", async || {
        listed(&world, &third, "ann", "bob").await && listed(&world, &third, "ann", "ann").await
    })
    .await;
}

#[tokio::test]
async fn typing_is_passed_on_once_a_second_and_ends_by_itself() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&one, "ann").await, world.person(&two, "bob").await);
    ann.join(&chat).await;
    bob.join(&chat).await;
    let typing = |is_typing: bool| json!({ "type": "typing", "conversation_id": chat, "is_typing": is_typing });
    let began = Instant::now();
    let mut tick = interval(Duration::from_millis(50));
    while began.elapsed() < Duration::from_millis(2_300) {
        tick.tick().await;
        ann.say(&typing(true)).await;
    }
    ann.say(&typing(true)).await;
    let last = Instant::now();
    ann.caught_up().await;
    let most = 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    let frame = bob.find(|it| it["type"] == "typing" && it["is_typing"] == false).await;
    let whole =
        json!({ "type": "typing", "conversation_id": chat, "user_id": "ann", "username": "ANN", "is_typing": false });
    assert_eq!(frame, whole);
    assert!(last.elapsed() >= Duration::from_millis(4_500), "ended after {:?}", last.elapsed());
    let passed_on = bob.held("typing").len();
    assert!((2..=most).contains(&passed_on), "{passed_on}, at most {most}");

    // Stopping is told, and so is going away; nobody hears of their own typing.
    for stop in ["says so", "leaves the conversation", "goes"] {
        bob.held.clear();
        let mut again = world.person(&one, "ann").await;
        again.join(&chat).await;
        again.say(&typing(true)).await;
        bob.find(|it| it["type"] == "typing" && it["is_typing"] == true).await;
        match stop {
            "says so" => again.say(&typing(false)).await,
            "goes" => again.leave().await,
            _ => drop(again.get("left", json!({ "type": "leave_conversation", "conversation_id": chat })).await),
        }
        bob.find(|it| it["type"] == "typing" && it["is_typing"] == false).await;
    }
    ann.caught_up().await;
    assert!(ann.held("typing").is_empty());

    // A start that comes too soon after the last one is passed on later, not dropped.
    bob.held.clear();
    let mut again = world.person(&one, "ann").await;
    again.join(&chat).await;
    for is_typing in [true, false, true] {
        again.say(&typing(is_typing)).await;
    }
    for is_typing in [true, false, true] {
        assert_eq!(bob.expect("typing").await["is_typing"], is_typing);
    }
    again.leave().await;
    assert_eq!(bob.expect("typing").await["is_typing"], false);

    // What was not passed on needs no end: stopping and starting does not get round the limit.
    bob.held.clear();
    let began = Instant::now();
    for n in 0..20 {
        ann.say(&typing(n % 2 == 0)).await;
    }
    ann.send(&chat, "done").await;
    bob.expect("new_message").await;
    let most = 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    let started = bob.held("typing").iter().filter(|it| it["is_typing"] == true).count();
    assert!((1..=most).contains(&started), "{:?}", bob.held("typing"));
}

#[tokio::test]
async fn a_message_ends_its_senders_typing() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let mut bob = world.person(&two, "bob").await;
    bob.join(&chat).await;
    let (mut ann, mut other) = (world.person(&one, "ann").await, world.person(&one, "ann").await);
    ann.join(&chat).await;
    let typing = |is_typing: bool| json!({ "type": "typing", "conversation_id": chat, "is_typing": is_typing });
    // By the connection that types, by another one of hers, by a request.
    for how in ["typing", "other", "request"] {
        let mut ended_by_message = false;
        // It would end by itself after 5 s: an attempt that takes so long says nothing.
        for _ in 0..5 {
            ann.say(&typing(true)).await;
            assert_eq!(bob.expect("typing").await["is_typing"], true);
            let began = Instant::now();
            match how {
                "typing" => drop(ann.send(&chat, "typed").await),
                "other" => drop(other.send(&chat, "typed").await),
                _ => {
                    let body = json!({ "client_id": client_id(), "content": "typed" });
                    assert_eq!(world.post(&one, "ann", &messages_of(&chat), body).await.status, 200);
                }
            }
            bob.expect("new_message").await;
            assert_eq!(bob.expect("typing").await["is_typing"], false);
            if began.elapsed() < Duration::from_secs(4) {
                ended_by_message = true;
                break;
            }
        }
        assert!(ended_by_message, "{how}");
        // It ends once.
        ann.say(&typing(false)).await;
        ann.send(&chat, "and more").await;
        bob.expect("new_message").await;
        assert!(bob.held("typing").is_empty(), "{:?}", bob.held);
    }
    // Writing on at once is shown, though it starts within a second.
    ann.say(&typing(true)).await;
    assert_eq!(bob.expect("typing").await["is_typing"], true);
    ann.send(&chat, "typed").await;
    ann.say(&typing(true)).await;
    assert_eq!(bob.expect("typing").await["is_typing"], false);
    assert_eq!(bob.expect("typing").await["is_typing"], true);
}
