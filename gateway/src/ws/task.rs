//! One task a socket. It waits for the socket to be readable, reads through one buffer a thread, and does one command
//! at a time, so that a client's commands keep their order and a busy client waits in the kernel, not in our memory.
//! Everything is in one future: nothing that reads is ever dropped half-way.

use std::{cell::RefCell, collections::VecDeque, future::Future, io, num::NonZeroU32, pin::Pin, sync::Arc};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use partyline_shared::{
    claims::Identity,
    ids::UserId,
    timestamp::Timestamp,
    wire::{CloseCode, Limits, Request},
};
use serde::Serialize;
use tokio::{io::Interest, net::TcpStream};

use super::frame::{Decoder, Message, Violation};
use crate::{
    clock, command, encode,
    encode::{Class, Frame},
    server::Gateway,
    session::conn::{Conn, Duty},
};

/// Bytes in one read: two of the largest frames, by default.
const READ: usize = 32 * 1_024;
/// How long a closed socket waits for the client's own close frame, in seconds.
const LINGER_SECONDS: u64 = 5;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Takes over an upgraded socket; `early` is what arrived with the handshake.
pub fn spawn(gateway: &Arc<Gateway>, identity: Identity, stream: TcpStream, early: &[u8]) {
    let limits = &gateway.chat.config.limits;
    let id = gateway.chat.registry.next_id();
    let conn = Conn::new(id, identity, stream, limits.outbound_queue_bytes as usize, clock::seconds());
    let mut reader = Reader {
        decoder: Decoder::default(),
        partial: early.to_vec(),
        requests: VecDeque::new(),
        frames: NonZeroU32::new(limits.frames_per_second).map(|most| RateLimiter::direct(Quota::per_second(most))),
        max_bytes: limits.max_frame_bytes as usize,
    };
    let gateway = gateway.clone();
    tokio::spawn(async move {
        arrive(&gateway, &conn);
        reader.take_early(&conn);
        live(&gateway, &conn, &mut reader).await;
        conn.mark_gone();
        Box::pin(depart(&gateway, &conn)).await;
    });
}

#[derive(Serialize)]
struct Welcome<'a> {
    r#type: &'static str,
    session_id: String,
    user: WelcomeUser<'a>,
    server_time: Timestamp,
    heartbeat_ms: u64,
    limits: &'a Limits,
}

#[derive(Serialize)]
struct WelcomeUser<'a> {
    user_id: &'a UserId,
    username: &'a str,
    user_type: &'a str,
}

fn arrive(gateway: &Gateway, conn: &Arc<Conn>) {
    let chat = &gateway.chat;
    let who = &conn.identity;
    chat.people.note(who);
    let limits = &chat.config.limits;
    let change = chat.registry.add(conn, limits.connections_per_user as usize);
    if change.presence {
        chat.presence.touch(&who.user_id);
    }
    if let Some(surplus) = change.surplus {
        surplus.ask_to_close(CloseCode::Replaced, None);
    }
    let told = limits.told();
    conn.send(&Frame::of(
        &Welcome {
            r#type: "welcome",
            session_id: format!("{}-{}", chat.node, conn.id),
            user: WelcomeUser { user_id: &who.user_id, username: &who.username, user_type: who.user_type.as_str() },
            server_time: Timestamp::now(),
            heartbeat_ms: told.ping_interval_ms,
            limits: &told,
        },
        Class::Durable,
    ));
    // The drain may have begun between the handshake and now.
    if gateway.is_draining() {
        conn.ask_to_close(CloseCode::Draining, Some(500));
    }
}

async fn depart(gateway: &Gateway, conn: &Arc<Conn>) {
    let chat = &gateway.chat;
    if chat.registry.remove(conn).presence {
        chat.presence.touch(&conn.identity.user_id);
    }
    command::join::leave_all(chat, conn).await;
}

