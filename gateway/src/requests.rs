//! How many requests one user may make of this node, whatever they ask for. Counted here alone, unlike messages: what
//! is to be spared is the node and what stands behind it, and a balancer spreads a user's requests evenly.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::DefaultKeyedStateStore,
};
use partyline_shared::{
    claims::Identity,
    ids::UserId,
    wire::{ErrorCode, Refusal},
};
use tokio_util::sync::CancellationToken;

use crate::{metrics, tasks};

/// How many times a second's requests a rested user may make at once.
const BURST: NonZeroU32 = NonZeroU32::new(2).unwrap();
/// Between two looks for users whose allowance is whole again.
const TIDY: Duration = Duration::from_secs(60);

type Limiter<C> = RateLimiter<UserId, DefaultKeyedStateStore<UserId>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The allowances of all users.
pub struct Requests<C: Clock = DefaultClock>(Option<Arc<Limiter<C>>>);

impl Requests {
    /// Begins to count; `per_second` 0 lifts the limit. Until `end`, users at rest are forgotten.
    #[must_use]
    pub fn start(per_second: u32, end: CancellationToken) -> Self {
        let limiter = limiter(per_second, DefaultClock::default()).map(Arc::new);
        if let Some(limiter) = limiter.clone() {
            let make = move || tidy(limiter.clone());
            tokio::spawn(end.run_until_cancelled_owned(tasks::restarting("requests_tidy", make)));
        }
        Self(limiter)
    }
}

impl<C: Clock> Requests<C> {
    /// Takes one request off a user's allowance; a service has as many as it likes.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn spend(&self, who: &Identity) -> Result<(), Refusal> {
        let Some(limiter) = self.0.as_ref().filter(|_| !who.service) else { return Ok(()) };
        limiter.check_key(&who.user_id).map_err(|until| {
            metrics::too_many_requests();
            let after = until.wait_time_from(limiter.clock().now());
            Refusal::new(ErrorCode::RateLimited, "too many requests").retry_after(after)
        })
    }
}

fn limiter<C: Clock>(per_second: u32, clock: C) -> Option<Limiter<C>> {
    let per_second = NonZeroU32::new(per_second)?;
    let quota = Quota::per_second(per_second).allow_burst(per_second.saturating_mul(BURST));
    Some(RateLimiter::dashmap_with_clock(quota, clock))
}

/// Forgets users whose allowance is whole again, and gives their memory back.
async fn tidy(limiter: Arc<Limiter<DefaultClock>>) {
    let mut tick = tokio::time::interval(TIDY);
    loop {
        tick.tick().await;
        limiter.retain_recent();
        limiter.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::authorise::tests::identity as who;

    #[test]
    fn a_user_has_two_seconds_worth_at_once_and_a_service_no_end() {
        let clock = FakeRelativeClock::default();
        let requests = Requests(limiter(5, clock.clone()).map(Arc::new));
        let taken = |who: &Identity| (0..50).filter(|_| requests.spend(who).is_ok()).count();
        assert_eq!(taken(&who("ann", false)), 10);
        assert_eq!(taken(&who("bob", false)), 10);
        assert_eq!(taken(&who("market", true)), 50);
        let refused = requests.spend(&who("ann", false)).unwrap_err();
        assert_eq!((refused.code, refused.retry_after_ms), (ErrorCode::RateLimited, Some(200)));
        // One comes back every 200 ms, and no more than two seconds' worth wait.
        clock.advance(Duration::from_millis(199));
        assert_eq!(taken(&who("ann", false)), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(taken(&who("ann", false)), 1);
        clock.advance(Duration::from_secs(60));
        assert_eq!(taken(&who("ann", false)), 10);
        assert!(limiter(0, clock).is_none());
    }

    #[test]
    fn users_at_rest_take_no_memory() {
        let clock = FakeRelativeClock::default();
        let limiter = limiter(1_000, clock.clone()).unwrap();
        for n in 0..100 {
            let user = UserId::new(&format!("user-{n}")).unwrap();
            limiter.check_key(&user).unwrap();
        }
        limiter.retain_recent();
        assert_eq!(limiter.len(), 100);
        clock.advance(Duration::from_secs(1));
        limiter.retain_recent();
        assert!(limiter.is_empty(), "{} users are remembered", limiter.len());
    }
}
