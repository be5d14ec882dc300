//! A message that is sent again is the same message, however and whenever.

use async_nats::jetstream;
use futures_util::future::join_all;
use partyline_shared::{ids::ConversationId, subjects};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    person::Person,
    support::{PATIENCE, World, client_id, message, messages_of, until},
};

/// Two answers to one message: the first one's place for both, and one of them says that it was there.
fn same_but_duplicate(first: &Value, second: &Value) -> Value {
    for key in ["seq", "message_id", "created_at", "client_id", "conversation_id"] {
        assert_eq!(first[key], second[key], "{key}: {first} {second}");
    }
    json!([first["duplicate"], second["duplicate"]])
}

/// The contents that somebody who joined got, up to a message of this content.
async fn contents_up_to(person: &mut Person, last: &str) -> Vec<String> {
    let mut contents = Vec::new();
    while contents.last().is_none_or(|content| content != last) {
        contents.push(person.expect("new_message").await["content"].as_str().unwrap().to_owned());
    }
    contents
}

#[tokio::test]
async fn sent_by_two_nodes_at_the_same_moment_it_is_stored_once() {
    let world = World::new().await;
    let (one, two) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let (mut left, mut right) = (world.person(&one, "ann").await, world.person(&two, "ann").await);
    let mut bob = world.person(&two, "bob").await;
    bob.join(&chat).await;
    let mut expected = Vec::new();
    for n in 0..25 {
        let frame = message(&chat, &n.to_string());
        let (a, b) = tokio::join!(left.get("ack", frame.clone()), right.get("ack", frame.clone()));
        let told = same_but_duplicate(&a, &b);
        assert!(told == json!([true, false]) || told == json!([false, true]), "{told}");
        expected.push(n.to_string());
    }
    left.send(&chat, "end").await;
    expected.push("end".into());
    assert_eq!(contents_up_to(&mut bob, "end").await, expected);
}

/// Waits until JetStream's own memory of what was published so far is over.
pub(crate) async fn window_passed(world: &World) {
    let js = jetstream::new(world.env.nats().await.unwrap());
    // In a conversation of its own, which nobody reads.
    let subject = subjects::log(0, ConversationId::generate());
    let publish = async || {
        let event = jetstream::message::PublishMessage::build().payload("{}".into()).message_id("probe");
        js.send_publish(subject.clone(), event).await.unwrap().await.unwrap().duplicate
    };
    publish().await;
    until("the window to pass", async || !publish().await).await;
}

/// What JetStream remembers of published messages, seen by one of the test's own.
pub(crate) struct Probe {
    js: jetstream::Context,
    /// In a conversation of its own, which nobody reads.
    subject: String,
    id: String,
}

impl Probe {
    pub(crate) async fn new(world: &World) -> Self {
        let js = jetstream::new(world.env.nats().await.unwrap());
        Self { js, subject: subjects::log(0, ConversationId::generate()), id: String::new() }
    }

    async fn publish(&self) -> bool {
        let event = jetstream::message::PublishMessage::build().payload("{}".into()).message_id(&self.id);
        self.js.send_publish(self.subject.clone(), event).await.unwrap().await.unwrap().duplicate
    }

    /// Publishes a new message.
    pub(crate) async fn begin(&mut self) {
        self.id = client_id();
        assert!(!self.publish().await);
    }

    /// Whether the window of everything that was published after that message has not passed yet.
    pub(crate) async fn is_remembered(&self) -> bool {
        self.publish().await
    }
}

#[tokio::test]
async fn after_jetstreams_window_it_is_found_in_the_log_and_in_postgres() {
    let world = World::new().await;
    let launch = || world.launch().env("PARTYLINE_DEDUP_SECONDS", "8").env("PARTYLINE_IDLE_SECONDS", "600");
    let (one, two) = (launch().start().await.unwrap(), launch().start().await.unwrap());
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let (mut ann, mut bob) = (world.person(&one, "ann").await, world.person(&two, "bob").await);
    bob.join(&chat).await;
    let again = async |frame: &Value, first: &Value, where_from: &str| {
        let body = json!({ "client_id": frame["client_id"], "content": "once" });
        let mut elsewhere = world.person(&two, "ann").await;
        for answer in [
            elsewhere.get("ack", frame.clone()).await,
            world.post(&one, "ann", &messages_of(&chat), body.clone()).await.body,
        ] {
            assert_eq!(same_but_duplicate(first, &answer), json!([false, true]), "{where_from}");
        }
    };
    // JetStream's memory of a probe from before says whether it was all within the window.
    let mut probe = Probe::new(&world).await;
    let mut sent = Vec::new();
    let within = async {
        loop {
            probe.begin().await;
            let frame = message(&chat, "once");
            let first = ann.get("ack", frame.clone()).await;
            again(&frame, &first, "within the window").await;
            sent.push("once".to_owned());
            if probe.is_remembered().await {
                return (frame, first);
            }
        }
    };
    let (frame, first) = timeout(PATIENCE, within).await.expect("three answers within the window");
    until("the window to pass", async || !probe.is_remembered().await).await;
    again(&frame, &first, "in the log").await;
    let persister = world.env.persister().unwrap().env("PARTYLINE_DEDUP_SECONDS", "8").start().await.unwrap();
    world.persisted().await;
    again(&frame, &first, "in Postgres").await;
    drop(persister);

    // Another's message of that name, and the same name elsewhere, are other messages.
    bob.get("ack", frame.clone()).await;
    let other = world.group(&one, &["ann", "bob"]).await;
    let mut elsewhere = frame.clone();
    elsewhere["conversation_id"] = json!(other);
    assert_eq!(ann.get("ack", elsewhere).await["duplicate"], false);
    ann.send(&chat, "end").await;
    sent.extend(["once".to_owned(), "end".to_owned()]);
    assert_eq!(contents_up_to(&mut bob, "end").await, sent);
}