type Command = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Until the socket is done with.
async fn live(gateway: &Arc<Gateway>, conn: &Arc<Conn>, reader: &mut Reader) {
    let mut in_hand: Option<Command> = None;
    loop {
        if in_hand.is_none()
            && let Some(request) = reader.requests.pop_front()
        {
            // On the heap, and only while it runs: an idle socket's task stays small.
            let (chat, conn) = (gateway.chat.clone(), conn.clone());
            in_hand = Some(Box::pin(async move { command::run(&chat, &conn, request).await }));
        }
        let duty = conn.duty(in_hand.is_none());
        if duty == Duty::Finish || conn.is_gone() {
            break;
        }
        let interest = match (duty, in_hand.is_some()) {
            (Duty::Write, true) => Some(Interest::WRITABLE),
            (Duty::Write, false) => Some(Interest::READABLE | Interest::WRITABLE),
            (_, true) => None,
            (_, false) => Some(Interest::READABLE),
        };
        let ready = tokio::select! {
            ready = ready(conn, interest) => ready,
            () = conn.woken() => continue,
            () = done(&mut in_hand) => {
                in_hand = None;
                continue;
            }
        };
        match ready {
            Ok(ready) => {
                if ready.is_writable() {
                    conn.write_more();
                }
                if ready.is_readable() && in_hand.is_none() && !reader.read(conn) {
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
    if !conn.is_gone() {
        linger(conn).await;
    }
}

async fn ready(conn: &Conn, interest: Option<Interest>) -> io::Result<tokio::io::Ready> {
    match interest {
        Some(interest) => conn.stream().ready(interest).await,
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
async fn linger(conn: &Conn) {
    let _ = socket2::SockRef::from(conn.stream()).shutdown(std::net::Shutdown::Write);
    let drained = async {
        while conn.stream().readable().await.is_ok() {
            let read = BUFFER.with_borrow_mut(|buffer| conn.try_read(buffer));
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(LINGER_SECONDS), drained).await;
}

/// What a socket has sent that isn't done yet.
struct Reader {
    decoder: Decoder,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// Read and understood, waiting for the one in hand.
    requests: VecDeque<Request>,
    frames: Option<DefaultDirectRateLimiter>,
    max_bytes: usize,
}

impl Reader {
    fn take_early(&mut self, conn: &Conn) {
        let mut early = std::mem::take(&mut self.partial);
        if !early.is_empty() {
            let taken = self.take_frames(conn, &mut early);
            early.drain(..taken);
            self.partial = early;
        }
    }

    /// Reads what is there.
    ///
    /// # Returns
    /// Whether the socket lives.
    fn read(&mut self, conn: &Conn) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            let held = self.partial.len();
            let wanted = held.max(Decoder::wanted(&self.partial).min(self.max_bytes + 14)) + READ / 2;
            if buffer.len() < wanted.max(READ) {
                buffer.resize(wanted.max(READ), 0);
            }
            buffer[..held].copy_from_slice(&self.partial);
            let read = match conn.try_read(&mut buffer[held..]) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            conn.heard(clock::seconds());
            let end = held + read;
            let taken = self.take_frames(conn, &mut buffer[..end]);
            // Only the beginning of a frame is kept, and only as much memory as it takes.
            self.partial = if taken == end { Vec::new() } else { buffer[taken..end].to_vec() };
            true
        })
    }

    /// Takes whole frames.
    ///
    /// # Returns
    /// How many bytes they had.
    fn take_frames(&mut self, conn: &Conn, bytes: &mut [u8]) -> usize {
        let mut taken = 0;
        while !conn.is_closing() {
            let message = match self.decoder.next(&mut bytes[taken..], self.max_bytes) {
                Ok(None) => return taken,
                Ok(Some((message, size))) => {
                    taken += size;
                    message
                }
                Err(Violation(code)) => {
                    conn.close(CloseCode::ProtocolError, Some(code), None);
                    break;
                }
            };
            // A pong answers our ping, and a close is the last: neither is the client's to hold back.
            let counted = !matches!(message, Message::Pong | Message::Close(_));
            if counted && self.frames.as_ref().is_some_and(|frames| frames.check().is_err()) {
                conn.close(CloseCode::TooManyFrames, None, Some(1_000));
                break;
            }
            match message {
                Message::Text(text) => self.requests.push_back(Request::parse(&text)),
                Message::Ping(payload) => conn.send_control(encode::pong(payload)),
                Message::Close(payload) => conn.close_echo(payload),
                Message::Pong | Message::Fragment => {}
            }
        }
        bytes.len()
    }
}
