//! A participant that keeps the contract: sends with its own ids, repeats what was not acknowledged, and comes back
//! with `after`. Now and then it repeats a message that was acknowledged, too, as a client does whose answer was lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    client::{self, ANSWER_TIMEOUT, Gone, Socket},
    count::Seen,
    world::{PATIENCE, World},
};

/// From one acknowledgement to the next message.
const PAUSE: Duration = Duration::from_millis(60);
/// Every how many messages the last one is sent again though it was acknowledged.
const REPEAT_EVERY: usize = 8;

pub(crate) struct Plan {
    pub(crate) conversation: String,
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) messages: usize,
}

pub(crate) struct Person {
    world: Arc<World>,
    plan: Plan,
    seen: Seen,
    /// The `client_id` of the message under way; still here after a reconnection, it goes again.
    pending: Option<String>,
    /// An acknowledged message that is to be repeated, or is under way again.
    repeat: Option<String>,
}

impl Person {
    pub(crate) fn new(world: Arc<World>, plan: Plan) -> Self {
        let seen = Seen {
            name: plan.name.clone(),
            conversation: plan.conversation.clone(),
            last_seq: 0,
            messages: Vec::new(),
            removals: Vec::new(),
            acknowledged: BTreeMap::new(),
            wrong: Vec::new(),
        };
        Self { world, plan, seen, pending: None, repeat: None }
    }

    /// Sends everything, whatever happens to the nodes, and sees everything.
    pub(crate) async fn live(mut self) -> Seen {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.connected().await.is_ok() {
                return self.seen;
            }
            assert!(Instant::now() < until, "{} can't go on", self.plan.name);
            if !self.world.has_ended() {
                self.world.reconnected();
            }
            let wait = rand::rng().random_range(20..300);
            sleep(Duration::from_millis(wait)).await;
        }
    }

    /// One connection's life; `Ok` once all is sent and seen.
    async fn connected(&mut self) -> Result<(), Gone> {
        let mut socket = client::connect(&self.world.gateways, &self.plan.token).await?;
        let mut ended = self.world.end();
        self.join(&mut socket).await?;
        if *ended.borrow() {
            // The join after the end brought whatever was missing.
            return Ok(());
        }
        if let Some(client_id) = self.repeat.clone() {
            self.send(&mut socket, &client_id).await?;
        } else if let Some(client_id) = self.pending.clone() {
            self.world.repeated();
            self.send(&mut socket, &client_id).await?;
        }
        let mut due = Instant::now();
        loop {
            let is_idle = self.pending.is_none() && self.repeat.is_none();
            let may_send = is_idle && self.seen.acknowledged.len() < self.plan.messages;
            tokio::select! {
                frame = timeout(ANSWER_TIMEOUT, client::next(&mut socket)) => match frame {
                    Ok(frame) => {
                        if self.read(&frame?)? {
                            due = Instant::now() + PAUSE;
                            if let Some(client_id) = self.repeat.clone() {
                                self.send(&mut socket, &client_id).await?;
                            }
                        }
                    }
                    Err(_) if is_idle => {}
                    Err(_) => return Err(Gone),
                },
                () = tokio::time::sleep_until(due), if may_send => {
                    let client_id = uuid::Uuid::now_v7().to_string();
                    self.pending = Some(client_id.clone());
                    self.send(&mut socket, &client_id).await?;
                }
                // What is missing comes with a last join on a fresh connection.
                _ = ended.changed() => return Err(Gone),
            }
        }
    }

    /// Joins with `after` until nothing is missing.
    async fn join(&mut self, socket: &mut Socket) -> Result<(), Gone> {
        loop {
            let after = Some(self.seen.last_seq);
            let seen = &mut self.seen;
            let other = |frame: Value| match frame["type"].as_str().unwrap() {
                "welcome" | "presence" | "conversation_updated" => {}
                other => seen.wrong.push(format!("{other} before joined")),
            };
            let joined = client::join(socket, &self.plan.conversation, after, other).await?;
            if joined["type"] != "joined" {
                // Postgres is away, mostly: another try, perhaps on a node that knows the conversation.
                return Err(Gone);
            }
            for event in joined["events"].as_array().unwrap() {
                self.seen.event(event, "caught up");
            }
            self.seen.caught_up(joined["seq"].as_u64().unwrap());
            if !joined["more"].as_bool().unwrap() {
                return Ok(());
            }
        }
    }

    async fn send(&self, socket: &mut Socket, client_id: &str) -> Result<(), Gone> {
        let content = format!("{} {client_id}", self.plan.name);
        let message = json!({ "type": "send_message", "ref": "send", "client_id": client_id, "content": content,
            "conversation_id": self.plan.conversation });
        client::say(socket, &message).await
    }

    /// Whether it was an acknowledgement.
    fn read(&mut self, frame: &Value) -> Result<bool, Gone> {
        match frame["type"].as_str().unwrap() {
            "ack" => {
                self.acknowledged(frame);
                Ok(true)
            }
            "error" => {
                if self.repeat.is_some() && frame["code"] != "unavailable" {
                    self.seen.wrong.push(format!("a repeat of a stored message is refused: {frame}"));
                }
                Err(Gone)
            }
            _ if client::is_event(frame) => {
                self.seen.event(frame, "live");
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn acknowledged(&mut self, ack: &Value) {
        let (client_id, seq) = (ack["client_id"].as_str().unwrap().to_owned(), ack["seq"].as_u64().unwrap());
        if self.repeat.take_if(|repeat| *repeat == client_id).is_some() {
            if self.seen.acknowledged.get(&client_id) != Some(&seq) || ack["duplicate"] != true {
                self.seen.wrong.push(format!("a repeat is acknowledged as another message: {ack}"));
            }
            self.world.stored_repeat_acknowledged();
            return;
        }
        if self.pending.take_if(|pending| *pending == client_id).is_none() {
            self.seen.wrong.push(format!("acknowledgement of {client_id}, which was not under way"));
        }
        self.seen.acknowledged.insert(client_id.clone(), seq);
        self.world.acknowledge();
        // In an outage each one: it is then that clients repeat.
        if self.seen.acknowledged.len().is_multiple_of(REPEAT_EVERY) || self.world.has_outage() {
            self.repeat = Some(client_id);
        }
    }
}
