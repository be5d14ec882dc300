//! A run in parts: before the gateway was killed, while people came back, and after.

use serde::{Deserialize, Serialize};

use crate::{
    histogram::{Quantiles, Recorder},
    tally::Sent,
};

/// Latencies of the messages that were due in one part of the run, all from the moment at which they were due.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Phase {
    /// Messages that were due.
    pub(super) messages: u64,
    pub(super) ack: Quantiles,
    pub(super) delivery: Quantiles,
}

/// The parts of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Phases {
    pub(super) before: Phase,
    pub(super) during: Phase,
    pub(super) after: Phase,
}

#[derive(Default)]
struct Part {
    messages: u64,
    ack: Recorder,
    delivery: Recorder,
}

impl Phases {
    /// Sorts messages by when they were due: before `killed`, before everybody was `back`, or later. Nanoseconds of the
    /// clock; without `back` nothing is after it.
    pub(super) fn of(messages: impl Iterator<Item = Sent>, killed: u64, back: Option<u64>) -> Self {
        let mut parts: [Part; 3] = Default::default();
        for message in messages {
            let place = match (message.due < killed, back) {
                (true, _) => 0,
                (false, Some(back)) if message.due >= back => 2,
                _ => 1,
            };
            let part = &mut parts[place];
            part.messages += 1;
            message.acked.into_iter().for_each(|nanos| part.ack.record(nanos));
            message.delivered.into_iter().for_each(|nanos| part.delivery.record(nanos));
        }
        let [before, during, after] = parts.map(|part| Phase {
            messages: part.messages,
            ack: part.ack.quantiles(),
            delivery: part.delivery.quantiles(),
        });
        Self { before, during, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_belongs_to_the_time_at_which_it_was_due() {
        let sent = |due, delivered| Sent { due, acked: Some(1_000_000), delivered };
        let messages =
            [sent(10, Some(2_000_000)), sent(20, Some(9_000_000_000)), sent(29, None), sent(30, Some(3_000_000))];
        let phases = Phases::of(messages.into_iter(), 20, Some(30));
        let counts = [&phases.before, &phases.during, &phases.after].map(|it| (it.messages, it.delivery.count));
        assert_eq!(counts, [(1, 1), (2, 1), (1, 1)]);
        assert!(phases.during.delivery.p50_ms > 8_000.0 && phases.after.delivery.p99_ms < 4.0);
        assert_eq!(Phases::of(messages.into_iter(), 20, None).after.messages, 0);
    }
}
