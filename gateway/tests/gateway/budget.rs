//! One user, one budget, however many sockets on however many nodes.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_nats::jetstream;
use devstack::testing::Process;
use futures_util::{TryStreamExt, future::join_all};
use partyline_shared::subjects;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{CONVERSATIONS, World, client_id, message, messages_of, until};

/// Who may burst, one after the other.
const USERS: [&str; 8] = ["ann", "cat", "dan", "eve", "fay", "gus", "hal", "ivy"];

/// Gateways with the default limits.
async fn gateways(world: &World) -> Vec<Process> {
    let mut gateways = Vec::new();
    for _ in 0..3 {
        let launch = world.env.gateway().unwrap().env("PARTYLINE_FRAMES_PER_SECOND", "0");
        // Sockets of this test answer no pings while others are waited for.
        gateways.push(launch.env("PARTYLINE_IDLE_SECONDS", "3600").start().await.unwrap());
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

/// Waits until every node knows of all nodes, and of every key of presence that is written by now: each has heard of a
/// user on each of them, and keys are heard in the order in which they were written.
async fn settled(world: &World, gateways: &[Process]) {
    static ROUNDS: AtomicUsize = AtomicUsize::new(0);
    let round = ROUNDS.fetch_add(1, Ordering::Relaxed);
    let users: Vec<String> = (0..gateways.len()).map(|n| format!("probe-{round}-{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let chat = world.group(&gateways[0], &users).await;
    let mut probes = Vec::new();
    for (gateway, user) in gateways.iter().zip(&users) {
        probes.push(world.person(gateway, user).await);
    }
    for gateway in gateways {
        until("the node to know all", async || {
            let told = world.get(gateway, users[0], &format!("{CONVERSATIONS}{chat}/")).await.body;
            let online = told["participants"].as_array().unwrap().iter().filter(|it| it["online"] == true);
            online.count() == users.len()
        })
        .await;
    }
}

async fn presence_keys(world: &World) -> Vec<String> {
    let js = jetstream::new(world.env.nats().await.unwrap());
    let bucket = js.get_key_value(subjects::PRESENCE_BUCKET).await.unwrap();
    bucket.keys().await.unwrap().try_collect().await.unwrap()
}

/// How often a node decided alone because the one that counts did not answer in time, as on a starved machine.
async fn decided_alone(world: &World, gateways: &[Process]) -> f64 {
    let mut sum = 0.0;
    for gateway in gateways {
        sum += world.metric(gateway, "partyline_gateway_budget_decided_alone_total").await;
    }
    sum
}

/// Has users burst, one after the other, until all nodes were answered in time: then exactly 10 messages got through,
/// and what came back meanwhile.
async fn fair<T>(
    world: &World,
    gateways: &[Process],
    burst: impl AsyncFn(&'static str) -> (usize, Duration, T),
) -> (&'static str, T) {
    for user in USERS {
        let before = decided_alone(world, gateways).await;
        let (taken, time, rest) = burst(user).await;
        if decided_alone(world, gateways).await == before {
            let regained = time.as_secs() as usize / 6;
            assert!((10..=10 + regained).contains(&taken), "{taken} taken, {regained} regained");
            return (user, rest);
        }
    }
    panic!("no burst in which all nodes were answered in time");
}

#[tokio::test]
async fn ten_sockets_on_three_nodes_share_ten_messages_a_minute() {
    let world = World::new().await;
    let gateways = gateways(&world).await;
    let chat = world.group(&gateways[0], &[&USERS[..], &["bob"]].concat()).await;
    let (user, mut people) = fair(&world, &gateways, async |user| {
        let mut people = Vec::new();
        for n in 0..10 {
            people.push(world.person(&gateways[n % 3], user).await);
        }
        let end = format!(".{user}");
        until("the keys to be written", async || {
            presence_keys(&world).await.iter().filter(|key| key.ends_with(&end)).count() == 3
        })
        .await;
        settled(&world, &gateways).await;
        let began = Instant::now();
        let answers = join_all(people.iter_mut().map(async |person| {
            let mut answers = Vec::new();
            for n in 0..6 {
                answers.push(person.ask(message(&chat, &n.to_string())).await);
            }
            answers
        }));
        let answers = answers.await.concat();
        (taken(&answers), began.elapsed(), people)
    })
    .await;

    // Requests pay from the same purse, and others have their own.
    let body = || json!({ "client_id": client_id(), "content": "x" });
    let mut answer = None;
    until("a request to be refused", async || {
        let told = world.post(&gateways[1], user, &messages_of(&chat), body()).await;
        answer.insert(told).status == 429
    })
    .await;
    let answer = answer.unwrap();
    assert_eq!(answer.code(), "rate_limited");
    let told: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(told, answer.body["retry_after_ms"].as_u64().unwrap().div_ceil(1_000));
    assert_eq!(world.post(&gateways[2], "bob", &messages_of(&chat), body()).await.status, 200);

    // Back when told, one is taken.
    let refused = people[4].ask(message(&chat, "too soon")).await;
    sleep(Duration::from_millis(refused["retry_after_ms"].as_u64().unwrap_or(0))).await;
    until("a message to be taken again", async || people[4].ask(message(&chat, "again")).await["type"] == "ack").await;
}

#[tokio::test]
async fn requests_to_all_nodes_share_the_budget_without_a_socket() {
    let world = World::new().await;
    let gateways = gateways(&world).await;
    let chat = world.group(&gateways[0], &USERS).await;
    settled(&world, &gateways).await;
    fair(&world, &gateways, async |user| {
        let send = async |n: usize| {
            let body = json!({ "client_id": client_id(), "content": "x" });
            world.post(&gateways[n % 3], user, &messages_of(&chat), body).await.body
        };
        let began = Instant::now();
        let answers = join_all((0..45).map(send)).await;
        (taken(&answers), began.elapsed(), ())
    })
    .await;
}

#[tokio::test]
async fn repeats_cost_nothing_and_are_never_refused() {
    let world = World::new().await;
    let launch = || {
        let limits = [("PARTYLINE_MESSAGES_PER_MINUTE", "1"), ("PARTYLINE_MESSAGES_BURST", "4")];
        let launch = world.env.gateway().unwrap().env("PARTYLINE_FRAMES_PER_SECOND", "0");
        limits.into_iter().fold(launch, |launch, (name, value)| launch.env(name, value))
    };
    let (one, two) = (launch().start().await.unwrap(), launch().start().await.unwrap());
    let chat = world.group(&one, &["ann", "bob", "cat"]).await;

    // With sockets on two nodes one of them judges for both, and both hear of what was given back.
    let (mut left, mut right) = (world.person(&one, "ann").await, world.person(&two, "ann").await);
    until("both nodes to know of both sockets", async || {
        let mut known = true;
        for gateway in [&one, &two] {
            let list = world.get(gateway, "bob", &format!("{CONVERSATIONS}{chat}/")).await.body;
            let online = |it: &Value| it["user_id"] == "ann" && it["online"] == true;
            known &= list["participants"].as_array().unwrap().iter().any(online);
        }
        known
    })
    .await;
    let first = message(&chat, "first");
    let ack = left.get("ack", first.clone()).await;
    let body = json!({ "client_id": first["client_id"], "content": "first" });
    for _ in 0..8 {
        for person in [&mut left, &mut right] {
            let again = person.get("ack", first.clone()).await;
            assert_eq!((&again["seq"], &again["duplicate"]), (&ack["seq"], &json!(true)));
        }
        let again = world.post(&two, "ann", &messages_of(&chat), body.clone()).await;
        assert_eq!((again.status, &again.body["duplicate"]), (200, &json!(true)), "{again:?}");
    }
    for n in 0..3 {
        let frame = message(&chat, &n.to_string());
        until("a message to be taken", async || left.ask(frame.clone()).await["type"] == "ack").await;
    }
    assert_eq!(left.refused(message(&chat, "over")).await, "rate_limited");
    until("the other node to know", async || right.ask(message(&chat, "over")).await["code"] == "rate_limited").await;

    // With nothing left, what was stored is still answered as it was.
    for person in [&mut left, &mut right] {
        let again = person.get("ack", first.clone()).await;
        assert_eq!((&again["seq"], &again["duplicate"]), (&ack["seq"], &json!(true)));
    }
    let again = world.post(&one, "ann", &messages_of(&chat), body).await;
    assert_eq!((again.status, &again.body["seq"]), (200, &ack["seq"]), "{again:?}");
}

#[tokio::test]
async fn services_have_a_budget_of_their_own() {
    let world = World::new().await;
    let launch = world.env.gateway().unwrap().env("PARTYLINE_FRAMES_PER_SECOND", "0");
    let gateway = launch.start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut market = world.person(&gateway, "market").await;
    let limits = &market.welcome["limits"];
    assert_eq!((&limits["messages_per_minute"], &limits["messages_burst"]), (&json!(6_000), &json!(6_000)));
    let sent = market.send(&chat, "a booking").await["seq"].clone();
    let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": sent, "content": "another" });
    for n in 0..15 {
        market.send(&chat, &n.to_string()).await;
        market.get("ack", edit.clone()).await;
        let body = json!({ "client_id": client_id(), "content": "x" });
        assert_eq!(world.post(&gateway, "market", &messages_of(&chat), body).await.status, 200);
    }
}

#[tokio::test]
async fn budget_of_services_is_a_setting_and_apart_from_that_of_people() {
    let world = World::new().await;
    let launch = world.env.gateway().unwrap().env("PARTYLINE_SERVICE_MESSAGES_PER_MINUTE", "2");
    let gateway = launch.start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut market = world.person(&gateway, "market").await;
    let sent = market.send(&chat, "a booking").await["seq"].clone();
    let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": sent, "content": "another" });
    market.get("ack", edit.clone()).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(market.ask(edit.clone()).await);
    }
    // Half a minute brings another one, should the machine be that slow.
    let refused = answers.iter().filter(|answer| answer["code"] == "rate_limited").count();
    assert!((2..=3).contains(&refused), "{answers:?}");
    // The same user with a person's token has a person's budget.
    let token = world.env.jwt_with("market", "MARKET", devstack::testing::UserType::Customer, None, 3_600).unwrap();
    let person = crate::person::Person::come(&gateway, &token).await;
    assert_eq!(person.welcome["limits"]["messages_per_minute"], 10);
    let mut ann = world.person(&gateway, "ann").await;
    for n in 0..10 {
        ann.send(&chat, &n.to_string()).await;
    }
    assert_eq!(ann.refused(message(&chat, "over")).await, "rate_limited");
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

#[tokio::test]
async fn a_user_who_asks_too_often_waits_and_nobody_else() {
    let world = World::new().await;
    let launch = world.env.gateway().unwrap();
    let gateway = launch.env("PARTYLINE_REQUESTS_PER_SECOND", "3").start().await.unwrap();
    let chat = world.direct(&gateway, ["bob", "ann"]).await;
    let paths = [CONVERSATIONS.to_owned(), messages_of(&chat), format!("{CONVERSATIONS}{chat}/")];
    let ask = async |user: &str, count: usize| {
        join_all((0..count).map(|n| world.get(&gateway, user, &paths[n % paths.len()]))).await
    };
    // Services first: nothing is left of anybody's allowance to be taken.
    let list = async |_| world.get(&gateway, "market", CONVERSATIONS).await.status;
    assert_eq!(join_all((0..40).map(list)).await, [200; 40]);

    let began = Instant::now();
    let answers = ask("ann", 40).await;
    let regained = 3 * (began.elapsed().as_secs() as usize + 1);
    let (taken, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!((6..=6 + regained).contains(&taken.len()), "{} taken, {regained} regained", taken.len());
    for refused in &refused {
        assert_eq!((refused.status, refused.code()), (429, "rate_limited"));
        assert_eq!(refused.headers["content-type"], "application/problem+json");
        let after = refused.body["retry_after_ms"].as_u64().unwrap();
        assert!((1..=334).contains(&after), "{after}");
        assert_eq!(refused.headers["retry-after"], "1");
    }
    let limited = "partyline_gateway_rate_limited_total{kind=\"requests\"}";
    assert_eq!(world.metric(&gateway, limited).await, refused.len() as f64);
    assert_eq!(ask("bob", 1).await[0].status, 200);

    // Sending is a request, too; and back when told, one is taken.
    let send = async || {
        let body = json!({ "client_id": client_id(), "content": "x" });
        world.post(&gateway, "ann", &messages_of(&chat), body).await
    };
    let mut told = send().await;
    while told.status == 200 {
        told = send().await;
    }
    assert_eq!(told.code(), "rate_limited");
    sleep(Duration::from_millis(told.body["retry_after_ms"].as_u64().unwrap())).await;
    assert_eq!(ask("ann", 1).await[0].status, 200);
}
