//! Traces: one message's way through gateway, NATS and persister, as a collector gets it.

use std::time::Duration;

use devstack::testing::{Launch, Process};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    collector::{Collector, Span},
    support::{PATIENCE, World, answer, client_id, messages_of, seq, until},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const POST: &str = "POST /chat/api/conversations/{id}/messages/";
const PUBLISH: &str = "publish chat.log.{partition}.{conversation}";
const DELIVER: &str = "process chat.live.{conversation}.log";
const WRITE: &str = "process chat.log.{partition}.{conversation}";

fn traced(launch: Launch, endpoint: &str, sample: &str) -> Launch {
    launch.env("PARTYLINE_OTLP_ENDPOINT", endpoint).env("PARTYLINE_TRACE_SAMPLE", sample)
}

/// Sends by REST, with a `traceparent`; the acknowledgement.
async fn post(world: &World, gateway: &Process, chat: &str, content: &str, traceparent: &str) -> Value {
    let request = world.bare(gateway, Method::POST, &messages_of(chat)).bearer_auth(world.token("ann"));
    let body = json!({ "client_id": client_id(), "content": content });
    let sent = answer(request.header("traceparent", traceparent).json(&body)).await;
    assert_eq!(sent.status, 200, "{sent:?}");
    sent.body
}

/// The `traceparent` of an event of the log.
async fn header(world: &World, seq: u64) -> Option<String> {
    use partyline_shared::subjects;
    let js = async_nats::jetstream::new(world.env.nats().await.unwrap());
    let stream = js.get_stream(subjects::log_stream(0)).await.unwrap();
    let event = stream.get_raw_message(seq).await.unwrap();
    event.headers.get(subjects::TRACEPARENT).map(ToString::to_string)
}

/// The only span of this name in a trace.
fn one<'a>(spans: &'a [Span], trace: &str, name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.trace == trace && span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no {name} in {trace}: {spans:#?}"));
    assert!(found.next().is_none(), "two of {name} in {trace}: {spans:#?}");
    span
}

#[tokio::test]
async fn a_message_is_one_trace_from_its_sender_to_postgres() {
    let (world, collector) = (World::new().await, Collector::start().await);
    let gateway = traced(world.launch(), &collector.url, "1").start().await.unwrap();
    // What is traced was decided where it began.
    let persister = traced(world.env.persister().unwrap(), &collector.url, "0").start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut bob = world.person(&gateway, "bob").await;
    bob.join(&chat).await;

    let by_rest = post(&world, &gateway, &chat, "secret by rest", &format!("00-{TRACE}-{CALLER}-01")).await;
    let unsampled =
        post(&world, &gateway, &chat, "unseen", "00-11111111111111111111111111111111-2222222222222222-00").await;
    let by_socket = bob.send(&chat, "secret by socket").await;
    bob.find(|frame| frame["type"] == "new_message" && frame["seq"] == by_socket["seq"]).await;
    world.persisted().await;
    bob.leave().await;
    // The last spans come before the end.
    for process in [&gateway, &persister] {
        assert!(process.terminate(PATIENCE).await.success(), "{}", process.log());
    }

    let spans = collector.spans();
    let request = one(&spans, TRACE, POST);
    assert_eq!((request.kind, request.parent.as_str()), (SpanKind::Server, CALLER));
    assert_eq!(request.get("http.response.status_code").as_deref(), Some("200"));
    let command = spans.iter().find(|span| span.name == "send_message").unwrap();
    assert_eq!((command.kind, command.parent.as_str()), (SpanKind::Server, ""));
    assert_eq!(command.get("network.protocol.name").as_deref(), Some("websocket"));
    for (root, sent) in [(request, &by_rest), (command, &by_socket)] {
        let publish = one(&spans, &root.trace, PUBLISH);
        assert_eq!((publish.kind, &publish.parent), (SpanKind::Producer, &root.id));
        let traceparent = format!("00-{}-{}-01", publish.trace, publish.id);
        assert_eq!(header(&world, seq(sent)).await, Some(traceparent));
        let (deliver, write) = (one(&spans, &root.trace, DELIVER), one(&spans, &root.trace, WRITE));
        for consumer in [deliver, write] {
            assert_eq!((consumer.kind, &consumer.parent), (SpanKind::Consumer, &publish.id));
        }
        for span in [root, publish, deliver] {
            assert_eq!((span.service.as_str(), &span.instance), ("partyline-gateway", &root.instance));
        }
        assert_eq!(write.service, "partyline-persister");
        assert_eq!(deliver.get("partyline.sockets").as_deref(), Some("1"));
        assert_eq!(write.get("partyline.outcome").as_deref(), Some("written"));
        for span in [publish, deliver, write] {
            assert_eq!(span.get("partyline.seq"), Some(seq(sent).to_string()), "{span:?}");
            assert_eq!(span.get("messaging.system").as_deref(), Some("nats"));
            assert!(span.get("messaging.destination.name").unwrap().contains(&chat), "{span:?}");
        }
        assert_eq!(publish.get("messaging.message.id").as_deref(), sent["message_id"].as_str());
    }
    assert!(spans.iter().all(|span| !span.failed), "{spans:#?}");
    assert_eq!(header(&world, seq(&unsampled)).await, None);
    for secret in ["secret", "ann", "bob", &world.token("ann")[..20]] {
        assert!(!collector.has_heard(secret), "the collector heard {secret}");
    }
}

#[tokio::test]
async fn without_a_collector_nothing_is_traced() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_TRACE_SAMPLE", "1").start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let by_rest = post(&world, &gateway, &chat, "hi", &format!("00-{TRACE}-{CALLER}-01")).await;
    let by_socket = world.person(&gateway, "bob").await.send(&chat, "hi").await;
    for sent in [by_rest, by_socket] {
        assert_eq!(header(&world, seq(&sent)).await, None);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_holds_nothing_up() {
    let world = World::new().await;
    // One that is not there, and one that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    for (endpoint, outcome) in [("http://127.0.0.1:1", "failed"), (silent.as_str(), "dropped")] {
        let gateway = traced(world.launch(), endpoint, "1").start().await.unwrap();
        let chat = world.group(&gateway, &["ann", "bob"]).await;
        let mut ann = world.person(&gateway, "ann").await;
        let began = Instant::now();
        for _ in 0..20 {
            ann.send(&chat, "hi").await;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // More than may wait.
        for _ in 0..20 {
            for _ in 0..500 {
                ann.say(&json!({ "type": "nothing" })).await;
            }
            ann.caught_up().await;
            ann.held.clear();
        }
        let name = format!("partyline_gateway_spans_total{{outcome=\"{outcome}\"}}");
        until("spans to be given up", async || world.metric(&gateway, &name).await >= 20.0).await;
        ann.leave().await;
        let began = Instant::now();
        assert!(gateway.terminate(PATIENCE).await.success(), "{}", gateway.log());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
