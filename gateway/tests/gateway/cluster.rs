//! Streams with copies on three servers: what only their leader knows, what they have not agreed on yet, and the death of
//! the leader.

use std::collections::HashSet;

use async_nats::jetstream;
use devstack::testing::{Cluster, Launch, TestEnv};
use futures_util::TryStreamExt;
use partyline_shared::subjects;
use serde_json::json;

use crate::{
    person::{Follower, Person},
    support::{World, message, messages_of, seq, until},
};

/// Takes what came, up to `last`.
async fn follow(person: &mut Person, follower: &mut Follower, last: u64) {
    while follower.last < last {
        let event = match person.held.pop_front() {
            Some(event) => event,
            None => person.read().await.unwrap(),
        };
        if event["prev_seq"].is_u64() && event["events"].is_null() {
            follower.take(&event, "cluster");
        }
    }
}

#[tokio::test]
async fn three_copies_keep_every_promise_when_the_leader_dies() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let world = World::of(TestEnv::on(&cluster.addresses).await.unwrap());
    let url = cluster.url_of_all(world.env.nats_url());
    let replicated = |launch: Launch| launch.env("PARTYLINE_NATS_URL", &url).env("PARTYLINE_NATS_REPLICAS", "3");
    let one = replicated(world.launch()).start().await.unwrap();
    let two = replicated(world.launch()).start().await.unwrap();
    let persister = replicated(world.env.persister().unwrap()).start().await.unwrap();
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let (mut left, mut right) = (world.person(&one, "ann").await, world.person(&two, "ann").await);
    let mut bob = world.person(&two, "bob").await;
    let mut heard = Follower { last: seq(&bob.join(&chat).await), seqs: Vec::new() };
    let mut sent = HashSet::new();

    // The same message by two nodes at once, which the servers may not have agreed on yet.
    for n in 0..20 {
        let frame = message(&chat, &format!("message {n}"));
        let (first, second) = tokio::join!(left.get("ack", frame.clone()), right.get("ack", frame.clone()));
        assert_eq!(first["seq"], second["seq"]);
        let again = left.get("ack", frame).await;
        assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
        assert!(sent.insert(seq(&first)));
    }
    // An edit and a deletion at once: checked and appended in one step.
    let mut deleted = 0;
    for n in 0..15 {
        let message = left.send(&chat, &format!("changed {n}")).await["seq"].clone();
        sent.insert(message.as_u64().unwrap());
        let change = |kind: &str| json!({ "type": kind, "conversation_id": chat, "seq": message, "content": "edited" });
        let deletion = json!({ "type": "delete_message", "conversation_id": chat, "seq": message });
        let (edited, gone) = tokio::join!(left.ask(change("edit_message")), right.get("ack", deletion));
        assert!(edited["type"] == "ack" || edited["code"] == "conflict", "{edited}");
        if edited["type"] == "ack" {
            assert!(seq(&edited) < seq(&gone), "{edited} {gone}");
            sent.insert(seq(&edited));
        }
        sent.insert(seq(&gone));
        deleted = seq(&gone);
    }
    follow(&mut bob, &mut heard, deleted).await;
    // Read from the log at once after it was written, on a node whose server may lag behind the leader.
    let from = heard.seqs[3];
    let joined = left.join_after(&chat, from).await;
    let rest: Vec<_> = joined["events"].as_array().unwrap().iter().map(seq).collect();
    assert_eq!(rest, heard.seqs[4..]);

    // The leader dies: what is sent meanwhile is stored once.
    let js = jetstream::new(devstack::services::connect::connect(world.env.nats_url()).await.unwrap());
    let info = js.get_stream(subjects::log_stream(0)).await.unwrap().get_info().await.unwrap();
    assert_eq!(info.config.num_replicas, 3);
    let leader = info.cluster.unwrap().leader.unwrap();
    let dead = cluster.kill(&leader).await.unwrap();
    for n in 0..10 {
        let frame = message(&chat, &format!("without {leader} {n}"));
        let (first, second) = tokio::join!(left.insist(&frame), right.insist(&frame));
        assert_eq!(first["seq"], second["seq"]);
        assert!(sent.insert(seq(&first)));
    }
    let last = *sent.iter().max().unwrap();
    follow(&mut bob, &mut heard, last).await;
    cluster.restart(dead).await.unwrap();
    let last = seq(&left.insist(&message(&chat, "three again")).await);
    sent.insert(last);
    follow(&mut bob, &mut heard, last).await;

    let mut expected: Vec<_> = sent.into_iter().collect();
    expected.sort_unstable();
    assert_eq!(heard.seqs, expected);
    until("the nodes to be well", async || world.is_ready(&one).await && world.is_ready(&two).await).await;
    until("Postgres to hold all", async || {
        let pool = world.env.pool().await.unwrap();
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(&pool).await.unwrap();
        stored == 46
    })
    .await;
    let page = world.get(&two, "bob", &messages_of(&chat)).await;
    assert_eq!(page.body["results"].as_array().unwrap().last().unwrap()["content"], "three again");
    drop(persister);
}

#[tokio::test]
async fn replicas_of_every_stream_and_bucket_are_raised_and_never_lowered() {
    let cluster = Cluster::start(3).await.unwrap();
    let world = World::of(TestEnv::on(&cluster.addresses).await.unwrap());
    let js = jetstream::new(world.env.nats().await.unwrap());
    let names = ["CHAT_DEAD", "CHAT_LOG_0", "CHAT_SEEN", "KV_CHAT_NODES", "KV_CHAT_PRESENCE"];
    let replicas = async || {
        // A stream of another name would be missed below.
        let mut found: Vec<String> = js.stream_names().try_collect().await.unwrap();
        found.sort();
        assert_eq!(found, names);
        let mut replicas = Vec::new();
        for name in found {
            let stream = js.get_stream(&name).await.unwrap();
            replicas.push((name, stream.cached_info().config.num_replicas));
        }
        replicas
    };
    let all = |copies: usize| names.map(|name| (name.to_owned(), copies)).to_vec();
    let start = async |copies: &str| {
        let setting = "PARTYLINE_NATS_REPLICAS";
        let gateway = world.launch().env(setting, copies).start().await.unwrap();
        (gateway, world.env.persister().unwrap().env(setting, copies).start().await.unwrap())
    };
    drop(start("1").await);
    assert_eq!(replicas().await, all(1));
    let (_gateway, persister) = start("3").await;
    assert_eq!(replicas().await, all(3));
    for name in names {
        let wanted = format!(r#"partyline_persister_stream_replicas{{stream="{name}"}}"#);
        until(name, async || world.metric(&persister, &wanted).await == 3.0).await;
    }
    // A process that lacks the setting.
    let _more = start("1").await;
    assert_eq!(replicas().await, all(3));
}
