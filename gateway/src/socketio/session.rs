//! One session of a Socket.IO client: from Engine.IO's handshake to its end, over polling, over a WebSocket, or over one
//! and then the other.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use partyline_shared::wire::CloseCode;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    lane,
    late::Late,
    packet::{Packet, Violation},
    state::{Stage, Turn, Who},
    voice::Voice,
};
use crate::{
    clock,
    encode::Frame,
    metrics,
    server::Gateway,
    session::{
        conn::{Remote, Renewal},
        frame_limiter::FrameLimiter,
        life,
        pipe::Pipe,
    },
    tasks,
    ws::task::{WAITING_BYTES, WAITING_COMMANDS},
};

impl Lane {
    fn is_full(&self) -> bool {
        self.turns.len() >= WAITING_COMMANDS || self.bytes >= WAITING_BYTES
    }
}

#[derive(Debug, Default)]
struct Lane {
    turns: VecDeque<Turn>,
    /// Bytes that the turns hold.
    bytes: usize,
    /// Somebody works through them.
    busy: bool,
}

/// One session.
pub struct Session {
    /// Its name in every request: a secret between the client and this node.
    pub sid: Uuid,
    /// Spreads pings over time.
    pub number: u32,
    /// Node seconds.
    pub born: u32,
    pub pipe: Pipe<Late>,
    pub voice: Mutex<Voice>,
    pub who: Mutex<Who>,
    /// What tells the client's page from others of the same user.
    pub page: OnceLock<Uuid>,
    stage: AtomicU8,
    pub frames: FrameLimiter,
    lane: Mutex<Lane>,
    /// Nothing is left to do.
    idle: Notify,
    /// Counts the requests for packets: the newest one gets them.
    pub polls: AtomicU64,
    /// A request brings packets.
    pub posted: AtomicBool,
    /// A polling client was put out of the namespace, so that it does not come back by itself.
    pub stays_away: AtomicBool,
    /// Whoever polls shall answer now.
    pub poll_ends: Notify,
    /// Since when the sweeper has seen it closing, in node seconds; 0 if it has not.
    pub closing_since: AtomicU32,
}

