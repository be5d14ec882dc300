//! A person who stays whatever becomes of the sockets: comes back with `after`, and sends again what has no answer.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use rand::RngExt;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::people::World;
use crate::{
    backoff,
    client::{self, Conn, Ended, Listener},
    clock,
    crowd::Arrived,
    incoming::Incoming,
    limits,
    marker::Marker,
    outgoing::{self, JOIN},
    received::Received,
};

/// How long a connection may take from the first packet to the joined conversation, as the browser's client has it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before a message is sent again that was refused for now.
const LATER: Duration = Duration::from_millis(500);

/// A person.
pub(super) struct Person {
    world: Arc<World>,
    seat: u32,
    token: String,
    conversation: String,
    state: Mutex<State>,
}

/// What outlives a socket.
#[derive(Default)]
struct State {
    /// The socket that has joined; none while away.
    conn: Option<Arc<Conn>>,
    gateway: usize,
    /// Was in the conversation before: comes back with `after`.
    knows: bool,
    received: Received,
    /// Messages without an answer, in order.
    outbox: Vec<Waiting>,
}

#[derive(Clone, Copy)]
struct Waiting {
    number: u32,
    due: u64,
    /// It was written to a socket at least once.
    tried: bool,
}

/// One socket of a person.
struct Link {
    person: Arc<Person>,
    gateway: usize,
    /// Told once the conversation is joined, or why it can't be; gone from then on.
    joined: Option<oneshot::Sender<Result<(), String>>>,
}

impl Person {
    pub(super) fn new(world: Arc<World>, seat: u32, token: String, conversation: String) -> Arc<Self> {
        Arc::new(Self { world, seat, token, conversation, state: Mutex::default() })
    }

    pub(super) fn conn(&self) -> Option<Arc<Conn>> {
        self.state.lock().conn.clone()
    }

    /// Which gateway the socket of now is on; none while away.
    pub(super) fn gateway(&self) -> Option<usize> {
        let state = self.state.lock();
        state.conn.is_some().then_some(state.gateway)
    }

    /// Connects to a gateway and joins.
    ///
    /// # Errors
    /// What went wrong, in few words.
    pub(super) async fn enter(self: &Arc<Self>, gateway: usize) -> Result<Arrived, String> {
        let began = clock::now();
        let target = &self.world.gateways[gateway];
        let source = limits::source(self.seat as usize, target.addr);
        let opened = timeout(PATIENCE, client::open(target, source, &self.token))
            .await
            .unwrap_or_else(|_| Err("handshake timed out".into()))?;
        let open = clock::now();
        let (tell, told) = oneshot::channel();
        let conn = client::start(opened, Link { person: self.clone(), gateway, joined: Some(tell) });
        let joined = match timeout(PATIENCE, told).await {
            Ok(told) => told.unwrap_or_else(|_| Err("task ended".into())),
            Err(_) => Err("join timed out".into()),
        };
        match joined {
            Ok(()) => Ok(Arrived { conn, handshake: open - began, join: clock::now() - open }),
            Err(why) => {
                conn.cut();
                Err(why)
            }
        }
    }

    /// Comes back to any gateway, as a balancer would choose; tries until it works.
    async fn come_back(self: Arc<Self>) {
        let cut = clock::now();
        for attempt in 0.. {
            sleep(backoff::wait(attempt)).await;
            if self.world.leaving.load(Relaxed) {
                return;
            }
            let gateway = rand::rng().random_range(0..self.world.gateways.len());
            match self.enter(gateway).await {
                Ok(_) => return self.world.returned(cut),
                Err(why) => self.world.attempt_failed(why),
            }
        }
    }

    /// A message is due: sends it, or keeps it until there is a socket.
    pub(super) fn send(&self, number: u32, due: u64) {
        let tally = &self.world.tally;
        let mut state = self.state.lock();
        tally.sending(number, due, clock::now());
        let tried = state.conn.is_some();
        state.outbox.push(Waiting { number, due, tried });
        if let Some(conn) = &state.conn {
            self.write(conn, number, due);
        }
    }

    fn write(&self, conn: &Conn, number: u32, due: u64) {
        let marker = Marker { run: self.world.tally.run, number, due };
        // A broken socket tells its end by itself, and then the message goes again.
        let _ = conn.send(outgoing::message(&self.conversation, marker, self.world.size).as_bytes());
    }

