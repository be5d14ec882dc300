//! What one person has got of a conversation: the place of every event, and every measured message once.

use std::{collections::HashSet, sync::atomic::Ordering::Relaxed};

use crate::{incoming::Incoming, marker::Marker, tally::Tally};

/// What one person has got of a conversation, over all connections.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// The last `seq` held.
    held: u64,
    /// Numbers of measured messages.
    seen: HashSet<u32>,
}

impl Received {
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// A join without `after`: whatever was before doesn't count.
    pub(crate) fn begin(&mut self, seq: u64) {
        self.held = seq;
    }

    /// Everything up to here is held: the `seq` of a `joined`, behind its events.
    pub(crate) fn reach(&mut self, seq: u64) {
        self.held = self.held.max(seq);
    }

    /// Counts the events of a `joined`, in order, as read at `at`.
    pub(crate) fn resume(&mut self, tally: &Tally, seat: u32, joined: &Incoming<'_>, at: u64) {
        for event in &joined.events {
            match Incoming::parse(event.get().as_bytes()) {
                Some(frame) => {
                    self.event(tally, seat, &frame, event.get().len(), at);
                }
                None => tally.error("unreadable_event"),
            }
        }
        self.reach(joined.seq.unwrap_or(0));
    }

    /// Counts an event of the log; other frames are none.
    ///
    /// # Returns
    /// From when the message was due until `at`, in nanoseconds, if this is somebody else's measured message.
    pub(crate) fn event(
        &mut self,
        tally: &Tally,
        seat: u32,
        frame: &Incoming<'_>,
        size: usize,
        at: u64,
    ) -> Option<u64> {
        match &*frame.kind {
            "new_message" => self.message(tally, seat, frame, size, at),
            "message_edited" | "message_deleted" | "read" | "participant_added" | "participant_removed" => {
                let in_order = self.place(tally, frame);
                tally.out_of_order.fetch_add(u64::from(!in_order), Relaxed);
                None
            }
            // Presence, typing and news of other conversations are not measured.
            _ => None,
        }
    }

    fn message(&mut self, tally: &Tally, seat: u32, frame: &Incoming<'_>, size: usize, at: u64) -> Option<u64> {
        let in_order = self.place(tally, frame);
        let marker = frame.content.and_then(Marker::read).filter(|it| it.run == tally.run)?;
        if !self.seen.insert(marker.number) {
            tally.doubled.fetch_add(1, Relaxed);
            return None;
        }
        tally.out_of_order.fetch_add(u64::from(!in_order), Relaxed);
        let own = tally.sender(marker.number) == Some(seat);
        let after = (!own).then(|| at.saturating_sub(marker.due));
        tally.receive(marker.number, size, after);
        after
    }

    /// Every event of the log has its place: behind the one held, and the one held before it.
    ///
    /// # Returns
    /// Whether it came in order.
    fn place(&mut self, tally: &Tally, frame: &Incoming<'_>) -> bool {
        let (Some(seq), Some(prev_seq)) = (frame.seq, frame.prev_seq) else {
            tally.error("event_without_place");
            return true;
        };
        if prev_seq > self.held {
            tally.gaps.fetch_add(1, Relaxed);
        }
        let in_order = seq > self.held;
        self.held = self.held.max(seq);
        in_order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(run: u32, number: u32, seq: u64, prev_seq: u64) -> String {
        let content = serde_json::to_string(&Marker { run, number, due: 5 }.content(100)).unwrap();
        format!("{{\"type\":\"new_message\",\"seq\":{seq},\"prev_seq\":{prev_seq},\"content\":{content}}}")
    }

    fn hears(received: &mut Received, tally: &Tally, json: &str) -> Option<u64> {
        received.event(tally, 0, &Incoming::parse(json.as_bytes()).unwrap(), json.len(), 15)
    }

    fn counts(tally: &Tally) -> [u64; 4] {
        [&tally.received, &tally.doubled, &tally.out_of_order, &tally.gaps].map(|count| count.load(Relaxed))
    }

    #[test]
    fn every_message_has_one_place() {
        let tally = Tally::new(5, 1, vec![1]);
        let mut received = Received::default();
        let mut hear = |run, number, seq, prev| hears(&mut received, &tally, &message(run, number, seq, prev));
        assert_eq!(hear(tally.run, 0, 10, 0), Some(10));
        hear(tally.run, 1, 20, 10);
        assert_eq!(counts(&tally), [2, 0, 0, 0]);
        // The same event again, and the same message stored twice.
        hear(tally.run, 1, 20, 10);
        hear(tally.run, 1, 30, 20);
        assert_eq!(counts(&tally), [2, 2, 0, 0]);
        // 40 is skipped, and comes too late.
        hear(tally.run, 3, 50, 40);
        hear(tally.run, 2, 40, 30);
        assert_eq!(counts(&tally), [4, 2, 1, 1]);
        // Another run's message has a place, and nothing more.
        hear(tally.run.wrapping_add(1), 4, 60, 50);
        hear(tally.run, 4, 70, 60);
        assert_eq!(counts(&tally), [5, 2, 1, 1]);
    }

    #[test]
    fn resuming_goes_on_where_it_ended() {
        let tally = Tally::new(4, 1, vec![1]);
        let mut received = Received::default();
        received.begin(10);
        hears(&mut received, &tally, &message(tally.run, 0, 20, 10));
        let events = [message(tally.run, 1, 30, 20), message(tally.run, 2, 40, 30)].join(",");
        let joined = format!("{{\"type\":\"joined\",\"seq\":50,\"events\":[{events}]}}");
        received.resume(&tally, 0, &Incoming::parse(joined.as_bytes()).unwrap(), 15);
        assert_eq!((received.held(), counts(&tally)), (50, [3, 0, 0, 0]));
        hears(&mut received, &tally, &message(tally.run, 3, 60, 50));
        assert_eq!(counts(&tally), [4, 0, 0, 0]);
    }

    #[test]
    fn ones_own_messages_have_no_delivery() {
        let tally = Tally::new(1, 1, vec![0]);
        assert_eq!(hears(&mut Received::default(), &tally, &message(tally.run, 0, 10, 0)), None);
        assert_eq!(counts(&tally), [1, 0, 0, 0]);
    }
}
