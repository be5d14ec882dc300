//! One socket of a measured conversation: joins, and counts what comes.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::sync::oneshot;

use crate::{
    client::{Conn, Ended, Listener},
    incoming::Incoming,
    outgoing::{self, JOIN},
    received::Received,
    tally::Tally,
};

/// One socket of a measured conversation.
pub(crate) struct Member {
    /// Its place among all sockets of the run.
    seat: u32,
    tally: Arc<Tally>,
    conversation: Option<String>,
    /// Told once the conversation is joined, or why it can't be.
    joined: Option<oneshot::Sender<Result<(), String>>>,
    received: Received,
}

impl Member {
    /// A socket that joins `conversation`, or just is connected.
    ///
    /// # Returns
    /// Itself, and what tells when it is joined (without a conversation: when it is welcome).
    pub(crate) fn new(
        seat: u32,
        tally: Arc<Tally>,
        conversation: Option<String>,
    ) -> (Self, oneshot::Receiver<Result<(), String>>) {
        let (joined, told) = oneshot::channel();
        (Self { seat, tally, conversation, joined: Some(joined), received: Received::default() }, told)
    }

    fn join(&self, conn: &Conn, conversation: &str) {
        let after = Some(self.received.held()).filter(|held| *held > 0);
        // A socket that broke tells its end by itself.
        let _ = conn.send(outgoing::join(conversation, after).as_bytes());
    }

    fn welcome(&mut self, conn: &Conn, frame: &Incoming<'_>) {
        if self.tally.limits.get().is_none()
            && let Some(limits) = frame.limits()
        {
            let _ = self.tally.limits.set(limits);
        }
        match self.conversation.clone() {
            Some(conversation) => self.join(conn, &conversation),
            None => self.tell(Ok(())),
        }
    }

    fn tell(&mut self, joined: Result<(), String>) {
        if let Some(told) = self.joined.take() {
            let _ = told.send(joined);
        }
    }

    fn joined(&mut self, conn: &Conn, frame: &Incoming<'_>) {
        self.received.reach(frame.seq.unwrap_or(0));
        match self.conversation.clone() {
            Some(conversation) if frame.more => self.join(conn, &conversation),
            _ => self.tell(Ok(())),
        }
    }

    fn refused(&mut self, frame: &Incoming<'_>) {
        let code = frame.code.as_deref().unwrap_or("without_code");
        match frame.reference() {
            Some(JOIN) => self.tell(Err(code.to_owned())),
            Some(number) if number.parse::<u32>().is_ok() => {
                self.tally.refuse(number.parse().unwrap_or(u32::MAX), code);
            }
            _ => self.tally.error(code),
        }
    }
}

impl Listener for Member {
    fn text(&mut self, conn: &Arc<Conn>, json: &[u8], size: usize, at: u64) {
        self.tally.frames.fetch_add(1, Relaxed);
        let Some(frame) = Incoming::parse(json) else {
            self.tally.error("unreadable_frame");
            return;
        };
        match &*frame.kind {
            "ack" => {
                if let Some(number) = frame.reference().and_then(|it| it.parse().ok()) {
                    self.tally.ack(number, at, frame.duplicate);
                }
            }
            "error" => self.refused(&frame),
            "welcome" => self.welcome(conn, &frame),
            "joined" => self.joined(conn, &frame),
            _ => {
                self.received.event(&self.tally, self.seat, &frame, size, at);
            }
        }
    }

    fn ended(&mut self, why: &Ended) {
        self.tell(Err(why.to_string()));
        self.tally.ended(why);
    }
}
