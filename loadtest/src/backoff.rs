//! When a client comes back: the rule of Partyline's own clients (web/packages/client/src/backoff.ts).

use std::time::Duration;

use rand::RngExt;

const BASE: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(30);

/// The wait before attempt number `attempt` (from 0): full jitter, so that the many clients of one lost server don't
/// come back at one moment.
pub(crate) fn wait(attempt: u32) -> Duration {
    ceiling(attempt).mul_f64(rand::rng().random())
}

fn ceiling(attempt: u32) -> Duration {
    (BASE * 2_u32.pow(attempt.min(16))).min(CAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        assert_eq!([0, 1, 2, 5].map(|attempt| ceiling(attempt).as_millis()), [500, 1_000, 2_000, 16_000]);
        assert_eq!([6, 40, u32::MAX].map(ceiling), [CAP; 3]);
        assert!((0..1_000).all(|_| wait(0) < BASE));
    }
}
