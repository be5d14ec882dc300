//! NATS cut off, the log lost, Postgres away.

use std::time::Duration;

use async_nats::jetstream;
use clap::{Args, FromArgMatches};
use devstack::testing::{Process, Proxy};
use futures_util::{SinkExt, StreamExt, future::join_all};
use partyline_gateway::store::Store;
use partyline_shared::{ids::ConversationId, settings::DatabaseSettings, subjects};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    person::Follower,
    socketio::Raw,
    support::{CONVERSATIONS, World, client_id, message, messages_of, seq, until},
};

async fn behind(world: &World, setting: &str, url: &str) -> (Proxy, Process) {
    let proxy = Proxy::start(url).await.unwrap();
    let gateway = world.launch().env(setting, proxy.through(url)).start().await.unwrap();
    (proxy, gateway)
}

#[tokio::test]
async fn cut_off_from_nats_and_back_nothing_is_lost() {
    let world = World::new().await;
    let (nats, cut_off) = behind(&world, "PARTYLINE_NATS_URL", world.env.nats_url()).await;
    let well = world.gateway().await;
    let chat = world.group(&well, &["ann", "bob", "cat"]).await;
    let mut ann = world.person(&well, "ann").await;
    let (mut bob, mut cat) = (world.person(&cut_off, "bob").await, world.person(&cut_off, "cat").await);
    for person in [&mut ann, &mut bob, &mut cat] {
        person.join(&chat).await;
    }
    nats.cut();
    until("the node to notice", async || !world.is_ready(&cut_off).await).await;
    let mut sent = Vec::new();
    for n in 0..20 {
        sent.push(seq(&ann.send(&chat, &n.to_string()).await));
    }
    let path = format!("{CONVERSATIONS}{chat}/participants/cat/");
    assert_eq!(world.delete(&well, "ann", &path).await.status, 204);
    for n in 20..40 {
        sent.push(seq(&ann.send(&chat, &n.to_string()).await));
    }
    // What is sent there meanwhile is not acknowledged, and is sent again until it is.
    let mut from_bob = message(&chat, "from bob");
    from_bob["ref"] = json!("bob");
    bob.say(&from_bob).await;
    nats.resume();
    until("the node to be well", async || world.is_ready(&cut_off).await).await;
    let mut reply = bob.find(|it| it["ref"] == "bob").await;
    while reply["type"] == "error" {
        assert_eq!((&reply["code"], reply["retry_after_ms"].is_u64()), (&json!("unavailable"), true), "{reply}");
        reply = bob.ask(from_bob.clone()).await;
    }
    sent.push(seq(&reply));
    ann.send(&chat, "end").await;

    for (person, name) in [(&mut ann, "ann"), (&mut bob, "bob")] {
        let mut follower = Follower::default();
        loop {
            let event = person.find(|it| it["seq"].is_u64() && it["prev_seq"].is_u64()).await;
            follower.take(&event, name);
            if event["content"] == "end" {
                break;
            }
        }
        // The removal is one of the events, and the end another.
        assert_eq!(follower.seqs.len(), sent.len() + 2, "{name}");
        assert!(sent.iter().all(|seq| follower.seqs.contains(seq)), "{name}");
    }
    // She was removed meanwhile: what was said after that is not for her.
    cat.find(|it| it["type"] == "conversation_updated" || it["type"] == "participant_removed").await;
    cat.caught_up().await;
    let heard: Vec<_> = cat.held("new_message").iter().map(|it| seq(it)).collect();
    assert!(heard.iter().all(|seq| *seq <= sent[19]), "{heard:?}");
    assert_eq!(cat.refused(message(&chat, "x")).await, "forbidden");
}

#[tokio::test]
async fn when_the_log_is_lost_everybody_begins_again_above_it() {
    let world = World::new().await;
    let (nats, gateway) = behind(&world, "PARTYLINE_NATS_URL", world.env.nats_url()).await;
    let persister = world.persister().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut bob = world.person(&gateway, "bob").await;
    let epoch = bob.join(&chat).await["epoch"].clone();
    assert!(epoch.as_str().is_some_and(|epoch| !epoch.is_empty()));
    let last = seq(&bob.send(&chat, "before").await);
    world.persisted().await;
    persister.kill().await;
    nats.cut();
    let js = jetstream::new(world.env.nats().await.unwrap());
    js.delete_stream(subjects::log_stream(0)).await.unwrap();
    nats.resume();
    let closed = bob.closed().await;
    assert_eq!((closed.code, &closed.reason["code"]), (4010, &json!("log_restarted")));
    assert!(closed.reason["retry_after_ms"].is_u64());

    until("the node to be well", async || world.is_ready(&gateway).await).await;
    let mut bob = world.person(&gateway, "bob").await;
    let joined = bob.join(&chat).await;
    assert_ne!(joined["epoch"], epoch);
    assert_eq!(joined["events"][0]["content"], "before");
    let next = seq(&bob.send(&chat, "after").await);
    assert!(next > last && next > seq(&joined) - 1, "{next} after {last}");
    let page = world.get(&gateway, "bob", &messages_of(&chat)).await;
    assert_eq!(page.body["results"].as_array().unwrap().len(), 2, "{page:?}");
}

