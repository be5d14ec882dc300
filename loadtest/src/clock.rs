//! The one clock of all measurements.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's monotonic clock: the same for every process on it, so that a time may travel inside
/// a message.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Never negative: the clock counts from the machine's start.
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The time until `at`; none if it has passed.
pub(crate) fn until(at: u64) -> Option<Duration> {
    at.checked_sub(now()).filter(|left| *left > 0).map(Duration::from_nanos)
}
