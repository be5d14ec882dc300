//! Rows that Postgres refuses, Postgres away, streams lost.

use std::time::Duration;

use devstack::testing::Proxy;
use partyline_persister::store::Store;
use partyline_shared::{event::Event, subjects};

use crate::support::{World, by_number, message, numbered, run, until};

#[tokio::test]
async fn poison_among_a_thousand_is_put_aside_alone() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let mut events = numbered(chat, 0, 1_000);
    events[333] = Event::NewMessage(message(chat, "no\0good"));
    events[777] = Event::NewMessage(message(chat, &"x".repeat(1_001)));
    let mut metadata = message(chat, "escaped");
    metadata.metadata = serde_json::value::RawValue::from_string(r#"{"k":"\u0000"}"#.into()).unwrap();
    events[999] = Event::NewMessage(metadata);
    let seqs = world.append(&events).await;
    let mut unreadable = Vec::new();
    for payload in [r#"{"type":7}"#, "{garbage"] {
        let ack = world.js.publish(subjects::log(0, chat), payload.into()).await.unwrap().await.unwrap();
        unreadable.push(ack.sequence);
    }
    let _persister = world.persister(&[]).await;
    world.settled().await;
    assert_eq!(world.count().await, 997);
    let mut letters = world.dead_letters().await;
    letters.sort_by_key(|(_, seq)| *seq);
    let places: Vec<_> = letters.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(places, [seqs[333], seqs[777], seqs[999], unreadable[0], unreadable[1]]);
    let reasons: Vec<&str> = letters.iter().map(|(reason, _)| reason.get(..14).unwrap()).collect();
    let [nul, long, escape] = ["refused: 22021", "refused: 23514", "refused: 22P05"];
    assert_eq!(reasons, [nul, long, escape, "unreadable: in", "unreadable: ke"]);
}

#[tokio::test]
async fn postgres_goes_and_comes_back() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(2)).await;
    let chat = world.conversation(&["ann"]).await;
    let proxy = Proxy::start(world.env.database_url()).await.unwrap();
    let mut config = world.config(&["--batch-max=100"]);
    config.database.database_url = proxy.through(world.env.database_url());
    let persister = run(config).await;
    let mut seqs = world.append(&numbered(chat, 0, 500)).await;
    world.settled().await;

    // Gone for longer than JetStream waits for an answer.
    proxy.cut();
    seqs.extend(world.append(&numbered(chat, 500, 2_000)).await);
    let stream = world.js.get_stream(subjects::log_stream(0)).await.unwrap();
    let consumer = partyline_shared::streams::ensure_persister(&stream).await.unwrap();
    until("a redelivery to be due", async || {
        let info = consumer.get_info().await.unwrap();
        info.num_ack_pending > 0 && info.num_pending < 2_000
    })
    .await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(world.count().await, 500);
    proxy.resume();
    world.settled().await;

    // Hanging, in the middle of whatever it was doing.
    proxy.pause();
    seqs.extend(world.append(&numbered(chat, 2_500, 500)).await);
    until("a batch in hand", async || consumer.get_info().await.unwrap().num_ack_pending > 0).await;
    proxy.resume();
    world.settled().await;

    let expected = by_number(seqs);
    assert_eq!(world.messages(chat).await, expected);
    assert_eq!(world.dead_letters().await, []);
    persister.stop().await;
}

#[tokio::test]
async fn waits_for_postgres_at_the_start() {
    let world = World::new().await;
    let proxy = Proxy::start(world.env.database_url()).await.unwrap();
    proxy.cut();
    let mut config = world.config(&[]);
    config.database.database_url = proxy.through(world.env.database_url());
    let persister = run(config).await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    world.append(&numbered(chat, 0, 10)).await;
    proxy.resume();
    world.settled().await;
    assert_eq!(world.count().await, 10);
    persister.stop().await;
}

#[tokio::test]
async fn a_lost_log_begins_again_above_what_postgres_holds() {
    let world = World::new().await;
    let _persister = world.persister(&[]).await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let old = world.append(&numbered(chat, 0, 100)).await;
    world.settled().await;
    world.js.delete_stream(subjects::log_stream(0)).await.unwrap();
    until("a new log", async || world.js.get_stream(subjects::log_stream(0)).await.is_ok()).await;
    let new = world.append(&numbered(chat, 100, 100)).await;
    assert!(new[0] > old[99], "{} is not above {}", new[0], old[99]);
    world.settled().await;
    assert_eq!(world.count().await, 200);
    assert_eq!(world.dead_letters().await, []);
}

