//! The connections to NATS: what is refused while they are down, what is dropped, and what comes after.

use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr, jetstream};
use clap::{Args, FromArgMatches};
use devstack::testing::{Process, Proxy};
use futures_util::{StreamExt, future::join_all};
use partyline_shared::{
    nats::{self, NotPublished, SingleConnection},
    settings::NatsSettings,
    subjects,
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    person::Person,
    support::{PATIENCE, World, message, messages_of, seq, until},
};

/// What a refusal without a connection may take; with one, NATS has 5 s to answer.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn behind(world: &World) -> (Proxy, Process) {
    let proxy = Proxy::start(world.env.nats_url()).await.unwrap();
    let url = proxy.through(world.env.nats_url());
    let gateway = world.launch().env("PARTYLINE_NATS_URL", url).env("PARTYLINE_PING_SECONDS", "1");
    (proxy, gateway.start().await.unwrap())
}

/// Where the log ends, asked past the proxy.
async fn end_of_log(world: &World) -> u64 {
    let js = jetstream::new(world.env.nats().await.unwrap());
    js.get_stream(subjects::log_stream(0)).await.unwrap().get_info().await.unwrap().state.last_sequence
}

fn nats_settings(url: &str) -> NatsSettings {
    let command = NatsSettings::augment_args(clap::Command::new("test"));
    NatsSettings::from_arg_matches(&command.get_matches_from(["test", "--nats-url", url])).unwrap()
}

async fn refused_at_once(person: &mut Person, frame: Value) {
    let began = Instant::now();
    assert_eq!(person.refused(frame.clone()).await, "unavailable", "{frame}");
    assert!(began.elapsed() < AT_ONCE, "{frame} took {:?}", began.elapsed());
}

