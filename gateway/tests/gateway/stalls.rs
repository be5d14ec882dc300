//! A gateway that stands still for longer than its clients may be silent, and goes on: its process was stopped, or its
//! machine was paused.

use std::time::Duration;

use devstack::testing::Signal;
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, timeout},
};

use crate::{
    socketio::{Poller, Raw},
    support::{World, until},
};

const IDLE_CLOSED: &str = "partyline_gateway_connections_closed_total{reason=\"idle_timeout\"}";
/// Longer than a native socket (5 s) or a session of Socket.IO (2 s more) may be silent.
const STALL: Duration = Duration::from_secs(10);
/// The same, once the gateway listens again.
const AFTERWARDS: Duration = Duration::from_secs(9);

#[tokio::test]
async fn nobody_is_closed_for_a_silence_that_the_gateway_slept_through() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_PING_SECONDS", "2").env("PARTYLINE_IDLE_SECONDS", "5");
    // Kept connections without a request end with the stall: those of this test must not be among them.
    let gateway = gateway.env("PARTYLINE_HANDSHAKE_SECONDS", "60").start().await.unwrap();
    let mut native = world.person(&gateway, "ann").await;
    let mut socket = Raw::come(&gateway, &world.token("bob")).await;
    let mut poller = Poller::come(&world, &gateway, "cat").await;
    // Its client reads nothing, and so answers no ping.
    let mut mute = world.person(&gateway, "dan").await;

    gateway.signal(Signal::STOP);
    sleep(STALL).await;
    gateway.signal(Signal::CONT);
    let resumed = Instant::now();

    let reads = async {
        // The client answers pings while it reads.
        let frame = timeout(AFTERWARDS, native.read()).await;
        assert!(frame.is_err(), "{frame:?}");
        native.caught_up().await;
    };
    let answers = async {
        while resumed.elapsed() < AFTERWARDS {
            socket.expect("2").await;
            socket.say("3").await;
        }
    };
    let polls = async {
        while resumed.elapsed() < AFTERWARDS {
            poller.expect("2").await;
            assert_eq!(poller.post("3").await.status, 200);
        }
    };
    let closes = async {
        until("the mute one to be closed", async || world.metric(&gateway, IDLE_CLOSED).await > 0.0).await;
        // The silence began with the end of the stall; seconds are whole ones.
        assert!(resumed.elapsed() >= Duration::from_secs(4), "after {:?}", resumed.elapsed());
    };
    tokio::join!(reads, answers, polls, closes);
    let mut bytes = Vec::new();
    mute.socket.get_mut().read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.ends_with(br#"{"code":"idle_timeout"}"#), "{bytes:?}");
    assert_eq!(world.metric(&gateway, IDLE_CLOSED).await, 1.0);
}
