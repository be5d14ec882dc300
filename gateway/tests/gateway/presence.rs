//! Who is there, and who types: never stored, and never for long.

use std::time::Duration;

use devstack::testing::{Process, Signal};
use serde_json::json;
use tokio::time::{Instant, interval};

use crate::{
    person::Person,
    support::{CONVERSATIONS, World, until},
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
    let last = Instant::now();
    let frame = bob.find(|it| it["type"] == "typing" && it["is_typing"] == false).await;
    let whole =
        json!({ "type": "typing", "conversation_id": chat, "user_id": "ann", "username": "ANN", "is_typing": false });
    assert_eq!(frame, whole);
    assert!((4.5..8.0).contains(&last.elapsed().as_secs_f64()), "ended after {:?}", last.elapsed());
    let passed_on = bob.held("typing").len();
    assert!((2..=3).contains(&passed_on), "{passed_on} in 2.3 s");

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

    // What was not passed on needs no end: stopping and starting does not get round the limit.
    bob.held.clear();
    for n in 0..20 {
        ann.say(&typing(n % 2 == 0)).await;
    }
    ann.send(&chat, "done").await;
    bob.expect("new_message").await;
    let passed_on = bob.held("typing").len();
    assert!((1..=4).contains(&passed_on), "{:?}", bob.held("typing"));
}
