//! What the public port answers while the gateway starts: it may wait for NATS and for Postgres for a long time, and a
//! probe without an answer would have it killed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use partyline_shared::{admin::Readiness, wire::Refusal};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use crate::{http::problem::Problem, tasks};

/// Connections that are answered at once; more wait in the kernel.
const CONNECTIONS: usize = 256;
/// How long a connection may take for its one request.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Answers one request a connection until it is dropped: `/livez`, `/readyz`, and `unavailable` to everything else.
/// Connections that are being answered then are answered to their end.
pub(super) async fn serve(listener: &TcpListener, readiness: &Readiness) -> Infallible {
    let readiness = readiness.clone();
    let app = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async move || readiness.respond()))
        .fallback(unavailable);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, mostly.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let service = TowerToHyperService::new(app.clone());
        let served = async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = timeout(TIMEOUT, connection).await;
            drop(place);
        };
        tokio::spawn(tasks::caught("http_starting", served));
    }
}

async fn unavailable(_: Request) -> Response {
    let mut response = Problem::from(Refusal::unavailable("a node that is starting")).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
