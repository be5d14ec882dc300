//! What follows a commit happens: after the client has hung up, after the gateway was killed, without NATS.

use std::time::Duration;

use async_nats::jetstream;
use devstack::testing::{Process, Proxy};
use futures_util::{StreamExt, stream};
use partyline_shared::subjects;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use crate::{
    person::Person,
    support::{CONVERSATIONS, World, client_id, message, messages_of, seq, until},
};

/// A request whose client has sent all of it.
async fn request(
    world: &World,
    gateway: &Process,
    user: &str,
    (method, path, body): &(Method, String, Value),
) -> TcpStream {
    let (host, token, body) = (gateway.http_addr(), world.token(user), body.to_string());
    let mut stream = TcpStream::connect(&host).await.unwrap();
    // Dropped, it is reset.
    stream.set_zero_linger().unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream
}

/// Whether Postgres has this participant.
async fn takes_part(pool: &PgPool, chat: &str, user: &str) -> bool {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM participants WHERE conversation_id = $1::uuid AND user_id = $2)",
    );
    found.bind(chat.parse::<uuid::Uuid>().unwrap()).bind(user).fetch_one(pool).await.unwrap()
}

async fn outbox_rows(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(pool).await.unwrap()
}

/// All events of a conversation in the log.
async fn log_of(world: &World, chat: &str) -> Vec<Value> {
    let js = jetstream::new(world.env.nats().await.unwrap());
    let stream = js.get_stream(subjects::log_stream(0)).await.unwrap();
    let last = stream.get_info().await.unwrap().state.last_sequence;
    let all = stream::iter(1..=last).then(|seq| stream.get_raw_message(seq));
    all.filter_map(async |message| message.ok())
        .map(|message| serde_json::from_slice::<Value>(&message.payload).unwrap())
        .filter(|event| std::future::ready(event["conversation_id"] == chat))
        .collect()
        .await
}

/// How somebody's part in a conversation changed, by the log: `true` for coming.
async fn comings(world: &World, chat: &str, user: &str) -> Vec<bool> {
    let moved = |event: &Value| match event["type"].as_str().unwrap() {
        "participant_added" => (event["participant"]["user_id"] == user).then_some(true),
        "participant_removed" => (event["user_id"] == user).then_some(false),
        _ => None,
    };
    log_of(world, chat).await.iter().filter_map(moved).collect()
}

async fn sees_participant(world: &World, gateway: &Process, chat: &str, user: &str) -> bool {
    // A member's permission comes from the node's cache.
    match world.get(gateway, user, &messages_of(chat)).await.status {
        200 => true,
        403 => false,
        other => panic!("{other}"),
    }
}

fn is_news(frame: &Value, chat: &str, reason: &str) -> bool {
    frame["type"] == "conversation_updated" && frame["conversation_id"] == chat && frame["reason"] == reason
}

fn adds(chat: &str, user: &str) -> (Method, String, Value) {
    (Method::POST, format!("{CONVERSATIONS}{chat}/participants/"), json!({ "user_id": user }))
}

fn removes(chat: &str, user: &str) -> (Method, String, Value) {
    (Method::DELETE, format!("{CONVERSATIONS}{chat}/participants/{user}/"), Value::Null)
}

/// A gateway whose link to NATS can be cut.
async fn behind_proxy(world: &World) -> (Proxy, Process) {
    let nats = Proxy::start(world.env.nats_url()).await.unwrap();
    let gateway = world.launch().env("PARTYLINE_NATS_URL", nats.through(world.env.nats_url())).start().await.unwrap();
    (nats, gateway)
}

#[tokio::test]
async fn a_change_is_told_although_its_client_hung_up_after_the_commit() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    let (nats, here) = behind_proxy(&world).await;
    let there = world.gateway().await;
    let chat = world.group(&there, &["ann", "bob"]).await;
    let mut bob = world.person(&there, "bob").await;
    let mut dan = world.person(&there, "dan").await;
    bob.join(&chat).await;
    for (change, comes) in [(adds(&chat, "dan"), true), (removes(&chat, "dan"), false)] {
        // Nothing that follows the commit can be done until NATS answers again.
        nats.pause();
        let client = request(&world, &here, "ann", &change).await;
        until("the commit", async || takes_part(&pool, &chat, "dan").await == comes).await;
        drop(client);
        nats.resume();
        let event = bob.expect(if comes { "participant_added" } else { "participant_removed" }).await;
        let user = if comes { &event["participant"]["user_id"] } else { &event["user_id"] };
        assert_eq!(user, "dan");
        dan.find(|it| is_news(it, &chat, if comes { "added" } else { "removed" })).await;
        for gateway in [&here, &there] {
            until("all nodes to agree", async || sees_participant(&world, gateway, &chat, "dan").await == comes).await;
        }
    }
    until("the outbox to be empty", async || outbox_rows(&pool).await == 0).await;
    assert_eq!(comings(&world, &chat, "dan").await, [true, false]);
}

