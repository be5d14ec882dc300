//! Reading one WebSocket: through one buffer a thread, so that an idle socket holds none.

use std::{cell::RefCell, io, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::frame::{Decoder, Message, Violation};
use crate::{
    clock, encode, metrics,
    session::{pipe::Pipe, wire::Wire},
};

/// Bytes in one read: two of the largest frames, by default.
const READ: usize = 32 * 1_024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// What is done with a client's messages.
pub trait Ear {
    /// Counts a message.
    ///
    /// # Returns
    /// How long the next one has to wait; `None` if it may come at once.
    fn count(&mut self, message: &Message<'_>) -> Option<Duration>;

    /// Takes a text.
    fn text(&mut self, text: &str);

    /// Takes the last thing that the client sent, which is seen to after the texts before it.
    fn last(&mut self, last: Last);

    /// Whether so many commands wait that no more text may be taken.
    fn is_full(&self) -> bool;
}

/// The last thing that a client sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Last {
    /// A close frame, with its payload.
    Close(Vec<u8>),
    /// What breaks the protocol: the `code` of the close reason.
    Violation(&'static str),
}

/// What a socket has sent that is not taken yet: the beginning of a frame, or frames whose time has not come.
pub struct Reader {
    decoder: Decoder,
    partial: Vec<u8>,
    max_bytes: usize,
    /// No frame is taken before: the client sends faster than it may.
    pause: Option<Instant>,
    /// `partial` may hold whole frames.
    is_held_back: bool,
    /// The last thing was taken.
    is_over: bool,
    is_eof: bool,
}

impl Reader {
    /// `early`: what arrived with the handshake; `max_bytes`: of one message.
    #[must_use]
    pub fn new(early: Vec<u8>, max_bytes: usize) -> Self {
        Self {
            decoder: Decoder::default(),
            is_held_back: !early.is_empty(),
            partial: early,
            max_bytes,
            pause: None,
            is_over: false,
            is_eof: false,
        }
    }

    /// Whether the client sends nothing more, or its socket broke.
    #[must_use]
    pub fn is_eof(&self) -> bool {
        self.is_eof
    }

    /// Whether whole frames may wait that were read and not taken.
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        self.is_held_back
    }

    /// Until when nothing is read, because the client sends too fast.
    #[must_use]
    pub fn pause(&self) -> Option<Instant> {
        self.pause
    }

    /// Takes the frames that were held back, as far as they may be taken now.
    ///
    /// # Returns
    /// Whether more may be read from the socket.
    pub fn resume<W: Wire>(&mut self, pipe: &Pipe<W>, ear: &mut impl Ear) -> bool {
        if self.pause.is_some_and(|pause| pause <= Instant::now()) {
            self.pause = None;
        }
        if self.is_held_back && self.pause.is_none() && !ear.is_full() {
            self.is_held_back = false;
            let mut held = std::mem::take(&mut self.partial);
            let taken = self.take_frames(pipe, &mut held, ear);
            held.drain(..taken);
            // Only as much memory as it takes.
            held.shrink_to_fit();
            self.partial = held;
        }
        // What a client sends after the goodbye is read and forgotten.
        let takes = pipe.is_closing() || !(self.is_over || self.is_held_back || self.pause.is_some() || ear.is_full());
        takes && !self.is_eof
    }

    /// Reads what is there.
    pub fn read<W: Wire>(&mut self, stream: &TcpStream, pipe: &Pipe<W>, ear: &mut impl Ear) {
        BUFFER.with_borrow_mut(|buffer| {
            let held = self.partial.len();
            let wanted = held.max(Decoder::wanted(&self.partial).min(self.max_bytes + 14)) + READ / 2;
            if buffer.len() < wanted.max(READ) {
                buffer.resize(wanted.max(READ), 0);
            }
            buffer[..held].copy_from_slice(&self.partial);
            let read = match stream.try_read(&mut buffer[held..]) {
                Ok(read) if read > 0 => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {
                    self.is_eof = true;
                    return;
                }
            };
            pipe.heard(clock::seconds());
            let end = held + read;
            let taken = self.take_frames(pipe, &mut buffer[..end], ear);
            self.partial = if taken == end { Vec::new() } else { buffer[taken..end].to_vec() };
        });
    }

    /// Takes whole frames, as many as may be taken now.
    ///
    /// # Returns
    /// How many bytes they had.
    fn take_frames<W: Wire>(&mut self, pipe: &Pipe<W>, bytes: &mut [u8], ear: &mut impl Ear) -> usize {
        let mut taken = 0;
        while !pipe.is_closing() && !self.is_over {
            if self.pause.is_some() || ear.is_full() {
                self.is_held_back = taken < bytes.len();
                return taken;
            }
            let message = match self.decoder.next(&mut bytes[taken..], self.max_bytes) {
                Ok(None) => return taken,
                Ok(Some((message, size))) => {
                    taken += size;
                    message
                }
                Err(Violation(code)) => {
                    self.is_over = true;
                    ear.last(Last::Violation(code));
                    break;
                }
            };
            if let Some(wait) = ear.count(&message) {
                metrics::frames_delayed();
                self.pause = Some(Instant::now() + wait);
            }
            match message {
                Message::Text(text) => ear.text(&text),
                Message::Ping(payload) => pipe.send_control(encode::pong(payload)),
                Message::Close(payload) => {
                    self.is_over = true;
                    ear.last(Last::Close(payload.to_vec()));
                }
                Message::Pong | Message::Fragment => {}
            }
        }
        bytes.len()
    }
}

/// Waits for the end of a pause.
pub async fn over(pause: Option<Instant>) {
    match pause {
        // On the heap, and only while it lasts: an idle socket's task stays small.
        Some(until) => Box::pin(sleep_until(until)).await,
        None => std::future::pending().await,
    }
}

/// Reads and forgets, until the client is gone: its kernel must not be reset by what nobody read.
pub async fn drain(stream: &TcpStream) {
    while stream.readable().await.is_ok() {
        let read = BUFFER.with_borrow_mut(|buffer| stream.try_read(buffer));
        match read {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
