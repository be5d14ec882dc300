//! One open socket. Any thread may send; a small task reads, and writes what the kernel didn't take at once.

use std::{
    cell::RefCell,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use rustix::net::{Shutdown, shutdown};
use tokio::{io::Interest, net::TcpStream, sync::Notify};

use super::{
    Opened,
    frame::{self, Frame, Opcode},
    socketio::{self, Packet},
};
use crate::clock;

/// Read at a time, in bytes.
const READ: usize = 64 * 1_024;

thread_local! {
    /// One for all sockets of a thread: an idle socket keeps none.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
    /// The same for what is translated.
    static TRANSLATED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Hears what comes on one socket. Runs on the socket's task; must not block.
pub(crate) trait Listener: Send + 'static {
    /// A text frame, read from the kernel at `at` (nanoseconds of [`clock::now`]); `size` is that of the whole frame.
    fn text(&mut self, conn: &Arc<Conn>, json: &[u8], size: usize, at: u64);
    /// The socket is done with; the last call.
    fn ended(&mut self, why: &Ended);
}

/// Why a socket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// We closed it.
    ByUs,
    /// The server's close code.
    ByServer(u16),
    /// Without a close frame, in one or two words.
    Broken(String),
}

impl fmt::Display for Ended {
    /// In few words, the same for all sockets that end alike.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByUs => f.write_str("closed by us"),
            Self::ByServer(code) => write!(f, "close {code}"),
            Self::Broken(how) => f.write_str(how),
        }
    }
}

/// One open socket.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: TcpStream,
    /// What the kernel had no room for.
    waiting: Mutex<Vec<u8>>,
    wake: Notify,
    mask: AtomicU32,
    leaving: AtomicBool,
    /// What it says first, if it speaks Socket.IO.
    socketio: Option<Vec<u8>>,
}

/// Starts the task of an open socket.
pub(crate) fn start(opened: Opened, listener: impl Listener) -> Arc<Conn> {
    let conn = Arc::new(Conn {
        stream: opened.stream,
        waiting: Mutex::default(),
        wake: Notify::new(),
        mask: AtomicU32::new(0x9E37_79B9),
        leaving: AtomicBool::new(false),
        socketio: opened.socketio,
    });
    tokio::spawn(drive(conn.clone(), opened.early, listener));
    conn
}

impl Conn {
    /// Sends a native command, or queues it if the kernel has no room.
    ///
    /// # Errors
    /// If the socket is broken or being closed.
    pub(crate) fn send(&self, json: &[u8]) -> io::Result<()> {
        if self.leaving.load(Ordering::Acquire) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if self.socketio.is_none() {
            return self.write(Opcode::Text, json);
        }
        let packet = socketio::command(json).ok_or(io::ErrorKind::InvalidInput)?;
        self.write(Opcode::Text, &packet)
    }

    /// Says goodbye; the task ends once the server has answered.
    pub(crate) fn close(&self) {
        if !self.leaving.swap(true, Ordering::AcqRel) {
            let _ = self.write(Opcode::Close, &1_000_u16.to_be_bytes());
        }
    }

    /// Cuts the socket off without a word, as a network does that goes away; the task ends at once.
    pub(crate) fn cut(&self) {
        self.leaving.store(true, Ordering::Release);
        let _ = shutdown(&self.stream, Shutdown::Both);
    }