#[tokio::test]
async fn a_message_and_a_read_marker_are_told_although_their_clients_hung_up() {
    let world = World::new().await;
    let (nats, here) = behind_proxy(&world).await;
    let there = world.gateway().await;
    let chat = world.group(&there, &["ann", "bob"]).await;
    // Neither has joined: what they hear is news.
    let (mut ann, mut bob) = (world.person(&there, "ann").await, world.person(&there, "bob").await);
    let first = seq(&ann.send(&chat, "first").await);
    let body = json!({ "client_id": client_id(), "content": "second" });
    let sends = (Method::POST, messages_of(&chat), body);
    let reads = (Method::POST, format!("{CONVERSATIONS}{chat}/mark_read/"), json!({ "seq": first }));
    for (user, command) in [("ann", sends), ("bob", reads)] {
        nats.pause();
        let client = request(&world, &here, user, &command).await;
        // The gateway has read it, and waits for the log.
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(client);
        // It sees that, and would drop the command.
        tokio::time::sleep(Duration::from_millis(300)).await;
        nats.resume();
        if user == "ann" {
            let news = bob.find(|it| it["last_message"]["content"] == "second").await;
            assert_eq!(news["reason"], "message");
        } else {
            bob.find(|it| is_news(it, &chat, "read")).await;
        }
    }
}

#[tokio::test]
async fn clients_that_hang_up_at_any_moment_leave_nothing_half_done() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    let gateways = [world.gateway().await, world.gateway().await];
    let chat = world.group(&gateways[0], &["ann", "bob", "cat"]).await;
    let mut bob = world.person(&gateways[1], "bob").await;
    bob.join(&chat).await;
    // She has not joined: what she hears is news.
    let mut cat = world.person(&gateways[1], "cat").await;
    let mut seen = Vec::new();
    for n in 0..40_u32 {
        let delay = Duration::from_micros(u64::from(n % 20) * 250);
        let was_in = takes_part(&pool, &chat, "dan").await;
        let change = if was_in { removes(&chat, "dan") } else { adds(&chat, "dan") };
        let (read, sent) = (json!({ "seq": 9_000_000 }), client_id());
        let commands = [
            ("ann", change),
            (
                "ann",
                (
                    Method::POST,
                    CONVERSATIONS.into(),
                    json!({ "participant_ids": ["cat", format!("n{n}")], "kind": "group" }),
                ),
            ),
            ("ann", (Method::POST, messages_of(&chat), json!({ "client_id": sent, "content": n.to_string() }))),
            ("bob", (Method::POST, format!("{CONVERSATIONS}{chat}/mark_read/"), read)),
        ];
        for (user, command) in commands {
            let client = request(&world, &gateways[0], user, &command).await;
            tokio::time::sleep(delay).await;
            drop(client);
        }
        // Whatever was done, and nothing may have been, is told.
        until("what was committed to be told", async || outbox_rows(&pool).await == 0).await;
        let is_in = takes_part(&pool, &chat, "dan").await;
        if is_in != was_in {
            seen.push(is_in);
        }
    }
    until("Postgres and the log to agree", async || {
        comings(&world, &chat, "dan").await.last().copied().unwrap_or(false) == takes_part(&pool, &chat, "dan").await
    })
    .await;
    let is_in = takes_part(&pool, &chat, "dan").await;
    for gateway in &gateways {
        assert_eq!(sees_participant(&world, gateway, &chat, "dan").await, is_in);
    }
    // One who is there for all of it hears of every change once, in the order of the commits.
    let log = log_of(&world, &chat).await;
    let moved = comings(&world, &chat, "dan").await;
    assert!(moved.windows(2).all(|pair| pair[0] != pair[1]), "{moved:?}");
    assert!(moved.len() >= seen.len(), "{moved:?}, {seen:?}");
    world.person(&gateways[0], "ann").await.send(&chat, "the end").await;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|it: &Value| it["content"] != "the end") {
        heard.push(bob.find(|it| it["prev_seq"].is_u64() && it["conversation_id"] == chat).await);
    }
    assert_eq!(heard.len(), log.len() + 1);
    // And who was brought into a conversation knows of it.
    let made: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM conversations WHERE id <> $1::uuid")
        .bind(chat.parse::<uuid::Uuid>().unwrap())
        .fetch_all(&pool)
        .await
        .unwrap();
    for other in made {
        cat.find(|it| is_news(it, &other.to_string(), "added")).await;
    }
    let last = cat.find(|it| it["last_message"]["content"] == "the end").await;
    assert_eq!(last["reason"], "message");
}

