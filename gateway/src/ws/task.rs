//! One task a socket. It waits for the socket to be readable, reads through one buffer a thread, and does one command
//! at a time, so that a client's commands keep their order. While a command is in hand the socket is read on, so that
//! pings are answered, until some commands wait; a client that sends more, or faster than it may, waits in the kernel.
//! Everything is in one future: nothing that reads is ever dropped half-way.

use std::{collections::VecDeque, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use partyline_shared::{
    claims::Identity,
    wire::{CloseCode, Command as Asked, Request},
};
use tokio::{io::Interest, net::TcpStream};

use super::{
    frame::Message,
    reader::{self, Ear, Last, Reader, over},
};
use crate::{
    command,
    server::Gateway,
    session::{
        conn::{Conn, Link, Renewal},
        frame_limiter::FrameLimiter,
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
    let limiter = FrameLimiter::new(limits.frames_per_second);
    limiter.raise_burst(limits.joined_max);
    let mut requests = Requests { conn: conn.clone(), waiting: VecDeque::new(), bytes: 0, limiter };
    let tracker = gateway.connections.clone();
    let gateway = gateway.clone();
    tracker.spawn(async move {
        let Some(pipe) = conn.native() else { return };
        let life = async {
            life::arrive(&gateway, &conn);
            live(&gateway, &conn, pipe, &mut reader, &mut requests).await;
        };
        let _ = tasks::caught("socket", life).await;
        pipe.mark_gone();
        Box::pin(life::depart(&gateway, &conn)).await;
    });
}

/// Commands that may wait, or bytes of them. Beyond that the socket isn't read while one is in hand.
pub const WAITING_COMMANDS: usize = 128;
pub const WAITING_BYTES: usize = 32 * 1_024;

/// Read and understood, waiting for the one in hand.
struct Requests {
    conn: Arc<Conn>,
    waiting: VecDeque<Waiting>,
    /// Bytes of the commands that wait.
    bytes: usize,
    limiter: FrameLimiter,
}

enum Waiting {
    /// A new token counts from its arrival on: the old one may end while others are done.
    Command {
        request: Request,
        bytes: usize,
        renewal: Option<Renewal>,
    },
    Last(Last),
}

impl Ear for Requests {
    fn count(&mut self, message: &Message<'_>) -> Option<Duration> {
        // A pong answers our ping, and a close is the last: neither is the client's to hold back.
        if matches!(message, Message::Pong | Message::Close(_)) { None } else { self.limiter.count(1) }
    }

    fn text(&mut self, text: &str) {
        let request = Request::parse(text);
        if let Ok(Asked::JoinConversations(joins)) = &request.command {
            // Each of them costs what a frame of its own costs.
            self.limiter.count(u32::try_from(joins.conversations.len().saturating_sub(1)).unwrap_or(u32::MAX));
        }
        self.bytes += text.len();
        let renewal = matches!(request.command, Ok(Asked::RefreshToken(_))).then(|| self.conn.begin_renewal());
        self.waiting.push_back(Waiting::Command { request, bytes: text.len(), renewal });
    }

    fn last(&mut self, last: Last) {
        self.waiting.push_back(Waiting::Last(last));
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_COMMANDS || self.bytes >= WAITING_BYTES
    }
}

impl Requests {
    /// Drops the commands that wait: the connection is to be closed, and what was not begun can be sent again.
    fn drop_commands(&mut self) {
        self.waiting.retain(|waiting| matches!(waiting, Waiting::Last(_)));
        self.bytes = 0;
    }

    /// Takes what is to be done next.
    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front();
        if let Some(Waiting::Command { bytes, .. }) = &waiting {
            self.bytes -= bytes;
        }
        if self.waiting.is_empty() {
            // Memory of a burst is given back.
            self.waiting = VecDeque::new();
        }
        waiting
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
    loop {
        if in_hand.is_none() {
            if pipe.is_leaving() {
                requests.drop_commands();
            }
            match requests.pop() {
                Some(Waiting::Command { request, renewal, .. }) => {
                    // On the heap, and only while it runs: an idle socket's task stays small.
                    let (chat, conn) = (gateway.chat.clone(), conn.clone());
                    in_hand = Some(Box::pin(async move {
                        let _renewal = renewal;
                        if conn.has_room().await {
                            command::run(&chat, &conn, request).await;
                        }
                    }));
                }
                Some(Waiting::Last(Last::Close(payload))) => pipe.close_echo(&payload),
                Some(Waiting::Last(Last::Violation(code))) => pipe.close(CloseCode::ProtocolError, Some(code), None),
                None if reader.is_eof() && !reader.is_held_back() => break,
                None => {}
            }
        }
        let reads = reader.resume(pipe, requests);
        if in_hand.is_none() && !requests.waiting.is_empty() {
            continue;
        }
        pipe.set_reading(reads);
        let duty = pipe.duty(in_hand.is_none());
        if duty == Duty::Finish || pipe.is_gone() {
            break;
        }
        let ready = tokio::select! {
            ready = ready(stream, interest(duty, reads)) => ready,
            () = pipe.woken() => continue,
            () = over(reader.pause()) => continue,
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
                if ready.is_readable() && reads {
                    reader.read(stream, pipe, requests);
                }
            }
            Err(_) => break,
        }
    }
    if let Some(command) = in_hand {
        // A message that was begun is stored, and answered if somebody is there.
        command.await;
    }
    if !pipe.is_gone() && !reader.is_eof() {
        linger(stream).await;
    }
}

/// What to wait for.
#[must_use]
pub fn interest(duty: Duty, reads: bool) -> Option<Interest> {
    match (duty, reads) {
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
