//! One task a socket. It waits for the socket to be readable, reads through one buffer a thread, and does one command
//! at a time, so that a client's commands keep their order and a busy client waits in the kernel, not in our memory.
//! Everything is in one future: nothing that reads is ever dropped half-way.

use std::{collections::VecDeque, future::Future, io, num::NonZeroU32, pin::Pin, sync::Arc};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use partyline_shared::{claims::Identity, wire::Request};
use tokio::{io::Interest, net::TcpStream};

use super::{
    frame::Message,
    reader::{self, Ear, Reader},
};
use crate::{
    command,
    server::Gateway,
    session::{
        conn::{Conn, Link},
        life,
        pipe::{Duty, Pipe},
        wire::Native,
    },
    tasks,
};

/// How long a closed socket waits for the client's own close frame, in seconds.
const LINGER_SECONDS: u64 = 5;

/// Takes over an upgraded socket; `early` is what arrived with the handshake.
pub fn spawn(gateway: &Arc<Gateway>, identity: Identity, stream: TcpStream, early: Vec<u8>) {
    let limits = &gateway.chat.config.limits;
    let id = gateway.chat.registry.next_id();
    let pipe = Pipe::new(Native(stream), limits.outbound_queue_bytes);
    let conn = Conn::new(id, identity, Link::Native(pipe));
    let mut reader = Reader::new(early, limits.max_frame_bytes as usize);
    let mut requests = Requests { waiting: VecDeque::new(), frames: limiter(limits.frames_per_second) };
    let tracker = gateway.connections.clone();
    let gateway = gateway.clone();
    tracker.spawn(async move {
        let Some(pipe) = conn.native() else { return };
        life::arrive(&gateway, &conn);
        let _ = tasks::caught("socket", live(&gateway, &conn, pipe, &mut reader, &mut requests)).await;
        pipe.mark_gone();
        Box::pin(life::depart(&gateway, &conn)).await;
    });
}

/// So many frames a second; none lifts the limit.
#[must_use]
pub fn limiter(per_second: u32) -> Option<DefaultDirectRateLimiter> {
    NonZeroU32::new(per_second).map(|most| RateLimiter::direct(Quota::per_second(most)))
}

/// Read and understood, waiting for the one in hand.
struct Requests {
    waiting: VecDeque<Request>,
    frames: Option<DefaultDirectRateLimiter>,
}

impl Ear for Requests {
    fn allows(&mut self, message: &Message<'_>) -> bool {
        // A pong answers our ping, and a close is the last: neither is the client's to hold back.
        matches!(message, Message::Pong | Message::Close(_))
            || self.frames.as_ref().is_none_or(|frames| frames.check().is_ok())
    }

    fn text(&mut self, text: &str) {
        self.waiting.push_back(Request::parse(text));
    }
}

type Command = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Until the socket is done with.
async fn live(
    gateway: &Arc<Gateway>,
    conn: &Arc<Conn>,
    pipe: &Pipe<Native>,
    reader: &mut Reader,
    requests: &mut Requests,
) {
    let stream = &pipe.wire().0;
    let mut in_hand: Option<Command> = None;
    reader.take_early(pipe, requests);
    loop {
        if in_hand.is_none()
            && let Some(request) = requests.waiting.pop_front()
        {
            // On the heap, and only while it runs: an idle socket's task stays small.
            let (chat, conn) = (gateway.chat.clone(), conn.clone());
            in_hand = Some(Box::pin(async move { command::run(&chat, &conn, request).await }));
        }
        let duty = pipe.duty(in_hand.is_none());
        if duty == Duty::Finish || pipe.is_gone() {
            break;
        }
        let ready = tokio::select! {
            ready = ready(stream, interest(duty, in_hand.is_none())) => ready,
            () = pipe.woken() => continue,
            () = done(&mut in_hand) => {
                in_hand = None;
                continue;
            }
        };
        match ready {
            Ok(ready) => {
                if ready.is_writable() {
                    pipe.write_more();
                }
                if ready.is_readable() && in_hand.is_none() && !reader.read(stream, pipe, requests) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    if let Some(command) = in_hand {
        // A message that was begun is stored, and answered if somebody is there.
        command.await;
    }
    if !pipe.is_gone() {
        linger(stream).await;
    }
}

/// What to wait for: nothing is read while a command is in hand.
#[must_use]
pub fn interest(duty: Duty, idle: bool) -> Option<Interest> {
    match (duty, idle) {
        (Duty::Write, false) => Some(Interest::WRITABLE),
        (Duty::Write, true) => Some(Interest::READABLE | Interest::WRITABLE),
        (_, false) => None,
        (_, true) => Some(Interest::READABLE),
    }
}

/// Waits for the socket.
///
/// # Errors
/// If it is broken.
pub async fn ready(stream: &TcpStream, interest: Option<Interest>) -> io::Result<tokio::io::Ready> {
    match interest {
        Some(interest) => stream.ready(interest).await,
        None => std::future::pending().await,
    }
}

async fn done(in_hand: &mut Option<Command>) {
    match in_hand {
        Some(command) => command.await,
        None => std::future::pending().await,
    }
}

/// The close frame is written: wait a moment for the client's, so that the kernel doesn't reset what it hasn't read.
pub async fn linger(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(LINGER_SECONDS), reader::drain(stream)).await;
}
