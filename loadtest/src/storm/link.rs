//! One socket of a person in a storm: joins, and hands on what comes.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use super::person::Person;
use crate::{
    client::{Conn, Ended, Listener},
    incoming::Incoming,
    outgoing::JOIN,
};

/// Before a message is sent again that was refused for now.
const LATER: Duration = Duration::from_millis(500);

/// One socket of a person.
pub(super) struct Link {
    pub(super) person: Arc<Person>,
    pub(super) gateway: usize,
    /// Told once the conversation is joined, or why it can't be; gone from then on.
    pub(super) joined: Option<oneshot::Sender<Result<(), String>>>,
}

impl Link {
    fn join(&self, conn: &Conn) {
        // A broken socket tells its end by itself.
        let _ = conn.send(self.person.join_frame().as_bytes());
    }

    fn joined(&mut self, conn: &Arc<Conn>, frame: &Incoming<'_>, at: u64) {
        self.person.take_in(frame, at);
        if frame.more {
            return self.join(conn);
        }
        match self.joined.take().map(|told| told.send(Ok(()))) {
            Some(Ok(())) => self.person.settle_in(conn, self.gateway),
            // Nobody waits any more: another attempt is under way.
            _ => conn.cut(),
        }
    }

    fn refused(&mut self, frame: &Incoming<'_>) {
        let code = frame.code.as_deref().unwrap_or("without_code");
        let tally = self.person.tally();
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
                    person.resend(number);
                });
            }
            None => tally.error(code),
        }
    }
}

impl Listener for Link {
    fn text(&mut self, conn: &Arc<Conn>, json: &[u8], size: usize, at: u64) {
        let tally = self.person.tally();
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
            _ => self.person.hear(&frame, size, at),
        }
    }

    fn ended(&mut self, why: &Ended) {
        match self.joined.take() {
            // Whoever waits for the join tries again by itself.
            Some(told) => {
                let _ = told.send(Err(why.to_string()));
            }
            None => self.person.lost(why),
        }
    }
}
