//! Traces for an OpenTelemetry collector. Without one there is no tracer, and whoever would make a span looks at a
//! static and goes on. Which spans there are stands in each process's own `trace`; here is what they share.

mod export;

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span as _, SpanBuilder, SpanContext, SpanKind, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};

use crate::{ids::Seq, settings::TelemetrySettings, subjects};

/// How long the last spans may take to reach the collector when the process ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

static TRACES: OnceLock<(SdkTracerProvider, SdkTracer)> = OnceLock::new();

/// What became of a finished span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The collector has it.
    Exported,
    /// The collector did not take it.
    Failed,
    /// Too many waited for the collector.
    Dropped,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Exported, Self::Failed, Self::Dropped];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Whose spans these are.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    pub name: &'static str,
    pub version: &'static str,
    /// One process's own name.
    pub instance: &'a str,
}

/// Begins to send spans, if a collector is configured. `count` is told what becomes of them.
///
/// # Errors
/// If the exporter can't be made of its settings; OpenTelemetry's own environment variables are among these.
pub fn start(settings: &TelemetrySettings, service: Service<'_>, count: fn(Outcome, u64)) -> anyhow::Result<()> {
    let Some(endpoint) = settings.collector() else { return Ok(()) };
    let resource = Resource::builder()
        .with_service_name(service.name)
        .with_attributes([
            KeyValue::new("service.namespace", "partyline"),
            KeyValue::new("service.version", service.version),
            KeyValue::new("service.instance.id", service.instance.to_owned()),
        ])
        .build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.trace_sample))))
        .with_resource(resource)
        .with_span_processor(export::processor(endpoint, count)?)
        .build();
    let tracer = provider.tracer("partyline");
    if TRACES.set((provider, tracer)).is_ok() {
        tracing::info!(sample = settings.trace_sample, instance = service.instance, "traces go to the collector");
    }
    Ok(())
}

/// What makes spans; `None` while there is no collector.
#[must_use]
pub fn tracer() -> Option<&'static SdkTracer> {
    TRACES.get().map(|(_, tracer)| tracer)
}

/// Sends what is left, for at most two seconds. Later spans are not made.
pub async fn finish() {
    let Some((provider, _)) = TRACES.get() else { return };
    let (done, finished) = tokio::sync::oneshot::channel();
    // On a thread of its own: the runtime would wait for one of its own, however long it took.
    std::thread::spawn(move || done.send(provider.shutdown_with_timeout(LAST_SPANS).is_ok()));
    if !matches!(tokio::time::timeout(LAST_SPANS, finished).await, Ok(Ok(true))) {
        tracing::warn!("the last spans have not reached the collector");
    }
}

/// Begins a span, and tells the context in which it is the current one; `None` if it is not sampled.
#[must_use]
pub fn begin(tracer: &SdkTracer, span: SpanBuilder, parent: &Context) -> Option<Context> {
    let span = parent.with_span(span.start_with_context(tracer, parent));
    span.span().span_context().is_sampled().then_some(span)
}

/// What is done with a message of NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Publish,
    Process,
}

/// Begins the span of what is done with an event, by the semantic conventions for messaging. `template` is what its
/// subject looks like.
#[must_use]
pub fn message(
    tracer: &SdkTracer,
    operation: Operation,
    template: &'static str,
    subject: String,
    parent: &Context,
) -> Span {
    let (name, operation, kind) = match operation {
        Operation::Publish => ("publish", "send", SpanKind::Producer),
        Operation::Process => ("process", "process", SpanKind::Consumer),
    };
    let builder = tracer.span_builder(format!("{name} {template}")).with_kind(kind);
    let mut span = builder.start_with_context(tracer, parent);
    span.set_attributes([
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.name", name),
        KeyValue::new("messaging.operation.type", operation),
        KeyValue::new("messaging.destination.template", template),
        KeyValue::new("messaging.destination.name", subject),
    ]);
    span
}

/// The attribute that tells an event's place in the log.
#[must_use]
pub fn seq(seq: Seq) -> KeyValue {
    number("partyline.seq", seq)
}

/// An attribute that counts something.
#[must_use]
pub fn number(key: &'static str, value: u64) -> KeyValue {
    KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX))
}

/// The context that a `traceparent` tells of; an empty one without it, or if it isn't one.
#[must_use]
pub fn parent(traceparent: Option<&str>) -> Context {
    // `tracestate` is not asked for: it is the caller's to fill, and would stay in the log with every event.
    struct Header<'a>(Option<&'a str>);
    impl Extractor for Header<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.filter(|_| key == subjects::TRACEPARENT)
        }

        fn keys(&self) -> Vec<&str> {
            vec![subjects::TRACEPARENT]
        }
    }
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Header(traceparent))
}

/// The span that published an event, if it is traced.
#[must_use]
pub fn publisher(headers: Option<&async_nats::HeaderMap>) -> Option<Context> {
    let parent = parent(Some(headers?.get(subjects::TRACEPARENT)?.as_str()));
    parent.span().span_context().is_sampled().then_some(parent)
}

/// A span as a `traceparent`.
#[must_use]
pub fn traceparent(span: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_comes_out_as_it_went_in() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(traceparent(parent(Some(text)).span().span_context()), text);
        for none in [None, Some(""), Some("00-0-0-01"), Some("00-00000000000000000000000000000000-b7ad6b7169203331-01")]
        {
            assert!(!parent(none).span().span_context().is_valid(), "{none:?}");
        }
    }

    #[test]
    fn only_what_is_sampled_is_followed() {
        let heard = |text: &str| {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert(subjects::TRACEPARENT, text);
            publisher(Some(&headers)).is_some()
        };
        assert!(heard("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        assert!(!heard("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"));
        assert!(!heard("none"));
        assert!(publisher(None).is_none() && publisher(Some(&async_nats::HeaderMap::new())).is_none());
    }
}