    /// The conversation is joined on this socket: sends what waits.
    fn settle_in(&self, conn: &Arc<Conn>, gateway: usize) {
        let mut state = self.state.lock();
        state.conn = Some(conn.clone());
        state.gateway = gateway;
        self.resend(&mut state, |_| true);
    }

    fn resend(&self, state: &mut State, which: impl Fn(u32) -> bool) {
        let Some(conn) = &state.conn else { return };
        for waiting in state.outbox.iter_mut().filter(|waiting| which(waiting.number)) {
            if std::mem::replace(&mut waiting.tried, true) {
                self.world.tally.resending(waiting.number);
            }
            self.write(conn, waiting.number, waiting.due);
        }
    }

    /// An answer: the message needs no other attempt.
    fn answered(&self, number: u32) {
        self.state.lock().outbox.retain(|waiting| waiting.number != number);
    }
}

impl Link {
    fn join(&self, conn: &Conn) {
        let after = {
            let state = self.person.state.lock();
            state.knows.then(|| state.received.held())
        };
        let _ = conn.send(outgoing::join(&self.person.conversation, after).as_bytes());
    }

    fn joined(&mut self, conn: &Arc<Conn>, frame: &Incoming<'_>, at: u64) {
        let person = &self.person;
        {
            let mut state = person.state.lock();
            if state.knows {
                state.received.resume(&person.world.tally, person.seat, frame, at);
            } else {
                state.received.begin(frame.seq.unwrap_or(0));
            }
            state.knows = true;
        }
        if frame.more {
            return self.join(conn);
        }
        match self.joined.take().map(|told| told.send(Ok(()))) {
            Some(Ok(())) => {
                person.world.has_joined();
                person.settle_in(conn, self.gateway);
            }
            // Nobody waits any more: another attempt is under way.
            _ => conn.cut(),
        }
    }

    fn refused(&mut self, frame: &Incoming<'_>) {
        let code = frame.code.as_deref().unwrap_or("without_code");
        let tally = &self.person.world.tally;
        match frame.reference() {
            Some(JOIN) => {
                if let Some(told) = self.joined.take() {
                    let _ = told.send(Err(format!("join: {code}")));
                }
            }
            Some(number) => {
                let Ok(number) = number.parse() else { return };
                if !matches!(code, "unavailable" | "rate_limited") {
                    self.person.answered(number);
                    tally.refuse(number, code);
                    return;
                }
                tally.error(code);
                let later = frame.retry_after_ms.map_or(LATER, Duration::from_millis);
                let person = self.person.clone();
                tokio::spawn(async move {
                    sleep(later).await;
                    person.resend(&mut person.state.lock(), |it| it == number);
                });
            }
            None => tally.error(code),
        }
    }
}

impl Listener for Link {
    fn text(&mut self, conn: &Arc<Conn>, json: &[u8], size: usize, at: u64) {
        let tally = &self.person.world.tally;
        tally.frames.fetch_add(1, Relaxed);
        let Some(frame) = Incoming::parse(json) else {
            tally.error("unreadable_frame");
            return;
        };
        match &*frame.kind {
            "welcome" => {
                if let Some(limits) = frame.limits() {
                    let _ = tally.limits.set(limits);
                }
                self.join(conn);
            }
            "joined" => self.joined(conn, &frame, at),
            "ack" => {
                if let Some(number) = frame.reference().and_then(|it| it.parse().ok()) {
                    self.person.answered(number);
                    tally.ack(number, at, frame.duplicate);
                }
            }
            "error" => self.refused(&frame),
            _ => {
                self.person.state.lock().received.event(tally, self.person.seat, &frame, size, at);
            }
        }
    }

    fn ended(&mut self, why: &Ended) {
        let person = &self.person;
        // Whoever waits for the join tries again by itself.
        if let Some(told) = self.joined.take() {
            let _ = told.send(Err(why.to_string()));
            return;
        }
        {
            let mut state = person.state.lock();
            if state.conn.take().is_none() {
                return;
            }
        }
        person.world.has_lost();
        person.world.tally.ended(why);
        if !person.world.leaving.load(Relaxed) {
            tokio::spawn(person.clone().come_back());
        }
    }
}
