//! A database that refuses what gateways accept.

use std::time::Duration;

use partyline_persister::{
    config::{Command, Config},
    dead,
};
use partyline_shared::{event::Event, subjects};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{World, by_number, fails, message, numbered, read, until};

/// Has Postgres refuse every message, and count the attempts.
async fn refuse(world: &World) {
    sqlx::raw_sql(
        "CREATE SEQUENCE attempts;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('attempts'); RAISE EXCEPTION 'not today'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .execute(&world.pool)
    .await
    .unwrap();
}

async fn attempts(world: &World) -> i64 {
    sqlx::query_scalar("SELECT last_value FROM attempts").fetch_one(&world.pool).await.unwrap()
}

async fn take_again(world: &World) {
    sqlx::raw_sql("DROP TRIGGER refuse ON messages").execute(&world.pool).await.unwrap();
}

pub(crate) async fn dead(world: &World, args: &[&str]) -> dead::Done {
    let config: Config = world.config(&[&["dead"], args].concat());
    let Some(Command::Dead { action }) = &config.command else { panic!("not a command for dead letters") };
    dead::run(&config, action).await.unwrap()
}

#[tokio::test]
async fn a_database_that_refuses_every_message_stops_the_persister_and_nothing_is_put_aside() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    refuse(&world).await;
    let persister = world.persister(&[]).await;
    let seqs = world.append(&numbered(chat, 0, 500)).await;
    // The first ten and the way to them, and at least one more attempt with all of them.
    until("another attempt", async || attempts(&world).await > 60).await;
    assert_eq!(world.dead_letters().await, []);
    take_again(&world).await;
    world.settled().await;
    let expected = by_number(seqs);
    assert_eq!(world.messages(chat).await, expected);
    assert_eq!(world.dead_letters().await, []);
    persister.stop().await;
}

#[tokio::test]
async fn refusals_one_by_one_stop_the_persister_too_and_letters_can_be_replayed() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann", "bob"]).await;
    refuse(&world).await;
    let persister = world.persister(&["--batch-max=1"]).await;
    let mut events = Vec::new();
    for event in numbered(chat, 0, 30) {
        // Postgres takes these; that says nothing about messages.
        events.extend([event, read(chat, "bob", 1)]);
    }
    let seqs = world.append(&events).await;
    until("another attempt", async || attempts(&world).await > 30).await;
    take_again(&world).await;
    world.settled().await;
    let buried = world.dead_letters().await.len();
    assert_eq!(buried, 9);
    assert_eq!(dead(&world, &["replay", "--all"]).await.failed, 0);
    let expected = by_number(seqs.into_iter().step_by(2));
    assert_eq!(world.messages(chat).await, expected);
    assert_eq!(world.dead_letters().await, []);
    persister.stop().await;
}

#[tokio::test]
async fn dead_letters_are_listed_shown_replayed_and_dropped() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let long = world.append(&[Event::NewMessage(message(chat, &"x".repeat(1_001)))]).await[0];
    let garbage = world.js.publish(subjects::log(0, chat), "{garbage".into()).await.unwrap().await.unwrap().sequence;
    let never = Event::NewMessage(message(chat, "never appended"));
    let lost = world.append(&[crate::support::edit(&never, long, "x")]).await[0];
    let persister = world.persister(&[]).await;
    world.settled().await;

    let listed = dead(&world, &["list"]).await.lines;
    let places: Vec<String> = listed.iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect();
    assert_eq!(places, [long, garbage, lost].map(|seq| seq.to_string()));
    assert!(listed.iter().all(|line| line.contains(&chat.to_string())), "{listed:?}");
    assert_eq!(dead(&world, &["list", "--reason=refused"]).await.lines, listed[..1]);
    let shown = dead(&world, &["show", &long.to_string()]).await.lines.concat();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["event"]["content"].as_str().unwrap().len(), 1_001);
    assert_eq!(shown["reason"].as_str().unwrap().split(' ').next(), Some("refused:"));

    // What is refused still, can't be read, or has no message stays.
    assert_eq!(dead(&world, &["replay", "--all"]).await.failed, 3);
    assert_eq!(dead(&world, &["list"]).await.lines, listed);
    sqlx::raw_sql("ALTER TABLE messages DROP CONSTRAINT messages_content_check").execute(&world.pool).await.unwrap();
    assert_eq!(dead(&world, &["replay", "--reason=refused"]).await.failed, 0);
    assert_eq!(world.messages(chat).await, [(long, "x".repeat(1_001))]);
    assert_eq!(dead(&world, &["list"]).await.lines, listed[1..]);
    dead(&world, &["drop", &garbage.to_string()]).await;
    assert_eq!(dead(&world, &["list"]).await.lines, listed[2..]);
    dead(&world, &["drop", "--all"]).await;
    assert_eq!(world.dead_letters().await, []);
    persister.stop().await;
}

#[tokio::test]
async fn a_persister_does_not_start_on_a_database_that_is_not_utf8() {
    let world = World::new().await;
    let name = format!("latin_{}", uuid::Uuid::new_v4().simple());
    let sql = format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    let mut admin = PgConnection::connect(world.env.database_url()).await.unwrap();
    sqlx::query(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    let (server, _) = world.env.database_url().rsplit_once('/').unwrap();
    let mut config = world.config(&[]);
    config.database.database_url = format!("{server}/{name}").parse().unwrap();
    let error = fails(config).await;
    assert!(error.contains("encoding of the database is LATIN1"), "{error}");
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut admin).await.unwrap();
}
