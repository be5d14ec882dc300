//! How many requests one user may make of this node, whatever they ask for. Counted here alone, unlike messages: what
//! is to be spared is the node and what stands behind it, and a balancer spreads a user's requests evenly.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};
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

type Limiter = DefaultKeyedRateLimiter<UserId>;

/// The allowances of all users.
pub struct Requests(Option<Arc<Limiter>>);

impl Requests {
    /// Begins to count; `per_second` 0 lifts the limit. Until `end`, users at rest are forgotten.
    #[must_use]
    pub fn start(per_second: u32, end: CancellationToken) -> Self {
        let limiter = limiter(per_second).map(Arc::new);
        if let Some(limiter) = limiter.clone() {
            let task = async move { tasks::restarting("requests_tidy", || tidy(&limiter)).await };
            tokio::spawn(async move { end.run_until_cancelled(task).await });
        }
        Self(limiter)
    }

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

fn limiter(per_second: u32) -> Option<Limiter> {
    let per_second = NonZeroU32::new(per_second)?;
    Some(RateLimiter::keyed(Quota::per_second(per_second).allow_burst(per_second.saturating_mul(BURST))))
}

/// Forgets users whose allowance is whole again, and gives their memory back.
async fn tidy(limiter: &Limiter) {
    let mut tick = tokio::time::interval(TIDY);
    loop {
        tick.tick().await;
        limiter.retain_recent();
        limiter.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::authorise::tests::identity as who;

    #[test]
    fn a_user_has_two_seconds_worth_at_once_and_a_service_no_end() {
        let requests = Requests(limiter(5).map(Arc::new));
        let taken = |who: &Identity| (0..50).filter(|_| requests.spend(who).is_ok()).count();
        assert!((10..=11).contains(&taken(&who("ann", false))));
        assert!((10..=11).contains(&taken(&who("bob", false))));
        assert_eq!(taken(&who("market", true)), 50);
        let refused = requests.spend(&who("ann", false)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        assert!((1..=200).contains(&refused.retry_after_ms.unwrap()));
        assert!(limiter(0).is_none());
    }

    #[test]
    fn users_at_rest_take_no_memory() {
        let limiter = limiter(1_000).unwrap();
        for n in 0..100 {
            let user = UserId::new(&format!("user-{n}")).unwrap();
            limiter.check_key(&user).unwrap();
        }
        assert_eq!(limiter.len(), 100);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !limiter.is_empty() {
            assert!(Instant::now() < deadline, "{} users are remembered", limiter.len());
            limiter.retain_recent();
        }
    }
}
