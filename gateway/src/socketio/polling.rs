//! Long polling: a request waits for packets, another brings some.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use partyline_shared::wire::CloseCode;

use super::{
    late::{self, CLOSE, NOOP, SEPARATOR},
    packet::Violation,
    problem::Problem,
    session::Session,
    state::Stage,
};
use crate::{clock, server::Gateway};

const OVERLAP: Violation = Violation("overlapping_requests");

/// The one request for packets that a session may have under way.
#[derive(Debug)]
pub struct Place(Arc<Session>);

impl Place {
    /// Waits until there is something to answer.
    pub async fn has_news(&self) {
        let session = &self.0;
        loop {
            let mut ends = std::pin::pin!(session.poll_ends.notified());
            ends.as_mut().enable();
            if session.pipe.has_waiting() || session.pipe.is_gone() || session.stage() > Stage::Probing {
                return;
            }
            tokio::select! {
                () = session.pipe.woken() => {}
                () = ends => {}
            }
        }
    }

    /// What there is to answer now.
    fn look(&self, gateway: &Arc<Gateway>) -> Option<Response> {
        let session = &self.0;
        if session.pipe.is_gone() {
            return Some(text(CLOSE.into()));
        }
        let (stage, was_closing) = (session.stage(), session.pipe.is_closing());
        let waiting = if stage == Stage::WebSocket { Vec::new() } else { session.pipe.take() };
        if !waiting.is_empty() {
            if session.pipe.is_closing() {
                session.leave(gateway);
            }
            return Some(text(late::payload(&waiting)));
        }
        if stage > Stage::Probing {
            return Some(text(NOOP.into()));
        }
        // Its goodbye was in an answer before. Together with that the official client would see to this packet first,
        // and not hear why until it is back.
        was_closing.then(|| {
            session.end(gateway);
            text(CLOSE.into())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.polled.store(false, Ordering::Release);
    }
}

/// Answers a request for packets at once, if there is an answer.
///
/// # Errors
/// Its place, from where it has to wait.
pub fn glance(gateway: &Arc<Gateway>, session: Arc<Session>) -> Result<Response, Place> {
    if session.polled.swap(true, Ordering::AcqRel) {
        session.break_off(OVERLAP);
        return Ok(Problem::BadRequest.into_response());
    }
    session.pipe.heard(clock::seconds());
    let place = Place(session);
    place.look(gateway).ok_or(place)
}

/// Waits for packets; a ping is the last that it waits for.
pub async fn wait(gateway: &Arc<Gateway>, place: Place) -> Response {
    loop {
        place.has_news().await;
        if let Some(response) = place.look(gateway) {
            return response;
        }
    }
}

/// The one request that brings packets.
struct Bringing<'a>(&'a AtomicBool);

impl Drop for Bringing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Takes packets, and answers when all that they ask is done: so a client's memory holds what it sends too fast.
pub async fn post(gateway: &Arc<Gateway>, session: &Arc<Session>, body: Body) -> Response {
    if session.posted.swap(true, Ordering::AcqRel) {
        session.break_off(OVERLAP);
        return Problem::BadRequest.into_response();
    }
    let _bringing = Bringing(&session.posted);
    let limits = &gateway.chat.config.limits;
    let patience = Duration::from_secs(u64::from(limits.handshake_seconds));
    let Ok(read) = tokio::time::timeout(patience, to_bytes(body, limits.max_frame_bytes as usize)).await else {
        return StatusCode::REQUEST_TIMEOUT.into_response();
    };
    let Ok(bytes) = read else {
        session.break_off(Violation("frame_too_large"));
        over(session).await;
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let Ok(packets) = std::str::from_utf8(&bytes) else {
        session.break_off(Violation("invalid_utf8"));
        over(session).await;
        return Problem::BadRequest.into_response();
    };
    session.pipe.heard(clock::seconds());
    for packet in packets.split(SEPARATOR) {
        if session.pipe.is_closing() {
            break;
        }
        if !packet.starts_with('3') && !session.allows() {
            session.pipe.close(CloseCode::TooManyFrames, None, Some(1_000));
            break;
        }
        session.accept(gateway, packet);
    }
    session.settled().await;
    text("ok".into())
}

/// Waits until a client that broke the protocol has fetched the goodbye, or left it for too long. For the official client
/// a refused request is a broken transport: it would come back at once, and perhaps never hear why it was closed.
async fn over(session: &Session) {
    loop {
        let mut ends = std::pin::pin!(session.poll_ends.notified());
        ends.as_mut().enable();
        if session.pipe.is_gone() {
            return;
        }
        ends.await;
    }
}

/// An answer as Engine.IO's clients take it.
pub fn text(body: Vec<u8>) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