/// Does this by a gateway that loses NATS and is killed once Postgres has it.
async fn killed_after_commit(world: &World, pool: &PgPool, user: &str, change: &(Method, String, Value), pause: bool) {
    let (nats, doomed) = behind_proxy(world).await;
    if pause {
        nats.pause();
    } else {
        nats.cut();
    }
    let before = outbox_rows(pool).await;
    let client = request(world, &doomed, user, change).await;
    until("the commit", async || outbox_rows(pool).await > before).await;
    doomed.kill().await;
    drop(client);
}

#[tokio::test]
async fn another_gateway_tells_what_a_killed_one_has_committed() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    let well = world.gateway().await;
    let chat = world.group(&well, &["ann", "bob"]).await;
    let mut bob = world.person(&well, "bob").await;
    let mut dan = world.person(&well, "dan").await;
    bob.join(&chat).await;

    killed_after_commit(&world, &pool, "ann", &adds(&chat, "dan"), true).await;
    let began = Instant::now();
    assert_eq!(bob.expect("participant_added").await["participant"]["user_id"], "dan");
    dan.find(|it| is_news(it, &chat, "added")).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    dan.join(&chat).await;
    bob.send(&chat, "welcome").await;
    dan.expect("new_message").await;

    killed_after_commit(&world, &pool, "ann", &removes(&chat, "dan"), false).await;
    let began = Instant::now();
    assert_eq!(bob.expect("participant_removed").await["user_id"], "dan");
    dan.find(|it| is_news(it, &chat, "removed")).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    bob.send(&chat, "he is gone").await;
    dan.caught_up().await;
    assert!(dan.held("new_message").is_empty(), "{:?}", dan.held);
    assert_eq!(dan.refused(message(&chat, "x")).await, "forbidden");

    let new = (Method::POST, CONVERSATIONS.into(), json!({ "participant_ids": ["dan"] }));
    killed_after_commit(&world, &pool, "ann", &new, true).await;
    let news = dan.find(|it| it["type"] == "conversation_updated" && it["reason"] == "added").await;
    dan.join(news["conversation_id"].as_str().unwrap()).await;

    until("the outbox to be empty", async || outbox_rows(&pool).await == 0).await;
    assert_eq!(comings(&world, &chat, "dan").await, [true, false]);
    let relayed = world.metric(&well, "partyline_gateway_outbox_relayed_total{by=\"sweep\"}").await;
    assert!(relayed >= 3.0, "{relayed}");
    until("the gauge to follow", async || {
        world.metric(&well, "partyline_gateway_outbox_rows").await == 0.0
            && world.metric(&well, "partyline_gateway_outbox_oldest_seconds").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn without_nats_participants_are_changed_and_told_later() {
    let world = World::new().await;
    let (nats, cut_off) = behind_proxy(&world).await;
    let well = world.gateway().await;
    let chat = world.group(&cut_off, &["ann", "bob"]).await;
    let mut bob = world.person(&well, "bob").await;
    bob.join(&chat).await;
    for hangs in [false, true] {
        if hangs {
            nats.pause();
        } else {
            nats.cut();
            until("the node to notice", async || !world.is_ready(&cut_off).await).await;
        }
        for (method, path, body) in
            [adds(&chat, "dan"), removes(&chat, "dan"), adds(&chat, "eve"), removes(&chat, "eve")]
        {
            let began = Instant::now();
            let done = world.request(&cut_off, "ann", method, &path, Some(body)).await;
            assert!(matches!(done.status, 201 | 204), "{done:?}");
            assert!(began.elapsed() < Duration::from_secs(6), "{:?}, hanging: {hangs}", began.elapsed());
        }
        // By the gateway that is well, in order.
        for (kind, user) in [("added", "dan"), ("removed", "dan"), ("added", "eve"), ("removed", "eve")] {
            let event = bob.find(|it| it["type"].as_str().unwrap().starts_with("participant_")).await;
            let who = if kind == "added" { &event["participant"]["user_id"] } else { &event["user_id"] };
            assert_eq!((&event["type"], who), (&json!(format!("participant_{kind}")), &json!(user)), "{event}");
        }
        nats.resume();
        until("the node to be well", async || world.is_ready(&cut_off).await).await;
    }
    let pool = world.env.pool().await.unwrap();
    until("the outbox to be empty", async || outbox_rows(&pool).await == 0).await;
    bob.send(&chat, "the end").await;
    bob.expect("new_message").await;
    assert!(bob.held("participant_added").is_empty() && bob.held("participant_removed").is_empty(), "{:?}", bob.held);
}

#[tokio::test]
async fn who_is_added_and_removed_by_several_nodes_is_told_in_the_order_of_the_commits() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    let gateways = [world.gateway().await, world.gateway().await];
    let chat = world.group(&gateways[0], &["ann", "bob"]).await;
    let toggle = async |n: usize| {
        let (method, path, body) = if n % 4 < 2 { adds(&chat, "dan") } else { removes(&chat, "dan") };
        let done = world.request(&gateways[n % 2], "ann", method, &path, Some(body)).await;
        assert!(matches!(done.status, 200 | 201 | 204 | 404), "{done:?}");
        matches!(done.status, 201 | 204)
    };
    // They wait for one another's lock: more at once would be refused by a busy machine's Postgres.
    let done: Vec<_> = stream::iter(0..80).map(toggle).buffer_unordered(16).collect().await;
    let done = done.into_iter().filter(|done| *done).count();
    until("everything to be told", async || outbox_rows(&pool).await == 0).await;
    let moved = comings(&world, &chat, "dan").await;
    assert_eq!(moved.len(), done);
    assert!(moved.iter().enumerate().all(|(n, comes)| *comes == (n % 2 == 0)), "{moved:?}");
    assert_eq!(moved.last() == Some(&true), takes_part(&pool, &chat, "dan").await);
}

#[tokio::test]
async fn what_is_told_again_after_the_duplicate_window_is_in_the_log_once() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    let gateway = world.launch().env("PARTYLINE_DEDUP_SECONDS", "1").start().await.unwrap();
    let chat = world.group(&gateway, &["ann", "bob"]).await;
    let mut bob: Person = world.person(&gateway, "bob").await;
    bob.join(&chat).await;
    // As if each gateway were killed just before it takes the row out.
    let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                CREATE TRIGGER kept BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION keep()";
    sqlx::raw_sql(keep).execute(&pool).await.unwrap();
    let (method, path, body) = adds(&chat, "dan");
    assert_eq!(world.request(&gateway, "ann", method, &path, Some(body)).await.status, 201);
    let added = seq(&bob.expect("participant_added").await);
    for n in 0..300 {
        bob.send(&chat, &n.to_string()).await;
    }
    let swept = "partyline_gateway_outbox_relayed_total{by=\"sweep\"}";
    until("a sweep to tell it again", async || world.metric(&gateway, swept).await >= 1.0).await;
    sqlx::raw_sql("DROP TRIGGER kept ON outbox").execute(&pool).await.unwrap();
    until("the outbox to be empty", async || outbox_rows(&pool).await == 0).await;
    assert_eq!(comings(&world, &chat, "dan").await, [true]);
    bob.caught_up().await;
    assert!(bob.held("participant_added").iter().all(|it| seq(it) == added), "{:?}", bob.held("participant_added"));
}

