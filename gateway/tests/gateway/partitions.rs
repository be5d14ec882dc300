//! The number of partitions: the same for every process, and larger for new conversations.

use std::collections::BTreeSet;

use async_nats::jetstream::{self, stream::Config};
use devstack::testing::Process;
use futures_util::future::join_all;
use partyline_shared::{ids::ConversationId, subjects};
use serde_json::json;
use tokio::process::Command;

use crate::support::{World, client_id, messages_of, seq, until};

const SETTING: &str = "PARTYLINE_PARTITIONS";
const BYTES: (&str, &str) = ("PARTYLINE_LOG_BYTES", "40000000");

/// Runs `persister partitions --grow`; what it prints.
async fn grow(world: &World, to: &str) -> String {
    let grown = Command::new(devstack::testing::binary("persister").unwrap())
        .args(["partitions", "--grow", to])
        .env("PARTYLINE_NATS_URL", world.env.nats_url())
        .env("PARTYLINE_DATABASE_URL", world.env.database_url())
        .env(BYTES.0, BYTES.1)
        .output()
        .await
        .unwrap();
    assert!(grown.status.success(), "{}", String::from_utf8_lossy(&grown.stderr));
    String::from_utf8(grown.stdout).unwrap().trim().to_owned()
}

async fn served(world: &World, persister: &Process) -> f64 {
    world.metric(persister, r#"partyline_persister_partitions{state="served"}"#).await
}

/// Contents of all messages that Postgres has of a conversation, by `seq`.
async fn stored(world: &World, conversation: &str) -> Vec<String> {
    let id: ConversationId = conversation.parse().unwrap();
    sqlx::query_scalar("SELECT content FROM messages WHERE conversation_id = $1 ORDER BY seq")
        .bind(id.0)
        .fetch_all(&world.env.pool().await.unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_process_with_another_number_of_partitions_does_not_start() {
    let world = World::new().await;
    let _gateway = world.launch().env(SETTING, "3").start().await.unwrap();
    for launch in [world.launch(), world.env.persister().unwrap()] {
        for number in ["1", "4"] {
            let process = launch.clone().env(SETTING, number).spawn().unwrap();
            assert!(!process.wait().await.success());
            let named = format!("PARTYLINE_PARTITIONS is {number}, but the log has 3 partition(s)");
            assert!(process.log().contains(&named), "{}", process.log());
        }
        // Without the setting a process takes the number that the log has.
        launch.start().await.unwrap();
    }
    let persister = world.persister().await;
    until("all partitions to be persisted", async || served(&world, &persister).await == 3.0).await;
}

#[tokio::test]
async fn processes_that_start_first_together_agree_on_one_number() {
    let world = World::new().await;
    let processes = (1..=4).flat_map(|number: u16| {
        let number = number.to_string();
        [world.launch(), world.env.persister().unwrap()]
            .map(|it| (number.clone(), it.env(SETTING, &number).spawn().unwrap()))
    });
    let processes: Vec<_> = processes.collect();
    // Each either becomes ready or ends.
    let started = join_all(
        processes.iter().map(async |(number, process)| process.wait_ready().await.is_ok().then(|| number.clone())),
    )
    .await;
    let numbers: BTreeSet<_> = started.iter().flatten().collect();
    assert_eq!(numbers.len(), 1, "{started:?}");
    // Both programs that were told this number run.
    assert_eq!(started.iter().flatten().count(), 2, "{started:?}");
}

#[tokio::test]
async fn the_log_grows_while_gateways_run_and_old_conversations_stay_where_they_are() {
    let world = World::new().await;
    let launch = world.launch().env(BYTES.0, BYTES.1);
    let before = launch.clone().env(SETTING, "1").start().await.unwrap();
    let persister = world.env.persister().unwrap().env(BYTES.0, BYTES.1).env(SETTING, "1").start().await.unwrap();
    let old = world.direct(&before, ["ann", "bob"]).await;
    let mut ann = world.person(&before, "ann").await;
    ann.join(&old).await;
    let first = seq(&ann.send(&old, "0").await);

    assert_eq!(grow(&world, "4").await, "4");
    // A rolling restart: one gateway is started again with the new number, another one with the old number.
    let after = launch.clone().env(SETTING, "4").start().await.unwrap();
    let late = launch.env(SETTING, "1").start().await.unwrap();
    let gateways = [&before, &after, &late];
    let mut chats = vec![old.clone()];
    let mut used = BTreeSet::new();
    while used.len() < 4 {
        let gateway = gateways[chats.len() % 3];
        let made = world.group(gateway, &["ann", "bob"]).await;
        let id: ConversationId = made.parse().unwrap();
        used.extend(id.named_partition());
        chats.push(made);
    }
    assert_eq!(used, (0..4).collect());

    // Each message is sent through another gateway, and followed by a member of each.
    let mut anns = vec![ann];
    for gateway in &gateways[1..] {
        anns.push(world.person(gateway, "ann").await);
    }
    let mut bobs = Vec::new();
    for gateway in gateways {
        bobs.push(world.person(gateway, "bob").await);
    }
    for chat in &chats {
        for bob in &mut bobs {
            until("the stream of the conversation to be known", async || {
                let joined = bob.ask(json!({ "type": "join_conversation", "conversation_id": chat })).await;
                joined["type"] == "joined"
            })
            .await;
        }
        let mut seqs = Vec::new();
        for n in 1..=6 {
            seqs.push(seq(&anns[n % 3].send(chat, &n.to_string()).await));
        }
        assert!(seqs.is_sorted_by(|one, next| one < next), "{seqs:?}");
        for bob in &mut bobs {
            let mut followed = Vec::new();
            while followed.len() < 6 {
                let event = bob.find(|it| it["type"] == "new_message" && it["conversation_id"] == chat.as_str()).await;
                if event["content"] != "0" {
                    followed.push(seq(&event));
                }
            }
            assert_eq!(followed, seqs);
        }
    }

    // Resumed on another gateway from before the growth, and read as a page of history.
    let mut bob = world.person(&after, "bob").await;
    let resumed = bob.join_after(&old, first).await;
    let contents: Vec<_> = resumed["events"].as_array().unwrap().iter().map(|it| it["content"].clone()).collect();
    assert_eq!(contents, ["1", "2", "3", "4", "5", "6"], "{resumed}");
    let pages = async || {
        let mut pages = Vec::new();
        for (gateway, chat) in gateways.iter().flat_map(|gateway| chats.iter().map(move |chat| (gateway, chat))) {
            pages.push(world.get(gateway, "bob", &messages_of(chat)).await.body["results"].clone());
        }
        pages
    };
    let from_log = pages().await;
    // The running persister finds the new streams.
    until("every message to be stored", async || {
        let mut all = true;
        for chat in &chats {
            all &= stored(&world, chat).await.last().is_some_and(|it| it == "6");
        }
        all
    })
    .await;
    assert_eq!(stored(&world, &old).await, ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(pages().await, from_log);
    assert_eq!(served(&world, &persister).await, 4.0);
    let js = jetstream::new(world.env.nats().await.unwrap());
    for partition in 0..4 {
        let stream = js.get_stream(subjects::log_stream(partition)).await.unwrap();
        assert_eq!(stream.cached_info().config.max_bytes, 10_000_000);
    }
    assert_eq!(world.dead_letters().await, 0);
}

#[tokio::test]
async fn a_stream_that_the_layout_does_not_have_is_persisted_and_counted() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let persister = world.persister().await;
    // As a gateway of an older version with another number makes it.
    let js = jetstream::new(world.env.nats().await.unwrap());
    let subjects = vec![subjects::log_all(2)];
    js.create_stream(Config { name: subjects::log_stream(2), subjects, ..Default::default() }).await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let event = json!({
        "type": "new_message", "conversation_id": chat, "message_id": client_id(), "client_id": client_id(),
        "sender_id": "ann", "sender_username": "Ann", "sender_type": "customer", "content": "stray",
        "message_type": "text", "metadata": {}, "created_at": "2026-01-01T00:00:00Z",
    });
    let subject = subjects::log(2, chat.parse().unwrap());
    js.publish(subject, event.to_string().into()).await.unwrap().await.unwrap();
    until("the message to be stored", async || stored(&world, &chat).await == ["stray"]).await;
    for (state, count) in [("recorded", 1.0), ("found", 2.0), ("served", 2.0)] {
        let name = format!(r#"partyline_persister_partitions{{state="{state}"}}"#);
        until(state, async || world.metric(&persister, &name).await == count).await;
    }
}
