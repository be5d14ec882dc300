//! What happened in a run, counted from many tasks.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use partyline_shared::wire::Limits;

use crate::{
    client::Ended,
    histogram::{Latency, Times},
};

const UNSENT: u8 = 0;
const SENT: u8 = 1;
const ACKED: u8 = 2;
const REFUSED: u8 = 3;

/// Counts of one run.
pub(crate) struct Tally {
    /// In every measured message of this run.
    pub(crate) run: u32,
    /// How many sockets get each message, the sender's own included.
    receivers: u32,
    /// The seat that sends message `n` is `senders[n % len]`.
    senders: Vec<u32>,
    messages: Vec<Message>,
    pub(crate) sent: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Sent again, since their socket was lost or the server said "later".
    pub(crate) resent: AtomicU64,
    pub(crate) duplicate_acks: AtomicU64,
    /// Distinct messages that distinct sockets got.
    pub(crate) received: AtomicU64,
    pub(crate) doubled: AtomicU64,
    pub(crate) out_of_order: AtomicU64,
    pub(crate) gaps: AtomicU64,
    /// Frames of any kind.
    pub(crate) frames: AtomicU64,
    /// Bytes of the frames with measured messages.
    pub(crate) bytes: AtomicU64,
    pub(crate) times: Mutex<Times>,
    errors: Mutex<BTreeMap<String, u64>>,
    closes: Mutex<BTreeMap<String, u64>>,
    pub(crate) limits: OnceLock<Limits>,
}

#[derive(Debug, Default)]
struct Message {
    state: AtomicU8,
    resent: AtomicBool,
    /// In nanoseconds of the machine's monotonic clock.
    due: AtomicU64,
    receivers: AtomicU32,
    /// From due to ack, in nanoseconds; 0 without one.
    acked: AtomicU64,
    /// From due until the last of the others had it, in nanoseconds; 0 until then.
    delivered: AtomicU64,
}

/// A message that was sent; times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) due: u64,
    /// From due to ack.
    pub(crate) acked: Option<u64>,
    /// From due until the last of the others had it.
    pub(crate) delivered: Option<u64>,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Receipts of acknowledged messages that never came.
    pub(crate) missing: u64,
    /// Messages neither acknowledged nor refused.
    pub(crate) unanswered: u64,
}

impl Tally {
    /// For `messages` messages, each of which goes to `receivers` sockets. Those beyond are counted and timed when they
    /// come, but nobody knows whether they are missing.
    pub(crate) fn new(messages: u32, receivers: u32, senders: Vec<u32>) -> Self {
        Self {
            run: rand::random(),
            receivers,
            senders,
            messages: (0..messages).map(|_| Message::default()).collect(),
            sent: AtomicU64::default(),
            acked: AtomicU64::default(),
            refused: AtomicU64::default(),
            resent: AtomicU64::default(),
            duplicate_acks: AtomicU64::default(),
            received: AtomicU64::default(),
            doubled: AtomicU64::default(),
            out_of_order: AtomicU64::default(),
            gaps: AtomicU64::default(),
            frames: AtomicU64::default(),
            bytes: AtomicU64::default(),
            times: Mutex::default(),
            errors: Mutex::default(),
            closes: Mutex::default(),
            limits: OnceLock::new(),
        }
    }

    /// The seat that sends a message; none if nobody here does.
    pub(crate) fn sender(&self, number: u32) -> Option<u32> {
        let place = (number as usize).checked_rem(self.senders.len())?;
        self.senders.get(place).copied()
    }

    /// How many seats send.
    pub(crate) fn people(&self) -> usize {
        self.senders.len()
    }

    fn message(&self, number: u32) -> Option<&Message> {
        self.messages.get(number as usize)
    }

    /// A message that was due at `due` is about to be written, at `now`.
    pub(crate) fn sending(&self, number: u32, due: u64, now: u64) {
        if let Some(message) = self.message(number) {
            message.due.store(due, Relaxed);
            message.state.store(SENT, Relaxed);
            self.sent.fetch_add(1, Relaxed);
            self.times.lock().record(Latency::Late, now.saturating_sub(due));
        }
    }

