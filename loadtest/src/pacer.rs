//! An open-loop schedule: messages are due at fixed times, whatever became of those before.

use std::time::Duration;

use crate::clock;

/// When each message is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// In nanoseconds of [`clock::now`].
    start: u64,
    /// Messages a second.
    rate: f64,
    /// How many there are.
    pub(crate) total: u32,
}

/// How many messages `rate` a second make in `seconds`.
pub(crate) fn total(rate: f64, seconds: u32) -> u32 {
    (rate * f64::from(seconds)).round() as u32
}

impl Schedule {
    /// `rate` messages a second for `seconds`, the first one `lead` from now.
    pub(crate) fn after(lead: Duration, rate: f64, seconds: u32) -> Self {
        let lead = u64::try_from(lead.as_nanos()).unwrap_or(0);
        Self { start: clock::now() + lead, rate, total: total(rate, seconds) }
    }

    /// When a message is due, in nanoseconds of [`clock::now`].
    pub(crate) fn due(&self, number: u32) -> u64 {
        self.start + (f64::from(number) * 1e9 / self.rate) as u64
    }

    /// Calls `send` with number and time of each message when it is due; at once if that has passed. Blocks: the
    /// kernel's own timers are much finer than the runtime's, which tick in milliseconds.
    pub(crate) fn run(&self, mut send: impl FnMut(u32, u64)) {
        for number in 0..self.total {
            let due = self.due(number);
            if let Some(left) = clock::until(due) {
                std::thread::sleep(left);
            }
            send(number, due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_evenly_and_without_drift() {
        let schedule = Schedule { start: 1_000, rate: 300.0, total: total(300.0, 7_200) };
        assert_eq!(schedule.total, 2_160_000);
        assert_eq!(schedule.due(0), 1_000);
        assert_eq!(schedule.due(300), 1_000_001_000);
        assert_eq!(schedule.due(2_159_700), 7_199_000_001_000);
    }

    #[test]
    fn a_sender_that_was_held_up_keeps_the_schedule() {
        let schedule = Schedule { start: clock::now(), rate: 1_000.0, total: 20 };
        let mut sent = Vec::new();
        schedule.run(|number, due| {
            if number == 0 {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(clock::now() >= due, "message {number} was sent early");
            sent.push(due);
        });
        let planned: Vec<u64> = (0..20).map(|number| schedule.due(number)).collect();
        assert_eq!(sent, planned);
    }
}