#[tokio::test]
async fn a_log_that_is_deleted_under_everybodys_hands_is_noticed() {
    let world = World::new().await;
    let gateways = [world.gateway().await, world.gateway().await];
    let chat = world.direct(&gateways[0], ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&gateways[0], "ann").await, world.person(&gateways[1], "bob").await);
    let epoch = ann.join(&chat).await["epoch"].clone();
    bob.join(&chat).await;
    for n in 0..5 {
        ann.send(&chat, &n.to_string()).await;
    }
    // No connection is lost, and nothing of it is in Postgres: the new log begins below what the nodes have delivered.
    let js = jetstream::new(world.env.nats().await.unwrap());
    js.delete_stream(subjects::log_stream(0)).await.unwrap();
    let mut writer = world.person(&gateways[0], "ann").await;
    let mut ack = Value::Null;
    // One message, as its sender does not know whether it was stored.
    let after = message(&chat, "after");
    until("messages to be taken again", async || {
        ack = writer.ask(after.clone()).await;
        ack["type"] == "ack"
    })
    .await;
    for person in [&mut ann, &mut bob] {
        assert_eq!(person.closed().await.reason["code"], "log_restarted");
    }
    for gateway in &gateways {
        let joined = world.person(gateway, "bob").await.join(&chat).await;
        assert_ne!(joined["epoch"], epoch);
        let events = joined["events"].as_array().unwrap();
        assert_eq!(events.iter().map(|it| &it["seq"]).collect::<Vec<_>>(), [&ack["seq"]], "{joined}");
    }
}

#[tokio::test]
async fn without_postgres_those_who_talk_go_on() {
    let world = World::new().await;
    let (postgres, gateway) = behind(&world, "PARTYLINE_DATABASE_URL", world.env.database_url()).await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    ann.join(&chat).await;
    bob.join(&chat).await;
    for hangs in [false, true] {
        if hangs {
            postgres.pause()
        } else {
            postgres.cut()
        }
        // News of a name that came just before the outage; it locks nobody out.
        let nats = world.env.nats().await.unwrap();
        nats.publish(subjects::USERS_CHANGED, json!(["ann"]).to_string().into()).await.unwrap();
        nats.flush().await.unwrap();
        // The first one finds out, the others know: without that every message waits for 2 s.
        let (mut last, mut quick_in_a_row) = (0, 0);
        until("messages not to wait for Postgres", async || {
            let began = Instant::now();
            let ack = ann.insist(&message(&chat, "still here")).await;
            let quick = began.elapsed() < Duration::from_millis(1_500);
            quick_in_a_row = if quick { quick_in_a_row + 1 } else { 0 };
            last = seq(&ack);
            assert_eq!(bob.expect("new_message").await["seq"], ack["seq"]);
            quick_in_a_row == 20
        })
        .await;
        assert!(world.is_ready(&gateway).await);
        bob.get("ack", json!({ "type": "mark_read", "conversation_id": chat, "seq": last })).await;
        assert_eq!(ann.expect("read").await["last_read_seq"], last);
        bob.say(&json!({ "type": "typing", "conversation_id": chat, "is_typing": true })).await;
        ann.expect("typing").await;
        // Coming back with a place needs no Postgres; history does.
        let mut again = world.person(&gateway, "bob").await;
        assert_eq!(again.join_after(&chat, last - 1).await["events"].as_array().unwrap().len(), 2);
        // Nobody waits for Postgres itself, which would take 10 s.
        let join = json!({ "type": "join_conversation", "conversation_id": chat });
        until("refusals to come at once", async || {
            let began = Instant::now();
            let list = world.get(&gateway, "bob", CONVERSATIONS).await;
            assert_eq!((list.status, list.code()), (503, "unavailable"));
            assert_eq!(again.refused(join.clone()).await, "unavailable");
            began.elapsed() < Duration::from_secs(5)
        })
        .await;
        postgres.resume();
        let mut joined = Value::Null;
        until("history to be back", async || {
            joined = again.ask(join.clone()).await;
            joined["type"] == "joined"
        })
        .await;
        assert_eq!(joined["seq"].as_u64(), Some(last + 1));
        ann.held.clear();
        bob.held.clear();
    }
}

