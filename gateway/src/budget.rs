//! One user, one budget, over all nodes. A user who is connected to one node is judged there alone. Where several
//! nodes could each say yes at the same moment, one of them, the same for all by rendezvous hashing, is asked. Every
//! node hears of every message taken, so that the judge may change at any time. A message that turns out to be a repeat
//! is given back in the same way. Services have a budget of their own.

mod limiter;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Client, connection::State};
use futures_util::StreamExt;
use partyline_shared::{claims::Identity, ids::UserId, nats, subjects, wire::Refusal};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::limiter::Limiter;
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
    /// The node that has counted it already; empty if none has.
    judge: Arc<str>,
    /// The user is a service.
    #[serde(default, skip_serializing_if = "is_false")]
    service: bool,
    /// A message that was counted before is given back.
    #[serde(default, skip_serializing_if = "is_false")]
    back: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(it: &bool) -> bool {
    !*it
}

/// A message that was taken off a user's budget.
#[derive(Clone, Debug)]
#[must_use]
pub struct Spent(Option<Debit>);

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
    people: Option<Limiter>,
    services: Option<Limiter>,
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
        let people = Limiter::new(settings.messages_per_minute, settings.messages_burst);
        let services = Limiter::new(settings.service_messages_per_minute, settings.service_messages_per_minute);
        let (debits, to_tell) = mpsc::unbounded_channel();
        let budget = Arc::new(Self { node, client, presence, people, services, debits });
        if budget.people.is_some() || budget.services.is_some() {
            let told = budget.client.subscribe(subjects::DEBITS).await?;
            tasks::until(
                end.clone(),
                [
                    tokio::spawn(tasks::essential("budget_listen", budget.clone().listen(told))),
                    tokio::spawn(tasks::essential("budget_tell", budget.clone().tell(to_tell))),
                    tokio::spawn(tasks::essential("budget_tidy", budget.clone().tidy())),
                ],
            );
        }
        if budget.people.is_some() {
            let asked = budget.client.subscribe(subjects::node_budget(&budget.node)).await?;
            tasks::until(
                end.clone(),
                [tokio::spawn(tasks::essential("budget_judge", budget.clone().judge_for_others(asked, false)))],
            );
        }
        if budget.services.is_some() {
            let asked = budget.client.subscribe(subjects::node_service_budget(&budget.node)).await?;
            tasks::until(
                end,
                [tokio::spawn(tasks::essential("budget_judge_services", budget.clone().judge_for_others(asked, true)))],
            );
        }
        Ok(budget)
    }

    /// Takes one message off a user's budget.
    ///
    /// # Errors
    /// `rate_limited`.
    pub async fn spend(&self, who: &Identity, entrance: Entrance) -> Result<Spent, Refusal> {
        self.take_one(&who.user_id, who.service, entrance).await.inspect_err(|_| metrics::over_budget())
    }

    /// Gives a message back: it was a repeat, or came to nothing.
    pub fn give_back(&self, spent: Spent) {
        let Some(debit) = spent.0 else { return };
        // Who heard of the message by a debit hears of its return in the same way, and so in the same order.
        let judge = if debit.judge == self.node {
            if let Some(limiter) = self.limiter(debit.service) {
                limiter.give_back(&debit.user_id);
            }
            debit.judge
        } else {
            Arc::default()
        };
        let _ = self.debits.send(Debit { judge, back: true, ..debit });
    }

    fn limiter(&self, service: bool) -> Option<&Limiter> {
        if service { self.services.as_ref() } else { self.people.as_ref() }
    }

    async fn take_one(&self, user: &UserId, service: bool, entrance: Entrance) -> Result<Spent, Refusal> {
        let Some(limiter) = self.limiter(service) else { return Ok(Spent(None)) };
        let mut judge = self.judge(user, entrance);
        if judge == self.node {
            limiter.check(user)?;
        } else {
            // What this node knows already needs no call.
            match self.ask(&judge, user, service).await {
                Some(Verdict { retry_after_ms: None }) => {}
                Some(Verdict { retry_after_ms: Some(after) }) => {
                    return Err(limiter::refusal(Duration::from_millis(after)));
                }
                None => {
                    metrics::budget_decided_alone();
                    limiter.check(user)?;
                    judge = self.node.clone();
                }
            }
        }
        let debit = Debit { user_id: user.clone(), judge, service, back: false };
        let _ = self.debits.send(debit.clone());
        Ok(Spent(Some(debit)))
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

    async fn ask(&self, judge: &str, user: &UserId, service: bool) -> Option<Verdict> {
        if self.client.connection_state() != State::Connected {
            // It would be asked after a reconnection, and count a message that this node has counted.
            return None;
        }
        let subject = if service { subjects::node_service_budget(judge) } else { subjects::node_budget(judge) };
        let request = self.client.request(subject, user.as_str().to_owned().into());
        // The time in the queue to NATS counts, too.
        let answer = tokio::time::timeout(PATIENCE, request).await.ok()?.ok()?;
        serde_json::from_slice(&answer.payload).ok()
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
                && let Err(error) = nats::try_publish(&self.client, subjects::DEBITS, payload.into())
            {
                tracing::debug!(%error, "debits not told");
            }
            gathered.clear();
        }
    }

    async fn listen(self: Arc<Self>, mut told: async_nats::Subscriber) {
        while let Some(message) = told.next().await {
            let Ok(debits) = serde_json::from_slice::<Vec<Debit>>(&message.payload) else { continue };
            for debit in debits.iter().filter(|debit| debit.judge != self.node) {
                match self.limiter(debit.service) {
                    Some(limiter) if debit.back => limiter.give_back(&debit.user_id),
                    Some(limiter) => drop(limiter.check(&debit.user_id)),
                    None => {}
                }
            }
        }
    }

    async fn judge_for_others(self: Arc<Self>, mut asked: async_nats::Subscriber, service: bool) {
        let Some(limiter) = self.limiter(service) else { return };
        while let Some(message) = asked.next().await {
            let user = std::str::from_utf8(&message.payload).ok().and_then(|text| UserId::new(text).ok());
            let (Some(reply), Some(user)) = (message.reply, user) else { continue };
            let verdict = Verdict { retry_after_ms: limiter.check(&user).err().and_then(|it| it.retry_after_ms) };
            if let Ok(payload) = serde_json::to_vec(&verdict) {
                // In time or not at all: without an answer the other node decides by itself.
                let _ = nats::try_publish(&self.client, reply, payload.into());
            }
        }
    }

    /// Forgets users whose budget is full again.
    async fn tidy(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(60));
        loop {
            tick.tick().await;
            self.people.iter().chain(&self.services).for_each(Limiter::tidy);
        }
    }
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
