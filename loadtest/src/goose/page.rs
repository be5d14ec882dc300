//! A user's open page: its socket, and what came over it. Whatever it does is a request in Goose's tables.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use ::goose::prelude::*;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::world::{Person, World};
use crate::{
    client::{Asked, Session},
    clock,
    histogram::Latency,
    incoming::Incoming,
    limits,
    marker::Marker,
    outgoing,
    received::Received,
};

/// Content of a message, in bytes.
const SIZE: usize = 200;

/// A user's page.
pub(super) struct Page {
    pub(super) person: Person,
    pub(super) world: Arc<World>,
    session: tokio::sync::Mutex<Option<Session>>,
    got: Arc<Got>,
    sends: AtomicU32,
}

/// What came of the conversation.
#[derive(Default)]
struct Got {
    received: Mutex<Received>,
    /// The join under way has `after`.
    resuming: AtomicBool,
    /// Deliveries that Goose has not counted yet, in nanoseconds.
    delivered: Mutex<Vec<u64>>,
}

impl Page {
    pub(super) fn new(person: Person, world: Arc<World>) -> Self {
        let sends = AtomicU32::new(0);
        Self { person, world, session: tokio::sync::Mutex::default(), got: Arc::default(), sends }
    }

    /// Opens the socket, unless it is open.
    pub(super) async fn open(&self, user: &mut GooseUser, name: &str) -> TransactionResult {
        let mut open = self.session.lock().await;
        if open.is_some() {
            return Ok(());
        }
        let began = Instant::now();
        let Person { gateway, token, seat, .. } = &self.person;
        let source = limits::source(*seat as usize, gateway.addr);
        let session = Session::open(gateway, source, token, self.ear()).await;
        let failure = session.as_ref().err().cloned();
        if failure.is_none() {
            self.world.connected();
        }
        *open = session.ok();
        drop(open);
        self.record(user, name, began.elapsed(), failure).await
    }

    pub(super) async fn is_open(&self) -> bool {
        self.session.lock().await.as_ref().is_some_and(|session| !session.has_ended())
    }

    /// Counts what the socket brings, until Goose hears of it.
    fn ear(&self) -> impl FnMut(&Incoming<'_>, usize, u64) + Send + 'static {
        let (world, got, seat) = (self.world.clone(), self.got.clone(), self.person.seat);
        move |frame, size, at| {
            let mut received = got.received.lock();
            match (&*frame.kind, got.resuming.load(Relaxed)) {
                ("joined", true) => received.resume(&world.tally, seat, frame, at),
                ("joined", false) => received.begin(frame.seq.unwrap_or(0)),
                _ => {
                    let delivered = received.event(&world.tally, seat, frame, size, at);
                    got.delivered.lock().extend(delivered);
                }
            }
        }
    }

    async fn record(
        &self,
        user: &mut GooseUser,
        name: &str,
        took: Duration,
        failure: Option<String>,
    ) -> TransactionResult {
        self.count(failure.is_none(), || failure.clone().unwrap_or_default());
        user.record_custom_request_duration("WS", name, took, failure.is_none(), None, failure.as_deref()).await
    }

    /// A request is done; a failure has a code.
    pub(super) fn count(&self, good: bool, code: impl FnOnce() -> String) {
        if good {
            self.world.good.fetch_add(1, Relaxed);
        } else {
            self.world.bad.fetch_add(1, Relaxed);
            self.world.tally.error(&code());
        }
    }

    /// Deliveries are requests, too: from when a message was to be sent until it was here.
    pub(super) async fn count_deliveries(&self, user: &mut GooseUser) -> TransactionResult {
        let delivered = std::mem::take(&mut *self.got.delivered.lock());
        for nanos in delivered {
            self.record(user, "delivery", Duration::from_nanos(nanos), None).await?;
        }
        Ok(())
    }

    /// Asks over the socket; a page whose socket has ended opens it anew first, as browsers do.
    ///
    /// # Returns
    /// How long the answer took; none if it was a refusal.
    pub(super) async fn ask(
        &self,
        user: &mut GooseUser,
        name: &str,
        frame: Value,
    ) -> Result<Option<Duration>, Box<TransactionError>> {
        self.open(user, "connect").await?;
        let (answer, took) = {
            let mut session = self.session.lock().await;
            let Some(asked) = session.as_mut() else { return Ok(None) };
            let began = Instant::now();
            let answer: Asked = asked.ask(frame).await;
            if asked.has_ended() {
                *session = None;
            }
            (answer, began.elapsed())
        };
        let good = answer.is_ok();
        self.record(user, name, took, answer.err()).await?;
        Ok(good.then_some(took))
    }

    /// Joins; `resume`: with `after`, so that everything missed comes.
    pub(super) async fn join(&self, user: &mut GooseUser, name: &str, resume: bool) -> TransactionResult {
        self.got.resuming.store(resume, Relaxed);
        let mut frame = json!({ "type": "join_conversation", "conversation_id": self.person.conversation });
        if resume {
            frame["after"] = json!(self.got.received.lock().held());
        }
        self.ask(user, name, frame).await.map(|_| ())
    }

    /// Tells that somebody types, which has no answer.
    pub(super) async fn typing(&self, user: &mut GooseUser) -> TransactionResult {
        let frame = json!({ "type": "typing", "conversation_id": self.person.conversation, "is_typing": true });
        let began = Instant::now();
        let told = match self.session.lock().await.as_ref() {
            Some(session) => session.tell(&frame),
            None => return Ok(()),
        };
        self.record(user, "typing", began.elapsed(), told.err()).await
    }

    /// A message that says when it was to be sent: now, whatever holds the sending up.
    pub(super) fn next_message(&self) -> Marker {
        let people = u32::try_from(self.world.tally.people()).unwrap_or(u32::MAX);
        let number = self.person.seat.wrapping_add(self.sends.fetch_add(1, Relaxed).wrapping_mul(people));
        Marker { run: self.world.tally.run, number, due: clock::now() }
    }

    pub(super) fn body(marker: Marker) -> Value {
        json!({ "client_id": outgoing::client_id(marker).to_string(), "content": marker.content(SIZE) })
    }

    pub(super) async fn send(&self, user: &mut GooseUser) -> TransactionResult {
        let marker = self.next_message();
        let mut frame = Self::body(marker);
        frame["type"] = json!("send_message");
        frame["conversation_id"] = json!(self.person.conversation);
        self.world.tally.sent.fetch_add(1, Relaxed);
        if self.ask(user, "send", frame).await?.is_some() {
            self.acked(marker);
        }
        Ok(())
    }

    pub(super) fn acked(&self, marker: Marker) {
        self.world.tally.acked.fetch_add(1, Relaxed);
        self.world.tally.times.lock().record(Latency::Ack, clock::now().saturating_sub(marker.due));
    }

    /// Up to where the conversation is known.
    pub(super) fn held(&self) -> u64 {
        self.got.received.lock().held()
    }

    pub(super) async fn mark_read(&self, user: &mut GooseUser) -> TransactionResult {
        let seq = self.held();
        if seq == 0 {
            return Ok(());
        }
        let frame = json!({ "type": "mark_read", "conversation_id": self.person.conversation, "seq": seq });
        self.ask(user, "mark_read", frame).await.map(|_| ())
    }

    /// Cuts the socket off without a word.
    pub(super) async fn cut(&self) {
        if let Some(session) = self.session.lock().await.take() {
            session.cut();
        }
    }

    pub(super) async fn close(&self, user: &mut GooseUser) -> TransactionResult {
        if let Some(session) = self.session.lock().await.take() {
            session.close();
        }
        self.count_deliveries(user).await
    }
}
