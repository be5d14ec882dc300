//! Leaving politely.

use std::time::Duration;

use devstack::testing::Signal;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::error::Error as WsError;

use crate::{
    person::{Closed, Person, connect, handshake},
    socketio::Raw,
    support::{World, message, seq, until},
};

#[tokio::test]
async fn a_gateway_that_is_told_to_end_sends_everybody_elsewhere_in_time() {
    let world = World::new().await;
    let leaving = world.launch().env("PARTYLINE_DRAIN_SECONDS", "2").env("PARTYLINE_DRAIN_NOTICE_SECONDS", "1");
    let (leaving, staying) = (leaving.start().await.unwrap(), world.gateway().await);
    let chat = world.direct(&staying, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&leaving, "ann").await, world.person(&staying, "bob").await);
    bob.join(&chat).await;
    until("ann to be online", async || bob.join(&chat).await["online"] == json!(["ann", "bob"])).await;
    let mut others = Vec::new();
    for n in 0..15 {
        others.push(world.person(&leaving, &format!("user {n}")).await);
    }

    let began = Instant::now();
    leaving.signal(Signal::TERM);
    until("the gateway to be not ready", async || !world.is_ready(&leaving).await).await;
    // It still serves, for the balancer has only just been told.
    world.person(&leaving, "late").await;
    let talk = async {
        let mut acked = Vec::new();
        loop {
            ann.say(&message(&chat, "going on")).await;
            match read_until_ack(&mut ann).await {
                Ok(ack) => acked.push(ack),
                Err(closed) => {
                    ann.bow_out().await;
                    return (acked, closed);
                }
            }
        }
    };
    let ends = join_all(others.iter_mut().map(async |person| (person.closed().await, began.elapsed())));
    let refused = async {
        until("the drain", async || leaving.log().contains("draining")).await;
        let refused = connect(&leaving, handshake(&leaving, &world.token("late"))).await;
        let Err(WsError::Http(refused)) = refused else { panic!("came in") };
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
    };
    let ((acked, closed), mut ends, ()) = tokio::join!(talk, ends, refused);
    ends.push((closed, began.elapsed()));
    for (Closed { code, reason }, after) in &ends {
        assert_eq!((*code, &reason["code"]), (4001, &json!("draining")));
        assert!((50..3_000).contains(&reason["retry_after_ms"].as_u64().unwrap()), "{reason}");
        assert!((1.0..4.0).contains(&after.as_secs_f64()), "{after:?}");
    }
    let times = || ends.iter().map(|(_, after)| *after);
    assert!(times().max().unwrap() - times().min().unwrap() > Duration::from_secs(1), "all at once: {ends:?}");
    let status = leaving.wait().await;
    assert!(status.success() && began.elapsed() < Duration::from_secs(6), "{status} after {:?}", began.elapsed());

    // What was acknowledged is there, and ann is offline after the grace, without a wait for the lease.
    assert!(!acked.is_empty());
    for expected in &acked {
        assert_eq!(seq(&bob.expect("new_message").await), *expected);
    }
    assert!(began.elapsed() < Duration::from_secs(8));
    bob.find(|it| it["type"] == "presence" && it["user_id"] == "ann" && it["online"] == false).await;
    let log = leaving.log();
    assert!(log.contains("SIGTERM") && !log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn command_in_hand_is_answered_before_the_gateway_ends() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut native = world.person(&gateway, "ann").await;
    let mut raw = Raw::come(&gateway, &world.token("ann")).await;
    let lock = world.lock_conversations().await;
    native.say(&json!({ "type": "join_conversation", "conversation_id": chat })).await;
    raw.say(&format!("426{}", json!(["join_conversation", { "conversation_id": chat }]))).await;
    world.is_waited_for().await;
    gateway.signal(Signal::TERM);
    until("the drain", async || gateway.log().contains("draining")).await;
    lock.rollback().await.unwrap();
    native.expect("joined").await;
    raw.expect("436").await;
    assert_eq!(native.closed().await.reason["code"], "draining");
    raw.expect("42[\"closing\"").await;
    native.bow_out().await;
    let (status, log) = (gateway.wait().await, gateway.log());
    assert!(status.success() && !log.contains("not finished in time"), "{status}: {log}");
}

async fn read_until_ack(person: &mut Person) -> Result<u64, Closed> {
    loop {
        let frame = person.read().await?;
        if frame["type"] == "ack" {
            return Ok(seq(&frame));
        }
    }
}
