//! The one clock of all measurements.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's monotonic clock: the same for every process on it, so that a time may travel inside
/// a message.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Never negative: the clock counts from the machine's start.
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The same moment in milliseconds since 1970, always the same number for the same moment.
pub(crate) fn unix_millis(at: u64) -> u64 {
    /// What the system's clock was ahead of the monotonic one when it was first asked, in milliseconds.
    static AHEAD: LazyLock<u64> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(0).saturating_sub(now() / 1_000_000)
    });
    *AHEAD + at / 1_000_000
}

/// The time until `at`; none if it has passed.
pub(crate) fn until(at: u64) -> Option<Duration> {
    at.checked_sub(now()).filter(|left| *left > 0).map(Duration::from_nanos)
}