#[tokio::test]
async fn without_postgres_messages_in_the_log_are_repeated_answered_edited_and_deleted() {
    let world = World::new().await;
    let (postgres, gateway) = behind(&world, "PARTYLINE_DATABASE_URL", world.env.database_url()).await;
    let persister = world.persister().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    for hangs in [false, true] {
        // Postgres holds the first, and the log alone the second.
        let (first, second) = (message(&chat, "first"), message(&chat, "second"));
        let before = ann.get("ack", first.clone()).await;
        world.persisted().await;
        if hangs {
            postgres.pause()
        } else {
            postgres.cut()
        }
        let during = ann.get("ack", second.clone()).await;
        for (frame, ack) in [(&first, &before), (&second, &during)] {
            let again = ann.get("ack", frame.clone()).await;
            assert_eq!((&again["seq"], &again["duplicate"]), (&ack["seq"], &json!(true)), "hanging: {hangs}");
            let mut reply = message(&chat, "reply");
            reply["reply_to"] = ack["seq"].clone();
            ann.get("ack", reply.clone()).await;
            reply["client_id"] = json!(client_id());
            reply["reply_to"] = json!(seq(ack) + 1_000_000);
            assert!(["unavailable", "not_found"].contains(&&*ann.refused(reply).await));
            let change =
                |kind: &str| json!({ "type": kind, "conversation_id": chat, "seq": ack["seq"], "content": "x" });
            ann.get("ack", change("edit_message")).await;
            let deleted = ann.get("ack", change("delete_message")).await;
            assert_eq!(ann.get("ack", change("delete_message")).await["seq"], deleted["seq"]);
            assert_eq!(ann.refused(change("edit_message")).await, "conflict");
        }
        postgres.resume();
        until("Postgres to be back", async || world.get(&gateway, "ann", &messages_of(&chat)).await.status == 200)
            .await;
    }
    drop(persister);
}

#[tokio::test]
async fn without_postgres_old_names_are_looked_for_in_the_log() {
    let world = World::new().await;
    let proxy = Proxy::start(world.env.database_url()).await.unwrap();
    let launch = world.launch().env("PARTYLINE_DEDUP_SECONDS", "2");
    let url = proxy.through(world.env.database_url());
    let gateway = launch.env("PARTYLINE_DATABASE_URL", url).start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    // Older than the log: only Postgres can tell.
    let mut ancient = message(&chat, "ancient");
    ancient["client_id"] = json!("018f4e9c-7a54-7c8e-b8b5-0a1b2c3d4e5f");
    ann.get("ack", ancient.clone()).await;
    // The log began before this one was made, by more than clocks may differ.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let (stored, new) = (message(&chat, "stored"), message(&chat, "new"));
    let first = ann.get("ack", stored.clone()).await;
    proxy.cut();
    crate::once::window_passed(&world).await;
    let again = ann.get("ack", stored).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
    let ack = ann.get("ack", new).await;
    assert_eq!(ack["duplicate"], false);
    assert_eq!(ann.refused(ancient).await, "unavailable");
}

#[tokio::test]
async fn a_node_where_nobody_writes_finds_out_that_postgres_hangs() {
    let world = World::new().await;
    let (postgres, gateway) = behind(&world, "PARTYLINE_DATABASE_URL", world.env.database_url()).await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut bob = world.person(&gateway, "bob").await;
    // Its rooms are made elsewhere: nothing is cached.
    let join = json!({ "type": "join_conversation", "conversation_id": chat });
    postgres.pause();
    assert_eq!(bob.refused(join.clone()).await, "unavailable");
    until("refusals to come at once", async || {
        let began = Instant::now();
        assert_eq!(bob.refused(join.clone()).await, "unavailable");
        assert_eq!(world.get(&gateway, "bob", CONVERSATIONS).await.code(), "unavailable");
        began.elapsed() < Duration::from_secs(5)
    })
    .await;
    postgres.resume();
    until("Postgres to be back", async || bob.ask(join.clone()).await["type"] == "joined").await;
}

