//! A participant of silent conversations, who holds all of them open and moves from node to node.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    client::{self, Gone, Socket},
    world::World,
};

/// How long the longest wait may be in which no planned outage explains it.
const LOCKED_OUT_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Quiet {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    pub(crate) token: String,
    /// Conversations, each with the `seq` up to which it is held.
    pub(crate) conversations: Vec<(String, Option<u64>)>,
}

/// What became of it.
pub(crate) struct Moved {
    pub(crate) name: String,
    /// Times at which all conversations were joined anew.
    pub(crate) times: usize,
    /// The longest time from wanting a node to having joined all conversations there, without planned outages.
    pub(crate) longest: Duration,
    /// What the nodes answered in that time.
    pub(crate) refusals: Vec<String>,
    /// What no client should see.
    pub(crate) wrong: Vec<String>,
}

impl Quiet {
    /// Moves until the traffic ends.
    pub(crate) async fn live(mut self) -> Moved {
        let mut moved = Moved {
            name: self.name.clone(),
            times: 0,
            longest: Duration::ZERO,
            refusals: Vec::new(),
            wrong: Vec::new(),
        };
        while !self.world.has_ended() {
            let Some(mut socket) = self.joined_all(&mut moved).await else { break };
            moved.times += 1;
            let stay = Duration::from_millis(rand::rng().random_range(300..1_500));
            let _ = timeout(stay, Self::listen(&mut socket, &mut moved.wrong)).await;
        }
        moved
    }

    /// Tries until all conversations are joined on one node; `None` if the traffic ends before.
    async fn joined_all(&mut self, moved: &mut Moved) -> Option<Socket> {
        let mut locked_out = Duration::ZERO;
        let mut refusals = Vec::new();
        loop {
            let (began, outage) = (Instant::now(), self.world.has_outage());
            let attempt = self.attempt(&mut moved.wrong).await;
            if let Err(refusal) = &attempt {
                let (at, took) = (self.world.acknowledged(), began.elapsed());
                refusals.push(format!("with {at} acknowledged, after {took:.1?}: {refusal}"));
                let wait = rand::rng().random_range(20..200);
                sleep(Duration::from_millis(wait)).await;
            }
            // What an outage held up says nothing about the nodes.
            locked_out = if outage || self.world.has_outage() { Duration::ZERO } else { locked_out + began.elapsed() };
            if locked_out > moved.longest {
                moved.longest = locked_out;
                moved.refusals.clone_from(&refusals);
            }
            match attempt {
                Ok(socket) => return Some(socket),
                Err(_) if self.world.has_ended() => return None,
                Err(_) => {}
            }
        }
    }

    async fn attempt(&mut self, wrong: &mut Vec<String>) -> Result<Socket, String> {
        let no_connection = |Gone| "no connection".to_owned();
        let mut socket = client::connect(&self.world.gateways, &self.token).await.map_err(no_connection)?;
        for (conversation, held) in &mut self.conversations {
            let answer = client::join(&mut socket, conversation, *held, |_| {}).await.map_err(no_connection)?;
            if answer["type"] != "joined" {
                return Err(answer.to_string());
            }
            if let Some(event) = answer["events"].as_array().unwrap().first() {
                wrong.push(format!("an event in a silent conversation: {event}"));
            }
            // Nothing is said here: whatever place the node names is the end.
            *held = answer["seq"].as_u64().max(*held);
        }
        Ok(socket)
    }

    async fn listen(socket: &mut Socket, wrong: &mut Vec<String>) {
        while let Ok(frame) = client::next(socket).await {
            if client::is_event(&frame) {
                wrong.push(format!("an event in a silent conversation: {frame}"));
            }
        }
    }
}

/// Nobody was locked out of a silent conversation, or heard of one.
pub(crate) fn check(people: &[Moved]) -> (usize, Duration) {
    for person in people {
        assert!(person.wrong.is_empty(), "{} saw: {:?}", person.name, person.wrong);
        let (longest, refusals) = (person.longest, &person.refusals);
        assert!(longest <= LOCKED_OUT_MAX, "{} was locked out for {longest:?}: {refusals:#?}", person.name);
        assert!(person.times > 0, "{} joined nothing", person.name);
    }
    let times = people.iter().map(|person| person.times).sum();
    (times, people.iter().map(|person| person.longest).max().unwrap_or_default())
}