    /// It is about to be written once more.
    pub(crate) fn resending(&self, number: u32) {
        if let Some(message) = self.message(number) {
            message.resent.store(true, Relaxed);
            self.resent.fetch_add(1, Relaxed);
        }
    }

    /// The server has stored it, as was heard at `at`.
    pub(crate) fn ack(&self, number: u32, at: u64, duplicate: bool) {
        let Some(message) = self.message(number) else { return };
        if message.state.swap(ACKED, Relaxed) == ACKED {
            self.error("second_ack");
            return;
        }
        self.acked.fetch_add(1, Relaxed);
        if duplicate && !message.resent.load(Relaxed) {
            // We sent this client_id once: the server has taken somebody's message for ours.
            self.duplicate_acks.fetch_add(1, Relaxed);
        }
        let after = at.saturating_sub(message.due.load(Relaxed));
        message.acked.store(after.max(1), Relaxed);
        self.times.lock().record(Latency::Ack, after);
    }

    /// The server has refused it, or the socket has.
    pub(crate) fn refuse(&self, number: u32, code: &str) {
        if let Some(message) = self.message(number)
            && message.state.swap(REFUSED, Relaxed) == SENT
        {
            self.refused.fetch_add(1, Relaxed);
        }
        self.error(code);
    }

    /// A socket has got it for the first time; `after` unless it is the sender's own.
    pub(crate) fn receive(&self, number: u32, size: usize, after: Option<u64>) {
        if let Some(message) = self.message(number) {
            message.receivers.fetch_add(1, Relaxed);
            message.delivered.fetch_max(after.map_or(0, |after| after.max(1)), Relaxed);
        }
        self.received.fetch_add(1, Relaxed);
        self.bytes.fetch_add(size as u64, Relaxed);
        if let Some(after) = after {
            self.times.lock().record(Latency::Delivery, after);
        }
    }

    /// Every message that was sent, in order.
    pub(crate) fn each_sent(&self) -> impl Iterator<Item = Sent> {
        let some = |nanos: &AtomicU64| Some(nanos.load(Relaxed)).filter(|nanos| *nanos > 0);
        self.messages.iter().filter(|message| message.state.load(Relaxed) != UNSENT).map(move |message| Sent {
            due: message.due.load(Relaxed),
            acked: some(&message.acked),
            delivered: some(&message.delivered),
        })
    }

    /// An error, by its code.
    pub(crate) fn error(&self, code: &str) {
        *self.errors.lock().entry(code.to_owned()).or_default() += 1;
    }

    /// A socket has ended.
    pub(crate) fn ended(&self, why: &Ended) {
        let name = match why {
            Ended::ByUs => return,
            Ended::ByServer(code) => code.to_string(),
            Ended::Broken(how) => how.clone(),
        };
        *self.closes.lock().entry(name).or_default() += 1;
    }

    /// Errors by code.
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().clone()
    }

    /// Sockets that we didn't close, by close code or what broke them.
    pub(crate) fn closes(&self) -> BTreeMap<String, u64> {
        self.closes.lock().clone()
    }

    /// Takes every message for sent and stored: whoever sends them gives no account.
    pub(crate) fn assume_acked(&self) {
        self.messages.iter().for_each(|message| message.state.store(ACKED, Relaxed));
        self.sent.store(self.messages.len() as u64, Relaxed);
        self.acked.store(self.messages.len() as u64, Relaxed);
    }

    /// What is still to come, or never came.
    pub(crate) fn outcome(&self) -> Outcome {
        let mut outcome = Outcome { missing: 0, unanswered: 0 };
        for message in &self.messages {
            match message.state.load(Relaxed) {
                UNSENT | REFUSED => {}
                ACKED => {
                    let missing = self.receivers.saturating_sub(message.receivers.load(Relaxed));
                    outcome.missing += u64::from(missing);
                }
                _ => outcome.unanswered += 1,
            }
        }
        outcome
    }

    /// Bytes of an average frame with a measured message.
    pub(crate) fn frame_size(&self) -> u64 {
        self.bytes.load(Relaxed).checked_div(self.received.load(Relaxed)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