#[tokio::test]
async fn a_socket_that_breaks_before_the_answer_leaves_one_message_at_most() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut bob = world.person(&gateway, "bob").await;
    bob.join(&chat).await;
    let frames: Vec<Value> = (0..20).map(|n| message(&chat, &n.to_string())).collect();
    join_all(frames.iter().map(async |frame| {
        let mut ann = world.person(&gateway, "ann").await;
        ann.say(frame).await;
        // Gone without waiting for the answer.
    }))
    .await;
    let mut ann = world.person(&gateway, "ann").await;
    for frame in &frames {
        ann.get("ack", frame.clone()).await;
    }
    ann.send(&chat, "end").await;
    let mut got = contents_up_to(&mut bob, "end").await;
    got.pop();
    got.sort_by_key(|content| content.parse::<u32>().unwrap());
    assert_eq!(got, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn repeat_is_recognised_before_what_has_changed_since_refuses_it() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "market"]).await;
    let mut service = world.person(&gateway, "market").await;
    let mut frame = message(&chat, "maintenance at noon");
    frame["message_type"] = json!("system");
    let first = service.get("ack", frame.clone()).await;
    // The same sender's next token lacks the scope.
    let token = world.env.jwt_with("market", "MARKET", devstack::testing::UserType::Customer, None, 3_600).unwrap();
    let mut person = Person::come(&gateway, &token).await;
    assert_eq!(same_but_duplicate(&first, &person.get("ack", frame.clone()).await), json!([false, true]));
    let mut other = message(&chat, "another");
    other["message_type"] = json!("system");
    assert_eq!(person.refused(other).await, "forbidden");
    // Taking part is still required.
    let mut eve = world.person(&gateway, "eve").await;
    assert_eq!(eve.refused(frame).await, "forbidden");
}

/// Counts what gateways read of a conversation's log until `done`.
async fn log_reads(world: &World, chat: &str, done: impl AsyncFnOnce()) -> usize {
    use futures_util::StreamExt;
    let nats = world.env.nats().await.unwrap();
    let mut requests = nats.subscribe(subjects::direct_get(0)).await.unwrap();
    nats.flush().await.unwrap();
    done().await;
    // What was asked before this is read before it.
    nats.publish(subjects::direct_get(0), "end".into()).await.unwrap();
    let mut reads = 0;
    while let Some(request) = requests.next().await {
        let request = String::from_utf8_lossy(&request.payload).into_owned();
        if request == "end" {
            break;
        }
        reads += usize::from(request.contains("next_by_subj") && request.contains(chat));
    }
    reads
}

#[tokio::test]
async fn new_messages_do_not_read_the_log_however_far_behind_the_persister_is() {
    let world = World::new().await;
    let first = world.gateway().await;
    let chat = world.direct(&first, ["ann", "bob"]).await;
    world.person(&first, "ann").await.send(&chat, "first").await;
    // There is no persister, and this node can't tell for how long: it never saw the log without a tail.
    let gateway = world.gateway().await;
    let mut ann = world.person(&gateway, "ann").await;
    // Who has not joined gets news, and for that the log is read.
    ann.join(&chat).await;
    ann.send(&chat, "second").await;
    let fresh = log_reads(&world, &chat, async || {
        for n in 0..5 {
            ann.send(&chat, &n.to_string()).await;
        }
    });
    assert_eq!(fresh.await, 0);
    // A name that does not tell its age needs the look.
    let ageless = log_reads(&world, &chat, async || {
        let mut frame = message(&chat, "ageless");
        frame["client_id"] = json!(uuid::Uuid::new_v4());
        ann.get("ack", frame).await;
    });
    assert!(ageless.await > 0);
}
