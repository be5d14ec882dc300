//! What the tests need: events to publish, persisters to run, conditions to wait for.

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use clap::Parser;
use devstack::testing::TestEnv;
use futures_util::{TryStreamExt, future::try_join_all};
use metrics_exporter_prometheus::PrometheusBuilder;
use partyline_persister::{config::Config, process::Persister};
use partyline_shared::{
    claims::UserType,
    event::{Event, Message, MessageDeleted, MessageEdited, MessageType, Read},
    ids::{ClientId, ConversationId, MessageId, Seq, UserId},
    streams, subjects,
    timestamp::Timestamp,
};
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A test's servers and the ways to them.
pub(crate) struct World {
    pub(crate) js: Context,
    pub(crate) pool: PgPool,
    pub(crate) env: TestEnv,
}

/// A persister in this process; dropped, it stops at once, as if it were killed.
pub(crate) struct Running {
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Ends it politely.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, &mut self.task).await.unwrap().unwrap().unwrap();
    }

    /// Ends it without a word.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let env = TestEnv::start().await.unwrap();
        let js = jetstream::new(env.nats().await.unwrap());
        let pool = env.pool().await.unwrap();
        Self { js, pool, env }
    }

    pub(crate) fn config(&self, flags: &[&str]) -> Config {
        let own = ["persister", "--admin-addr=127.0.0.1:0", "--database-connections=3"].map(str::to_owned);
        let nats = format!("--nats-url={}", self.env.nats_url());
        let database = format!("--database-url={}", self.env.database_url());
        Config::parse_from(own.into_iter().chain([nats, database]).chain(flags.iter().map(ToString::to_string)))
    }

    /// Starts a persister; later flags win.
    pub(crate) async fn persister(&self, flags: &[&str]) -> Running {
        run(self.config(flags)).await
    }

    /// Makes the streams, with an `ack_wait` that a test can wait for.
    pub(crate) async fn prepare(&self, ack_wait: Duration) {
        let log = streams::ensure_log(&self.js, &self.config(&[]).nats, || async { Ok(0) }).await.unwrap();
        let logs = log.streams;
        let consumer = streams::ensure_persister(&logs[0].stream).await.unwrap();
        let mut config = consumer.cached_info().config.clone();
        config.ack_wait = ack_wait;
        let mut pull = jetstream::consumer::pull::Config {
            durable_name: config.durable_name,
            ack_policy: config.ack_policy,
            ack_wait,
            max_ack_pending: config.max_ack_pending,
            max_waiting: config.max_waiting,
            ..Default::default()
        };
        pull.description = config.description;
        logs[0].stream.update_consumer(pull).await.unwrap();
    }

    /// A conversation of these people, as a gateway makes it.
    pub(crate) async fn conversation(&self, users: &[&str]) -> ConversationId {
        let id = ConversationId::generate();
        for user in users {
            sqlx::query("INSERT INTO users (id) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(user)
                .execute(&self.pool)
                .await
                .unwrap();
        }
        sqlx::query("INSERT INTO conversations (id, kind, created_by, created_at, active_at) VALUES ($1, 'group', $2, '2020-01-01', '2020-01-01')")
            .bind(id.0)
            .bind(users[0])
            .execute(&self.pool)
            .await
            .unwrap();
        for user in users {
            sqlx::query("INSERT INTO participants (conversation_id, user_id) VALUES ($1, $2)")
                .bind(id.0)
                .bind(user)
                .execute(&self.pool)
                .await
                .unwrap();
        }
        id
    }

    /// Appends events; their places.
    pub(crate) async fn append(&self, events: &[Event]) -> Vec<Seq> {
        let mut seqs = Vec::with_capacity(events.len());
        for some in events.chunks(500) {
            let mut acks = Vec::new();
            for event in some {
                let subject = subjects::log(0, event.conversation_id());
                let payload = serde_json::to_vec(event).unwrap();
                acks.push(self.js.publish(subject, payload.into()).await.unwrap());
            }
            let acked = try_join_all(acks.into_iter().map(IntoFuture::into_future)).await.unwrap();
            seqs.extend(acked.into_iter().map(|ack| ack.sequence));
        }
        seqs
    }

    /// Waits until every event of the log is settled.
    pub(crate) async fn settled(&self) {
        until("the log to be settled", async || {
            let Ok(stream) = self.js.get_stream(subjects::log_stream(0)).await else { return false };
            let Ok(consumer) =
                stream.get_consumer::<jetstream::consumer::pull::Config>(subjects::PERSISTER_CONSUMER).await
            else {
                return false;
            };
            // Replaced just now.
            let Ok(info) = consumer.get_info().await else { return false };
            let last = stream.get_info().await.unwrap().state.last_sequence;
            info.num_pending == 0 && info.num_ack_pending == 0 && info.ack_floor.stream_sequence == last
        })
        .await;
    }

    /// Place and content of a conversation's messages.
    pub(crate) async fn messages(&self, conversation: ConversationId) -> Vec<(Seq, String)> {
        let rows: Vec<(i64, String)> =
            sqlx::query_as("SELECT seq, content FROM messages WHERE conversation_id = $1 ORDER BY seq")
                .bind(conversation.0)
                .fetch_all(&self.pool)
                .await
                .unwrap();
        rows.into_iter().map(|(seq, content)| (u64::try_from(seq).unwrap(), content)).collect()
    }

    pub(crate) async fn count(&self) -> u64 {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(&self.pool).await.unwrap();
        u64::try_from(count).unwrap()
    }

    /// Reason and place of every dead letter.
    pub(crate) async fn dead_letters(&self) -> Vec<(String, Seq)> {
        let stream = self.js.get_stream(subjects::DEAD_STREAM).await.unwrap();
        let total = stream.get_info().await.unwrap().state.messages;
        let consumer = stream.create_consumer(jetstream::consumer::pull::Config::default()).await.unwrap();
        let found = consumer.fetch().max_messages(1_000).messages().await.unwrap();
        let letters: Vec<(String, Seq)> = found
            .map_ok(|letter| {
                let headers = letter.headers.as_ref().unwrap();
                let reason = headers.get(subjects::DEAD_REASON).unwrap().as_str().to_owned();
                (reason, headers.get(subjects::DEAD_SEQ).unwrap().as_str().parse().unwrap())
            })
            .try_collect()
            .await
            .unwrap();
        assert_eq!(letters.len() as u64, total);
        letters
    }
}

