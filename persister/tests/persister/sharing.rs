//! Several persisters on one log, and deaths among them.

use std::time::Duration;

use partyline_shared::event::Event;

use crate::support::{World, by_number, delete, edit, numbered, read};

#[tokio::test]
async fn several_share_the_work_and_every_edit_finds_its_message() {
    let world = World::new().await;
    let mut persisters = Vec::new();
    for max in ["--batch-max=7", "--batch-max=20", "--batch-max=50"] {
        persisters.push(world.persister(&[max, "--batch-wait-ms=1"]).await);
    }
    world.prepare(Duration::from_secs(30)).await;
    let mut chats = Vec::new();
    for _ in 0..10 {
        chats.push(world.conversation(&["ann", "bob"]).await);
    }
    // Message and edit follow each other closely, so that they fall to different persisters.
    let mut expected = vec![Vec::new(); chats.len()];
    for round in 0..20 {
        let events: Vec<Event> = chats.iter().flat_map(|chat| numbered(*chat, round * 5, 5)).collect();
        let seqs = world.append(&events).await;
        let mut changes = Vec::new();
        for (n, (event, seq)) in events.iter().zip(&seqs).enumerate() {
            let content = match n % 5 {
                0 => {
                    changes.extend((0..3).map(|nth| edit(event, *seq, &format!("edit {nth}"))));
                    "edit 2".to_owned()
                }
                1 => {
                    changes.extend([edit(event, *seq, "vain"), delete(event, *seq)]);
                    String::new()
                }
                in_round => (round * 5 + in_round).to_string(),
            };
            expected[n / 5].push((*seq, content));
            if n % 5 == 4 {
                changes.push(read(event.conversation_id(), "bob", *seq));
            }
        }
        world.append(&changes).await;
    }
    world.settled().await;
    for (chat, expected) in chats.iter().zip(&expected) {
        assert_eq!(&world.messages(*chat).await, expected);
        let (marker, last): (i64, i64) = sqlx::query_as(
            "SELECT p.last_read_seq, c.last_message_seq FROM participants p JOIN conversations c ON c.id = p.conversation_id
              WHERE p.conversation_id = $1 AND p.user_id = 'bob'",
        )
        .bind(chat.0)
        .fetch_one(&world.pool)
        .await
        .unwrap();
        let newest = i64::try_from(expected.last().unwrap().0).unwrap();
        assert_eq!((marker, last), (newest, newest));
    }
    assert_eq!(world.dead_letters().await, []);
    for persister in persisters {
        persister.stop().await;
    }
}

#[tokio::test]
async fn killed_in_the_middle_again_and_again_each_event_is_written_once() {
    const EVENTS: usize = 8_000;
    let world = World::new().await;
    world.prepare(Duration::from_secs(1)).await;
    let chat = world.conversation(&["ann"]).await;
    let events = numbered(chat, 0, EVENTS);
    let seqs = world.append(&events).await;
    let mut deaths = 0;
    while world.count().await < EVENTS as u64 && deaths < 10 {
        let persister = world.persister(&["--batch-max=300"]).await;
        let before = world.count().await;
        // At any moment after its first write.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while world.count().await == before && tokio::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        persister.kill().await;
        deaths += 1;
    }
    assert!(deaths > 1);
    let _last = world.persister(&[]).await;
    world.settled().await;
    let expected = by_number(seqs);
    assert_eq!(world.messages(chat).await, expected);
    assert_eq!(world.dead_letters().await, []);
}
