//! One user, one budget, over all nodes. A user who is connected to one node is judged there alone. Where several
//! nodes could each say yes at the same moment, one of them, the same for all by rendezvous hashing, is asked. Every
//! node hears of every message taken, so that the judge may change at any time.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Client;
use futures_util::StreamExt;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};
use partyline_shared::{
    ids::UserId,
    subjects,
    wire::{ErrorCode, Refusal},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{config::LimitSettings, metrics, presence::Presence, tasks};

/// How long the judge may take; then this node judges by what it has heard.
const PATIENCE: Duration = Duration::from_millis(250);
/// Debits gathered before they are told.
const GATHERED: usize = 512;
/// How long debits are gathered.
const GATHER: Duration = Duration::from_millis(5);

/// Where a message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// A socket: presence tells all the nodes that the user could use.
    Socket,
    /// A request: any node may get the next one.
    Request,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Debit {
    user_id: UserId,
    /// The node that has counted it already.
    judge: Arc<str>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    /// Milliseconds until the next message, if this one was refused.
    retry_after_ms: Option<u64>,
}

/// The budgets of all users, as this node knows them.
pub struct Budget {
    node: Arc<str>,
    client: Client,
    presence: Arc<Presence>,
    limiter: Option<DefaultKeyedRateLimiter<UserId>>,
    debits: mpsc::UnboundedSender<Debit>,
}

impl Budget {
    /// Begins to judge, to tell and to listen.
    ///
    /// # Errors
    /// If NATS takes no subscription.
    pub async fn start(
        node: Arc<str>,
        client: Client,
        presence: Arc<Presence>,
        settings: &LimitSettings,
        end: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let limiter = NonZeroU32::new(settings.messages_per_minute).map(|per_minute| {
            let burst = NonZeroU32::new(settings.messages_burst).unwrap_or(NonZeroU32::MIN);
            RateLimiter::keyed(Quota::per_minute(per_minute).allow_burst(burst))
        });
        let (debits, to_tell) = mpsc::unbounded_channel();
        let budget = Arc::new(Self { node, client, presence, limiter, debits });
        if budget.limiter.is_some() {
            let asked = budget.client.subscribe(subjects::node_budget(&budget.node)).await?;
            let told = budget.client.subscribe(subjects::DEBITS).await?;
            tasks::until(
                end,
                [
                    tokio::spawn(budget.clone().judge_for_others(asked)),
                    tokio::spawn(budget.clone().listen(told)),
                    tokio::spawn(budget.clone().tell(to_tell)),
                    tokio::spawn(budget.clone().tidy()),
                ],
            );
        }
        Ok(budget)
    }

    /// Takes one message off a user's budget.
    ///
    /// # Errors
    /// `rate_limited`.
    pub async fn spend(&self, user: &UserId, entrance: Entrance) -> Result<(), Refusal> {
        self.take_one(user, entrance).await.inspect_err(|_| metrics::over_budget())
    }

    async fn take_one(&self, user: &UserId, entrance: Entrance) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let judge = self.judge(user, entrance);
        if judge == self.node {
            check(limiter, user)?;
            self.tell_others(user, judge);
            return Ok(());
        }
        // What this node knows already needs no call.
        match self.ask(&judge, user).await {
            Some(Verdict { retry_after_ms: None }) => {
                self.tell_others(user, judge);
                Ok(())
            }
            Some(Verdict { retry_after_ms: Some(after) }) => Err(limited(Duration::from_millis(after))),
            None => {
                metrics::budget_decided_alone();
                check(limiter, user)?;
                self.tell_others(user, self.node.clone());
                Ok(())
            }
        }
    }

    fn judge(&self, user: &UserId, entrance: Entrance) -> Arc<str> {
        if entrance == Entrance::Socket {
            let nodes = self.presence.nodes_of(user);
            if nodes.iter().all(|node| *node == self.node) {
                return self.node.clone();
            }
        }
        let nodes = self.presence.nodes();
        nodes.into_iter().max_by_key(|node| weight(node, user)).unwrap_or_else(|| self.node.clone())
    }

    async fn ask(&self, judge: &str, user: &UserId) -> Option<Verdict> {
        let request = self.client.request(subjects::node_budget(judge), user.as_str().to_owned().into());
        let answer = tokio::time::timeout(PATIENCE, request).await.ok()?.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }

    fn tell_others(&self, user: &UserId, judge: Arc<str>) {
        let _ = self.debits.send(Debit { user_id: user.clone(), judge });
    }

    async fn tell(self: Arc<Self>, mut debits: mpsc::UnboundedReceiver<Debit>) {
        let mut gathered = Vec::new();
        while let Some(first) = debits.recv().await {
            gathered.push(first);
            let until = Instant::now() + GATHER;
            while gathered.len() < GATHERED {
                match tokio::time::timeout_at(until.into(), debits.recv()).await {
                    Ok(Some(debit)) => gathered.push(debit),
                    Ok(None) | Err(_) => break,
                }
            }
            // A node that is alone has nobody to tell.
            if self.presence.nodes().len() > 1
                && let Ok(payload) = serde_json::to_vec(&gathered)
                && let Err(error) = self.client.publish(subjects::DEBITS, payload.into()).await
            {
                tracing::debug!(%error, "debits not told");
            }
            gathered.clear();
        }
    }

    async fn listen(self: Arc<Self>, mut told: async_nats::Subscriber) {
        let Some(limiter) = &self.limiter else { return };
        while let Some(message) = told.next().await {
            let Ok(debits) = serde_json::from_slice::<Vec<Debit>>(&message.payload) else { continue };
            for debit in debits.iter().filter(|debit| debit.judge != self.node) {
                let _ = limiter.check_key(&debit.user_id);
            }
        }
    }

    async fn judge_for_others(self: Arc<Self>, mut asked: async_nats::Subscriber) {
        let Some(limiter) = &self.limiter else { return };
        while let Some(message) = asked.next().await {
            let user = std::str::from_utf8(&message.payload).ok().and_then(|text| UserId::new(text).ok());
            let (Some(reply), Some(user)) = (message.reply, user) else { continue };
            let verdict = Verdict { retry_after_ms: check(limiter, &user).err().and_then(|it| it.retry_after_ms) };
            if let Ok(payload) = serde_json::to_vec(&verdict) {
                let _ = self.client.publish(reply, payload.into()).await;
            }
        }
    }

    /// Forgets users whose budget is full again.
    async fn tidy(self: Arc<Self>) {
        let Some(limiter) = &self.limiter else { return };
        let mut tick = tokio::time::interval(Duration::from_secs(60));
        loop {
            tick.tick().await;
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

fn check(limiter: &DefaultKeyedRateLimiter<UserId>, user: &UserId) -> Result<(), Refusal> {
    limiter.check_key(user).map_err(|until| limited(until.wait_time_from(limiter.clock().now())))
}

fn limited(after: Duration) -> Refusal {
    Refusal::new(ErrorCode::RateLimited, "too many messages").retry_after(after)
}

/// Rendezvous hashing: every node ranks a user's judges alike, and a node's end moves only its own users.
fn weight(node: &str, user: &UserId) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in node.bytes().chain([0]).chain(user.as_str().bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The last bytes alone would hardly reach the high bits that decide.
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_are_spread_and_stable() {
        let nodes = ["a1", "b2", "c3"];
        let mut counts = [0; 3];
        for n in 0..3_000 {
            let user = UserId::new(&format!("user-{n}")).unwrap();
            let best = (0..3).max_by_key(|&i| weight(nodes[i], &user)).unwrap();
            counts[best] += 1;
        }
        assert!(counts.iter().all(|&n| n > 700), "{counts:?}");
    }
}
