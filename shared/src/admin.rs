//! The admin port of a process: `/livez`, `/readyz`, `/metrics`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{tasks, telemetry};

/// A condition of readiness, set by whoever knows.
#[derive(Clone, Debug, Default)]
pub struct Latch(Arc<AtomicBool>);

impl Latch {
    pub fn set(&self, up: bool) {
        self.0.store(up, Ordering::Release);
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The conditions under which a process wants traffic, by name.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Vec<(&'static str, Latch)>>);

impl Readiness {
    #[must_use]
    pub fn new(latches: Vec<(&'static str, Latch)>) -> Self {
        Self(Arc::new(latches))
    }

    /// The names of what is missing; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, latch)| !latch.is_up()).map(|(name, _)| *name).collect()
    }

    /// The answer to `/readyz`.
    #[must_use]
    pub fn respond(&self) -> (StatusCode, String) {
        let missing = self.missing();
        if missing.is_empty() {
            (StatusCode::OK, "ready\n".into())
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
        }
    }
}

/// Serves the admin port until `shutdown`.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let upkeep = metrics.clone();
    let app = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { readiness.respond() }))
        .route(
            "/metrics",
            get(move || async move {
                ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry::render(&metrics))
                    .into_response()
            }),
        );
    let tick = tokio::spawn(tasks::restarting("metrics_upkeep", move || keep_up(upkeep.clone())));
    let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    tick.abort();
    served
}
/// Folds what histograms gathered, for ever.
async fn keep_up(metrics: PrometheusHandle) {
    let mut every = tokio::time::interval(std::time::Duration::from_secs(5));
    loop {
        every.tick().await;
        metrics.run_upkeep();
    }
}
