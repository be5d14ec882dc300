//! One native socket. Whoever has a frame for it writes it straight to the kernel if nothing waits; only when the
//! kernel's buffer is full does the frame queue up and the connection's own task take over.

use std::{
    io,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use partyline_shared::{claims::Identity, ids::ConversationId, wire::CloseCode};
use tokio::{net::TcpStream, sync::Notify};

use super::outbox::Outbox;
use crate::{
    clock,
    encode::{self, Class, Frame},
    metrics,
    room::Room,
};

/// Bytes that protocol answers (pongs) may add to a queue that its reader doesn't empty.
const CONTROL_ALLOWANCE: usize = 4_096;

/// What a connection types, so that it ends by itself.
#[derive(Clone, Copy, Debug)]
pub struct Typing {
    pub conversation_id: ConversationId,
    /// When it ends by itself, in node milliseconds.
    pub ends: u64,
}

/// State that only commands and the sweeper touch, seldom.
#[derive(Debug, Default)]
pub struct Side {
    pub joined: Vec<Arc<Room>>,
    pub typing: Option<Typing>,
    /// When typing was last passed on, in node milliseconds: stopping and starting must not get round the limit.
    pub typed: u64,
}

/// One native socket.
#[derive(Debug)]
pub struct Conn {
    /// Unique on this node.
    pub id: u64,
    pub identity: Arc<Identity>,
    stream: TcpStream,
    out: Mutex<Out>,
    side: Mutex<Side>,
    /// Wakes the connection's task: the socket is full, or to be closed.
    wake: Notify,
    gone: AtomicBool,
    /// When the token ends, in seconds since 1970.
    expires_at: AtomicI64,
    warned: AtomicBool,
    /// Last sign of life, in node seconds.
    heard: AtomicU32,
    outbound_limit: usize,
    _guard: metrics::ConnectionGuard,
}

#[derive(Debug, Default)]
struct Out {
    queue: Outbox,
    closing: Closing,
    /// Since when something waits, in node milliseconds.
    waiting_since: Option<NonZeroU64>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Closing {
    #[default]
    No,
    /// The task closes once the command in hand is done.
    Asked(Bytes),
    /// The close frame is queued or written.
    Sent,
}

/// What the connection's task should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Read; all is written.
    Read,
    /// Wait until the socket takes more as well.
    Write,
    /// All is written, close frame included.
    Finish,
}

impl Conn {
    pub fn new(id: u64, identity: Identity, stream: TcpStream, outbound_limit: usize, now: u32) -> Arc<Self> {
        Arc::new(Self {
            id,
            expires_at: AtomicI64::new(identity.expires_at),
            identity: Arc::new(identity),
            stream,
            out: Mutex::default(),
            side: Mutex::default(),
            wake: Notify::new(),
            gone: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            heard: AtomicU32::new(now),
            outbound_limit,
            _guard: metrics::ConnectionGuard::open(),
        })
    }

    /// Sends one frame.
    pub fn send(&self, frame: &Frame) {
        self.send_all(std::slice::from_ref(frame));
    }

    /// Sends frames, in order, in as few system calls as it takes.
    pub fn send_all(&self, frames: &[Frame]) {
        let mut out = self.out.lock();
        if out.closing == Closing::Sent {
            return;
        }
        let idle = out.queue.is_empty();
        for frame in frames {
            match out.queue.push(frame, self.outbound_limit) {
                Ok(dropped) => (0..dropped.0).for_each(|_| metrics::ephemeral_dropped()),
                Err(super::outbox::Overflow) => {
                    out.queue.abandon();
                    self.finish(&mut out, encode::close(CloseCode::TooSlow, None, None));
                    metrics::closed(CloseCode::TooSlow);
                    self.wake.notify_one();
                    return;
                }
            }
        }
        // Something waits already: the task writes it when the socket takes more.
        if idle {
            self.flush(&mut out);
        }
    }

    /// Sends a ping or a pong.
    pub fn send_control(&self, bytes: Bytes) {
        let mut out = self.out.lock();
        if out.closing == Closing::Sent || out.queue.bytes() > self.outbound_limit + CONTROL_ALLOWANCE {
            return;
        }
        let idle = out.queue.is_empty();
        out.queue.push_control(bytes, Class::Durable);
        if idle {
            self.flush(&mut out);
        }
    }

    fn flush(&self, out: &mut Out) {
        match out.queue.flush(|slices| self.stream.try_write_vectored(slices)) {
            Ok(true) => out.waiting_since = None,
            Ok(false) => {
                out.waiting_since = out.waiting_since.or_else(|| NonZeroU64::new(clock::millis()));
                self.wake.notify_one();
            }
            Err(error) => {
                tracing::debug!(%error, "socket broke");
                self.gone.store(true, Ordering::Release);
                out.queue.abandon();
                out.closing = Closing::Sent;
                self.wake.notify_one();
            }
        }
    }

    fn finish(&self, out: &mut Out, close: Bytes) {
        out.queue.push_control(close, Class::Durable);
        out.closing = Closing::Sent;
        self.flush(out);
    }

    /// Closes now, after what waits.
    pub fn close(&self, code: CloseCode, special: Option<&str>, retry_after_ms: Option<u64>) {
        self.close_with(encode::close(code, special, retry_after_ms), Some(code));
    }

    /// Answers the client's close frame.
    pub fn close_echo(&self, payload: &[u8]) {
        self.close_with(encode::close_echo(payload), None);
    }

    fn close_with(&self, bytes: Bytes, code: Option<CloseCode>) {
        let mut out = self.out.lock();
        if out.closing == Closing::Sent {
            return;
        }
        self.finish(&mut out, bytes);
        match code {
            Some(code) => metrics::closed(code),
            None => metrics::closed_by_peer(),
        }
        self.wake.notify_one();
    }

    /// Closes once the command in hand is answered.
    pub fn ask_to_close(&self, code: CloseCode, retry_after_ms: Option<u64>) {
        let mut out = self.out.lock();
        if out.closing == Closing::No {
            out.closing = Closing::Asked(encode::close(code, None, retry_after_ms));
            metrics::closed(code);
            self.wake.notify_one();
        }
    }

    /// What the task should do; `idle` says that no command is in hand.
    pub fn duty(&self, idle: bool) -> Duty {
        let mut out = self.out.lock();
        if idle && matches!(out.closing, Closing::Asked(_)) {
            let Closing::Asked(bytes) = std::mem::replace(&mut out.closing, Closing::Sent) else { return Duty::Read };
            self.finish(&mut out, bytes);
        }
        match (out.queue.is_empty(), out.closing == Closing::Sent) {
            (true, true) => Duty::Finish,
            (true, false) => Duty::Read,
            (false, _) => Duty::Write,
        }
    }

    /// Writes what waits, since the socket may take more.
    pub fn write_more(&self) {
        let mut out = self.out.lock();
        if !out.queue.is_empty() {
            self.flush(&mut out);
        }
    }

    /// What waits for a slow reader: bytes, and since when in node milliseconds.
    #[must_use]
    pub fn waiting(&self) -> Option<(usize, u64)> {
        let out = self.out.lock();
        out.waiting_since.filter(|_| !out.queue.is_empty()).map(|since| (out.queue.bytes(), since.get()))
    }

    /// Whether a close frame was sent or the socket broke: nothing more is read as a command.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.out.lock().closing == Closing::Sent
    }

    /// The socket, for the connection's task.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads without waiting.
    ///
    /// # Errors
    /// As [`TcpStream::try_read`].
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.try_read(buffer)
    }

    /// Waits until somebody has news for the connection's task.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The socket is done with.
    pub fn mark_gone(&self) {
        self.gone.store(true, Ordering::Release);
        let mut out = self.out.lock();
        out.closing = Closing::Sent;
        out.queue.abandon();
        self.wake.notify_one();
    }

    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Joined rooms and typing.
    pub fn side<T>(&self, look: impl FnOnce(&mut Side) -> T) -> T {
        look(&mut self.side.lock())
    }

    #[must_use]
    pub fn has_joined(&self, conversation: ConversationId) -> bool {
        self.side.lock().joined.iter().any(|room| room.id == conversation)
    }

    /// A sign of life, at `now` in node seconds.
    pub fn heard(&self, now: u32) {
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Seconds since the last sign of life.
    #[must_use]
    pub fn silent_for(&self, now: u32) -> u32 {
        now.saturating_sub(self.heard.load(Ordering::Relaxed))
    }

    /// When the token ends, in seconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.expires_at.load(Ordering::Relaxed)
    }

    /// The token was renewed.
    pub fn renew(&self, expires_at: i64) {
        self.expires_at.store(expires_at, Ordering::Relaxed);
        self.warned.store(false, Ordering::Relaxed);
    }

    /// Whether the client is to be warned now: true once a token.
    pub fn warn_once(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }
}
