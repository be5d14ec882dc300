//! The way out to one client. Whoever has a frame for it writes it straight to the kernel if nothing waits; only when
//! the kernel's buffer is full does the frame queue up and the connection's own task take over.

use std::{io, num::NonZeroU64, sync::atomic::AtomicU32};

use bytes::Bytes;
use partyline_shared::wire::CloseCode;
use tokio::sync::Notify;

use super::{
    outbox::{Outbox, Overflow},
    wire::Wire,
};
use crate::{
    clock,
    encode::{self, Class, Frame},
    metrics,
    sync::{AtomicBool, Mutex, Ordering},
};

/// Bytes that protocol answers (pongs) may add to a queue that its reader doesn't empty.
const CONTROL_ALLOWANCE: usize = 4_096;

/// [`Pipe::last_heard`] of a client that is not read.
const NOT_READ: u32 = u32::MAX;
/// The room that the queue has when a command begins: its answer may be a page of events, with the participants.
const ANSWER_BYTES: usize = 512 * 1_024;

/// What waits for one client, and where it goes.
#[derive(Debug)]
pub struct Pipe<W> {
    wire: W,
    out: Mutex<Out>,
    /// Wakes the connection's task: the socket is full, or to be closed.
    wake: Notify,
    gone: AtomicBool,
    /// Last sign of life, in node seconds.
    heard: AtomicU32,
    /// Bytes that may wait.
    limit: u32,
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
    /// The goodbye is queued or written.
    Sent,
}

/// What the connection's task should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Read; all is written.
    Read,
    /// Wait until the socket takes more as well.
    Write,
    /// All is written, the goodbye included.
    Finish,
}

impl<W: Wire> Pipe<W> {
    /// `limit`: bytes that may wait.
    #[must_use]
    pub fn new(wire: W, limit: u32) -> Self {
        Self {
            wire,
            out: Mutex::default(),
            wake: Notify::new(),
            gone: AtomicBool::new(false),
            heard: AtomicU32::new(clock::seconds()),
            limit,
        }
    }

    #[must_use]
    pub fn wire(&self) -> &W {
        &self.wire
    }

    /// Sends frames, in order, in as few system calls as it takes.
    pub fn send_all(&self, frames: &[Frame]) {
        let mut out = self.out.lock();
        if out.closing == Closing::Sent {
            return;
        }
        let idle = out.queue.is_empty();
        if idle && let [frame] = frames {
            let passed = out.queue.pass(frame, |slices| self.wire.try_write_vectored(slices));
            return self.after_write(&mut out, passed);
        }
        for frame in frames {
            match out.queue.push(frame, self.limit as usize) {
                Ok(dropped) => (0..dropped.0).for_each(|_| metrics::ephemeral_dropped()),
                Err(Overflow) => {
                    out.queue.abandon();
                    self.finish(&mut out, W::goodbye(CloseCode::TooSlow, None, None));
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

    /// Sends what the protocol itself says: a ping, a pong.
    pub fn send_control(&self, bytes: Bytes) {
        let mut out = self.out.lock();
        if out.closing == Closing::Sent || out.queue.bytes() > self.limit as usize + CONTROL_ALLOWANCE {
            return;
        }
        let idle = out.queue.is_empty();
        out.queue.push_control(bytes, Class::Durable);
        if idle {
            self.flush(&mut out);
        }
    }

    fn flush(&self, out: &mut Out) {
        let flushed = out.queue.flush(|slices| self.wire.try_write_vectored(slices));
        self.after_write(out, flushed);
    }

    /// `written`: whether nothing is left, or how the socket broke.
    fn after_write(&self, out: &mut Out, written: io::Result<bool>) {
        match written {
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

    fn finish(&self, out: &mut Out, goodbye: Bytes) {
        out.queue.push_control(goodbye, Class::Durable);
        out.closing = Closing::Sent;
        self.flush(out);
    }

    /// Closes now, after what waits.
    pub fn close(&self, code: CloseCode, special: Option<&str>, retry_after_ms: Option<u64>) {
        self.close_with(W::goodbye(code, special, retry_after_ms), Some(code));
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
            out.closing = Closing::Asked(W::goodbye(code, None, retry_after_ms));
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

    /// Takes the oldest of what waits, at most `max` frames, for a transport that doesn't write by itself.
    pub fn take(&self, max: usize) -> Vec<Bytes> {
        let mut out = self.out.lock();
        let taken = out.queue.take(max);
        out.waiting_since = if out.queue.is_empty() { None } else { NonZeroU64::new(clock::millis()) };
        taken
    }

    /// Whether something waits to be taken.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.out.lock().queue.is_empty()
    }

    /// What waits for a slow reader: bytes, and since when in node milliseconds.
    #[must_use]
    pub fn waiting(&self) -> Option<(usize, u64)> {
        let out = self.out.lock();
        out.waiting_since.filter(|_| !out.queue.is_empty()).map(|since| (out.queue.bytes(), since.get()))
    }

    /// Whether a goodbye was sent or the socket broke: nothing more is read as a command.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.out.lock().closing == Closing::Sent
    }

    /// Whether a goodbye was sent or asked for, or the socket broke.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.out.lock().closing != Closing::No
    }

    /// Waits until somebody has news for the connection's task.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Has the connection's task look again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The client is done with.
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

    /// A sign of life, at `now` in node seconds.
    pub fn heard(&self, now: u32) {
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Tells whether the connection's task reads. While it doesn't, silence is not the client's.
    pub fn set_reading(&self, reads: bool) {
        let was_reading = self.heard.load(Ordering::Relaxed) != NOT_READ;
        if reads != was_reading {
            self.heard.store(if reads { clock::seconds() } else { NOT_READ }, Ordering::Relaxed);
        }
    }

    /// The last sign of life, in node seconds; later than any if the client is not read.
    #[must_use]
    pub fn last_heard(&self) -> u32 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Whether the queue has room for the answer of one more command.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let out = self.out.lock();
        let bytes = out.queue.bytes();
        bytes == 0 || bytes + ANSWER_BYTES <= self.limit as usize || out.closing == Closing::Sent
    }
}

#[cfg(test)]
mod interleavings;
