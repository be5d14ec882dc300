//! Background tasks: none ends unseen.

use std::path::PathBuf;

use devstack::testing::{Launch, Process};
use serde_json::json;

use crate::{
    socketio::{Poller, Raw},
    support::{World, until},
};

/// Has a task of a process under test panic.
struct Fault(PathBuf);

impl Fault {
    fn new(world: &World) -> Self {
        Self(world.env.dir().join("panic"))
    }

    fn strike(&self, task: &str) {
        // Renamed, so that no task reads half a name.
        let written = self.0.with_extension("new");
        std::fs::write(&written, task).unwrap();
        std::fs::rename(written, &self.0).unwrap();
    }
}

fn series(metric: &str, task: &str) -> String {
    format!("partyline_gateway_{metric}{{task=\"{task}\"}}")
}

async fn ends_with_an_error(process: &Process, task: &str) {
    let status = process.wait().await;
    assert_eq!(status.code(), Some(1), "{status}");
    let log = process.log();
    assert!(log.contains("a test's panic") && log.contains(task), "{log}");
}

#[tokio::test]
async fn a_task_that_panics_is_started_again_or_ends_the_process() {
    let world = World::new().await;
    let fault = Fault::new(&world);
    let gateway = world.launch().env("PARTYLINE_TEST_PANIC_FILE", &fault.0).start().await.unwrap();
    let mut ann = world.person(&gateway, "ann").await;
    assert_eq!(world.metric(&gateway, &series("task_restarts_total", "sweep")).await, 0.0);

    fault.strike("sweep");
    until("the sweeper to be started again", async || {
        world.metric(&gateway, &series("task_restarts_total", "sweep")).await == 1.0
    })
    .await;
    assert_eq!(world.metric(&gateway, &series("task_panics_total", "sweep")).await, 1.0);
    assert_eq!(world.metric(&gateway, &series("tasks", "sweep")).await, 1.0);
    assert!(world.is_ready(&gateway).await);
    ann.caught_up().await;

    fault.strike("inbox_deliver");
    assert_eq!(ann.closed().await.reason["code"], "draining");
    ends_with_an_error(&gateway, "inbox_deliver").await;
}

#[tokio::test]
async fn a_room_whose_task_panics_sends_its_members_away_and_opens_again() {
    let world = World::new().await;
    let fault = Fault::new(&world);
    let gateway = world.launch().env("PARTYLINE_TEST_PANIC_FILE", &fault.0).start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    ann.join(&chat).await;
    fault.strike("room");
    ann.closed().await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    ann.join(&chat).await;
    bob.join(&chat).await;
    ann.send(&chat, "after").await;
    assert_eq!(bob.expect("new_message").await["content"], "after");
    assert_eq!(world.metric(&gateway, &series("task_panics_total", "room")).await, 1.0);
}

#[tokio::test]
async fn a_socket_whose_task_panics_is_forgotten() {
    let world = World::new().await;
    let fault = Fault::new(&world);
    let gateway = world.launch().env("PARTYLINE_TEST_PANIC_FILE", &fault.0).start().await.unwrap();
    let mut ann = world.person(&gateway, "ann").await;
    let open = "partyline_gateway_connections{protocol=\"native\"}";
    assert_eq!(world.metric(&gateway, open).await, 1.0);
    fault.strike("socket");
    ann.bow_out().await;
    until("the socket to be forgotten", async || world.metric(&gateway, open).await == 0.0).await;
}

#[tokio::test]
async fn socketio_session_whose_task_panics_ends() {
    let world = World::new().await;
    let fault = Fault::new(&world);
    let gateway = world.launch().env("PARTYLINE_TEST_PANIC_FILE", &fault.0).start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let join = format!("42{}", json!(["join_conversation", { "conversation_id": chat }]));
    let open = "partyline_gateway_connections{protocol=\"socketio\"}";
    let forgotten =
        async || until("the session to be forgotten", async || world.metric(&gateway, open).await == 0.0).await;

    let mut raw = Raw::come(&gateway, &world.token("ann")).await;
    assert_eq!(world.metric(&gateway, open).await, 1.0);
    fault.strike("socketio_commands");
    raw.say(&join).await;
    raw.is_cut_off().await;
    forgotten().await;

    let poller = Poller::come(&world, &gateway, "ann").await;
    assert_eq!(world.metric(&gateway, open).await, 1.0);
    fault.strike("socketio_commands");
    poller.post(&join).await;
    forgotten().await;
    assert_eq!(poller.get().await.body["code"], 1, "the session is unknown");
    assert_eq!(world.metric(&gateway, &series("task_panics_total", "socketio_commands")).await, 2.0);

    let mut raw = Raw::come(&gateway, &world.token("ann")).await;
    fault.strike("socketio_socket");
    raw.is_cut_off().await;
    forgotten().await;
    assert_eq!(world.metric(&gateway, &series("task_panics_total", "socketio_socket")).await, 1.0);

    // Nothing of them keeps the next one from the room.
    let mut raw = Raw::come(&gateway, &world.token("ann")).await;
    raw.say(&join).await;
    raw.expect("42[\"joined_conversation\"").await;
}

#[tokio::test]
async fn a_persister_without_one_of_its_tasks_ends_with_an_error() {
    let world = World::new().await;
    let fault = Fault::new(&world);
    let persister = world.env.persister().unwrap().env("PARTYLINE_TEST_PANIC_FILE", &fault.0).start().await.unwrap();
    fault.strike("pull");
    ends_with_an_error(&persister, "pull").await;
}

#[tokio::test]
async fn process_ends_when_a_task_of_a_library_panics() {
    let world = World::new().await;
    let fault = Fault::new(&world);
    let faulty = |launch: Launch| launch.env("PARTYLINE_TEST_PANIC_FILE", &fault.0);
    for process in [faulty(world.launch()), faulty(world.env.persister().unwrap())] {
        let process = process.start().await.unwrap();
        fault.strike("unsupervised");
        ends_with_an_error(&process, "unsupervised").await;
    }
    // At the start as well: NATS is not there, so the processes still wait for it.
    let nowhere = "nats://127.0.0.1:1";
    for process in [faulty(world.launch()), faulty(world.env.persister().unwrap())] {
        let process = process.env("PARTYLINE_NATS_URL", nowhere).spawn().unwrap();
        until("the process to wait for NATS", async || process.log().contains("no connection to NATS")).await;
        fault.strike("unsupervised");
        ends_with_an_error(&process, "unsupervised").await;
    }
}
