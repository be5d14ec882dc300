//! The NATS server in memory answers as nats-server does: the requests that gateways make, to both.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, HeaderMap, Message,
    jetstream::{self, kv},
};
use clap::Parser;
use devstack::testing::TestEnv;
use futures_util::StreamExt;
use partyline_gateway::config::Config;
use partyline_shared::{
    ids::{ConversationId, UserId},
    nats, streams, subjects,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{gate::Gate, nats::Nats};

const PATIENCE: Duration = Duration::from_secs(10);

/// What a server answered, by request.
type Answers = Vec<(String, Value)>;

/// What matters of a message: its status and its place.
fn told(message: &Message) -> Value {
    let header = |name: &str| message.headers.as_ref()?.get(name).map(|it| it.as_str().to_owned());
    let names = ["Nats-Sequence", "Nats-Subject", "Nats-Last-Sequence", "Nats-Num-Pending", "Nats-Msg-Id"];
    let headers: serde_json::Map<String, Value> =
        names.iter().filter_map(|name| Some(((*name).to_owned(), header(name)?.into()))).collect();
    json!({
        "status": message.status.map(|it| it.as_u16()), "headers": headers,
        "payload": String::from_utf8_lossy(&message.payload),
    })
}

/// Of an answer in JSON: whether it failed, and the fields that gateways look at.
fn looked_at(answer: &Value) -> Value {
    let fields = ["seq", "duplicate", "success", "purged"];
    let mut kept: serde_json::Map<String, Value> =
        fields.iter().filter_map(|name| Some(((*name).to_owned(), answer.get(*name)?.clone()))).collect();
    // A publish that is no repeat may say so or not; one that fails names no place.
    kept.retain(|name, value| !(name == "duplicate" && *value == false || name == "seq" && *value == 0));
    if let Some(code) = answer["error"].get("err_code") {
        kept.insert("error".into(), code.clone());
    }
    for name in ["first_seq", "last_seq", "messages"] {
        if let Some(value) = answer["state"].get(name) {
            kept.insert(name.into(), value.clone());
        }
    }
    if let Some(floor) = answer["ack_floor"].get("stream_seq") {
        kept.insert("ack_floor".into(), floor.clone());
    }
    Value::Object(kept)
}

struct Asker {
    client: Client,
    answers: Answers,
}

impl Asker {
    /// One answer, in JSON.
    async fn api(&mut self, subject: &str, headers: HeaderMap, payload: Value) {
        let payload = if payload.is_null() { String::new() } else { payload.to_string() };
        let answer = self.client.request_with_headers(subject.to_owned(), headers, payload.clone().into());
        let answer = match timeout(PATIENCE, answer).await.unwrap() {
            Ok(answer) => looked_at(&serde_json::from_slice(&answer.payload).unwrap()),
            Err(error) => json!(error.kind().to_string()),
        };
        self.answers.push((format!("{subject} {payload}"), answer));
    }

    /// All answers up to one with a status, or `count`.
    async fn direct(&mut self, subject: &str, payload: Value, count: usize) {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.unwrap();
        let text = if payload.is_null() { String::new() } else { payload.to_string() };
        self.client.publish_with_reply(subject.to_owned(), inbox, text.clone().into()).await.unwrap();
        let mut all = Vec::new();
        while all.len() < count {
            let answer = timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
            all.push(told(&answer));
            if answer.status.is_some() {
                break;
            }
        }
        self.answers.push((format!("{subject} {text}"), json!(all)));
    }
}

async fn answers_of(url: &str, one: ConversationId, two: ConversationId) -> Answers {
    let config = Config::parse_from([
        "gateway",
        "--nats-url",
        url,
        "--database-url",
        "postgres://nowhere",
        "--jwt-secret",
        "a secret",
    ]);
    let client = nats::connect(&config.nats, "compare").await.unwrap().0;
    let js = jetstream::new(client.clone());
    let logs = streams::ensure_log(&js, &config.nats, || async { Ok(0) }).await.unwrap();
    streams::ensure_persister(&logs.streams[0].stream).await.unwrap();
    let stream = logs.streams[0].stream.cached_info().config.name.clone();
    let (people, _) = streams::ensure_presence(&js, &config.nats).await.unwrap();
    let mut asker = Asker { client: client.clone(), answers: Vec::new() };
    let mut live = client.subscribe(subjects::live_all(one)).await.unwrap();
    let (first, second) = (subjects::log(0, one), subjects::log(0, two));

    let headers = |fields: &[(&str, &str)]| {
        let mut headers = HeaderMap::new();
        fields.iter().for_each(|(name, value)| headers.insert(*name, *value));
        headers
    };
    let expected = "Nats-Expected-Last-Subject-Sequence";
    for (subject, fields) in [
        (&first, vec![("Nats-Msg-Id", "a")]),
        (&first, vec![("Nats-Msg-Id", "a")]),
        (&second, vec![("Nats-Msg-Id", "b"), (expected, "0")]),
        (&first, vec![("Nats-Msg-Id", "c"), (expected, "0")]),
        (&first, vec![("Nats-Msg-Id", "c"), (expected, "1")]),
        (&first, vec![]),
        (&second, vec![]),
        (&first, vec![(expected, "9")]),
    ] {
        asker.api(subject, headers(&fields), json!("x")).await;
    }
    let mut republished = Vec::new();
    for _ in 0..3 {
        republished.push(told(&timeout(PATIENCE, live.next()).await.unwrap().unwrap()));
    }
    asker.answers.push(("republished".into(), json!(republished)));

    let direct = subjects::direct_get(0);
    let none = subjects::log(0, ConversationId::generate());
    for subject in [&first, &none] {
        asker.direct(&format!("{direct}.{subject}"), Value::Null, 1).await;
        // Its name differs between the two runs.
        asker.answers.last_mut().unwrap().0 = "last by subject".into();
    }
    for seq in [1, 2, 99] {
        asker.direct(&direct, json!({ "seq": seq }), 1).await;
    }
    for (seq, batch) in [(1, 2), (1, 50), (2, 50), (3, 1), (99, 5)] {
        asker.direct(&direct, json!({ "seq": seq, "next_by_subj": first, "batch": batch }), 99).await;
    }
    for (seq, batch) in [(1, 5), (4, 5), (5, 5), (99, 5)] {
        asker.direct(&direct, json!({ "multi_last": [first, second], "seq": seq, "batch": batch }), 99).await;
    }
    asker.api(&format!("$JS.API.STREAM.INFO.{stream}"), HeaderMap::new(), Value::Null).await;
    asker.api("$JS.API.STREAM.INFO.MISSING", HeaderMap::new(), Value::Null).await;
    asker.api(&format!("$JS.API.CONSUMER.INFO.{stream}.persister"), HeaderMap::new(), Value::Null).await;
    asker.api(&format!("$JS.API.CONSUMER.INFO.{stream}.missing"), HeaderMap::new(), Value::Null).await;
    asker.api("nobody.listens", HeaderMap::new(), Value::Null).await;
    buckets(&mut asker, &people).await;
    asker.api(&format!("$JS.API.STREAM.PURGE.{stream}"), HeaderMap::new(), json!({ "filter": second })).await;
    asker.api(&format!("$JS.API.STREAM.INFO.{stream}"), HeaderMap::new(), Value::Null).await;
    asker.direct(&direct, json!({ "seq": 1, "next_by_subj": second, "batch": 5 }), 99).await;
    asker.answers
}

/// A bucket: what is written, what is refused, and what a watch of it brings (by an ordered consumer).
async fn buckets(asker: &mut Asker, bucket: &kv::Store) {
    let key = |user: &str| subjects::presence_key("node", &UserId::new(user).unwrap());
    let (ann, bob) = (key("ann"), key("bob"));
    let revision = |done: Result<u64, String>| done.map_or_else(|error| json!(error), |revision| json!(revision));
    let put = bucket.put(&ann, "1".into()).await.map_err(|error| error.kind().to_string());
    asker.answers.push(("put".into(), revision(put)));
    for key in [&ann, &bob] {
        let created = bucket.create(key, "1".into()).await.map_err(|error| error.kind().to_string());
        asker.answers.push(("create".into(), revision(created)));
    }
    for wrong in [7, 1] {
        let updated = bucket.update(&ann, "2".into(), wrong).await.map_err(|error| error.kind().to_string());
        asker.answers.push((format!("update {wrong}"), revision(updated)));
    }
    let mut watch = bucket.watch_with_history(">").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if seen.len() == 2 {
            // Both keys have been delivered: a purge takes away what was not.
            bucket.purge(&bob).await.unwrap();
        }
        let entry = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
        let payload = String::from_utf8_lossy(&entry.value).into_owned();
        seen.push(json!([entry.key, entry.revision, format!("{:?}", entry.operation), payload]));
    }
    asker.answers.push(("watch".into(), json!(seen)));
    let got = bucket.get(&ann).await.unwrap().map(|value| String::from_utf8_lossy(&value).into_owned());
    asker.answers.push(("get".into(), json!(got)));
    asker.answers.push(("get what is purged".into(), json!(bucket.get(&bob).await.unwrap().is_none())));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_in_memory_answers_as_nats_server_does() {
    let env = TestEnv::start().await.unwrap();
    let (one, two) = (ConversationId::generate(), ConversationId::generate());
    let real = answers_of(env.nats_url(), one, two).await;
    let memory = Nats::start(Arc::new(Gate::default())).await;
    let memory = answers_of(&format!("nats://127.0.0.1:{}", memory.port), one, two).await;
    let differing: Vec<_> = real.iter().zip(&memory).filter(|(real, memory)| real != memory).collect();
    assert!(differing.is_empty(), "(nats-server, in memory): {differing:#?}");
    assert_eq!(real.len(), memory.len());
}
