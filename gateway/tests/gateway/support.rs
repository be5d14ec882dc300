//! What the tests need: gateways, requests, conditions to wait for.

use std::time::Duration;

use devstack::testing::{Launch, Process, TestEnv, UserType};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::person::Person;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const CONVERSATIONS: &str = "/chat/api/conversations/";
/// A conversation that isn't there.
pub(crate) const NOWHERE: &str = "018f4e9c-7a54-7c8e-b8b5-0a1b2c3d4e5f";

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
        Self::of(TestEnv::start().await.unwrap())
    }

    pub(crate) fn of(env: TestEnv) -> Self {
        Self { env, http: reqwest::Client::new() }
    }

    /// A gateway without limits on messages, frames and requests, to be configured further.
    pub(crate) fn launch(&self) -> Launch {
        let launch = self.env.gateway().unwrap();
        let lifted = ["PARTYLINE_MESSAGES_PER_MINUTE", "PARTYLINE_FRAMES_PER_SECOND", "PARTYLINE_REQUESTS_PER_SECOND"];
        lifted.into_iter().fold(launch, |launch, name| launch.env(name, "0"))
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

    /// Has every command wait that reads a conversation from Postgres, until the transaction ends.
    pub(crate) async fn lock_conversations(&self) -> sqlx::Transaction<'static, sqlx::Postgres> {
        let mut lock = self.env.pool().await.unwrap().begin().await.unwrap();
        sqlx::query("LOCK TABLE conversations, participants").execute(&mut *lock).await.unwrap();
        lock
    }

    /// Waits until a command waits for such a lock.
    pub(crate) async fn is_waited_for(&self) {
        let pool = self.env.pool().await.unwrap();
        let waiting = "SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database \
                       WHERE datname = current_database() AND NOT granted";
        until("a command to wait", async || sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.unwrap() > 0)
            .await;
    }

    pub(crate) async fn is_ready(&self, process: &Process) -> bool {
        let answer = self.http.get(process.admin_url("/readyz")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Returns the number of dead letters.
    pub(crate) async fn dead_letters(&self) -> u64 {
        use partyline_shared::subjects;
        let js = async_nats::jetstream::new(self.env.nats().await.unwrap());
        js.get_stream(subjects::DEAD_STREAM).await.unwrap().cached_info().state.messages
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

/// A name for a message, never used before; it tells its age, as those of clients do.
pub(crate) fn client_id() -> String {
    uuid::Uuid::now_v7().to_string()
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