    fn write(&self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        // Servers can't tell masks from random ones, and nothing between us and them could be fooled.
        let mask = self.mask.fetch_add(0x6C07_8965, Ordering::Relaxed).to_ne_bytes();
        let mut waiting = self.waiting.lock();
        let idle = waiting.is_empty();
        let begin = waiting.len();
        frame::encode(opcode, payload, mask, &mut waiting);
        if !idle {
            return Ok(());
        }
        match self.flush(&mut waiting) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.wake.notify_one();
                Ok(())
            }
            Err(error) => {
                waiting.truncate(begin);
                Err(error)
            }
        }
    }

    /// Writes what waits.
    ///
    /// # Returns
    /// Whether nothing waits any more.
    fn flush(&self, waiting: &mut Vec<u8>) -> io::Result<bool> {
        let mut written = 0;
        while written < waiting.len() {
            match self.stream.try_write(&waiting[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        waiting.drain(..written);
        if waiting.is_empty() {
            // Idle sockets keep no memory.
            *waiting = Vec::new();
        }
        Ok(waiting.is_empty())
    }
}

async fn drive(conn: Arc<Conn>, early: Vec<u8>, mut listener: impl Listener) {
    let mut partial = Vec::new();
    let ended = match hear(&conn, &early, &mut partial, clock::now(), &mut listener) {
        Ok(()) => read_on(&conn, &mut partial, &mut listener).await,
        Err(ended) => ended,
    };
    // The socket itself goes with its last holder, who may keep it until the end of the run.
    let _ = shutdown(&conn.stream, Shutdown::Both);
    conn.leaving.store(true, Ordering::Release);
    listener.ended(&ended);
}

async fn read_on(conn: &Arc<Conn>, partial: &mut Vec<u8>, listener: &mut impl Listener) -> Ended {
    loop {
        let full = !conn.waiting.lock().is_empty();
        let interest = if full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = tokio::select! {
            ready = conn.stream.ready(interest) => ready,
            () = conn.wake.notified() => continue,
        };
        let done = ready.map_err(|error| broken(conn, &error)).and_then(|ready| {
            if ready.is_writable() {
                let mut waiting = conn.waiting.lock();
                conn.flush(&mut waiting).map_err(|error| broken(conn, &error))?;
            }
            if ready.is_readable() { read(conn, partial, listener) } else { Ok(()) }
        });
        if let Err(ended) = done {
            return ended;
        }
    }
}

/// Reads what is there.
fn read(conn: &Arc<Conn>, partial: &mut Vec<u8>, listener: &mut impl Listener) -> Result<(), Ended> {
    BUFFER.with_borrow_mut(|buffer| {
        let held = partial.len();
        if buffer.len() < held + READ / 2 {
            buffer.resize(held + READ, 0);
        }
        buffer[..held].copy_from_slice(partial);
        match conn.stream.try_read(&mut buffer[held..]) {
            Ok(0) => Err(if conn.leaving.load(Ordering::Acquire) {
                Ended::ByUs
            } else {
                Ended::Broken("closed without a close frame".into())
            }),
            Ok(read) => hear(conn, &buffer[..held + read], partial, clock::now(), listener),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(broken(conn, &error)),
        }
    })
}

/// Takes whole frames, and keeps the beginning of one that is not whole.
fn hear(
    conn: &Arc<Conn>,
    bytes: &[u8],
    partial: &mut Vec<u8>,
    at: u64,
    listener: &mut impl Listener,
) -> Result<(), Ended> {
    let mut taken = 0;
    loop {
        let (frame, size) = match frame::decode(&bytes[taken..]) {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(violation) => return Err(Ended::Broken(violation.0.into())),
        };
        match frame {
            Frame::Text(text) => match &conn.socketio {
                None => listener.text(conn, text, size, at),
                Some(greeting) => translated(conn, greeting, text, size, at, listener)?,
            },
            Frame::Ping(payload) => {
                let _ = conn.write(Opcode::Pong, payload);
            }
            Frame::Pong => {}
            Frame::Close(_) if conn.leaving.load(Ordering::Acquire) => return Err(Ended::ByUs),
            Frame::Close(code) => {
                conn.leaving.store(true, Ordering::Release);
                let _ = conn.write(Opcode::Close, &1_000_u16.to_be_bytes());
                return Err(Ended::ByServer(code));
            }
        }
        taken += size;
    }
    *partial = bytes[taken..].to_vec();
    Ok(())
}

/// Hears a text of Socket.IO.
fn translated(
    conn: &Arc<Conn>,
    greeting: &[u8],
    text: &[u8],
    size: usize,
    at: u64,
    listener: &mut impl Listener,
) -> Result<(), Ended> {
    TRANSLATED.with_borrow_mut(|frame| {
        match socketio::read(text, frame) {
            Packet::Frame => listener.text(conn, frame, size, at),
            Packet::Open => drop(conn.write(Opcode::Text, greeting)),
            Packet::Ping => drop(conn.write(Opcode::Text, socketio::PONG)),
            Packet::Refused => return Err(Ended::Broken("connect_error".into())),
            Packet::Nothing => {}
        }
        Ok(())
    })
}

fn broken(conn: &Conn, error: &io::Error) -> Ended {
    if conn.leaving.load(Ordering::Acquire) { Ended::ByUs } else { Ended::Broken(error.kind().to_string()) }
}

#[cfg(test)]
mod tests;
