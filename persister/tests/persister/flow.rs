//! The plain way, and the same way twice.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use devstack::testing::Signal;
use partyline_persister::store::Store;
use partyline_shared::{
    claims::UserType,
    event::{Event, Participant, ParticipantAdded, Role},
    subjects,
};

use crate::support::{PATIENCE, World, delete, edit, message, numbered, read, until, user};

#[tokio::test]
async fn every_kind_of_event_ends_where_it_belongs() {
    let world = World::new().await;
    let persister = world.persister(&[]).await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann", "bob"]).await;
    let mut sent = message(chat, "hello");
    sent.reply_to = Some(7);
    let hello = Event::NewMessage(sent.clone());
    let typo = Event::NewMessage(message(chat, "tyop"));
    let secret = Event::NewMessage(message(chat, "secret"));
    let seqs = world.append(&[hello, typo.clone(), secret.clone()]).await;
    world
        .append(&[
            edit(&typo, seqs[1], "typo"),
            delete(&secret, seqs[2]),
            read(chat, "bob", seqs[1]),
            read(chat, "bob", seqs[0]),
            read(chat, "nobody", seqs[0]),
            Event::ParticipantAdded(ParticipantAdded {
                conversation_id: chat,
                participant: Participant {
                    user_id: user("eve"),
                    username: "Eve".into(),
                    user_type: UserType::Vendor,
                    role: Role::Member,
                    last_read_seq: 0,
                },
                added_by: user("ann"),
            }),
        ])
        .await;
    world.settled().await;

    let stored = world.messages(chat).await;
    assert_eq!(stored, [(seqs[0], "hello".into()), (seqs[1], "typo".into()), (seqs[2], String::new())]);
    let whole: (uuid::Uuid, uuid::Uuid, String, String, String, String, String, Option<i64>, time::OffsetDateTime) =
        sqlx::query_as(
            "SELECT message_id, client_id, sender_id, sender_username, sender_type, message_type, metadata::text,
                    reply_to, created_at FROM messages WHERE seq = $1",
        )
        .bind(i64::try_from(seqs[0]).unwrap())
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let texts = ["ann", "Ann", "customer", "text", r#"{"k": [1, "ü"]}"#].map(str::to_owned);
    let [id, name, kind, message_type, metadata] = texts;
    let at = sent.created_at.to_datetime();
    assert_eq!(whole, (sent.message_id.0, sent.client_id.0, id, name, kind, message_type, metadata, Some(7), at));
    let stamps: Vec<(Option<i64>, Option<i64>)> =
        sqlx::query_as("SELECT edited_seq, deleted_seq FROM messages ORDER BY seq")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    let place = |n: u64| Some(i64::try_from(seqs[2] + n).unwrap());
    assert_eq!(stamps, [(None, None), (place(1), None), (None, place(2))]);
    let marker: i64 = sqlx::query_scalar("SELECT last_read_seq FROM participants WHERE user_id = 'bob'")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(u64::try_from(marker).unwrap(), seqs[1]);
    let (last, recent): (i64, bool) =
        sqlx::query_as("SELECT last_message_seq, active_at > '2021-01-01' FROM conversations")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!((u64::try_from(last).unwrap(), recent), (seqs[2], true));
    assert_eq!(world.dead_letters().await, []);
    persister.stop().await;
}

#[tokio::test]
async fn delivered_again_nothing_changes() {
    let world = World::new().await;
    let persister = world.persister(&["--batch-max=100"]).await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann", "bob"]).await;
    let events = numbered(chat, 0, 1_000);
    let seqs = world.append(&events).await;
    let mut changes = vec![edit(&events[3], seqs[3], "edited"), delete(&events[4], seqs[4]), read(chat, "bob", 500)];
    changes.push(edit(&events[3], seqs[3], "edited twice"));
    world.append(&changes).await;
    world.settled().await;
    let before = world.messages(chat).await;
    assert_eq!(before.len(), 1_000);
    assert_eq!(before[3].1, "edited twice");

    // The consumer is lost: the running persister makes it again, and gets everything from the beginning.
    let stream = world.js.get_stream(subjects::log_stream(0)).await.unwrap();
    stream.delete_consumer(subjects::PERSISTER_CONSUMER).await.unwrap();
    until("the consumer", async || stream.get_consumer::<pull::Config>(subjects::PERSISTER_CONSUMER).await.is_ok())
        .await;
    world.settled().await;
    assert_eq!(world.messages(chat).await, before);
    assert_eq!(world.dead_letters().await, []);
    drop(persister);
}

#[tokio::test]
async fn a_client_id_sent_twice_is_stored_once() {
    let world = World::new().await;
    let _persister = world.persister(&[]).await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let first = message(chat, "first");
    let mut second = message(chat, "second");
    second.client_id = first.client_id;
    let seqs = world.append(&[Event::NewMessage(first.clone())]).await;
    world.settled().await;
    let other = Event::NewMessage(message(chat, "other"));
    let more = world.append(&[other, Event::NewMessage(second)]).await;
    world.settled().await;
    assert_eq!(world.messages(chat).await, [(seqs[0], "first".into()), (more[0], "other".into())]);
    let last: i64 =
        sqlx::query_scalar("SELECT last_message_seq FROM conversations").fetch_one(&world.pool).await.unwrap();
    assert_eq!(u64::try_from(last).unwrap(), more[0]);
}

#[tokio::test]
async fn told_to_end_it_acknowledges_what_it_has_in_hand() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let process = world.env.persister().unwrap().start().await.unwrap();
    world.append(&numbered(chat, 0, 20_000)).await;
    until("the first batch", async || world.count().await > 0).await;
    process.signal(Signal::TERM);
    assert!(process.wait().await.success(), "{}", process.log());
    let stream = world.js.get_stream(subjects::log_stream(0)).await.unwrap();
    let consumer = stream.get_consumer::<pull::Config>(subjects::PERSISTER_CONSUMER).await.unwrap();
    let info = consumer.get_info().await.unwrap();
    assert_eq!(info.num_ack_pending, 0, "{info:?}");
    assert_eq!(info.ack_floor.stream_sequence, world.count().await);

    let process = process.restart().await.unwrap();
    world.settled().await;
    assert_eq!(world.count().await, 20_000);
    until("the lag to be none", async || {
        let metrics = reqwest::get(process.admin_url("/metrics")).await.unwrap().text().await.unwrap();
        metrics.contains("partyline_persister_lag_messages{partition=\"0\"} 0")
            && metrics.contains("partyline_persister_lag_age_seconds{partition=\"0\"} 0")
            && metrics.contains("partyline_persister_rows_total{kind=\"message\"}")
    })
    .await;
    assert!(process.terminate(PATIENCE).await.success());
}

