//! The Socket.IO transport (protocol 5 over Engine.IO 4): requests and handshakes here, a session in [`session`], what
//! clients say in [`packet`] and [`asked`], what they hear in [`voice`] and [`late`]. No chat rules.

pub mod asked;
pub mod lane;
pub mod late;
pub mod packet;
pub mod polling;
pub mod problem;
pub mod session;
pub mod sessions;
pub mod socket;
pub mod voice;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use hyper::{HeaderMap, Method, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::json;

use self::{
    problem::Problem,
    session::{Session, Stage},
};
use crate::{metrics, origin, server::Gateway, ws};

pub const PATH: &str = "/socket.io/";

/// Socket.IO's one path; its clients may leave out the last slash.
pub fn routes() -> Router<Arc<Gateway>> {
    Router::new().route(PATH, any(serve)).route("/socket.io", any(serve))
}

#[derive(Deserialize)]
struct Asked {
    /// Engine.IO's version.
    #[serde(rename = "EIO")]
    version: Option<String>,
    transport: Option<String>,
    sid: Option<String>,
}

async fn serve(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    let Ok(Query(asked)) = Query::<Asked>::try_from_uri(request.uri()) else {
        return Problem::BadRequest.into_response();
    };
    if !origin::allowed(request.headers(), &gateway.chat.config.allowed_origins) {
        return refuse("origin", Problem::Forbidden);
    }
    if asked.version.as_deref() != Some("4") {
        return refuse("version", Problem::UnsupportedVersion);
    }
    let is_websocket = match asked.transport.as_deref() {
        Some("websocket") => true,
        Some("polling") => false,
        _ => return refuse("version", Problem::UnknownTransport),
    };
    let Some(sid) = asked.sid else {
        return match *request.method() {
            Method::GET => open(&gateway, &mut request, is_websocket),
            _ => Problem::BadHandshakeMethod.into_response(),
        };
    };
    let Some(session) = sid.parse().ok().and_then(|sid| gateway.socketio.get(sid)) else {
        return Problem::UnknownSession.into_response();
    };
    match (is_websocket, request.method()) {
        (true, &Method::GET) => upgrade(&gateway, session, &mut request),
        _ if session.stage() == Stage::WebSocket => Problem::BadRequest.into_response(),
        (false, &Method::GET) => polling::get(&gateway, &session).await,
        (false, &Method::POST) => polling::post(&gateway, &session, request.into_body()).await,
        _ => Problem::BadRequest.into_response(),
    }
}

fn refuse(reason: &'static str, problem: Problem) -> Response {
    metrics::handshake_refused(reason);
    problem.into_response()
}

/// Begins a session.
fn open(gateway: &Arc<Gateway>, request: &mut Request, is_websocket: bool) -> Response {
    if gateway.is_draining() {
        return refuse("draining", Problem::Unavailable);
    }
    let bearer = bearer(request.headers());
    if !is_websocket {
        let Some(session) = gateway.socketio.open(gateway, bearer) else { return refuse("full", Problem::Unavailable) };
        return polling::text(handshake(gateway, &session, &["websocket"]).into_bytes());
    }
    let taker = gateway.clone();
    let switched = ws::switch(request, move |stream, early| {
        let Some(session) = taker.socketio.open(&taker, bearer) else { return metrics::handshake_refused("full") };
        if session.advance(Stage::Polling, Stage::WebSocket) {
            session.pipe.send_control(late::text(&handshake(&taker, &session, &[])));
            tokio::spawn(socket::run(taker, session, stream, early));
        }
    });
    switched.unwrap_or_else(|_| refuse("not_websocket", Problem::BadRequest))
}

/// Goes over from polling to a WebSocket.
fn upgrade(gateway: &Arc<Gateway>, session: Arc<Session>, request: &mut Request) -> Response {
    if !session.advance(Stage::Polling, Stage::Probing) {
        return Problem::BadRequest.into_response();
    }
    let (taker, taken) = (gateway.clone(), session.clone());
    let switched = ws::switch(request, move |stream, early| {
        tokio::spawn(socket::upgrade(taker, taken, stream, early));
    });
    switched.unwrap_or_else(|_| {
        session.advance(Stage::Probing, Stage::Polling);
        Problem::BadRequest.into_response()
    })
}

/// Engine.IO's first packet.
fn handshake(gateway: &Gateway, session: &Session, upgrades: &[&str]) -> String {
    let limits = gateway.chat.config.limits.told();
    let told = json!({
        "sid": session.sid.simple().to_string(),
        "upgrades": upgrades,
        "pingInterval": limits.ping_interval_ms,
        "pingTimeout": limits.idle_timeout_ms,
        "maxPayload": limits.max_frame_bytes,
    });
    format!("0{told}")
}

/// A token that came as a header, for clients that can set one.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}
