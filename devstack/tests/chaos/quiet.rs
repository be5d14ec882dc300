//! A participant of silent conversations, who holds all of them open and moves from node to node.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    client::{self, Gone, Socket},
    world::World,
};

/// How long nodes may refuse someone, or not answer, while no planned outage explains it.
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
    /// The longest time of attempts in a row that failed, without planned outages. The attempt that succeeds doesn't count:
    /// on a busy machine joins are slow, but they are joins.
    pub(crate) longest: Duration,
    /// What each attempt in that time took, and how it ended.
    pub(crate) attempts: Vec<String>,
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
            attempts: Vec::new(),
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
        let mut attempts = Vec::new();
        loop {
            let (began, phase) = (Instant::now(), self.world.outage_phase());
            let mut steps = Vec::new();
            let attempt = self.attempt(&mut steps, &mut moved.wrong).await;
            let (at, refusal) = (self.world.acknowledged(), attempt.as_ref().err());
            attempts.push(format!("with {at} acknowledged, steps of {steps:.1?}, {refusal:?}"));
            if attempt.is_err() {
                let wait = rand::rng().random_range(20..200);
                sleep(Duration::from_millis(wait)).await;
            }
            // An attempt that an outage held up, even one that began and ended within it, says nothing about the nodes.
            let undisturbed = phase.is_multiple_of(2) && phase == self.world.outage_phase();
            match attempt {
                Ok(socket) => return Some(socket),
                Err(_) if self.world.has_ended() => return None,
                Err(_) => locked_out = if undisturbed { locked_out + began.elapsed() } else { Duration::ZERO },
            }
            if locked_out > moved.longest {
                moved.longest = locked_out;
                moved.attempts.clone_from(&attempts);
            }
        }
    }

    /// Connects and joins all conversations. `steps` gets the time that the connection and each join took.
    async fn attempt(&mut self, steps: &mut Vec<Duration>, wrong: &mut Vec<String>) -> Result<Socket, String> {
        let no_connection = |Gone| "no connection".to_owned();
        let began = Instant::now();
        let connected = client::connect(&self.world.gateways, &self.token).await;
        steps.push(began.elapsed());
        let mut socket = connected.map_err(no_connection)?;
        for (conversation, held) in &mut self.conversations {
            let began = Instant::now();
            let answer = client::join(&mut socket, conversation, *held, |_| {}).await;
            steps.push(began.elapsed());
            let answer = answer.map_err(no_connection)?;
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

/// Checks that every silent conversation could be joined, and carried no event. Returns how often all conversations of a
/// person were joined, and the longest wait with what it was made of.
pub(crate) fn check(people: &[Moved]) -> (usize, String) {
    for person in people {
        assert!(person.wrong.is_empty(), "{} saw: {:?}", person.name, person.wrong);
        let (longest, attempts) = (person.longest, &person.attempts);
        assert!(longest <= LOCKED_OUT_MAX, "{} was locked out for {longest:?}: {attempts:#?}", person.name);
        assert!(person.times > 0, "{} joined nothing", person.name);
    }
    let times = people.iter().map(|person| person.times).sum();
    let longest = people.iter().max_by_key(|person| person.longest).unwrap();
    (times, format!("{:.1?}: {:?}", longest.longest, longest.attempts))
}