#[tokio::test]
async fn unreadable_outbox_row_does_not_stop_the_sweep() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    let gateway = world.gateway().await;
    let [odd, other] = [world.group(&gateway, &["ann", "bob"]).await, world.group(&gateway, &["ann", "bob"]).await];
    until("the outbox to be empty", async || outbox_rows(&pool).await == 0).await;
    let mut bob = world.person(&gateway, "bob").await;
    let write = "INSERT INTO outbox (conversation_id, event_id, after_seq, event, users, due_at)
                 VALUES ($1, gen_random_uuid(), 0, $2::text::json, ARRAY['bob'], now())";
    // In one transaction: they are due at the same time.
    let mut both = pool.begin().await.unwrap();
    for (chat, event) in [(&odd, Some(r#"{"type":"from_a_newer_version"}"#)), (&other, None)] {
        let id = chat.parse::<uuid::Uuid>().unwrap();
        sqlx::query(write).bind(id).bind(event).execute(&mut *both).await.unwrap();
    }
    both.commit().await.unwrap();
    bob.find(|it| is_news(it, &other, "added")).await;
    until("the readable row to be deleted", async || outbox_rows(&pool).await == 1).await;
    let left: uuid::Uuid = sqlx::query_scalar("SELECT conversation_id FROM outbox").fetch_one(&pool).await.unwrap();
    assert_eq!(left.to_string(), odd);
}
