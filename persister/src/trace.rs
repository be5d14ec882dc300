//! The persister's spans: one for each traced event, from its batch's beginning to its acknowledgement, under the span
//! that published it. `docs/tracing.md` has all names and attributes.

use std::collections::HashMap;

use async_nats::jetstream::Message;
use opentelemetry::{
    KeyValue,
    trace::{Span as _, Status},
};
use opentelemetry_sdk::trace::Span;
use partyline_shared::{
    ids::Seq,
    subjects,
    trace::{self, Operation, tracer},
};

/// The spans of a batch's traced events, by place. Without a collector there are none, and no memory is taken.
#[derive(Default)]
pub(crate) struct Spans(HashMap<Seq, Span>);

impl Spans {
    /// Begins the spans of a batch.
    pub(crate) fn begin(batch: &[(Seq, &Message)]) -> Self {
        let Some(tracer) = tracer() else { return Self::default() };
        let spans = batch.iter().filter_map(|(seq, message)| {
            let parent = trace::publisher(message.headers.as_ref())?;
            let subject = message.subject.to_string();
            let mut span = trace::message(tracer, Operation::Process, subjects::LOG_TEMPLATE, subject, &parent);
            span.set_attributes([
                KeyValue::new("messaging.consumer.group.name", subjects::PERSISTER_CONSUMER),
                trace::number("messaging.batch.message_count", batch.len() as u64),
                trace::seq(*seq),
            ]);
            Some((*seq, span))
        });
        Self(spans.collect())
    }

    /// Ends an event's span; `outcome` is `written`, `waiting_for_target`,
    /// `waiting_for_upgrade`, or a dead letter's reason.
    pub(crate) fn end(&mut self, seq: Seq, outcome: &'static str) {
        if self.0.is_empty() {
            return;
        }
        let Some(mut span) = self.0.remove(&seq) else { return };
        span.set_attribute(KeyValue::new("partyline.outcome", outcome));
        if !matches!(outcome, "written" | "waiting_for_target" | "waiting_for_upgrade") {
            span.set_attribute(KeyValue::new("error.type", outcome));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}
