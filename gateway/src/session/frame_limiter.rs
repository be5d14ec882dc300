//! Paces the frames of one connection. A client that sends too fast is read later, never closed: TCP's flow control, or
//! the answer to its POST, slows it down.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use crate::clock;

/// Counts the frames of one connection (GCRA).
#[derive(Debug)]
pub struct FrameLimiter {
    /// Microseconds between two frames at the sustained rate; 0 lifts the limit.
    interval: u32,
    /// How many frames may come at once.
    burst: AtomicU32,
    /// The time up to which the received frames use up the rate, in node microseconds.
    used_until: AtomicU64,
}

impl FrameLimiter {
    /// `per_second` is the sustained rate and the burst; 0 lifts the limit.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            interval: 1_000_000_u32.checked_div(per_second).map_or(0, |interval| interval.max(1)),
            burst: AtomicU32::new(per_second),
            used_until: AtomicU64::new(0),
        }
    }

    /// Raises the burst: a client that signs in joins its conversations at once.
    pub fn raise_burst(&self, frames: u32) {
        self.burst.fetch_max(frames, Ordering::Relaxed);
    }

    /// Counts `frames` frames.
    ///
    /// # Returns
    /// How long the next frame has to wait; `None` if it may come at once.
    pub fn count(&self, frames: u32) -> Option<Duration> {
        self.count_at(frames, clock::micros())
    }

    fn count_at(&self, frames: u32, now: u64) -> Option<Duration> {
        if self.interval == 0 {
            return None;
        }
        let interval = u64::from(self.interval);
        let cost = interval * u64::from(frames);
        let add = |used: u64| Some(used.max(now) + cost);
        let (Ok(before) | Err(before)) = self.used_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let used = before.max(now) + cost;
        let earliest = (used + interval).saturating_sub(interval * u64::from(self.burst.load(Ordering::Relaxed)));
        (earliest > now).then(|| Duration::from_micros(earliest - now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_beyond_the_burst_wait_for_the_rate() {
        let limiter = FrameLimiter::new(20);
        let start = 5_000_000;
        for n in 0..19 {
            assert_eq!(limiter.count_at(1, start), None, "frame {n}");
        }
        assert_eq!(limiter.count_at(1, start), Some(Duration::from_millis(50)));
        // A frame that came in spite of it moves the next one further.
        assert_eq!(limiter.count_at(1, start), Some(Duration::from_millis(100)));
        assert_eq!(limiter.count_at(1, start + 100_000), Some(Duration::from_millis(50)));
        // A rested client has its burst again, and no more.
        let rested = start + 60_000_000;
        assert_eq!(limiter.count_at(19, rested), None);
        assert_eq!(limiter.count_at(1, rested), Some(Duration::from_millis(50)));
    }

    #[test]
    fn a_raised_burst_lets_all_joins_come_at_once() {
        let limiter = FrameLimiter::new(20);
        limiter.raise_burst(500);
        limiter.raise_burst(20);
        assert_eq!(limiter.count_at(499, 1), None);
        assert_eq!(limiter.count_at(1, 1), Some(Duration::from_millis(50)));
        // A frame that stands for many joins counts as many.
        assert_eq!(limiter.count_at(100, 1), Some(Duration::from_millis(5_050)));
    }

    #[test]
    fn zero_lifts_the_limit() {
        assert_eq!(FrameLimiter::new(0).count_at(1_000_000, 0), None);
    }
}
