//! One socket of a measured conversation: checks the place of every event and counts every message.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::sync::oneshot;

use crate::{
    client::{Conn, Ended, Listener},
    incoming::Incoming,
    marker::Marker,
    tally::Tally,
};

/// The `ref` of a join; those of messages are their numbers.
const JOIN: &str = "join";

/// One socket of a measured conversation.
pub(crate) struct Member {
    /// Its place among all sockets of the run.
    seat: u32,
    tally: Arc<Tally>,
    conversation: Option<String>,
    /// Told once the conversation is joined, or why it can't be.
    joined: Option<oneshot::Sender<Result<(), String>>>,
    /// The last `seq` held.
    held: u64,
    seen: HashSet<u32>,
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
        (Self { seat, tally, conversation, joined: Some(joined), held: 0, seen: HashSet::new() }, told)
    }

    fn join(&self, conn: &Conn, conversation: &str) {
        let after = if self.held > 0 { format!(",\"after\":{}", self.held) } else { String::new() };
        let frame = format!(
            "{{\"type\":\"join_conversation\",\"ref\":\"{JOIN}\",\"conversation_id\":\"{conversation}\"{after}}}"
        );
        // A socket that broke tells its end by itself.
        let _ = conn.send(frame.as_bytes());
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
        self.held = self.held.max(frame.seq.unwrap_or(0));
        match self.conversation.clone() {
            Some(conversation) if frame.more => self.join(conn, &conversation),
            _ => self.tell(Ok(())),
        }
    }

    /// Every event of the log has its place: behind the one held, and the one held before it.
    ///
    /// # Returns
    /// Whether it came in order.
    fn place(&mut self, frame: &Incoming<'_>) -> bool {
        let (Some(seq), Some(prev_seq)) = (frame.seq, frame.prev_seq) else {
            self.tally.error("event_without_place");
            return true;
        };
        if prev_seq > self.held {
            self.tally.gaps.fetch_add(1, Relaxed);
        }
        let in_order = seq > self.held;
        self.held = self.held.max(seq);
        in_order
    }

    fn message(&mut self, frame: &Incoming<'_>, size: usize, at: u64) {
        let in_order = self.place(frame);
        let Some(marker) = frame.content.and_then(Marker::read).filter(|it| it.run == self.tally.run) else {
            return;
        };
        if !self.seen.insert(marker.number) {
            self.tally.doubled.fetch_add(1, Relaxed);
            return;
        }
        self.tally.out_of_order.fetch_add(u64::from(!in_order), Relaxed);
        let own = self.tally.sender(marker.number) == Some(self.seat);
        let after = (!own).then(|| at.saturating_sub(marker.due));
        self.tally.receive(marker.number, size, after);
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
            "new_message" => self.message(&frame, size, at),
            "ack" => {
                if let Some(number) = frame.reference().and_then(|it| it.parse().ok()) {
                    self.tally.ack(number, at, frame.duplicate);
                }
            }
            "error" => self.refused(&frame),
            "welcome" => self.welcome(conn, &frame),
            "joined" => self.joined(conn, &frame),
            "message_edited" | "message_deleted" | "read" | "participant_added" | "participant_removed" => {
                let in_order = self.place(&frame);
                self.tally.out_of_order.fetch_add(u64::from(!in_order), Relaxed);
            }
            // Presence, typing and news of other conversations are not measured.
            _ => {}
        }
    }

    fn ended(&mut self, why: &Ended) {
        self.tell(Err(match why {
            Ended::ByUs => "closed by us".into(),
            Ended::ByServer(code) => format!("close {code}"),
            Ended::Broken(how) => how.clone(),
        }));
        self.tally.ended(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hears(member: &mut Member, run: u32, number: u32, seq: u64, prev_seq: u64) {
        let content = serde_json::to_string(&Marker { run, number, due: 5 }.content(100)).unwrap();
        let json = format!("{{\"type\":\"new_message\",\"seq\":{seq},\"prev_seq\":{prev_seq},\"content\":{content}}}");
        member.message(&Incoming::parse(json.as_bytes()).unwrap(), json.len(), 10);
    }

    fn counts(tally: &Tally) -> [u64; 4] {
        [&tally.received, &tally.doubled, &tally.out_of_order, &tally.gaps].map(|count| count.load(Relaxed))
    }

    #[test]
    fn every_message_has_one_place() {
        let tally = Arc::new(Tally::new(5, 1, vec![1]));
        let (mut member, _) = Member::new(0, tally.clone(), None);
        let run = tally.run;
        hears(&mut member, run, 0, 10, 0);
        hears(&mut member, run, 1, 20, 10);
        assert_eq!(counts(&tally), [2, 0, 0, 0]);
        // The same event again, and the same message stored twice.
        hears(&mut member, run, 1, 20, 10);
        hears(&mut member, run, 1, 30, 20);
        assert_eq!(counts(&tally), [2, 2, 0, 0]);
        // 40 is skipped, and comes too late.
        hears(&mut member, run, 3, 50, 40);
        hears(&mut member, run, 2, 40, 30);
        assert_eq!(counts(&tally), [4, 2, 1, 1]);
        // Another run's message has a place, and nothing more.
        hears(&mut member, run.wrapping_add(1), 4, 60, 50);
        hears(&mut member, run, 4, 70, 60);
        assert_eq!(counts(&tally), [5, 2, 1, 1]);
    }
}
