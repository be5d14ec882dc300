//! A gateway that stands still for longer than its clients may be silent, and goes on: its process was stopped, or its
//! machine was paused.

use std::{io::ErrorKind, time::Duration};

use devstack::testing::Signal;
use tokio::{io::AsyncReadExt, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    socketio::{Poller, Raw},
    support::{World, until},
};

const IDLE_CLOSED: &str = "partyline_gateway_connections_closed_total{reason=\"idle_timeout\"}";
/// Longer than a native socket (5 s) or a session of Socket.IO (2 s more) may be silent.
const STALL: Duration = Duration::from_secs(10);
/// A ping as it comes over the wire.
const PING: [u8; 2] = [0x89, 0];

#[tokio::test]
async fn nobody_is_closed_for_a_silence_that_the_gateway_slept_through() {
    let world = World::new().await;
    let limits = [
        ("PARTYLINE_PING_SECONDS", "2"),
        ("PARTYLINE_IDLE_SECONDS", "5"),
        ("PARTYLINE_PING_TIMEOUT_SECONDS", "5"),
        // Kept connections without a request end with the stall: those of this test must not be among them.
        ("PARTYLINE_HANDSHAKE_SECONDS", "60"),
    ];
    let launch = limits.into_iter().fold(world.launch(), |launch, (name, value)| launch.env(name, value));
    let gateway = launch.start().await.unwrap();
    let mut native = world.person(&gateway, "ann").await;
    let mut socket = Raw::come(&gateway, &world.token("bob")).await;
    let mut poller = Poller::come(&world, &gateway, "cat").await;
    // Its client reads nothing, and so answers no ping.
    let mut mute = world.person(&gateway, "dan").await;

    gateway.signal(Signal::STOP);
    sleep(STALL).await;
    // What came before the stall is none of what is counted after it.
    let mut before = [0; 64];
    while let Ok(1..) =
        mute.socket.get_mut().try_read(&mut before).map_err(|it| assert_eq!(it.kind(), ErrorKind::WouldBlock))
    {}
    gateway.signal(Signal::CONT);

    // The mute client has been silent for no longer than the others: they must still be there when it is closed.
    let closed = CancellationToken::new();
    let reads = async {
        // The client answers pings while it reads.
        let frame = closed.run_until_cancelled(native.read()).await;
        assert!(frame.is_none(), "{frame:?}");
    };
    let answers = async {
        while !closed.is_cancelled() {
            socket.expect("2").await;
            socket.say("3").await;
        }
    };
    let polls = async {
        while !closed.is_cancelled() {
            poller.expect("2").await;
            assert_eq!(poller.post("3").await.status, 200);
        }
    };
    let closes = async {
        until("the mute one to be closed", async || world.metric(&gateway, IDLE_CLOSED).await > 0.0).await;
        closed.cancel();
    };
    tokio::join!(reads, answers, polls, closes);
    // Its silence began with the end of the stall: it was asked twice before it was given up.
    let mut bytes = Vec::new();
    mute.socket.get_mut().read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.starts_with(&[PING, PING].concat()), "{bytes:?}");
    assert!(bytes.ends_with(br#"{"code":"idle_timeout"}"#), "{bytes:?}");
    native.caught_up().await;
    socket.expect("2").await;
    poller.expect("2").await;
    assert_eq!(world.metric(&gateway, IDLE_CLOSED).await, 1.0);
}
