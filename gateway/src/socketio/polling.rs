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
    state::{Stage, Who},
};
use crate::{clock, metrics, server::Gateway};

/// Packets of the largest size that one request may bring: some clients send all that they have in one.
const PACKETS_A_BODY: usize = 16;

/// Frames in one answer. Python's client takes 16 packets at most, and the last frame may be two: why the connection is
/// closed, and the end of the namespace.
const FRAMES_AN_ANSWER: usize = 15;

/// A request for packets. A newer one of the same session takes its place: browsers and proxies repeat requests.
#[derive(Debug)]
pub struct Place {
    session: Arc<Session>,
    /// Which of the session's requests it is.
    number: u64,
}

impl Place {
    /// The session's newest request.
    #[must_use]
    pub fn new(session: Arc<Session>) -> Self {
        session.pipe.heard(clock::seconds());
        let number = session.polls.fetch_add(1, Ordering::AcqRel) + 1;
        session.poll_ends.notify_waiters();
        Self { session, number }
    }

    fn is_replaced(&self) -> bool {
        self.session.polls.load(Ordering::Acquire) != self.number
    }

    /// Waits until there is something to answer.
    pub async fn has_news(&self) {
        let session = &self.session;
        loop {
            let mut ends = std::pin::pin!(session.poll_ends.notified());
            ends.as_mut().enable();
            if self.is_replaced() {
                // What woke this one may have been for the newer one.
                return session.pipe.wake();
            }
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
    pub fn look(&self, gateway: &Arc<Gateway>) -> Option<Response> {
        let session = &self.session;
        if session.pipe.is_gone() {
            return Some(text(CLOSE.into()));
        }
        if self.is_replaced() {
            return Some(text(NOOP.into()));
        }
        let (stage, was_closing) = (session.stage(), session.pipe.is_closing());
        let waiting = if stage == Stage::WebSocket { Vec::new() } else { session.pipe.take(FRAMES_AN_ANSWER) };
        if !waiting.is_empty() {
            if session.pipe.is_closing() {
                session.leave(gateway);
            }
            if late::end_namespace(&waiting) {
                session.stays_away.store(true, Ordering::Release);
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
            if session.stays_away.load(Ordering::Acquire) {
                text(CLOSE.into())
            } else {
                // As after a restart. Python's client comes back after a refused request, but not after Engine.IO's close
                // packet; the official one does after both.
                Problem::UnknownSession.into_response()
            }
        })
    }
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
        // What the first one brings is perhaps done: a repeat must not do it again. The client comes back.
        session.pipe.close(CloseCode::OverlappingRequests, None, None);
        return Problem::BadRequest.into_response();
    }
    let _bringing = Bringing(&session.posted);
    let limits = &gateway.chat.config.limits;
    let patience = Duration::from_secs(u64::from(limits.handshake_seconds));
    let packet_bytes = limits.max_frame_bytes as usize;
    let is_stranger = matches!(*session.who.lock(), Who::Stranger { .. });
    let body_bytes = if is_stranger { packet_bytes } else { packet_bytes * PACKETS_A_BODY };
    let Ok(read) = tokio::time::timeout(patience, to_bytes(body, body_bytes)).await else {
        return StatusCode::REQUEST_TIMEOUT.into_response();
    };
    let Ok(bytes) = read else { return too_large(session).await };
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
        if session.is_full() {
            session.settled().await;
        }
        if packet.len() > packet_bytes {
            // What came before it is done and answered.
            session.settled().await;
            return too_large(session).await;
        }
        session.accept(gateway, packet);
        if !packet.starts_with('3')
            && let Some(wait) = session.frames.count(1)
        {
            metrics::frames_delayed();
            tokio::time::sleep(wait).await;
        }
    }
    session.settled().await;
    text("ok".into())
}

async fn too_large(session: &Session) -> Response {
    session.break_off(Violation("frame_too_large"));
    over(session).await;
    StatusCode::PAYLOAD_TOO_LARGE.into_response()
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
