//! A participant that keeps the contract: sends with its own ids, repeats what was not acknowledged, and comes back
//! with `after`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use devstack::testing::{Process, TestEnv, UserType};
use futures_util::{SinkExt, StreamExt};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, http::header::SEC_WEBSOCKET_PROTOCOL},
};

use crate::count::Seen;

const PATIENCE: Duration = Duration::from_secs(180);
/// From one acknowledgement to the next message.
const PAUSE: Duration = Duration::from_millis(60);
/// Without an answer for so long, a node is given up.
const ANSWER: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What all people share.
pub(crate) struct World {
    gateways: Vec<String>,
    acknowledged: watch::Sender<usize>,
    /// Everything is sent: one last catch-up, and the end.
    ended: watch::Sender<bool>,
    reconnections: AtomicUsize,
    repeats: AtomicUsize,
}

impl World {
    pub(crate) fn new(gateways: Vec<String>) -> Self {
        Self {
            gateways,
            acknowledged: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            reconnections: AtomicUsize::new(0),
            repeats: AtomicUsize::new(0),
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        *self.acknowledged.borrow()
    }

    pub(crate) fn reconnections(&self) -> usize {
        self.reconnections.load(Ordering::Relaxed)
    }

    pub(crate) fn repeats(&self) -> usize {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Waits until so many messages are acknowledged.
    pub(crate) async fn reached(&self, count: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        let reached = timeout(PATIENCE, acknowledged.wait_for(|it| *it >= count)).await;
        assert!(reached.is_ok(), "only {} of {count} acknowledged", self.acknowledged());
    }

    pub(crate) async fn all_acknowledged(&self, total: usize) {
        self.reached(total).await;
        self.ended.send_replace(true);
    }
}

/// Creates the direct conversation of two.
pub(crate) async fn create_conversation(env: &TestEnv, gateway: &Process, pair: &[String; 2]) -> String {
    let service = env.jwt_with("marketplace", "Marketplace", UserType::Vendor, Some("service"), 600).unwrap();
    let made = reqwest::Client::new()
        .post(gateway.url("/chat/api/conversations/"))
        .bearer_auth(service)
        .json(&json!({ "participant_ids": pair }))
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    made.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
}

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
}

/// The connection is of no use any more.
struct Gone;

impl Person {
    pub(crate) fn new(world: Arc<World>, plan: Plan) -> Self {
        let seen = Seen {
            name: plan.name.clone(),
            conversation: plan.conversation.clone(),
            last_seq: 0,
            messages: Vec::new(),
            acknowledged: BTreeMap::new(),
            wrong: Vec::new(),
        };
        Self { world, plan, seen, pending: None }
    }

    /// Sends everything, whatever happens to the nodes, and sees everything.
    pub(crate) async fn live(mut self) -> Seen {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.connected().await.is_ok() {
                return self.seen;
            }
            assert!(Instant::now() < until, "{} can't go on", self.plan.name);
            if !*self.world.ended.borrow() {
                self.world.reconnections.fetch_add(1, Ordering::Relaxed);
            }
            let wait = rand::rng().random_range(20..300);
            sleep(Duration::from_millis(wait)).await;
        }
    }

    /// One connection's life; `Ok` once all is sent and seen.
    async fn connected(&mut self) -> Result<(), Gone> {
        let mut socket = self.connect().await?;
        let mut ended = self.world.ended.subscribe();
        self.join(&mut socket).await?;
        if *ended.borrow() {
            // The join after the end brought whatever was missing.
            return Ok(());
        }
        if self.pending.is_some() {
            self.world.repeats.fetch_add(1, Ordering::Relaxed);
            self.send(&mut socket).await?;
        }
        let mut due = Instant::now();
        loop {
            let may_send = self.pending.is_none() && self.seen.acknowledged.len() < self.plan.messages;
            tokio::select! {
                frame = timeout(ANSWER, socket.next()) => match frame {
                    Ok(Some(Ok(message))) => {
                        if self.read(&message)? {
                            due = Instant::now() + PAUSE;
                        }
                    }
                    Err(_) if self.pending.is_none() => {}
                    _ => return Err(Gone),
                },
                () = tokio::time::sleep_until(due), if may_send => {
                    self.pending = Some(uuid::Uuid::now_v7().to_string());
                    self.send(&mut socket).await?;
                }
                // What is missing comes with a last join on a fresh connection.
                _ = ended.changed() => return Err(Gone),
            }
        }
    }

    async fn connect(&self) -> Result<Socket, Gone> {
        let nodes = &self.world.gateways;
        let url = &nodes[rand::rng().random_range(0..nodes.len())];
        let mut request = url.into_client_request().unwrap();
        let offer = format!("partyline.v1, bearer.{}", self.plan.token);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
        match timeout(ANSWER, tokio_tungstenite::connect_async(request)).await {
            Ok(Ok((socket, _))) => Ok(socket),
            _ => Err(Gone),
        }
    }

    /// Joins with `after` until nothing is missing.
    async fn join(&mut self, socket: &mut Socket) -> Result<(), Gone> {
        loop {
            let join = json!({ "type": "join_conversation", "ref": "join",
                "conversation_id": self.plan.conversation, "after": self.seen.last_seq });
            socket.send(Message::text(join.to_string())).await.map_err(|_| Gone)?;
            let joined = loop {
                let frame = timeout(ANSWER, socket.next()).await.map_err(|_| Gone)?;
                let Some(Ok(Message::Text(text))) = frame else { return Err(Gone) };
                let frame: Value = serde_json::from_str(&text).unwrap();
                match frame["type"].as_str().unwrap() {
                    "joined" => break frame,
                    // Postgres is away, mostly: another try, perhaps on a node that knows the conversation.
                    "error" => return Err(Gone),
                    "welcome" | "presence" | "conversation_updated" => {}
                    other => self.seen.wrong.push(format!("{other} before joined")),
                }
            };
            for event in joined["events"].as_array().unwrap() {
                self.seen.event(event, "caught up");
            }
            self.seen.caught_up(joined["seq"].as_u64().unwrap());
            if !joined["more"].as_bool().unwrap() {
                return Ok(());
            }
        }
    }

    async fn send(&self, socket: &mut Socket) -> Result<(), Gone> {
        let content = format!("{} {}", self.plan.name, self.seen.acknowledged.len());
        let message = json!({ "type": "send_message", "ref": "send", "client_id": self.pending, "content": content,
            "conversation_id": self.plan.conversation });
        socket.send(Message::text(message.to_string())).await.map_err(|_| Gone)
    }

    /// Whether it was the acknowledgement.
    fn read(&mut self, message: &Message) -> Result<bool, Gone> {
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => return Err(Gone),
            _ => return Ok(false),
        };
        let frame: Value = serde_json::from_str(text).unwrap();
        match frame["type"].as_str().unwrap() {
            "ack" => {
                let client_id = frame["client_id"].as_str().unwrap().to_owned();
                if self.pending.take().is_none_or(|pending| pending != client_id) {
                    self.seen.wrong.push(format!("acknowledgement of {client_id}, which was not under way"));
                }
                self.seen.acknowledged.insert(client_id, frame["seq"].as_u64().unwrap());
                self.world.acknowledged.send_modify(|count| *count += 1);
                Ok(true)
            }
            "error" => Err(Gone),
            "new_message" => {
                self.seen.event(&frame, "live");
                Ok(false)
            }
            _ => Ok(false),
        }
    }
}
