//! A session's WebSocket: one task, as a native socket has, and the change from polling to it.

use std::{io, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use super::{
    late,
    session::Session,
    state::{Stage, Turn},
};
use crate::{
    server::Gateway,
    session::pipe::Duty,
    tasks,
    ws::{
        frame::{Decoder, Message},
        reader::{Ear, Last, Reader, over},
        task::{interest, linger, ready},
    },
};

/// The question of a WebSocket that wants to take over, and its answer.
const PROBE: &str = "2probe";
const PROBED: &str = "3probe";
/// The client has ended its polling.
const UPGRADE: &str = "5";

/// Hears a session's client.
struct Hearing<'a> {
    gateway: &'a Arc<Gateway>,
    session: &'a Arc<Session>,
}

impl Ear for Hearing<'_> {
    fn count(&mut self, message: &Message<'_>) -> Option<Duration> {
        // A pong answers our ping, and a close is the last: neither is the client's to hold back.
        match message {
            Message::Pong | Message::Close(_) => None,
            Message::Text(text) if text.starts_with('3') => None,
            _ => self.session.frames.count(1),
        }
    }

    fn text(&mut self, text: &str) {
        self.session.accept(self.gateway, text);
    }

    fn last(&mut self, last: Last) {
        self.session.push(self.gateway, Turn::Last(last));
    }

    fn is_full(&self) -> bool {
        self.session.is_full()
    }
}

/// Spawns what serves a session's WebSocket. If it panics, the session ends.
pub(super) fn spawn(gateway: &Arc<Gateway>, session: &Arc<Session>, served: impl Future<Output = ()> + Send + 'static) {
    let (tracker, gateway, session) = (gateway.connections.clone(), gateway.clone(), session.clone());
    tracker.spawn(async move {
        if tasks::caught("socketio_socket", served).await.is_err() {
            session.end(&gateway);
        }
    });
}

/// Takes over a socket for a session; `early` is what arrived before.
pub async fn run(gateway: Arc<Gateway>, session: Arc<Session>, stream: TcpStream, early: Vec<u8>) {
    if !session.pipe.wire().attach(stream) {
        return;
    }
    let mut reader = Reader::new(early, gateway.chat.config.limits.max_frame_bytes as usize);
    live(&gateway, &session, &mut reader).await;
    session.end(&gateway);
}

/// Until the socket is done with.
async fn live(gateway: &Arc<Gateway>, session: &Arc<Session>, reader: &mut Reader) {
    let pipe = &session.pipe;
    let Some(stream) = pipe.wire().stream() else { return };
    let mut hearing = Hearing { gateway, session };
    pipe.write_more();
    loop {
        let reads = reader.resume(pipe, &mut hearing);
        pipe.set_reading(reads);
        let idle = session.is_idle();
        let duty = pipe.duty(idle);
        if duty == Duty::Finish || pipe.is_gone() || (reader.is_eof() && idle && !reader.is_held_back()) {
            break;
        }
        let ready = tokio::select! {
            ready = ready(stream, interest(duty, reads)) => ready,
            () = over(reader.pause()) => continue,
            () = pipe.woken() => continue,
        };
        match ready {
            Ok(ready) => {
                if ready.is_writable() {
                    pipe.write_more();
                }
                if ready.is_readable() && reads {
                    reader.read(stream, pipe, &mut hearing);
                }
            }
            Err(_) => break,
        }
    }
    // A message that was begun is stored, and answered if somebody is there.
    session.settled().await;
    if !pipe.is_gone() && !reader.is_eof() {
        linger(stream).await;
    }
}

/// Takes a polling session over to a WebSocket, if that works.
pub async fn upgrade(gateway: Arc<Gateway>, session: Arc<Session>, stream: TcpStream, early: Vec<u8>) {
    let patience = Duration::from_secs(u64::from(gateway.chat.config.limits.handshake_seconds));
    match tokio::time::timeout(patience, probe(&session, &stream, early)).await {
        Ok(Ok(early)) if session.advance(Stage::Upgrading, Stage::WebSocket) => {
            session.poll_ends.notify_waiters();
            run(gateway, session, stream, early).await;
        }
        _ => {
            // The client goes on polling.
            let _ =
                session.advance(Stage::Upgrading, Stage::Polling) || session.advance(Stage::Probing, Stage::Polling);
        }
    }
}

/// # Returns
/// What arrived after the client's last word.
async fn probe(session: &Session, stream: &TcpStream, early: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut held = early;
    if next_text(stream, &mut held).await? != PROBE || !session.advance(Stage::Probing, Stage::Upgrading) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    write_all(stream, &late::text(PROBED)).await?;
    session.poll_ends.notify_waiters();
    if next_text(stream, &mut held).await? != UPGRADE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(held)
}

/// The next text of a client that has little to say; `held` keeps what follows it.
async fn next_text(stream: &TcpStream, held: &mut Vec<u8>) -> io::Result<String> {
    let mut decoder = Decoder::default();
    loop {
        match decoder.next(held, PROBE.len()) {
            Ok(Some((message, size))) => {
                let text = if let Message::Text(text) = message { Some(text.into_owned()) } else { None };
                held.drain(..size);
                if let Some(text) = text {
                    return Ok(text);
                }
            }
            Ok(None) => {
                stream.readable().await?;
                let mut buffer = [0; 256];
                match stream.try_read(&mut buffer) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => held.extend_from_slice(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