#[tokio::test]
async fn a_place_that_another_message_has_is_no_repeat() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let old = Event::NewMessage(message(chat, "old"));
    let seq = world.append(&[old]).await[0];
    let persister = world.persister(&[]).await;
    world.settled().await;
    persister.stop().await;
    // As if a batch from before the loss had been written after the new log began.
    world.js.delete_stream(subjects::log_stream(0)).await.unwrap();
    world.prepare(Duration::from_secs(30)).await;
    let again = world.append(&[Event::NewMessage(message(chat, "new"))]).await[0];
    assert_eq!(again, seq);
    let _persister = world.persister(&[]).await;
    world.settled().await;
    assert_eq!(world.messages(chat).await, [(seq, "old".into())]);
    assert_eq!(world.dead_letters().await, [("place_taken".into(), seq)]);
}

#[tokio::test]
async fn events_of_unknown_types_stay_in_the_log_and_others_are_written() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let first = world.append(&numbered(chat, 0, 10)).await;
    let payload = format!(r#"{{"type":"reaction_added","conversation_id":"{chat}","emoji":"x"}}"#);
    let publish = world.js.publish(subjects::log(0, chat), payload.clone().into());
    let unknown = publish.await.unwrap().await.unwrap().sequence;
    let second = world.append(&numbered(chat, 10, 10)).await;
    let persister = world.persister(&[]).await;
    let stream = world.js.get_stream(subjects::log_stream(0)).await.unwrap();
    let consumer = partyline_shared::streams::ensure_persister(&stream).await.unwrap();
    until("all but the unknown event to be settled", async || {
        let info = consumer.get_info().await.unwrap();
        info.delivered.stream_sequence == second[9] && info.num_ack_pending == 1 && info.num_pending == 0
    })
    .await;
    let info = consumer.get_info().await.unwrap();
    // Retention removes nothing above the floor, and gateways read from there.
    assert_eq!(info.ack_floor.stream_sequence, first[9]);
    let contents: Vec<_> = world.messages(chat).await.into_iter().map(|(_, content)| content).collect();
    assert_eq!(contents, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(world.dead_letters().await, []);
    persister.stop().await;

    // A persister of a newer version is delivered it.
    let mut taken = Vec::new();
    until("the event to be delivered again", async || {
        let mut fetched = consumer.batch().max_messages(1).expires(Duration::from_secs(1)).messages().await.unwrap();
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut fetched).await {
            message.ack().await.unwrap();
            taken.push((message.info().unwrap().stream_sequence, message.payload.to_vec()));
        }
        !taken.is_empty()
    })
    .await;
    assert_eq!(taken, [(unknown, payload.into_bytes())]);
    world.settled().await;
}

#[tokio::test]
async fn persister_starts_on_a_newer_schema_and_waits_on_an_older_one() {
    let world = World::new().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'of a newer version', true, '\\x00', 1)";
    sqlx::query(newer).execute(&world.pool).await.unwrap();
    let chat = world.conversation(&["ann"]).await;
    world.prepare(Duration::from_secs(30)).await;
    let seqs = world.append(&numbered(chat, 0, 10)).await;
    for flags in [&[][..], &["--migrate"]] {
        let persister = world.persister(flags).await;
        world.settled().await;
        persister.stop().await;
    }
    assert_eq!(world.messages(chat).await.len(), seqs.len());

    let last = partyline_migrations::MIGRATOR.iter().map(|migration| migration.version).max().unwrap();
    let forget = "WITH forgotten AS (DELETE FROM _sqlx_migrations WHERE version = $1 RETURNING *)
                  SELECT description, checksum FROM forgotten";
    let (description, checksum): (String, Vec<u8>) =
        sqlx::query_as(forget).bind(last).fetch_one(&world.pool).await.unwrap();
    let store = Store::connect_lazy(&world.config(&[]).database).unwrap();
    assert_eq!(store.missing_migrations().await.unwrap(), [last]);
    let persister = world.persister(&[]).await;
    let more = world.append(&numbered(chat, 10, 10)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.messages(chat).await.len(), seqs.len());
    let remember = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                    VALUES ($1, $2, true, $3, 1)";
    sqlx::query(remember).bind(last).bind(description).bind(checksum).execute(&world.pool).await.unwrap();
    world.settled().await;
    assert_eq!(world.messages(chat).await.len(), seqs.len() + more.len());
    persister.stop().await;
}

#[tokio::test]
async fn migrating_gives_up_while_a_lock_is_not_free() {
    let world = World::new().await;
    let store = Store::connect_lazy(&world.config(&[]).database).unwrap();
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE _sqlx_migrations").execute(&mut *lock).await.unwrap();
    let refused = store.migrate(Duration::from_millis(50), 2).await.unwrap_err();
    assert!(refused.to_string().contains("lock timeout"), "{refused}");
    let waiting = tokio::spawn(async move { store.migrate(Duration::from_millis(50), 100).await });
    lock.rollback().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), [0; 0]);
}
