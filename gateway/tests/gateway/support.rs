//! What the tests need: gateways, people with an independent WebSocket client, requests.

use std::{collections::VecDeque, sync::atomic::AtomicU64, sync::atomic::Ordering, time::Duration};

use devstack::testing::{Launch, Process, TestEnv, UserType};
use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        error::Error as WsError,
        handshake::client::{Request, Response},
        http::header::SEC_WEBSOCKET_PROTOCOL,
    },
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const CONVERSATIONS: &str = "/chat/api/conversations/";

/// A test's servers and the ways to them.
pub(crate) struct World {
    pub(crate) env: TestEnv,
    http: reqwest::Client,
}

/// What a request got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The `code` of a problem.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self { env: TestEnv::start().await.unwrap(), http: reqwest::Client::new() }
    }

    /// A gateway without limits on messages and frames, to be configured further.
    pub(crate) fn launch(&self) -> Launch {
        let launch = self.env.gateway().unwrap();
        launch.env("PARTYLINE_MESSAGES_PER_MINUTE", "0").env("PARTYLINE_FRAMES_PER_SECOND", "0")
    }

    pub(crate) async fn gateway(&self) -> Process {
        self.launch().start().await.unwrap()
    }

    pub(crate) async fn persister(&self) -> Process {
        self.env.persister().unwrap().start().await.unwrap()
    }

    /// The token of a customer of this id, or of the service `market`.
    pub(crate) fn token(&self, user: &str) -> String {
        let scope = (user == "market").then_some("service");
        self.env.jwt_with(user, &user.to_uppercase(), UserType::Customer, scope, 3_600).unwrap()
    }

    pub(crate) async fn person(&self, gateway: &Process, user: &str) -> Person {
        Person::come(gateway, &self.token(user)).await
    }

    pub(crate) async fn get(&self, gateway: &Process, user: &str, path: &str) -> Answer {
        self.request(gateway, user, Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, gateway: &Process, user: &str, path: &str, body: Value) -> Answer {
        self.request(gateway, user, Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, gateway: &Process, user: &str, path: &str) -> Answer {
        self.request(gateway, user, Method::DELETE, path, None).await
    }

    pub(crate) async fn request(
        &self,
        gateway: &Process,
        user: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.http.request(method, gateway.url(path)).bearer_auth(self.token(user));
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    /// A request of any kind.
    pub(crate) fn bare(&self, gateway: &Process, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, gateway.url(path))
    }

    /// A group, whose owner is the first; its id.
    pub(crate) async fn group(&self, gateway: &Process, users: &[&str]) -> String {
        self.create(gateway, users, "group").await
    }

    /// The direct conversation of two; its id.
    pub(crate) async fn direct(&self, gateway: &Process, users: [&str; 2]) -> String {
        self.create(gateway, &users, "direct").await
    }

    async fn create(&self, gateway: &Process, users: &[&str], kind: &str) -> String {
        let body = json!({ "kind": kind, "participant_ids": users[1..] });
        let made = self.post(gateway, users[0], CONVERSATIONS, body).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["id"].as_str().unwrap().to_owned()
    }

    /// A metric's value, by its name with labels.
    pub(crate) async fn metric(&self, process: &Process, name: &str) -> f64 {
        let text = self.http.get(process.admin_url("/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub(crate) async fn is_ready(&self, process: &Process) -> bool {
        let answer = self.http.get(process.admin_url("/readyz")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Waits until Postgres holds everything that is in the log; the log's end.
    pub(crate) async fn persisted(&self) -> u64 {
        use async_nats::jetstream::{self, consumer::pull};
        use partyline_shared::subjects;
        let js = jetstream::new(self.env.nats().await.unwrap());
        let stream = js.get_stream(subjects::log_stream(0)).await.unwrap();
        let consumer = stream.get_consumer::<pull::Config>(subjects::PERSISTER_CONSUMER).await.unwrap();
        let mut last = 0;
        until("Postgres to hold the log", async || {
            last = stream.get_info().await.unwrap().state.last_sequence;
            let info = consumer.get_info().await.unwrap();
            info.num_pending == 0 && info.num_ack_pending == 0 && info.ack_floor.stream_sequence == last
        })
        .await;
        last
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.timeout(PATIENCE).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

pub(crate) fn messages_of(conversation: &str) -> String {
    format!("{CONVERSATIONS}{conversation}/messages/")
}

/// A name for a message, never used before.
pub(crate) fn client_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

pub(crate) fn message(conversation: &str, content: &str) -> Value {
    json!({ "type": "send_message", "conversation_id": conversation, "client_id": client_id(), "content": content })
}

pub(crate) fn seq(frame: &Value) -> u64 {
    frame["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {frame}"))
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How the server closed a socket.
#[derive(Debug, PartialEq)]
pub(crate) struct Closed {
    pub(crate) code: u16,
    pub(crate) reason: Value,
}

/// The request for a socket, with a token as browsers send it.
pub(crate) fn handshake(gateway: &Process, token: &str) -> Request {
    let mut request = gateway.ws_url().into_client_request().unwrap();
    let offer = format!("partyline.v1, bearer.{token}");
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
    request
}

/// Opens a socket.
pub(crate) async fn connect(
    gateway: &Process,
    request: Request,
) -> Result<(WebSocketStream<TcpStream>, Response), WsError> {
    let stream = TcpStream::connect(gateway.http_addr()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    timeout(PATIENCE, client_async(request, stream)).await.unwrap()
}

/// Somebody with a socket.
pub(crate) struct Person {
    pub(crate) socket: WebSocketStream<TcpStream>,
    pub(crate) welcome: Value,
    /// Read and not asked for yet.
    pub(crate) held: VecDeque<Value>,
}

impl Person {
    pub(crate) async fn come(gateway: &Process, token: &str) -> Self {
        let (socket, _) = connect(gateway, handshake(gateway, token)).await.unwrap();
        Self::with(socket).await
    }

    pub(crate) async fn with(socket: WebSocketStream<TcpStream>) -> Self {
        let mut person = Self { socket, welcome: Value::Null, held: VecDeque::new() };
        person.welcome = person.expect("welcome").await;
        person
    }

    pub(crate) async fn say(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next frame, or how the socket was closed.
    pub(crate) async fn read(&mut self) -> Result<Value, Closed> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let next = timeout_at(deadline, self.socket.next())
                .await
                .unwrap_or_else(|_| panic!("nothing came; held: {:#?}", self.held));
            match next.expect("the socket ended without a close frame").unwrap() {
                Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
                Message::Close(frame) => {
                    let frame = frame.unwrap();
                    let reason = serde_json::from_str(&frame.reason).unwrap();
                    return Err(Closed { code: frame.code.into(), reason });
                }
                Message::Binary(_) => panic!("the server sends text only"),
                _ => {}
            }
        }
    }

    /// The next frame that fits; others are held.
    pub(crate) async fn find(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(place) = self.held.iter().position(&fits) {
            return self.held.remove(place).unwrap();
        }
        loop {
            let frame = self.read().await.unwrap();
            if fits(&frame) {
                return frame;
            }
            self.held.push_back(frame);
        }
    }

    /// The next frame of a type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        self.find(|frame| frame["type"] == kind).await
    }

    /// Sends, and waits for the reply.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Value {
        static REFS: AtomicU64 = AtomicU64::new(0);
        let reference = format!("r{}", REFS.fetch_add(1, Ordering::Relaxed));
        frame["ref"] = json!(reference);
        self.say(&frame).await;
        self.find(|frame| frame["ref"] == reference).await
    }

    /// Sends, and waits for the reply, which must be of this type.
    pub(crate) async fn get(&mut self, kind: &str, frame: Value) -> Value {
        let reply = self.ask(frame).await;
        assert_eq!(reply["type"], kind, "{reply}");
        reply
    }

    /// Sends what is refused; the error's code.
    pub(crate) async fn refused(&mut self, frame: Value) -> String {
        self.get("error", frame).await["code"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn join(&mut self, conversation: &str) -> Value {
        self.get("joined", json!({ "type": "join_conversation", "conversation_id": conversation })).await
    }

    pub(crate) async fn join_after(&mut self, conversation: &str, after: u64) -> Value {
        let join = json!({ "type": "join_conversation", "conversation_id": conversation, "after": after });
        self.get("joined", join).await
    }

    /// Sends a message; its acknowledgement.
    pub(crate) async fn send(&mut self, conversation: &str, content: &str) -> Value {
        self.get("ack", message(conversation, content)).await
    }

    /// Waits until everything that the server has written so far is read; it is held.
    pub(crate) async fn caught_up(&mut self) {
        assert_eq!(self.refused(json!({ "type": "nothing" })).await, "unknown_type");
    }

    /// The held frames of a type, in order.
    pub(crate) fn held(&self, kind: &str) -> Vec<&Value> {
        self.held.iter().filter(|frame| frame["type"] == kind).collect()
    }

    /// Waits until the server closes the socket, and answers; frames before that are held.
    pub(crate) async fn closed(&mut self) -> Closed {
        loop {
            match self.read().await {
                Ok(frame) => self.held.push_back(frame),
                Err(closed) => {
                    self.bow_out().await;
                    return closed;
                }
            }
        }
    }

    /// Ends the closing handshake and the connection.
    pub(crate) async fn bow_out(&mut self) {
        while let Ok(Some(Ok(_))) = timeout(PATIENCE, self.socket.next()).await {}
        let _ = self.socket.get_mut().shutdown().await;
    }

    /// Closes the socket, and waits until the server has done so, too.
    pub(crate) async fn leave(mut self) {
        self.socket.close(None).await.unwrap();
        self.bow_out().await;
    }
}

/// Somebody who holds a log up to a place, and takes nothing but what follows it.
#[derive(Default)]
pub(crate) struct Follower {
    pub(crate) last: u64,
    pub(crate) seqs: Vec<u64>,
}

impl Follower {
    pub(crate) fn take(&mut self, event: &Value, how: &str) {
        assert!(seq(event) > self.last, "{how}: a repeat after {}: {event}", self.last);
        assert!(event["prev_seq"].as_u64().unwrap() <= self.last, "{how}: a gap after {}: {event}", self.last);
        self.last = seq(event);
        self.seqs.push(self.last);
    }
}