#[tokio::test]
async fn without_nats_events_are_refused_at_once_and_never_stored_afterwards() {
    let world = World::new().await;
    let (nats, gateway) = behind(&world).await;
    let chat = world.group(&gateway, &["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    ann.join(&chat).await;
    bob.join(&chat).await;
    let first = seq(&ann.send(&chat, "before").await);
    bob.expect("new_message").await;
    let typing = json!({ "type": "typing", "conversation_id": chat, "is_typing": true });
    ann.say(&typing).await;
    bob.expect("typing").await;

    nats.cut();
    until("the node to notice", async || !world.is_ready(&gateway).await).await;
    let last = end_of_log(&world).await;
    for n in 0..5 {
        refused_at_once(&mut ann, message(&chat, &format!("refused {n}"))).await;
        let change = |kind: &str| json!({ "type": kind, "conversation_id": chat, "seq": first, "content": "refused" });
        refused_at_once(&mut ann, change("edit_message")).await;
        refused_at_once(&mut ann, change("delete_message")).await;
        refused_at_once(&mut bob, json!({ "type": "mark_read", "conversation_id": chat, "seq": first })).await;
    }
    // Typing is dropped, and nothing waits behind it: neither commands nor pings, while typing ends by time.
    ann.say(&typing).await;
    let began = Instant::now();
    ann.caught_up().await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    for _ in 0..7 {
        let ping = async { while !matches!(bob.socket.next().await.unwrap().unwrap(), Message::Ping(_)) {} };
        timeout(PATIENCE, ping).await.unwrap();
    }

    nats.resume();
    until("the node to be well", async || world.is_ready(&gateway).await).await;
    assert_eq!(end_of_log(&world).await, last);
    assert_eq!(seq(&ann.send(&chat, "after").await), last + 1);
    let page = world.get(&gateway, "bob", &messages_of(&chat)).await;
    let contents: Vec<_> = page.body["results"].as_array().unwrap().iter().map(|it| &it["content"]).collect();
    assert_eq!(contents.len(), 2, "{contents:?}");
}

#[tokio::test]
async fn what_was_in_flight_when_nats_was_cut_off_is_stored_by_then_or_never() {
    let world = World::new().await;
    let (nats, gateway) = behind(&world).await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut people = Vec::new();
    for _ in 0..8 {
        let mut ann = world.person(&gateway, "ann").await;
        ann.join(&chat).await;
        people.push(ann);
    }
    for _ in 0..3 {
        // Each sends until it is refused; the link goes in the middle of it.
        let talk = join_all(people.iter_mut().map(async |ann| {
            let mut acked = Vec::new();
            loop {
                let reply = ann.ask(message(&chat, "x")).await;
                if reply["type"] == "error" {
                    assert_eq!(reply["code"], "unavailable");
                    return acked;
                }
                acked.push(seq(&reply));
            }
        }));
        let cut = async {
            let begun = end_of_log(&world).await;
            until("traffic", async || end_of_log(&world).await > begun + 50).await;
            nats.cut();
            Instant::now()
        };
        let (acked, cut) = tokio::join!(talk, cut);
        assert!(cut.elapsed() < AT_ONCE * 3, "{:?}", cut.elapsed());
        let last = end_of_log(&world).await;
        assert!(acked.iter().flatten().all(|seq| *seq <= last));
        nats.resume();
        until("the node to be well", async || world.is_ready(&gateway).await).await;
        let after = people[0].insist(&message(&chat, "after")).await;
        assert_eq!(seq(&after), last + 1);
    }
}

#[tokio::test]
async fn a_link_to_nats_that_hangs_is_given_up_and_refuses_at_once() {
    let world = World::new().await;
    let (nats, gateway) = behind(&world).await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    ann.join(&chat).await;
    nats.pause();
    let began = Instant::now();
    // Nobody knows yet: this one's outcome is open until the connection is given up.
    assert_eq!(ann.refused(message(&chat, "in flight")).await, "unavailable");
    until("the node to notice", async || !world.is_ready(&gateway).await).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    for n in 0..5 {
        refused_at_once(&mut ann, message(&chat, &format!("refused {n}"))).await;
    }
    nats.resume();
    until("the node to be well", async || world.is_ready(&gateway).await).await;
    ann.send(&chat, "after").await;
    let page = world.get(&gateway, "bob", &messages_of(&chat)).await;
    let contents: Vec<_> = page.body["results"].as_array().unwrap().iter().map(|it| &it["content"]).collect();
    assert!(!contents.iter().any(|it| it.as_str().unwrap().starts_with("refused")), "{contents:?}");
}

#[tokio::test]
async fn the_queue_of_a_single_connection_ends_with_it() {
    let world = World::new().await;
    let proxy = Proxy::start(world.env.nats_url()).await.unwrap();
    let settings = nats_settings(&proxy.through(world.env.nats_url()));
    let mut servers = Vec::new();
    let single = SingleConnection::establish(&settings, "single", &mut servers).await.unwrap();
    let witness = world.env.nats().await.unwrap();
    let mut heard = witness.subscribe("single.>").await.unwrap();
    // On the same connection, so that the subscription is in force once it is heard.
    witness.publish("single.begin", "".into()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().subject.as_str(), "single.begin");
    single.client.publish("single.first", "".into()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().subject.as_str(), "single.first");

    // Far more than the buffers below the queue hold.
    proxy.pause();
    let client = single.client.clone();
    let publishes = tokio::spawn(async move {
        let mut count = 0;
        while client.publish("single.queued", vec![0; 65_536].into()).await.is_ok() {
            count += 1;
        }
        count
    });
    timeout(PATIENCE, single.lost()).await.unwrap();
    assert!(timeout(PATIENCE, publishes).await.unwrap().unwrap() > 100);
    // What the proxy held is gone with the connections; once it closes a new one, it has closed those.
    proxy.cut();
    let mut closed = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(closed.read(&mut [0]).await.unwrap_or(0), 0);
    proxy.resume();
    let again = SingleConnection::establish(&settings, "single", &mut servers).await.unwrap();
    again.client.publish("single.last", "".into()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().subject.as_str(), "single.last");
    assert!(!single.is_connected());
}

#[tokio::test]
async fn publishing_without_waiting_says_that_the_queue_is_full() {
    let world = World::new().await;
    let proxy = Proxy::start(world.env.nats_url()).await.unwrap();
    let url: ServerAddr = proxy.through(world.env.nats_url()).parse().unwrap();
    let options =
        ConnectOptions::with_user_and_password(url.username().unwrap().into(), url.password().unwrap().into());
    let client = options.client_capacity(4).ping_interval(Duration::from_secs(60)).connect(url).await.unwrap();
    proxy.pause();
    let mut full = Ok(());
    until("the queue to be full", async || {
        let began = Instant::now();
        full = nats::try_publish(&client, "ephemeral", vec![0; 65_536].into());
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        tokio::task::yield_now().await;
        full == Err(NotPublished::Full)
    })
    .await;
    proxy.cut();
    until("the connection to be lost", async || {
        nats::try_publish(&client, "ephemeral", "".into()) == Err(NotPublished::Disconnected)
    })
    .await;
}
