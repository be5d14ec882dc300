//! Logs and the metrics recorder, the same in every process.

use std::sync::LazyLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

use crate::settings::{LogFormat, TelemetrySettings};

/// Bounds of every histogram of seconds: 50 µs to 30 s, dense around the 100 ms goal.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
/// Bounds of every histogram of counts.
pub const COUNT_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];

/// A library that tells below `info` of all that passes through it, messages included; and at `info` of each event,
/// which are as many as the messages that a slow consumer drops (`nats` logs the others).
const TALKATIVE: &str = "async_nats";

/// Starts logging to standard error, in JSON one object a line. A second call in one process changes nothing.
pub fn init_logs(settings: &TelemetrySettings) {
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_else(|_| EnvFilter::new("info"));
    // Whatever the setting says: a log holds nothing that people write.
    let discreet = filter_fn(|it| *it.level() <= Level::WARN || !it.target().starts_with(TALKATIVE));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match settings.log_format {
        LogFormat::Text => builder.finish().with(discreet).try_init(),
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
            builder.finish().with(discreet).try_init()
        }
    };
}

/// Installs the process's metrics recorder.
///
/// # Errors
/// If the process has one already.
pub fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), COUNT_BUCKETS)?
        .install_recorder()?;
    PROCESS.describe();
    Ok(recorder)
}

/// `process_…`: memory, CPU time, files, threads, under the names that every Prometheus client uses.
static PROCESS: LazyLock<Collector> = LazyLock::new(Collector::default);

/// The metrics as of now, in Prometheus's text format. Reads `/proc`: for a scrape, not for a hot path.
#[must_use]
pub fn render(recorder: &PrometheusHandle) -> String {
    PROCESS.collect();
    recorder.render()
}
