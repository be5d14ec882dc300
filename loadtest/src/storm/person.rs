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

use super::{link::Link, people::World};
use crate::{
    backoff,
    client::{self, Conn, Ended},
    clock,
    crowd::Arrived,
    incoming::Incoming,
    limits,
    marker::Marker,
    outgoing,
    received::Received,
    tally::Tally,
};

/// How long a connection may take from the first packet to the joined conversation, as the browser's client has it.
const PATIENCE: Duration = Duration::from_secs(10);

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

impl Person {
    pub(super) fn new(world: Arc<World>, seat: u32, token: String, conversation: String) -> Arc<Self> {
        Arc::new(Self { world, seat, token, conversation, state: Mutex::default() })
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.world.tally
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

    /// Comes back to any gateway, as a balancer would choose: not to the one that has just refused. Tries until it works.
    async fn come_back(self: Arc<Self>) {
        let cut = clock::now();
        let gateways = self.world.gateways.len();
        let first = rand::rng().random_range(0..gateways);
        for attempt in 0.. {
            sleep(backoff::wait(attempt)).await;
            if self.world.leaving.load(Relaxed) {
                return;
            }
            match self.enter((first + attempt as usize) % gateways).await {
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

    /// The join of a socket: with `after`, from the second one on.
    pub(super) fn join_frame(&self) -> String {
        let state = self.state.lock();
        outgoing::join(&self.conversation, state.knows.then(|| state.received.held()))
    }

    /// What a join brings.
    pub(super) fn take_in(&self, joined: &Incoming<'_>, at: u64) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.knows, true) {
            state.received.resume(&self.world.tally, self.seat, joined, at);
        } else {
            state.received.begin(joined.seq.unwrap_or(0));
        }
    }

    /// The conversation is joined on this socket: sends what waits.
    pub(super) fn settle_in(&self, conn: &Arc<Conn>, gateway: usize) {
        self.world.has_joined();
        let mut state = self.state.lock();
        state.conn = Some(conn.clone());
        state.gateway = gateway;
        self.resend_those(&mut state, |_| true);
    }

    /// Sends a message again, if it still has no answer.
    pub(super) fn resend(&self, number: u32) {
        self.resend_those(&mut self.state.lock(), |it| it == number);
    }

    fn resend_those(&self, state: &mut State, which: impl Fn(u32) -> bool) {
        let Some(conn) = &state.conn else { return };
        for waiting in state.outbox.iter_mut().filter(|waiting| which(waiting.number)) {
            if std::mem::replace(&mut waiting.tried, true) {
                self.world.tally.resending(waiting.number);
            }
            self.write(conn, waiting.number, waiting.due);
        }
    }

    /// What comes live.
    pub(super) fn hear(&self, frame: &Incoming<'_>, size: usize, at: u64) {
        self.state.lock().received.event(&self.world.tally, self.seat, frame, size, at);
    }

    /// The socket that had joined is gone.
    pub(super) fn lost(self: &Arc<Self>, why: &Ended) {
        if self.state.lock().conn.take().is_none() {
            return;
        }
        self.world.has_lost();
        self.world.tally.ended(why);
        if !self.world.leaving.load(Relaxed) {
            tokio::spawn(self.clone().come_back());
        }
    }

    /// An answer: the message needs no other attempt.
    pub(super) fn answered(&self, number: u32) {
        self.state.lock().outbox.retain(|waiting| waiting.number != number);
    }
}
