//! The gateway's spans: what clients ask for, what is appended for them, what comes live. All names and attributes stand
//! here, as OpenTelemetry's semantic conventions have them; `docs/tracing.md` has the list. No span holds what people
//! write, who they are, or a token. Without a collector each of these functions looks at a static and returns.

use async_nats::Message;
use axum::http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::Span;
use partyline_shared::{
    event::Event,
    ids::Seq,
    subjects,
    trace::{self, Operation, tracer},
    wire::ErrorCode,
};

use crate::{metrics::Verb, session::conn::Conn};

/// Begins the span of a request to the API, under the client's own if it brought one. `None`: not traced.
#[must_use]
pub fn request(headers: &HeaderMap, method: &'static str, route: &str) -> Option<Context> {
    let tracer = tracer()?;
    let parent = trace::parent(headers.get(subjects::TRACEPARENT).and_then(|it| it.to_str().ok()));
    let span = tracer.span_builder(format!("{method} {route}")).with_kind(SpanKind::Server);
    let span = trace::begin(tracer, span, &parent)?;
    span.span()
        .set_attributes([KeyValue::new("http.request.method", method), KeyValue::new("http.route", route.to_owned())]);
    Some(span)
}

/// Ends the span of a request.
pub fn answered(span: &Context, status: u16) {
    let span = span.span();
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
    if status >= 500 {
        span.set_attribute(KeyValue::new("error.type", status.to_string()));
        span.set_status(Status::error(""));
    }
    span.end();
}

/// Begins the span of a socket's command. `None`: not traced.
#[must_use]
pub fn command(verb: Verb, conn: &Conn) -> Option<Context> {
    let tracer = tracer()?;
    let span = tracer.span_builder(verb.as_str()).with_kind(SpanKind::Server);
    let span = trace::begin(tracer, span, &Context::new())?;
    let protocol = if conn.native().is_some() { "websocket" } else { "socket.io" };
    span.span().set_attribute(KeyValue::new("network.protocol.name", protocol));
    Some(span)
}

/// Ends the span of a command.
pub fn done(span: &Context, refused: Option<ErrorCode>) {
    let span = span.span();
    if let Some(code) = refused {
        span.set_attribute(KeyValue::new("error.type", code.as_str()));
        // What the client did wrong is no error of the server's.
        if matches!(code, ErrorCode::Unavailable | ErrorCode::Internal) {
            span.set_status(Status::error(""));
        }
    }
    span.end();
}

/// Begins the span of an append, under the request or command that it is for. `None`: that is not traced.
#[must_use]
pub fn publish(partition: u16, event: &Event, bytes: usize) -> Option<Span> {
    let tracer = tracer()?;
    let parent = Context::current();
    if !parent.span().span_context().is_sampled() {
        return None;
    }
    let subject = subjects::log(partition, event.conversation_id());
    let mut span = trace::message(tracer, Operation::Publish, subjects::LOG_TEMPLATE, subject, &parent);
    span.set_attributes([
        KeyValue::new("messaging.destination.partition.id", partition.to_string()),
        trace::number("messaging.message.body.size", bytes as u64),
    ]);
    if let Event::NewMessage(message) = event {
        span.set_attribute(KeyValue::new("messaging.message.id", message.message_id.to_string()));
    }
    Some(span)
}

/// A span as the header of what it publishes.
#[must_use]
pub fn traceparent(span: &Span) -> String {
    trace::traceparent(span.span_context())
}

/// Ends the span of an append: JetStream has the event.
pub fn stored(mut span: Span, seq: Seq, duplicate: bool) {
    span.set_attributes([trace::seq(seq), KeyValue::new("partyline.duplicate", duplicate)]);
    span.end();
}

/// Ends the span of an append that JetStream did not confirm.
pub fn not_stored(mut span: Span) {
    span.set_attribute(KeyValue::new("error.type", ErrorCode::Unavailable.as_str()));
    span.set_status(Status::error(""));
    span.end();
}

/// Begins the span of a live event's delivery, under that of its append. `None`: that was not traced.
#[must_use]
pub fn arrived(message: &Message) -> Option<Span> {
    let tracer = tracer()?;
    let headers = message.headers.as_ref();
    let parent = trace::publisher(headers)?;
    let subject = message.subject.to_string();
    let mut span = trace::message(tracer, Operation::Process, subjects::LIVE_TEMPLATE, subject, &parent);
    let seq = headers.and_then(|it| it.get(async_nats::header::NATS_SEQUENCE)).and_then(|it| it.as_str().parse().ok());
    span.set_attributes(seq.map(trace::seq));
    Some(span)
}

/// Ends the span of a delivery: all sockets have the event, or it waits in their queues.
pub fn delivered(mut span: Span, sockets: usize) {
    span.set_attribute(trace::number("partyline.sockets", sockets as u64));
    span.end();
}