#[tokio::test]
async fn participants_know_when_their_conversation_was_last_active() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chats = [world.conversation(&["ann", "bob"]).await, world.conversation(&["ann", "cat"]).await];
    // Two at once, which must not wait for each other.
    let persisters = [world.persister(&["--batch-max=7"]).await, world.persister(&["--batch-max=7"]).await];
    for n in 0..100 {
        let mut events: Vec<_> = chats.iter().flat_map(|chat| numbered(*chat, n, 1)).collect();
        events.push(read(chats[1], "cat", 1));
        world.append(&events).await;
    }
    world.settled().await;
    // A participant who comes later.
    for sql in [
        "INSERT INTO users (id) VALUES ('late')",
        "INSERT INTO participants (conversation_id, user_id) SELECT id, 'late' FROM conversations",
    ] {
        sqlx::query(sql).execute(&world.pool).await.unwrap();
    }
    let differ = "SELECT count(*) FROM participants p JOIN conversations c ON c.id = p.conversation_id
                   WHERE p.active_at IS DISTINCT FROM c.active_at";
    assert_eq!(sqlx::query_scalar::<_, i64>(differ).fetch_one(&world.pool).await.unwrap(), 0);
    let moved = "SELECT count(*) FROM participants WHERE active_at > '2021-01-01'";
    assert_eq!(sqlx::query_scalar::<_, i64>(moved).fetch_one(&world.pool).await.unwrap(), 6);
    for persister in persisters {
        persister.stop().await;
    }
}

#[tokio::test]
async fn migrating_fills_the_activity_of_old_participants() {
    let world = World::new().await;
    let chat = world.conversation(&["ann", "bob"]).await;
    // As the version before left it.
    let before = "DROP INDEX participants_by_activity;
                  DROP TRIGGER new_participant ON participants;
                  DROP TRIGGER conversation_active ON conversations;
                  ALTER TABLE participants DROP COLUMN active_at;
                  DELETE FROM _sqlx_migrations WHERE version >= 4;
                  INSERT INTO conversations (id, kind, created_by, active_at)
                  SELECT gen_random_uuid(), 'group', 'ann', now() - n * interval '1 hour' FROM generate_series(1, 1200) n;
                  INSERT INTO participants (conversation_id, user_id) SELECT id, 'bob' FROM conversations ON CONFLICT DO NOTHING";
    sqlx::raw_sql(before).execute(&world.pool).await.unwrap();
    let store = Store::connect_lazy(&world.config(&[]).database).unwrap();
    assert!(store.migrate(Duration::from_secs(2), 3).await.unwrap().contains(&4));
    let right = "SELECT count(*) FROM participants p JOIN conversations c ON c.id = p.conversation_id
                  WHERE p.active_at = c.active_at";
    assert_eq!(sqlx::query_scalar::<_, i64>(right).fetch_one(&world.pool).await.unwrap(), 1_202);
    let indexed = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'participants_by_activity'::regclass";
    assert!(sqlx::query_scalar::<_, bool>(indexed).fetch_one(&world.pool).await.unwrap());
    // The version before: it moves the conversation alone.
    let moved = "UPDATE conversations SET active_at = now() WHERE id = $1";
    sqlx::query(moved).bind(chat.0).execute(&world.pool).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>(right).fetch_one(&world.pool).await.unwrap(), 1_202);
}
