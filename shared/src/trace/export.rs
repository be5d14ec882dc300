//! Finished spans on their way to the collector: batches from a thread of OpenTelemetry's own, behind a queue that is
//! bounded. A collector that is away costs spans, which are counted, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_otlp::{Protocol, SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};

use super::Outcome;

/// Spans that may wait for the collector.
const QUEUE: usize = 8_192;
/// Spans in one request.
const BATCH: usize = 512;
/// How long the first span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// How long one batch may take, with what is tried again.
const PATIENCE: Duration = Duration::from_secs(5);

/// What spans go to when they end. `endpoint` is the collector's base URL.
pub(super) fn processor(endpoint: &str, count: fn(Outcome, u64)) -> anyhow::Result<impl SpanProcessor + use<>> {
    let exporter = OtlpExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| anyhow::anyhow!("traces: {error}"))?;
    let waiting = Arc::new(AtomicUsize::new(0));
    let exporter = Counted { exporter, waiting: waiting.clone(), failing: AtomicBool::new(false), count };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    Ok(Bounded { batches, waiting, count })
}

/// Keeps no more spans than the queue behind it, which would tell nobody what it drops.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    count: fn(Outcome, u64),
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.batches.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < QUEUE {
            self.batches.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            (self.count)(Outcome::Dropped, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Counts what the collector takes.
#[derive(Debug)]
struct Counted {
    exporter: OtlpExporter,
    waiting: Arc<AtomicUsize>,
    failing: AtomicBool,
    count: fn(Outcome, u64),
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        (self.count)(if exported.is_ok() { Outcome::Exported } else { Outcome::Failed }, spans as u64);
        // Once, not with every batch.
        if self.failing.swap(exported.is_err(), Ordering::Relaxed) != exported.is_err() {
            match &exported {
                Ok(()) => tracing::info!("the collector takes spans again"),
                Err(error) => tracing::warn!(%error, "the collector takes no spans; they are dropped"),
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