pub(crate) async fn run(config: Config) -> Running {
    let recorder = PrometheusBuilder::new().build_recorder();
    let persister = Persister::bind(config, recorder.handle()).await.unwrap();
    let shutdown = CancellationToken::new();
    Running { task: tokio::spawn(persister.run(shutdown.clone())), shutdown }
}

/// Runs a persister that ends by itself; what it says.
pub(crate) async fn fails(config: Config) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let persister = Persister::bind(config, recorder.handle()).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, persister.run(CancellationToken::new())).await.unwrap();
    ended.unwrap_err().to_string()
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn message(conversation_id: ConversationId, content: &str) -> Message {
    Message {
        conversation_id,
        message_id: MessageId::generate(),
        client_id: ClientId::generate(),
        sender_id: user("ann"),
        sender_username: "Ann".into(),
        sender_type: UserType::Customer,
        content: content.into(),
        message_type: MessageType::Text,
        metadata: RawValue::from_string(r#"{"k": [1, "ü"]}"#.into()).unwrap(),
        reply_to: None,
        created_at: Timestamp::now(),
    }
}

/// `count` messages with the numbers from `first` on as their contents.
pub(crate) fn numbered(conversation: ConversationId, first: usize, count: usize) -> Vec<Event> {
    (first..first + count).map(|n| Event::NewMessage(message(conversation, &n.to_string()))).collect()
}

/// Place and content of what [`numbered`] made, from 0 on.
pub(crate) fn by_number(seqs: impl IntoIterator<Item = Seq>) -> Vec<(Seq, String)> {
    seqs.into_iter().enumerate().map(|(n, seq)| (seq, n.to_string())).collect()
}

pub(crate) fn edit(of: &Event, seq: Seq, content: &str) -> Event {
    let Event::NewMessage(message) = of else { panic!("no message") };
    Event::MessageEdited(MessageEdited {
        conversation_id: message.conversation_id,
        message_seq: seq,
        message_id: message.message_id,
        editor_id: message.sender_id.clone(),
        content: content.into(),
        edited_at: Timestamp::now(),
    })
}

pub(crate) fn delete(of: &Event, seq: Seq) -> Event {
    let Event::NewMessage(message) = of else { panic!("no message") };
    Event::MessageDeleted(MessageDeleted {
        conversation_id: message.conversation_id,
        message_seq: seq,
        message_id: message.message_id,
        deleted_by: message.sender_id.clone(),
        deleted_at: Timestamp::now(),
    })
}

pub(crate) fn read(conversation_id: ConversationId, name: &str, last_read_seq: Seq) -> Event {
    Event::Read(Read { conversation_id, user_id: user(name), last_read_seq, read_at: Timestamp::now() })
}
