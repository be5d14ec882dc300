//! The node's coarse clock: time since the process began, cheap to keep in few bytes. tokio's instants, which tests can
//! pause.

use std::{
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Whole seconds since the process began.
#[must_use]
pub fn seconds() -> u32 {
    START.elapsed().as_secs() as u32
}

/// Milliseconds since the process began.
#[must_use]
pub fn millis() -> u64 {
    START.elapsed().as_millis() as u64
}

/// Microseconds since the process began.
#[must_use]
pub fn micros() -> u64 {
    START.elapsed().as_micros() as u64
}

/// Seconds since 1970.
#[must_use]
pub fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
