//! The circuit breaker in front of Postgres. Closed, requests pass. Open, they fail at once; half-open, one probe finds
//! out whether it may close. A request that waited long opens nothing by itself: the pool may merely be busy, so a probe
//! on a connection of its own decides while requests go on.

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Closed, and a probe is under way.
    Suspect,
    Open,
    /// Open, and a probe is under way.
    HalfOpen,
}

/// The state, which all requests share.
#[derive(Debug)]
pub(super) struct CircuitBreaker(watch::Sender<State>);

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self(watch::Sender::new(State::Closed))
    }
}

impl CircuitBreaker {
    /// Whether requests fail at once.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self.0.borrow(), State::Open | State::HalfOpen)
    }

    /// Waits until requests fail at once.
    pub(super) async fn opened(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|state| matches!(state, State::Open | State::HalfOpen)).await;
    }

    /// A request waited suspiciously long.
    ///
    /// # Returns
    /// Whether the caller is to begin probing.
    #[must_use]
    pub(super) fn suspect(&self) -> bool {
        self.change(|state| (*state == State::Closed).then_some(State::Suspect))
    }

    /// A request failed because Postgres is not there.
    ///
    /// # Returns
    /// Whether the caller is to begin probing.
    #[must_use]
    pub(super) fn trip(&self) -> bool {
        let mut was_closed = false;
        self.change(|state| {
            was_closed = *state == State::Closed;
            matches!(state, State::Closed | State::Suspect).then_some(State::Open)
        });
        was_closed
    }

    /// A probe begins.
    pub(super) fn probe(&self) {
        self.change(|state| (*state == State::Open).then_some(State::HalfOpen));
    }

    /// A probe ended.
    ///
    /// # Returns
    /// Whether probing is over. If requests failed while a probe of a closed circuit succeeded, it goes on.
    #[must_use]
    pub(super) fn probed(&self, answers: bool) -> bool {
        let mut over = false;
        self.change(|state| {
            let next = match (*state, answers) {
                (State::Suspect | State::HalfOpen, true) => State::Closed,
                (State::Closed, _) => State::Closed,
                (State::Open, true) | (_, false) => State::Open,
            };
            over = next == State::Closed;
            (next != *state).then_some(next)
        });
        over
    }

    fn change(&self, next: impl FnOnce(&State) -> Option<State>) -> bool {
        self.0.send_if_modified(|state| match next(state) {
            Some(next) => {
                *state = next;
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_failure_opens_and_a_probe_closes() {
        let breaker = CircuitBreaker::default();
        assert!(!breaker.is_open());
        assert!(breaker.trip());
        // One prober is enough.
        assert!(!breaker.trip() && !breaker.suspect());
        assert!(breaker.is_open());
        breaker.probe();
        assert!(breaker.is_open());
        assert!(!breaker.probed(false));
        breaker.probe();
        assert!(breaker.probed(true));
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_suspicion_opens_only_if_the_probe_fails() {
        let breaker = CircuitBreaker::default();
        assert!(breaker.suspect() && !breaker.suspect());
        assert!(!breaker.is_open());
        assert!(breaker.probed(true));
        assert!(!breaker.is_open());
        assert!(breaker.suspect());
        assert!(!breaker.probed(false));
        assert!(breaker.is_open());
        assert!(breaker.opened().now_or_never().is_some());
    }

    #[test]
    fn a_failure_during_a_probe_that_succeeds_is_probed_again() {
        let breaker = CircuitBreaker::default();
        assert!(breaker.suspect());
        assert!(!breaker.trip());
        assert!(!breaker.probed(true));
        assert!(breaker.is_open());
        breaker.probe();
        assert!(breaker.probed(true));
        assert!(!breaker.is_open());
    }
}