#[tokio::test]
async fn who_could_not_join_still_gets_news() {
    let world = World::new().await;
    let (postgres, cut_off) = behind(&world, "PARTYLINE_DATABASE_URL", world.env.database_url()).await;
    let well = world.gateway().await;
    let persister = world.persister().await;
    let chat = world.direct(&well, ["ann", "bob"]).await;
    let mut ann = world.person(&well, "ann").await;
    let first = seq(&ann.send(&chat, "first").await);
    ann.send(&chat, "second").await;
    world.persisted().await;
    // Retention has taken all of it, so that who lacks something needs Postgres; who takes part is cached.
    let js = jetstream::new(world.env.nats().await.unwrap());
    js.get_stream(subjects::log_stream(0)).await.unwrap().purge().await.unwrap();
    let mut bob = world.person(&cut_off, "bob").await;
    assert_eq!(world.get(&cut_off, "bob", &messages_of(&chat)).await.status, 200);
    postgres.cut();
    let join = json!({ "type": "join_conversation", "conversation_id": chat, "after": first });
    assert_eq!(bob.refused(join.clone()).await, "unavailable");
    ann.send(&chat, "third").await;
    bob.find(|it| it["type"] == "conversation_updated" && it["last_message"]["content"] == "third").await;
    postgres.resume();
    until("what is missing to come", async || bob.ask(join.clone()).await["type"] == "joined").await;
    drop(persister);
}

#[tokio::test]
async fn pings_are_answered_while_a_command_waits_for_postgres() {
    let world = World::new().await;
    let (postgres, gateway) = behind(&world, "PARTYLINE_DATABASE_URL", world.env.database_url()).await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut bob = world.person(&gateway, "bob").await;
    let mut raw = Raw::come(&gateway, &world.token("ann")).await;
    postgres.pause();
    // What is not cached needs Postgres.
    bob.say(&json!({ "type": "join_conversation", "conversation_id": chat, "ref": "slow" })).await;
    bob.socket.send(Message::Ping("well?".into())).await.unwrap();
    let mut heard = Vec::new();
    while heard.last() != Some(&"error") {
        match bob.socket.next().await.unwrap().unwrap() {
            Message::Pong(payload) => {
                assert_eq!(payload.as_ref(), b"well?");
                heard.push("pong");
            }
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text).unwrap();
                assert_eq!((&frame["ref"], &frame["code"]), (&json!("slow"), &json!("unavailable")), "{frame}");
                heard.push("error");
            }
            _ => {}
        }
    }
    assert_eq!(heard, ["pong", "error"]);
    // Over Socket.IO, too: WebSocket's own pings, which some clients send.
    postgres.resume();
    until("Postgres to be back", async || world.get(&gateway, "ann", CONVERSATIONS).await.status == 200).await;
    postgres.pause();
    let other = json!(["join_conversation", { "conversation_id": crate::support::NOWHERE }]);
    assert_eq!(raw.pings_before_the_answer(&format!("427{other}"), "437").await, 1);
}

#[tokio::test]
async fn a_client_that_answers_pings_is_not_silent_while_postgres_hangs() {
    let world = World::new().await;
    let proxy = Proxy::start(world.env.database_url()).await.unwrap();
    let launch = world.launch().env("PARTYLINE_DATABASE_URL", proxy.through(world.env.database_url()));
    let gateway = launch.env("PARTYLINE_PING_SECONDS", "1").env("PARTYLINE_IDLE_SECONDS", "2").start().await.unwrap();
    let mut bob = world.person(&gateway, "bob").await;
    let mut unknown = Vec::new();
    for n in 0..4 {
        unknown.push(format!("018f4e9c-7a54-7c8e-b8b5-0a1b2c3d4e{n:02}"));
    }
    for id in &unknown {
        // Postgres is taken for well each time, and hangs again.
        until("Postgres to be back", async || world.get(&gateway, "bob", CONVERSATIONS).await.status == 200).await;
        proxy.pause();
        let join = json!({ "type": "join_conversation", "conversation_id": id });
        assert_eq!(bob.refused(join).await, "unavailable");
        proxy.resume();
    }
    bob.caught_up().await;
}

/// Runs requests that wait for a lock on a table; their connections to Postgres die meanwhile.
async fn strand_waiting<T>(
    world: &World,
    postgres: &Proxy,
    table: &str,
    waiting: i64,
    requests: impl Future<Output = T>,
) -> T {
    let pool = world.env.pool().await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")))
        .execute(&mut *lock)
        .await
        .unwrap();
    let strand = async {
        until("queries to wait", async || {
            let count =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap() >= waiting
        })
        .await;
        postgres.strand();
        lock.commit().await.unwrap();
    };
    tokio::join!(requests, strand).0
}

