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
    session::{Session, Stage},
};
use crate::{clock, server::Gateway};

const OVERLAP: Violation = Violation("overlapping_requests");

/// The one request of its kind that a session may have under way.
struct Place<'a>(&'a AtomicBool);

impl<'a> Place<'a> {
    fn take(place: &'a AtomicBool) -> Option<Self> {
        (!place.swap(true, Ordering::AcqRel)).then_some(Self(place))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Waits for packets; a ping is the last that it waits for.
pub async fn get(gateway: &Arc<Gateway>, session: &Arc<Session>) -> Response {
    let Some(_place) = Place::take(&session.polled) else {
        session.break_off(OVERLAP);
        return Problem::BadRequest.into_response();
    };
    session.pipe.heard(clock::seconds());
    loop {
        let mut ends = std::pin::pin!(session.poll_ends.notified());
        ends.as_mut().enable();
        if session.pipe.is_gone() {
            return text(CLOSE.into());
        }
        if session.stage() == Stage::WebSocket {
            return text(NOOP.into());
        }
        let is_last = session.pipe.is_closing();
        let waiting = session.pipe.take();
        if !waiting.is_empty() {
            if is_last {
                session.end(gateway);
            }
            return text(late::payload(&waiting));
        }
        if session.stage() == Stage::Upgrading {
            return text(NOOP.into());
        }
        tokio::select! {
            () = session.pipe.woken() => {}
            () = ends => {}
        }
    }
}

/// Takes packets, and answers when all that they ask is done: so a client's memory holds what it sends too fast.
pub async fn post(gateway: &Arc<Gateway>, session: &Arc<Session>, body: Body) -> Response {
    let Some(_place) = Place::take(&session.posted) else {
        session.break_off(OVERLAP);
        return Problem::BadRequest.into_response();
    };
    let limits = &gateway.chat.config.limits;
    let patience = Duration::from_secs(u64::from(limits.handshake_seconds));
    let Ok(read) = tokio::time::timeout(patience, to_bytes(body, limits.max_frame_bytes as usize)).await else {
        return StatusCode::REQUEST_TIMEOUT.into_response();
    };
    let Ok(bytes) = read else {
        session.break_off(Violation("frame_too_large"));
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let Ok(packets) = std::str::from_utf8(&bytes) else {
        session.break_off(Violation("invalid_utf8"));
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

/// An answer as Engine.IO's clients take it.
pub fn text(body: Vec<u8>) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
