//! One user, one budget, however many sockets on however many nodes.

use std::time::Duration;

use devstack::testing::Process;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    person::Person,
    support::{World, client_id, message, messages_of, until},
};

/// Gateways with the default limits.
async fn gateways(world: &World) -> Vec<Process> {
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(world.env.gateway().unwrap().env("PARTYLINE_FRAMES_PER_SECOND", "0").start().await.unwrap());
    }
    gateways
}

/// How many of the answers took the message; the others say when to come back.
fn taken(answers: &[Value]) -> usize {
    let (taken, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer["code"].is_null());
    for refused in refused {
        assert_eq!(refused["code"], "rate_limited");
        assert!((1..=6_000).contains(&refused["retry_after_ms"].as_u64().unwrap()), "{refused}");
    }
    taken.len()
}

#[tokio::test]
async fn ten_sockets_on_three_nodes_share_ten_messages_a_minute() {
    let world = World::new().await;
    let gateways = gateways(&world).await;
    let chat = world.direct(&gateways[0], ["ann", "bob"]).await;
    let mut people = Vec::new();
    for n in 0..10 {
        people.push(world.person(&gateways[n % 3], "ann").await);
    }
    let burst = |person: Person| {
        let chat = chat.clone();
        async move {
            let mut person = person;
            let mut answers = Vec::new();
            for n in 0..6 {
                answers.push(person.ask(message(&chat, &n.to_string())).await);
            }
            (person, answers)
        }
    };
    let began = Instant::now();
    let (mut people, answers): (Vec<Person>, Vec<Vec<Value>>) =
        join_all(people.into_iter().map(burst)).await.into_iter().unzip();
    let taken = taken(&answers.concat());
    let regained = began.elapsed().as_secs() as usize / 6;
    assert!((8..=12 + regained).contains(&taken), "{taken} of 60 messages were taken");

    // Requests pay from the same purse, and others have their own.
    let body = || json!({ "client_id": client_id(), "content": "x" });
    let answer = world.post(&gateways[1], "ann", &messages_of(&chat), body()).await;
    assert_eq!((answer.status, answer.code()), (429, "rate_limited"));
    let told: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(told, answer.body["retry_after_ms"].as_u64().unwrap().div_ceil(1_000));
    assert_eq!(world.post(&gateways[2], "bob", &messages_of(&chat), body()).await.status, 200);

    // Back when told, one is taken.
    let refused = people[4].ask(message(&chat, "too soon")).await;
    let after = Duration::from_millis(refused["retry_after_ms"].as_u64().unwrap());
    sleep(after).await;
    until("a message to be taken again", async || people[4].ask(message(&chat, "again")).await["type"] == "ack").await;
}

#[tokio::test]
async fn requests_to_all_nodes_share_the_budget_without_a_socket() {
    let world = World::new().await;
    let gateways = gateways(&world).await;
    let chat = world.direct(&gateways[0], ["ann", "bob"]).await;
    let send = async |n: usize| {
        let body = json!({ "client_id": client_id(), "content": "x" });
        world.post(&gateways[n % 3], "ann", &messages_of(&chat), body).await.body
    };
    let began = Instant::now();
    let taken = taken(&join_all((0..45).map(send)).await);
    let regained = began.elapsed().as_secs() as usize / 6;
    assert!((8..=12 + regained).contains(&taken), "{taken} of 45 messages were taken");
}

#[tokio::test]
async fn an_edit_costs_as_much_as_a_message() {
    let world = World::new().await;
    let gateway =
        world.env.gateway().unwrap().env("PARTYLINE_MESSAGES_PER_MINUTE", "1").env("PARTYLINE_MESSAGES_BURST", "3");
    let gateway = gateway.start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let seq = ann.send(&chat, "first").await["seq"].clone();
    let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": seq, "content": "edited" });
    ann.get("ack", edit.clone()).await;
    ann.get("ack", edit.clone()).await;
    assert_eq!(ann.refused(edit).await, "rate_limited");
}
