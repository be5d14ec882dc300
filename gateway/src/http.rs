//! The HTTP side: the router as one list, and what all of its answers have in common.

mod caller;
mod complete;
mod conversations;
mod front;
mod host;
mod input;
pub mod lent;
mod messages;
mod openapi;
mod participants;
pub mod problem;
mod site;
mod views;

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request, State},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use opentelemetry::context::FutureExt;
use partyline_shared::wire::{ErrorCode, Refusal};
use tower::{Layer, util::MapRequestLayer};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{Predicate, SizeAbove},
    },
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::front::Front;
use self::problem::Problem;
use crate::{metrics, origin, server::Gateway, trace, ws};

/// Says that a browser is not to guess what an answer is.
pub const NOSNIFF: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

const API: &str = "/chat/api/";
/// The smallest answer that is compressed, in bytes: a smaller one takes a packet either way.
const COMPRESSED_BYTES: u64 = 1_024;
const OPENAPI: &str = "/chat/api/openapi.json";
const WS: &str = "/ws";

/// The API, the native WebSocket, the page.
fn app(gateway: Arc<Gateway>) -> Router {
    let (api, document) = OpenApiRouter::with_openapi(openapi::document())
        .routes(routes!(conversations::list, conversations::create))
        .routes(routes!(conversations::one))
        .routes(routes!(messages::list, messages::send))
        .routes(routes!(messages::mark_read))
        .routes(routes!(participants::add))
        .routes(routes!(participants::remove))
        .split_for_parts();
    let mut router = api
        .route(OPENAPI, get(move || async move { Json(document) }))
        .route(WS, get(ws::upgrade))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready));
    router = match &gateway.chat.config.web_dir {
        Some(folder) => router.fallback_service(site::serve(folder)),
        None => router.fallback(not_found),
    };
    let router = router
        .method_not_allowed_fallback(method_not_allowed)
        .layer(compression())
        .layer(cors(&gateway.chat.config.allowed_origins))
        .layer(middleware::from_fn(observe))
        .with_state(gateway);
    // Before routing, which is why it goes around the router.
    Router::new().fallback_service(MapRequestLayer::new(with_usual_slash).layer(router))
}

/// The API's paths end in a slash and work without it; the others are the other way round.
fn with_usual_slash(mut request: Request) -> Request {
    let path = request.uri().path();
    let bare = path.trim_end_matches('/');
    let usual = match bare {
        OPENAPI | WS | "/livez" | "/readyz" => bare.to_owned(),
        _ if path.starts_with(API) && path.len() == bare.len() => format!("{path}/"),
        _ => return request,
    };
    if usual != path {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = format!("{usual}{query}").parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

fn cors(listed: &[String]) -> CorsLayer {
    let listed = listed.to_vec();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |_, request| origin::check(&request.headers, &listed).is_ok()))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Whatever a page's tools add, tracing above all, is no secret of ours. Others than allowed origins get this, too,
        // which tells a browser nothing without `Access-Control-Allow-Origin`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::LOCATION, header::RETRY_AFTER])
        .max_age(std::time::Duration::from_secs(3_600))
}

/// Compresses JSON for clients that ask for it: a page of the list of conversations is 200 KB. Socket.IO's polls go past
/// the router. Why that gives no secret away: `docs/decisions/0019-compression.md`.
fn compression() -> CompressionLayer<impl Predicate> {
    let is_json = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        let media_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        media_type.starts_with(b"application/json") || media_type.starts_with(b"application/problem+json")
    };
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESSED_BYTES).and(is_json))
}

/// Measures and traces a request, and forbids guessing and keeping of what the API says.
async fn observe(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let method = known(request.method());
    let is_api = request.uri().path().starts_with(API);
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    let span = if is_api { trace::request(request.headers(), method, route) } else { None };
    let began = Instant::now();
    let mut response = match &span {
        Some(span) => next.run(request).with_context(span.clone()).await,
        None => next.run(request).await,
    };
    let status = response.status().as_u16();
    metrics::http_request(route, method, status, began.elapsed());
    if let Some(span) = &span {
        trace::answered(span, status);
    }
    let headers = response.headers_mut();
    headers.extend([NOSNIFF]);
    if is_api {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

/// A client may invent methods; a label may not take them all.
pub fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> (StatusCode, String) {
    gateway.readiness.respond()
}

async fn not_found() -> Response {
    Problem::from(Refusal::new(ErrorCode::NotFound, "nothing is here")).into_response()
}

async fn method_not_allowed() -> Problem {
    Problem::from(Refusal::new(ErrorCode::MethodNotAllowed, "this path knows other methods only"))
}