impl fmt::Debug for Session {
    /// Without its name, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("number", &self.number).field("stage", &self.stage()).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(gateway: &Gateway, number: u32, bearer: Option<String>) -> Self {
        let limits = &gateway.chat.config.limits;
        Self {
            sid: Uuid::new_v4(),
            number,
            born: clock::seconds(),
            pipe: Pipe::new(Late::default(), limits.outbound_queue_bytes),
            voice: Mutex::default(),
            who: Mutex::new(Who::Stranger { bearer }),
            page: OnceLock::new(),
            stage: AtomicU8::new(Stage::Polling as u8),
            frames: FrameLimiter::new(limits.frames_per_second),
            lane: Mutex::default(),
            idle: Notify::new(),
            polls: AtomicU64::new(0),
            posted: AtomicBool::new(false),
            stays_away: AtomicBool::new(false),
            poll_ends: Notify::new(),
            closing_since: AtomicU32::new(0),
        }
    }

    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Polling,
            1 => Stage::Probing,
            2 => Stage::Upgrading,
            _ => Stage::WebSocket,
        }
    }

    /// Goes from one stage to another; false if it was in a third.
    pub fn advance(&self, from: Stage, to: Stage) -> bool {
        self.stage.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes a packet of the client's.
    pub fn accept(self: &Arc<Self>, gateway: &Arc<Gateway>, text: &str) {
        let turn = match Packet::parse(text) {
            Ok(Packet::Pong | Packet::Nothing) => return,
            Ok(Packet::Connect { namespace, auth }) => {
                Turn::Connect { namespace: namespace.to_owned(), auth: auth.map(Into::into) }
            }
            Ok(Packet::Event { id, json }) => Turn::Event { id, json: json.to_owned(), renewal: self.renewal(json) },
            Ok(Packet::Disconnect | Packet::Close) => Turn::Disconnect,
            Err(violation) => Turn::Violation(violation),
        };
        self.push(gateway, turn);
    }

    /// An event that brings a new token, as clients' `JSON.stringify` writes it.
    fn renewal(&self, json: &str) -> Option<Renewal> {
        match &*self.who.lock() {
            Who::Known(conn) if json.starts_with("[\"refresh_token\"") => Some(conn.begin_renewal()),
            _ => None,
        }
    }

    /// Adds what is to be done after all that came before.
    pub(super) fn push(self: &Arc<Self>, gateway: &Arc<Gateway>, turn: Turn) {
        let mut lane = self.lane.lock();
        lane.bytes += turn.bytes();
        lane.turns.push_back(turn);
        if !std::mem::replace(&mut lane.busy, true) {
            drop(lane);
            let (tracker, gateway, session) = (gateway.connections.clone(), gateway.clone(), self.clone());
            tracker.spawn(async move {
                if tasks::caught("socketio_commands", Box::pin(lane::run(&gateway, &session))).await.is_err() {
                    session.break_down(&gateway);
                }
            });
        }
    }

    /// The next thing to do; none ends the work.
    pub(super) fn next_turn(&self) -> Option<Turn> {
        let mut lane = self.lane.lock();
        let was_full = lane.is_full();
        if self.pipe.is_leaving() {
            // What was not begun can be sent again.
            lane.turns.retain(|turn| matches!(turn, Turn::Last(_) | Turn::Violation(_) | Turn::Disconnect));
            lane.bytes = lane.turns.iter().map(Turn::bytes).sum();
        }
        let turn = lane.turns.pop_front();
        lane.bytes -= turn.as_ref().map_or(lane.bytes, Turn::bytes);
        if was_full && !lane.is_full() {
            // The socket is read on.
            self.pipe.wake();
        }
        if turn.is_none() {
            // Memory of a burst is given back.
            *lane = Lane::default();
            drop(lane);
            self.pipe.duty(true);
            self.pipe.wake();
            self.idle.notify_waiters();
        }
        turn
    }

    /// Whether everything that came is done.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.lane.lock().busy
    }

    /// Whether so much waits to be done that no more is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.lane.lock().is_full()
    }

    /// Waits until everything that came is done.
    pub async fn settled(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// The client broke the protocol.
    pub fn break_off(&self, Violation(code): Violation) {
        self.pipe.close(CloseCode::ProtocolError, Some(code), None);
    }

    /// The client is done.
    pub fn hang_up(self: &Arc<Self>, gateway: &Arc<Gateway>) {
        if !self.pipe.is_closing() {
            metrics::closed_by_peer();
        }
        self.end(gateway);
    }

    /// The session is over.
    pub fn end(self: &Arc<Self>, gateway: &Arc<Gateway>) {
        self.pipe.mark_gone();
        self.poll_ends.notify_waiters();
        gateway.socketio.remove(self.sid);
        self.leave(gateway);
    }

    /// The task that does the session's commands panicked: the session ends, and what still waits is not done.
    fn break_down(self: &Arc<Self>, gateway: &Arc<Gateway>) {
        self.end(gateway);
        // Otherwise the session would count as busy for ever, and its departure would never come.
        *self.lane.lock() = Lane::default();
        self.pipe.wake();
        self.idle.notify_waiters();
    }

    /// Whoever is behind it leaves the chat; what is left to say may still be fetched.
    pub fn leave(self: &Arc<Self>, gateway: &Arc<Gateway>) {
        let who = std::mem::replace(&mut *self.who.lock(), Who::Gone);
        if let Who::Known(conn) = who {
            let tracker = gateway.connections.clone();
            let (gateway, session) = (gateway.clone(), self.clone());
            let departure = async move {
                // A join that is in hand would come after the departure, and never leave.
                session.settled().await;
                life::depart(&gateway, &conn).await;
            };
            tracker.spawn(tasks::caught("socketio_departure", departure));
        }
    }
}

impl Remote for Session {
    fn send_all(&self, frames: &[Frame]) {
        if self.pipe.is_closing() {
            return;
        }
        let mut told = Vec::with_capacity(frames.len());
        let mut voice = self.voice.lock();
        for frame in frames {
            voice.translate(frame, &mut told);
        }
        // While the voice is held: what was translated first is heard first.
        self.pipe.send_all(&told);
    }

    fn ask_to_close(&self, code: CloseCode, retry_after_ms: Option<u64>) {
        self.pipe.ask_to_close(code, retry_after_ms);
        if self.is_idle() {
            self.pipe.duty(true);
        }
    }

    fn is_leaving(&self) -> bool {
        self.pipe.is_leaving()
    }

    fn is_gone(&self) -> bool {
        self.pipe.is_gone()
    }

    fn waiting(&self) -> Option<(usize, u64)> {
        self.pipe.waiting()
    }

    fn has_room(&self) -> bool {
        self.pipe.has_room()
    }
}
