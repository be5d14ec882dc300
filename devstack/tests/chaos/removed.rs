//! A participant who is removed in the middle of the traffic, and goes on trying to join.

use std::{sync::Arc, time::Duration};

use devstack::testing::{Process, TestEnv};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    client::{self, Gone},
    count::Seen,
    world::{self, PATIENCE, World},
};

/// Between two attempts to join again over one connection.
const RETRY: Duration = Duration::from_millis(50);
/// One connection's life, after which another node is tried.
const STAY: Duration = Duration::from_secs(2);

pub(crate) struct Removed {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) conversation: String,
}

/// What was heard.
pub(crate) struct Heard {
    pub(crate) name: String,
    pub(crate) conversation: String,
    /// The `seq` of the newest event that came by any connection.
    pub(crate) last_seq: u64,
    /// Events, over all connections.
    pub(crate) events: usize,
    /// Joins that were refused as they should be.
    pub(crate) refused: usize,
}

impl Removed {
    /// Listens, and after the removal tries to listen, until the traffic ends.
    pub(crate) async fn live(self) -> Heard {
        let mut heard = Heard {
            name: self.name.clone(),
            conversation: self.conversation.clone(),
            last_seq: 0,
            events: 0,
            refused: 0,
        };
        while !self.world.has_ended() {
            let _ = timeout(STAY, self.connected(&mut heard)).await;
            sleep(RETRY).await;
        }
        heard
    }

    async fn connected(&self, heard: &mut Heard) -> Result<(), Gone> {
        let mut socket = client::connect(&self.world.gateways, &self.token).await?;
        loop {
            // A join again and again, also while joined: each is a chance to slip in during the removal.
            let after = Some(heard.last_seq);
            let answer = client::join(&mut socket, &self.conversation, after, |frame| heard.frame(&frame)).await?;
            match answer["type"].as_str().unwrap() {
                "joined" => answer["events"].as_array().unwrap().iter().for_each(|event| heard.frame(event)),
                _ if matches!(answer["code"].as_str(), Some("not_found" | "forbidden")) => heard.refused += 1,
                _ => return Err(Gone),
            }
            if let Ok(frame) = timeout(RETRY, client::next(&mut socket)).await {
                heard.frame(&frame?);
            }
        }
    }
}

impl Heard {
    fn frame(&mut self, frame: &Value) {
        if client::is_event(frame) {
            self.last_seq = self.last_seq.max(frame["seq"].as_u64().unwrap());
            self.events += 1;
        }
    }
}

/// Each was removed once, as all others saw, and received nothing after that.
pub(crate) fn check(people: &[Heard], others: &[Seen]) -> usize {
    for person in people {
        let witnesses: Vec<_> = others.iter().filter(|other| other.conversation == person.conversation).collect();
        assert!(!witnesses.is_empty());
        for witness in witnesses {
            let removals: Vec<_> = witness.removals.iter().filter(|(_, user)| *user == person.name).collect();
            assert_eq!(removals.len(), 1, "{} saw {} removed {} times", witness.name, person.name, removals.len());
            let removed_at = removals[0].0;
            assert!(
                person.last_seq <= removed_at,
                "{} was removed at {removed_at} and received {}",
                person.name,
                person.last_seq
            );
        }
        assert!(person.events > 0, "{} received nothing at all", person.name);
        assert!(person.refused > 0, "{} never tried to come back", person.name);
    }
    people.iter().map(|person| person.refused).sum()
}

/// Removes participants by REST, as a service.
pub(crate) struct Remover {
    conversations: String,
    token: String,
}

impl Remover {
    pub(crate) fn new(env: &TestEnv, gateway: &Process) -> Self {
        Self { conversations: gateway.url("/chat/api/conversations/"), token: world::service(env) }
    }

    /// Removes a participant, however often that must be tried.
    pub(crate) async fn remove(&self, conversation: &str, user: &str) {
        let url = format!("{}{conversation}/participants/{user}/", self.conversations);
        let until = Instant::now() + PATIENCE;
        loop {
            let request = reqwest::Client::new().delete(&url).bearer_auth(&self.token);
            // 404: an earlier attempt whose answer was lost.
            if let Ok(answer) = request.timeout(Duration::from_secs(10)).send().await
                && matches!(answer.status().as_u16(), 204 | 404)
            {
                return;
            }
            assert!(Instant::now() < until, "{user} can't be removed");
            sleep(Duration::from_millis(200)).await;
        }
    }
}
