//! What all roles share: the nodes, how far the traffic has come, and which outages are planned at this moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use devstack::testing::{Process, TestEnv, UserType};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct World {
    pub(crate) gateways: Vec<String>,
    acknowledged: watch::Sender<usize>,
    /// All messages are sent: one last catch-up, and the end.
    ended: watch::Sender<bool>,
    /// Odd while NATS or Postgres is down on purpose; each outage counts it up twice.
    outages: AtomicUsize,
    reconnections: AtomicUsize,
    repeats: AtomicUsize,
    stored_repeats: AtomicUsize,
    stored_repeats_in_outage: AtomicUsize,
}

impl World {
    pub(crate) fn new(gateways: Vec<String>) -> Self {
        Self {
            gateways,
            acknowledged: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            outages: AtomicUsize::new(0),
            reconnections: AtomicUsize::new(0),
            repeats: AtomicUsize::new(0),
            stored_repeats: AtomicUsize::new(0),
            stored_repeats_in_outage: AtomicUsize::new(0),
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        *self.acknowledged.borrow()
    }

    pub(crate) fn acknowledge(&self) {
        self.acknowledged.send_modify(|count| *count += 1);
    }

    pub(crate) fn reconnected(&self) {
        self.reconnections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reconnections(&self) -> usize {
        self.reconnections.load(Ordering::Relaxed)
    }

    pub(crate) fn repeated(&self) {
        self.repeats.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn repeats(&self) -> usize {
        self.repeats.load(Ordering::Relaxed)
    }

    /// A message that had been acknowledged was sent again, and acknowledged as the first one.
    pub(crate) fn stored_repeat_acknowledged(&self) {
        self.stored_repeats.fetch_add(1, Ordering::Relaxed);
        if self.has_outage() {
            self.stored_repeats_in_outage.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of those, and those during an outage.
    pub(crate) fn stored_repeats(&self) -> (usize, usize) {
        (self.stored_repeats.load(Ordering::Relaxed), self.stored_repeats_in_outage.load(Ordering::Relaxed))
    }

    /// Begins a planned outage, or ends it.
    #[allow(dead_code, reason = "not every test that uses these roles plans one")]
    pub(crate) fn toggle_outage(&self) {
        self.outages.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn has_outage(&self) -> bool {
        !self.outage_phase().is_multiple_of(2)
    }

    /// Changes whenever an outage begins or ends: two equal even phases have no outage between them.
    pub(crate) fn outage_phase(&self) -> usize {
        self.outages.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until this many messages are acknowledged.
    pub(crate) async fn reached(&self, count: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        let reached = timeout(PATIENCE, acknowledged.wait_for(|it| *it >= count)).await;
        assert!(reached.is_ok(), "only {} of {count} acknowledged", self.acknowledged());
    }

    pub(crate) async fn all_acknowledged(&self, total: usize) {
        self.reached(total).await;
        self.ended.send_replace(true);
    }
}

pub(crate) fn service(env: &TestEnv) -> String {
    env.jwt_with("marketplace", "Marketplace", UserType::Vendor, Some("service"), 600).unwrap()
}

/// Creates a conversation, and returns its id. `kind` is `direct` or `group`.
pub(crate) async fn create_conversation(env: &TestEnv, gateway: &Process, kind: &str, people: &[String]) -> String {
    let made = reqwest::Client::new()
        .post(gateway.url("/chat/api/conversations/"))
        .bearer_auth(service(env))
        .json(&json!({ "kind": kind, "participant_ids": people }))
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    made.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
}
