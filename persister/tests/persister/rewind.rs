//! Postgres without what JetStream has been told is there: restored, or a standby that lagged.

use std::time::Duration;

use partyline_persister::{
    config::{Command, Config},
    rewind,
};
use partyline_shared::{event::Event, subjects};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{World, by_number, delete, message, numbered, run, until};

async fn rewinds(world: &World) -> i64 {
    sqlx::query_scalar("SELECT rewinds FROM log_watermarks WHERE partition = 0").fetch_one(&world.pool).await.unwrap()
}

#[tokio::test]
async fn rows_and_watermark_from_before_are_completed_while_persisters_run() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let mut persisters = Vec::new();
    for _ in 0..3 {
        persisters.push(world.persister(&["--batch-max=50"]).await);
    }
    let mut seqs = world.append(&numbered(chat, 0, 300)).await;
    world.settled().await;
    let (then, settled): (i64, i64) =
        sqlx::query_as("SELECT seq, settled FROM log_watermarks").fetch_one(&world.pool).await.unwrap();
    assert!(settled <= then);
    seqs.extend(world.append(&numbered(chat, 300, 300)).await);
    // One that becomes a dead letter, and one that its author takes back.
    world.js.publish(subjects::log(0, chat), "{garbage".into()).await.unwrap().await.unwrap();
    let gone = Event::NewMessage(message(chat, "gone"));
    let gone_seq = world.append(std::slice::from_ref(&gone)).await[0];
    world.append(&[delete(&gone, gone_seq)]).await;
    world.settled().await;
    assert_eq!(world.dead_letters().await.len(), 1);

    let mut restore = world.pool.begin().await.unwrap();
    sqlx::query("DELETE FROM messages WHERE seq > $1").bind(then).execute(&mut *restore).await.unwrap();
    sqlx::query("UPDATE log_watermarks SET seq = $1, settled = $2")
        .bind(then)
        .bind(settled)
        .execute(&mut *restore)
        .await
        .unwrap();
    restore.commit().await.unwrap();

    until("the missing rows", async || world.count().await == 601).await;
    world.settled().await;
    let mut all = by_number(seqs.clone());
    all.push((gone_seq, String::new()));
    assert_eq!(world.messages(chat).await, all);
    assert_eq!(world.dead_letters().await.len(), 1);
    assert_eq!(rewinds(&world).await, 1);
    for persister in persisters {
        persister.stop().await;
    }
}

#[tokio::test]
async fn a_backup_in_another_database_is_completed_from_the_log() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let persister = world.persister(&[]).await;
    let mut seqs = world.append(&numbered(chat, 0, 100)).await;
    world.settled().await;
    persister.stop().await;
    let (server, original) = world.env.database_url().rsplit_once('/').unwrap();
    let backup = format!("backup_{}", uuid::Uuid::new_v4().simple());
    world.pool.close().await;
    let mut admin = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let copy = format!("CREATE DATABASE {backup} TEMPLATE \"{original}\"");
    until("nobody to be connected", async || {
        sqlx::query(AssertSqlSafe(copy.clone())).execute(&mut admin).await.is_ok()
    })
    .await;
    let persister = world.persister(&[]).await;
    seqs.extend(world.append(&numbered(chat, 100, 100)).await);
    world.settled().await;
    persister.stop().await;

    // Nothing is appended any more: it is found all the same.
    let url = format!("{server}/{backup}");
    let mut config = world.config(&[]);
    config.database.database_url = url.parse().unwrap();
    let persister = run(config).await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    until("the missing rows", async || {
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(&pool).await.unwrap();
        found == 200
    })
    .await;
    world.settled().await;
    let found: Vec<i64> = sqlx::query_scalar("SELECT seq FROM messages ORDER BY seq").fetch_all(&pool).await.unwrap();
    assert_eq!(found, seqs.iter().map(|seq| i64::try_from(*seq).unwrap()).collect::<Vec<_>>());
    assert_eq!(world.dead_letters().await, []);
    persister.stop().await;
    pool.close().await;
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {backup} WITH (FORCE)"))).execute(&mut admin).await.unwrap();
}

#[tokio::test]
async fn a_promoted_standby_that_lacks_a_batch_below_its_watermark_gets_it() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let persister = world.persister(&[]).await;
    let seqs = world.append(&numbered(chat, 0, 100)).await;
    world.settled().await;
    // A batch that was committed late, and by another persister: the watermark stands above it.
    let missing = [30, 99].map(|n| i64::try_from(seqs[n]).unwrap());
    let mut promotion = world.pool.begin().await.unwrap();
    sqlx::query("DELETE FROM messages WHERE seq BETWEEN $1 AND $2")
        .bind(missing[0])
        .bind(missing[1])
        .execute(&mut *promotion)
        .await
        .unwrap();
    sqlx::query("UPDATE log_watermarks SET settled = $1, history = 'the timeline before'")
        .bind(missing[0] - 1)
        .execute(&mut *promotion)
        .await
        .unwrap();
    promotion.commit().await.unwrap();
    until("the missing rows", async || world.count().await == 100).await;
    world.settled().await;
    assert_eq!(world.messages(chat).await, by_number(seqs.clone()));
    assert_eq!(rewinds(&world).await, 1);
    persister.stop().await;
}

#[tokio::test]
async fn an_operator_has_the_log_read_again() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let persister = world.persister(&[]).await;
    let seqs = world.append(&numbered(chat, 0, 50)).await;
    world.settled().await;
    // By hand, and noted nowhere: the persister can't know.
    let replay = async |args: &[&str]| {
        let first = i64::try_from(seqs[20]).unwrap();
        sqlx::query("DELETE FROM messages WHERE seq >= $1").bind(first).execute(&world.pool).await.unwrap();
        let config: Config = world.config(&[&["replay"], args].concat());
        let Some(Command::Replay(replay)) = &config.command else { panic!("not a replay") };
        let begun = rewind::replay(&config, replay).await.unwrap();
        until("the missing rows", async || world.count().await == 50).await;
        world.settled().await;
        assert_eq!(world.messages(chat).await, by_number(seqs.clone()));
        begun
    };
    assert_eq!(replay(&["--since=2h"]).await, [(0, Some(seqs[0]))]);
    let from = format!("--from-seq={}", seqs[20]);
    assert_eq!(replay(&[&from, "--partition=0"]).await, [(0, Some(seqs[20]))]);
    persister.stop().await;
}

#[tokio::test]
async fn a_restored_postgres_goes_on_with_a_log_that_holds_nothing() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let persister = world.persister(&[]).await;
    let mut seqs = world.append(&numbered(chat, 0, 10)).await;
    world.settled().await;
    let stream = world.js.get_stream(subjects::log_stream(0)).await.unwrap();
    stream.purge().await.unwrap();
    sqlx::query("UPDATE log_watermarks SET history = 'before'").execute(&world.pool).await.unwrap();
    until("the new history", async || {
        let history: String =
            sqlx::query_scalar("SELECT history FROM log_watermarks").fetch_one(&world.pool).await.unwrap();
        history != "before"
    })
    .await;
    seqs.extend(world.append(&numbered(chat, 10, 1)).await);
    world.settled().await;
    assert_eq!(world.messages(chat).await, by_number(seqs.clone()));
    assert_eq!(rewinds(&world).await, 0);
    persister.stop().await;
}
