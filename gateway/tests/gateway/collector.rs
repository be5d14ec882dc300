//! An OpenTelemetry collector that keeps what it gets.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, http::header::CONTENT_TYPE, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span as Proto, span::SpanKind, status::StatusCode},
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};

/// A span, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty: a root.
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) failed: bool,
    attributes: Vec<KeyValue>,
}

impl Span {
    fn of(resource: &[KeyValue], span: Proto) -> Self {
        Self {
            service: find(resource, "service.name").unwrap(),
            instance: find(resource, "service.instance.id").unwrap(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: span.kind(),
            failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
            name: span.name,
            attributes: span.attributes,
        }
    }

    /// An attribute's value, as text.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        find(&self.attributes, key)
    }
}

fn find(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The collector; dropped, it is gone.
pub(crate) struct Collector {
    pub(crate) url: String,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::<Mutex<Vec<Bytes>>>::default();
        let take = async |State(bodies): State<Arc<Mutex<Vec<Bytes>>>>, body: Bytes| {
            bodies.lock().unwrap().push(body);
            // An empty answer in protobuf: all was taken.
            [(CONTENT_TYPE, "application/x-protobuf")]
        };
        let app = Router::new().route("/v1/traces", post(take)).with_state(bodies.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, bodies, task }
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let bodies = self.bodies.lock().unwrap();
        let requests = bodies.iter().map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap());
        let resources = requests.flat_map(|request| request.resource_spans);
        resources
            .flat_map(|it| {
                let resource = it.resource.unwrap().attributes;
                let spans = it.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.map(|span| Span::of(&resource, span)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Whether a text came here, in whatever place.
    pub(crate) fn has_heard(&self, text: &str) -> bool {
        let bodies = self.bodies.lock().unwrap();
        bodies.iter().any(|body| body.windows(text.len()).any(|part| part == text.as_bytes()))
    }
}
