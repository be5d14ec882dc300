//! What is removed from the log, and when.

use std::time::Duration;

use async_nats::jetstream::{message::PublishMessage, stream::Info};
use partyline_persister::{queue::Queues, retention, store::Store};
use partyline_shared::{event::Event, streams, subjects};

use crate::support::{World, message, numbered};

const DAY: Duration = Duration::from_secs(24 * 3_600);

fn queues(world: &World, flags: &[&str]) -> Queues {
    let config = world.config(flags);
    let store = Store::connect_lazy(&config.database).unwrap();
    Queues { js: world.js.clone(), settings: config.nats, store }
}

async fn log(world: &World) -> Info {
    world.js.get_stream(subjects::log_stream(0)).await.unwrap().cached_info().clone()
}

#[tokio::test]
async fn retention_takes_nothing_that_is_not_in_postgres() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let queues = queues(&world, &[]);
    let chat = world.conversation(&["ann"]).await;
    world.append(&numbered(chat, 0, 5)).await;
    // No persister runs: however old the events are, they stay.
    assert_eq!(retention::sweep(&queues, 0, Duration::ZERO).await.unwrap(), None);
    assert_eq!(log(&world).await.state.messages, 5);
    let persister = world.persister(&[]).await;
    world.settled().await;
    persister.stop().await;
    world.append(&numbered(chat, 5, 3)).await;
    // Young ones stay, too.
    assert_eq!(retention::sweep(&queues, 0, DAY).await.unwrap(), None);
    assert_eq!(retention::sweep(&queues, 0, Duration::ZERO).await.unwrap(), Some(6));
    let state = log(&world).await.state;
    assert_eq!((state.messages, state.first_sequence, state.last_sequence), (3, 6, 8));
    let persister = world.persister(&[]).await;
    world.settled().await;
    assert_eq!(world.count().await, 8);
    persister.stop().await;
    assert_eq!(retention::sweep(&queues, 0, Duration::ZERO).await.unwrap(), Some(9));
    assert_eq!(log(&world).await.state.messages, 0);
}

#[tokio::test]
async fn repeats_of_removed_events_are_recognised() {
    let world = World::new().await;
    world.prepare(Duration::from_secs(30)).await;
    let chat = world.conversation(&["ann"]).await;
    let append = async || {
        let payload = serde_json::to_vec(&numbered(chat, 0, 1)[0]).unwrap();
        let message = PublishMessage::build().payload(payload.into()).message_id("one");
        world.js.send_publish(subjects::log(0, chat), message).await.unwrap().await.unwrap()
    };
    let first = append().await;
    let persister = world.persister(&[]).await;
    world.settled().await;
    persister.stop().await;
    assert_eq!(retention::sweep(&queues(&world, &[]), 0, Duration::ZERO).await.unwrap(), Some(first.sequence + 1));
    let again = append().await;
    assert!(again.duplicate && again.sequence == first.sequence);
}

#[tokio::test]
async fn a_log_that_is_nearly_full_makes_room_by_what_is_in_postgres() {
    let world = World::new().await;
    let flags = &["--log-bytes=100000"];
    let queues = queues(&world, flags);
    let persister = world.persister(flags).await;
    let chat = world.conversation(&["ann"]).await;
    world.settled().await;
    persister.stop().await;
    let mut taken = 0;
    let event = Event::NewMessage(message(chat, &"x".repeat(1_000)));
    let payload = serde_json::to_vec(&event).unwrap();
    let append = async || {
        let subject = subjects::log(0, chat);
        world.js.publish(subject, payload.clone().into()).await.unwrap().await.is_ok()
    };
    while append().await {
        taken += 1;
    }
    assert_eq!(retention::sweep(&queues, 0, DAY).await.unwrap(), None);
    assert_eq!(log(&world).await.state.messages, taken);
    let persister = world.persister(flags).await;
    world.settled().await;
    persister.stop().await;
    retention::sweep(&queues, 0, DAY).await.unwrap();
    let info = log(&world).await;
    assert!(info.state.messages < taken && info.state.messages > taken / 2, "{} of {taken}", info.state.messages);
    // Readers must not rely on a log that goes back for a day.
    assert_eq!(streams::retention(&info.config), Some(Duration::ZERO));
    assert!(append().await);
}
