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
pub mod state;
pub mod voice;

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Query, Request},
    response::{IntoResponse, Response},
};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use self::{polling::Place, problem::Problem, session::Session, state::Stage};
use crate::{
    auth,
    http::{
        NOSNIFF, known,
        lent::{Desk, SetAside},
    },
    metrics, origin,
    server::Gateway,
    ws,
};

/// Socket.IO's one path.
const PATH: &str = "/socket.io/";

/// Whether a path is Socket.IO's; its clients may leave out the last slash.
#[must_use]
pub fn serves(path: &str) -> bool {
    path == PATH || path == "/socket.io"
}

#[derive(Deserialize)]
struct Asked {
    /// Engine.IO's version.
    #[serde(rename = "EIO")]
    version: Option<String>,
    transport: Option<String>,
    sid: Option<String>,
}

/// Answers a request.
///
/// # Errors
/// [`SetAside`] if it waits on the desk.
pub async fn serve(gateway: Arc<Gateway>, desk: Arc<Desk>, request: Request) -> Result<Response, SetAside> {
    let began = Instant::now();
    let (method, uri) = (known(request.method()), request.uri().clone());
    let errand = match desk.resumed() {
        Some(place) => Errand::Fetch(place),
        None => sort(&gateway, request),
    };
    let mut response = match errand {
        Errand::Done(response) => response,
        Errand::Fetch(place) => match place.look(&gateway) {
            Some(response) => response,
            None => {
                let target = uri.path_and_query().map_or("", |target| target.as_str());
                match desk.set_aside(target, place) {
                    Ok(()) => return Err(SetAside),
                    Err(place) => polling::wait(&gateway, place).await,
                }
            }
        },
        // On the heap, so that it takes no room in one that waits.
        Errand::Bring(session, body) => Box::pin(polling::post(&gateway, &session, body)).await,
    };
    // A long poll takes as long as nothing happens, which is no measure of anything.
    if method != "GET" {
        metrics::http_request(PATH, method, response.status().as_u16(), began.elapsed());
    }
    response.headers_mut().extend([NOSNIFF]);
    Ok(response)
}

/// What a request is for.
enum Errand {
    Done(Response),
    Fetch(Place),
    Bring(Arc<Session>, Body),
}

impl From<Problem> for Errand {
    fn from(problem: Problem) -> Self {
        Self::Done(problem.into_response())
    }
}

fn sort(gateway: &Arc<Gateway>, mut request: Request) -> Errand {
    let Ok(Query(asked)) = Query::<Asked>::try_from_uri(request.uri()) else { return Problem::BadRequest.into() };
    if let Err(refusal) = origin::check(request.headers(), &gateway.chat.config.allowed_origins) {
        metrics::handshake_refused("origin");
        return Errand::Done(problem::forbidden(&refusal.message));
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
            Method::GET => open(gateway, &mut request, is_websocket),
            _ => Problem::BadHandshakeMethod.into(),
        };
    };
    let Some(session) = sid.parse().ok().and_then(|sid| gateway.socketio.get(sid)) else {
        return Problem::UnknownSession.into();
    };
    match (is_websocket, request.method()) {
        (true, &Method::GET) => upgrade(gateway, session, &mut request),
        _ if session.stage() == Stage::WebSocket => Problem::BadRequest.into(),
        (false, &Method::GET) => Errand::Fetch(Place::new(session)),
        (false, &Method::POST) => Errand::Bring(session, request.into_body()),
        _ => Problem::BadRequest.into(),
    }
}

fn refuse(reason: &'static str, problem: Problem) -> Errand {
    metrics::handshake_refused(reason);
    problem.into()
}

/// Begins a session.
fn open(gateway: &Arc<Gateway>, request: &mut Request, is_websocket: bool) -> Errand {
    if gateway.is_draining() {
        return refuse("draining", Problem::Unavailable);
    }
    let bearer = auth::authorization_token(request.headers()).map(str::to_owned);
    if !is_websocket {
        let Some(session) = gateway.socketio.open(gateway, bearer) else { return refuse("full", Problem::Unavailable) };
        return Errand::Done(polling::text(handshake(gateway, &session, &["websocket"]).into_bytes()));
    }
    let taker = gateway.clone();
    let switched = ws::switch(request, move |stream, early| {
        let Some(session) = taker.socketio.open(&taker, bearer) else { return metrics::handshake_refused("full") };
        if session.advance(Stage::Polling, Stage::WebSocket) {
            session.pipe.send_control(late::text(&handshake(&taker, &session, &[])));
            socket::spawn(&taker, &session, socket::run(taker.clone(), session.clone(), stream, early));
        }
    });
    switched.map_or_else(|_| refuse("not_websocket", Problem::BadRequest), Errand::Done)
}

/// Goes over from polling to a WebSocket.
fn upgrade(gateway: &Arc<Gateway>, session: Arc<Session>, request: &mut Request) -> Errand {
    if !session.advance(Stage::Polling, Stage::Probing) {
        return Problem::BadRequest.into();
    }
    let (taker, taken) = (gateway.clone(), session.clone());
    let switched = ws::switch(request, move |stream, early| {
        socket::spawn(&taker, &taken, socket::upgrade(taker.clone(), taken.clone(), stream, early));
    });
    switched.map_or_else(
        |_| {
            session.advance(Stage::Probing, Stage::Polling);
            Problem::BadRequest.into()
        },
        Errand::Done,
    )
}

/// Engine.IO's first packet.
fn handshake(gateway: &Gateway, session: &Session, upgrades: &[&str]) -> String {
    let settings = &gateway.chat.config.limits;
    let limits = settings.told(false);
    let told = json!({
        "sid": session.sid.simple().to_string(),
        "upgrades": upgrades,
        "pingInterval": limits.ping_interval_ms,
        "pingTimeout": u64::from(settings.ping_timeout_seconds) * 1_000,
        "maxPayload": limits.max_frame_bytes,
    });
    format!("0{told}")
}
