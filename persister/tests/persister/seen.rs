//! When people were last seen.

use async_nats::jetstream::consumer::pull;
use partyline_shared::{subjects, timestamp::Timestamp};
use time::OffsetDateTime;

use crate::support::{World, until, user};

#[tokio::test]
async fn last_seen_moves_forward_only() {
    let world = World::new().await;
    let config = world.config(&[]);
    partyline_shared::streams::ensure_seen(&world.js, &config.nats).await.unwrap();
    world.conversation(&["ann"]).await;
    let (earlier, later) = (Timestamp::from(OffsetDateTime::UNIX_EPOCH), Timestamp::now());
    let note = |at: Timestamp| serde_json::json!({ "at": at }).to_string();
    let persister = world.persister(&[]).await;
    for (name, payload) in [
        ("ann", note(later)),
        ("a new.face", note(later)),
        ("bad", "{}".into()),
        ("ann", note(earlier)),
        ("ann", note(earlier)),
    ] {
        world.js.publish(subjects::seen(&user(name)), payload.into()).await.unwrap().await.unwrap();
        let stream = world.js.get_stream(subjects::SEEN_STREAM).await.unwrap();
        until("the note to be taken", async || stream.get_info().await.unwrap().state.messages == 0).await;
        let consumer = stream.get_consumer::<pull::Config>(subjects::PERSISTER_CONSUMER).await.unwrap();
        until("its acknowledgement", async || consumer.get_info().await.unwrap().num_ack_pending == 0).await;
    }
    let seen: Vec<(String, Option<OffsetDateTime>)> =
        sqlx::query_as("SELECT id, last_seen FROM users ORDER BY id").fetch_all(&world.pool).await.unwrap();
    let at = Some(later.to_datetime());
    assert_eq!(seen, [("a new.face".into(), at), ("ann".into(), at)]);
    persister.stop().await;
}
