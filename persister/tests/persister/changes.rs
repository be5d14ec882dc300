//! Edits and deletions that meet no message, or the wrong state of one.

use std::time::Duration;

use partyline_shared::event::Event;

use crate::support::{World, delete, edit, message, until};

#[tokio::test]
async fn a_change_without_a_message_is_put_aside_and_holds_up_nothing() {
    let world = World::new().await;
    let _persister = world.persister(&[]).await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let never = Event::NewMessage(message(chat, "never appended"));
    let there = Event::NewMessage(message(chat, "there"));
    let first = world.append(std::slice::from_ref(&there)).await[0];
    // One names a place that holds another message, the other a place that holds none.
    let seqs = world.append(&[edit(&never, first, "x"), delete(&never, first + 1)]).await;
    let last = world.append(&[edit(&there, first, "still")]).await;
    world.settled().await;
    let mut letters = world.dead_letters().await;
    letters.sort_by_key(|(_, seq)| *seq);
    assert_eq!(letters, [("target_missing".into(), seqs[0]), ("target_missing".into(), seqs[1])]);
    assert_eq!(world.messages(chat).await, [(first, "still".into())]);
    assert!(last[0] > seqs[1]);
}

#[tokio::test]
async fn an_edit_waits_for_a_message_that_another_has_in_hand() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(3)).await;
    let chat = world.conversation(&["ann"]).await;
    let late = Event::NewMessage(message(chat, "late"));
    let seq = world.append(std::slice::from_ref(&late)).await[0];
    // Another takes the message, and dies with it.
    let stream = world.js.get_stream(partyline_shared::subjects::log_stream(0)).await.unwrap();
    let consumer = partyline_shared::streams::ensure_persister(&stream).await.unwrap();
    let taken = consumer.fetch().max_messages(1).messages().await.unwrap();
    assert_eq!(futures_util::StreamExt::count(taken).await, 1);

    let _persister = world.persister(&[]).await;
    world.append(&[edit(&late, seq, "in time"), edit(&late, seq, "at last")]).await;
    world.settled().await;
    assert_eq!(world.messages(chat).await, [(seq, "at last".into())]);
    assert_eq!(world.dead_letters().await, []);
}

#[tokio::test]
async fn what_was_deleted_stays_deleted() {
    let world = World::new().await;
    let _persister = world.persister(&["--batch-max=1"]).await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let gone = Event::NewMessage(message(chat, "gone"));
    let seq = world.append(std::slice::from_ref(&gone)).await[0];
    world.append(&[delete(&gone, seq), edit(&gone, seq, "back")]).await;
    world.settled().await;
    until("the deletion", async || world.messages(chat).await == [(seq, String::new())]).await;
    assert_eq!(world.dead_letters().await, []);
}

#[tokio::test]
async fn a_change_of_a_message_that_is_not_before_it_is_put_aside_at_once() {
    let world = World::new().await;
    let _persister = world.persister(&[]).await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let there = Event::NewMessage(message(chat, "there"));
    let first = world.append(std::slice::from_ref(&there)).await[0];
    let never = Event::NewMessage(message(chat, "never appended"));
    let seqs = world.append(&[edit(&never, 999_999, "x"), delete(&never, first + 2), edit(&there, first, "y")]).await;
    world.settled().await;
    let mut letters = world.dead_letters().await;
    letters.sort_by_key(|(_, seq)| *seq);
    assert_eq!(letters, [("target_missing".into(), seqs[0]), ("target_missing".into(), seqs[1])]);
    assert_eq!(world.messages(chat).await, [(first, "y".into())]);
}

#[tokio::test]
async fn a_change_waits_for_no_message_that_is_not_in_the_log() {
    let world = World::new().await;
    // Longer than the test takes: nothing is settled before the first message is.
    world.prepare(Duration::from_secs(300)).await;
    let chat = world.conversation(&["ann"]).await;
    let held = world.append(&[Event::NewMessage(message(chat, "held"))]).await[0];
    let stream = world.js.get_stream(partyline_shared::subjects::log_stream(0)).await.unwrap();
    let consumer = partyline_shared::streams::ensure_persister(&stream).await.unwrap();
    let taken = consumer.fetch().max_messages(1).messages().await.unwrap();
    assert_eq!(futures_util::StreamExt::count(taken).await, 1);
    let never = Event::NewMessage(message(chat, "never appended"));
    let other = world.append(&[Event::NewMessage(message(chat, "other"))]).await[0];
    let lost = world.append(&[edit(&never, other, "x")]).await[0];
    let _persister = world.persister(&[]).await;
    until("the dead letter", async || {
        let found = world.js.get_stream(partyline_shared::subjects::DEAD_STREAM).await;
        found.is_ok_and(|stream| stream.cached_info().state.messages > 0)
    })
    .await;
    assert_eq!(world.dead_letters().await, [("target_missing".into(), lost)]);
    assert!(consumer.get_info().await.unwrap().ack_floor.stream_sequence < held);
}