#[tokio::test]
async fn connections_to_a_dead_postgres_are_replaced() {
    let world = World::new().await;
    let proxy = Proxy::start(world.env.database_url()).await.unwrap();
    let launch = world.launch().env("PARTYLINE_DATABASE_CONNECTIONS", "4");
    let launch = launch.env("PARTYLINE_DATABASE_URL", proxy.through(world.env.database_url()));
    let gateway = launch.start().await.unwrap();
    world.direct(&gateway, ["ann", "bob"]).await;
    let list = async || world.get(&gateway, "bob", CONVERSATIONS).await.status;
    // In use: all of the pool's connections.
    let requests = join_all((0..4).map(|_| list()));
    let answers = strand_waiting(&world, &proxy, "participants", 4, requests).await;
    assert_eq!(answers, [503; 4]);
    let began = Instant::now();
    until("lists to be answered", async || list().await == 200).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // Idle: another takes the place within the request.
    assert_eq!(join_all((0..4).map(|_| list())).await, [200; 4]);
    proxy.strand();
    // One that was used within the last second is not tested, and its query may fail.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(list().await, 200);
}

#[tokio::test]
async fn users_are_written_after_a_connection_to_postgres_died() {
    let world = World::new().await;
    let (postgres, gateway) = behind(&world, "PARTYLINE_DATABASE_URL", world.env.database_url()).await;
    let ann = strand_waiting(&world, &postgres, "users", 1, world.person(&gateway, "ann")).await;
    let bob = world.person(&gateway, "bob").await;
    let pool = world.env.pool().await.unwrap();
    until("the next user to be written", async || {
        let written = "SELECT EXISTS (SELECT FROM users WHERE id = 'bob' AND username = 'BOB')";
        sqlx::query_scalar::<_, bool>(written).fetch_one(&pool).await.unwrap()
    })
    .await;
    drop((ann, bob));
}

#[tokio::test]
async fn without_postgres_a_repeat_whose_name_carries_no_time_is_stored_once() {
    let world = World::new().await;
    let proxy = Proxy::start(world.env.database_url()).await.unwrap();
    let launch = world.launch().env("PARTYLINE_DEDUP_SECONDS", "2");
    let url = proxy.through(world.env.database_url());
    let gateway = launch.env("PARTYLINE_DATABASE_URL", url).start().await.unwrap();
    // Postgres has nothing that the log lacks, as far as the gateway knows.
    let persister = world.env.persister().unwrap().env("PARTYLINE_DEDUP_SECONDS", "2").start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let undated = |content: &str| {
        let mut frame = message(&chat, content);
        frame["client_id"] = json!(uuid::Uuid::new_v4().to_string());
        frame
    };
    let stored = undated("stored");
    let first = ann.get("ack", stored.clone()).await;
    world.persisted().await;
    proxy.cut();
    crate::once::window_passed(&world).await;
    // The gateway looks anew how far the persister has come: its older view has the message in the tail.
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    let again = ann.get("ack", stored).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
    // The log holds everything that was ever stored: a new one can be judged.
    assert_eq!(ann.get("ack", undated("new")).await["duplicate"], false);
    drop(persister);
}

#[tokio::test]
async fn query_on_a_connection_that_was_just_used_costs_one_round_trip() {
    const QUERIES: u64 = 20;
    let world = World::new().await;
    let proxy = Proxy::start(world.env.database_url()).await.unwrap();
    let command = DatabaseSettings::augment_args(clap::Command::new("test").no_binary_name(true));
    let url = proxy.through(world.env.database_url());
    let arguments = ["--database-url", &url, "--database-connections", "1"];
    let settings = DatabaseSettings::from_arg_matches(&command.get_matches_from(arguments)).unwrap();
    let store = Store::connect_lazy(&settings).unwrap();
    let conversation = ConversationId::generate();
    assert!(store.message(conversation, 1).await.unwrap().is_none(), "connected and prepared");
    // The pool has it back once it has answered.
    until("the connection to be idle", async || store.pool().num_idle() == 1).await;
    let before = proxy.sent();
    for _ in 0..QUERIES {
        assert!(store.message(conversation, 1).await.unwrap().is_none());
    }
    until("the connection to be idle", async || store.pool().num_idle() == 1).await;
    // The query, and after it the test with which the pool takes the connection back.
    assert_eq!(proxy.sent() - before, 2 * QUERIES);
}
