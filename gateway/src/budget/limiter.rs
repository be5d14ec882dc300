//! The budgets of many users: governor's keyed limiter, and giving back what was taken.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    nanos::Nanos,
    state::{
        StateStore,
        keyed::{DefaultKeyedStateStore, ShrinkableKeyedStateStore},
    },
};
use partyline_shared::{
    ids::UserId,
    wire::{ErrorCode, Refusal},
};

/// What every user has spent, shared with the limiter that reads it.
#[derive(Clone, Default)]
struct Accounts(Arc<DefaultKeyedStateStore<UserId>>);

impl StateStore for Accounts {
    type Key = UserId;

    fn measure_and_replace<T, F, E>(&self, user: &UserId, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(user, f)
    }
}

impl ShrinkableKeyedStateStore<UserId> for Accounts {
    fn retain_recent(&self, drop_below: Nanos) {
        ShrinkableKeyedStateStore::retain_recent(&*self.0, drop_below);
    }

    fn shrink_to_fit(&self) {
        ShrinkableKeyedStateStore::shrink_to_fit(&*self.0);
    }

    fn len(&self) -> usize {
        ShrinkableKeyedStateStore::len(&*self.0)
    }

    fn is_empty(&self) -> bool {
        ShrinkableKeyedStateStore::is_empty(&*self.0)
    }
}

/// One budget a user.
pub(super) struct Limiter {
    limiter: RateLimiter<UserId, Accounts, DefaultClock>,
    accounts: Accounts,
    /// How long a user waits for one message more.
    interval: Nanos,
}

impl Limiter {
    /// Makes a limiter of `per_minute` messages, `burst` at once. `None` for 0 a minute, which means no limit.
    pub(super) fn new(per_minute: u32, burst: u32) -> Option<Self> {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(NonZeroU32::new(per_minute)?).allow_burst(burst);
        let accounts = Accounts::default();
        let limiter = RateLimiter::new(quota, accounts.clone(), DefaultClock::default());
        Some(Self { limiter, accounts, interval: quota.replenish_interval().into() })
    }

    /// Takes one message.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(super) fn check(&self, user: &UserId) -> Result<(), Refusal> {
        let wait = |until: governor::NotUntil<_>| refusal(until.wait_time_from(self.limiter.clock().now()));
        self.limiter.check_key(user).map_err(wait)
    }

    /// Gives one message back. What was replenished since then is no more than a full budget.
    pub(super) fn give_back(&self, user: &UserId) {
        // The state is the time when the budget is full again.
        let earlier = |full_at: Option<Nanos>| full_at.map(|at| ((), at.saturating_sub(self.interval))).ok_or(());
        let _ = self.accounts.measure_and_replace(user, earlier);
    }

    /// Forgets users whose budget is full.
    pub(super) fn tidy(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

pub(super) fn refusal(after: Duration) -> Refusal {
    Refusal::new(ErrorCode::RateLimited, "too many messages").retry_after(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_spent_again_and_no_more() {
        // One a minute: nothing comes back by itself within the test.
        let limiter = Limiter::new(1, 3).unwrap();
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        let taken = |user| (0..10).filter(|_| limiter.check(user).is_ok()).count();
        assert_eq!(taken(&ann), 3);
        limiter.give_back(&ann);
        limiter.give_back(&ann);
        assert_eq!((taken(&ann), taken(&bob)), (2, 3));
        for _ in 0..10 {
            limiter.give_back(&ann);
        }
        assert_eq!(taken(&ann), 3);
        let refused = limiter.check(&ann).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        assert!(refused.retry_after_ms.is_some_and(|it| (1..=60_000).contains(&it)), "{refused:?}");
        assert!(Limiter::new(0, 3).is_none());
    }
}
