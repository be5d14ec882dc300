//! A NATS server that is restored from an older copy of its files, and a log that loses or refuses events.

use std::{path::Path, process::Command, time::Duration};

use async_nats::jetstream;
use devstack::testing::{Process, TestEnv, servers::Servers};
use partyline_shared::subjects;
use serde_json::{Value, json};

use crate::support::{World, message, messages_of, seq, until};

/// Copies a folder to where none is.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-r"]).args([from, to]).status().unwrap();
    assert!(copied.success());
}

async fn ready(world: &World, processes: &[&Process]) {
    for process in processes {
        until("a process to be well", async || world.is_ready(process).await).await;
    }
}

#[tokio::test]
async fn a_log_restored_from_an_older_copy_begins_one_new_epoch_above_postgres() {
    let mut servers = Servers::start().await.unwrap();
    let world = World::of(TestEnv::on(&servers.addresses).await.unwrap());
    let (here, there) = (world.gateway().await, world.gateway().await);
    let persister = world.persister().await;
    let chat = world.direct(&here, ["ann", "bob"]).await;
    let mut ann = world.person(&here, "ann").await;
    let old_epoch = ann.join(&chat).await["epoch"].clone();
    for n in 0..3 {
        ann.send(&chat, &n.to_string()).await;
    }
    world.persisted().await;

    // The copy holds two events that no persister has written yet.
    persister.kill().await;
    for n in 3..5 {
        ann.send(&chat, &n.to_string()).await;
    }
    let (store, backup) = (servers.nats_store(), servers.addresses.dir.join("backup"));
    servers.kill_nats().await;
    copy(&store, &backup);
    servers.start_nats().await.unwrap();
    ready(&world, &[&here, &there]).await;
    let persister = world.persister().await;
    let mut last = 0;
    for n in 5..10 {
        last = seq(&ann.insist(&message(&chat, &n.to_string())).await);
    }
    world.persisted().await;
    persister.kill().await;
    let mut bob = world.person(&there, "bob").await;
    bob.join(&chat).await;

    servers.kill_nats().await;
    std::fs::remove_dir_all(&store).unwrap();
    copy(&backup, &store);
    servers.start_nats().await.unwrap();
    ready(&world, &[&here, &there]).await;
    // The third one has seen nothing of the log, so only Postgres tells it.
    let late = world.gateway().await;
    // What the copy holds must be written first: until then nothing is acknowledged.
    let body = json!({ "client_id": uuid::Uuid::now_v7(), "content": "too soon" });
    for gateway in [&here, &there, &late] {
        let refused = world.post(gateway, "ann", &messages_of(&chat), body.clone()).await;
        assert_eq!((refused.status, refused.code()), (503, "unavailable"), "{refused:?}");
        let behind = "partyline_gateway_log_behind_total";
        until("the gateway to notice", async || world.metric(gateway, behind).await > 0.0).await;
    }
    let _persister = world.persister().await;
    for person in [&mut ann, &mut bob] {
        assert_eq!(person.closed().await.reason["code"], "log_restarted");
    }
    let mut people = Vec::new();
    for gateway in [&here, &there, &late] {
        people.push(world.person(gateway, "ann").await);
    }
    for n in 10..16 {
        let next = seq(&people[n % 3].insist(&message(&chat, &n.to_string())).await);
        assert!(next > last, "{next} is not above {last}");
        last = next;
    }
    // One epoch everywhere, another one than before.
    let mut epochs = Vec::new();
    for gateway in [&here, &there, &late] {
        epochs.push(world.person(gateway, "bob").await.join(&chat).await["epoch"].clone());
    }
    assert!(epochs[0] != old_epoch && epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    world.persisted().await;
    let expected: Vec<Value> = (0..16).map(|n| json!(n.to_string())).collect();
    for gateway in [&here, &there, &late] {
        let page = world.get(gateway, "bob", &messages_of(&chat)).await;
        let contents: Vec<_> =
            page.body["results"].as_array().unwrap().iter().map(|it| it["content"].clone()).collect();
        assert_eq!(contents, expected);
    }
    assert_eq!(world.dead_letters().await, 0);
}

#[tokio::test]
async fn events_that_left_the_log_before_postgres_had_them_are_counted() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    for n in 0..5 {
        ann.send(&chat, &n.to_string()).await;
    }
    // An operator has JetStream remove events by age, although no persister runs.
    let js = jetstream::new(world.env.nats().await.unwrap());
    let name = subjects::log_stream(0);
    let mut config = js.get_stream(&name).await.unwrap().cached_info().config.clone();
    assert!(config.max_age.is_zero());
    (config.max_age, config.duplicate_window) = (Duration::from_secs(1), Duration::from_secs(1));
    js.update_stream(&config).await.unwrap();
    until("the events to be gone", async || js.get_stream(&name).await.unwrap().cached_info().state.messages == 0)
        .await;
    let lost = "partyline_gateway_log_lost_events_total";
    until("the gateway to count them", async || world.metric(&gateway, lost).await == 5.0).await;
    let persister = world.persister().await;
    let lost = "partyline_persister_lost_events_total";
    until("the persister to count them", async || world.metric(&persister, lost).await == 5.0).await;
    // The persister takes the setting back.
    until("no removal by age", async || js.get_stream(&name).await.unwrap().cached_info().config.max_age.is_zero())
        .await;
}

#[tokio::test]
async fn a_full_log_refuses_events_and_loses_none() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_LOG_BYTES", "100000").start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let text = "x".repeat(1_000);
    let mut sent = 0;
    let refused = loop {
        let reply = ann.ask(message(&chat, &text)).await;
        if reply["type"] != "ack" {
            break reply;
        }
        sent += 1;
    };
    assert_eq!(refused["code"], "unavailable", "{refused}");
    assert!(sent > 10, "{sent}");
    // No persister runs: the gateway itself tells how far Postgres is behind.
    let lag = r#"partyline_gateway_log_lag_messages{partition="0"}"#;
    until("the lag to be told", async || world.metric(&gateway, lag).await == f64::from(sent)).await;
    assert!(world.metric(&gateway, r#"partyline_gateway_log_lag_age_seconds{partition="0"}"#).await > 0.0);
    let _persister = world.env.persister().unwrap().env("PARTYLINE_LOG_BYTES", "100000").start().await.unwrap();
    world.persisted().await;
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(&world.env.pool().await.unwrap()).await.unwrap();
    assert_eq!(count, i64::from(sent));
}
