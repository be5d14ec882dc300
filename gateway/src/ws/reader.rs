//! Reading one WebSocket: through one buffer a thread, so that an idle socket holds none.

use std::{cell::RefCell, io};

use partyline_shared::wire::CloseCode;
use tokio::net::TcpStream;

use super::frame::{Decoder, Message, Violation};
use crate::{
    clock, encode,
    session::{pipe::Pipe, wire::Wire},
};

/// Bytes in one read: two of the largest frames, by default.
const READ: usize = 32 * 1_024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// What is done with a client's messages.
pub trait Ear {
    /// Whether the client may send this one now.
    fn allows(&mut self, message: &Message<'_>) -> bool;

    /// Takes a text.
    fn text(&mut self, text: &str);
}

/// What a socket has sent that is not a whole frame yet.
pub struct Reader {
    decoder: Decoder,
    partial: Vec<u8>,
    max_bytes: usize,
}

impl Reader {
    /// `early`: what arrived with the handshake; `max_bytes`: of one message.
    #[must_use]
    pub fn new(early: Vec<u8>, max_bytes: usize) -> Self {
        Self { decoder: Decoder::default(), partial: early, max_bytes }
    }

    /// Takes what arrived with the handshake.
    pub fn take_early<W: Wire>(&mut self, pipe: &Pipe<W>, ear: &mut impl Ear) {
        let mut early = std::mem::take(&mut self.partial);
        if !early.is_empty() {
            let taken = self.take_frames(pipe, &mut early, ear);
            early.drain(..taken);
            self.partial = early;
        }
    }

    /// Reads what is there.
    ///
    /// # Returns
    /// Whether the socket lives.
    pub fn read<W: Wire>(&mut self, stream: &TcpStream, pipe: &Pipe<W>, ear: &mut impl Ear) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            let held = self.partial.len();
            let wanted = held.max(Decoder::wanted(&self.partial).min(self.max_bytes + 14)) + READ / 2;
            if buffer.len() < wanted.max(READ) {
                buffer.resize(wanted.max(READ), 0);
            }
            buffer[..held].copy_from_slice(&self.partial);
            let read = match stream.try_read(&mut buffer[held..]) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            pipe.heard(clock::seconds());
            let end = held + read;
            let taken = self.take_frames(pipe, &mut buffer[..end], ear);
            // Only the beginning of a frame is kept, and only as much memory as it takes.
            self.partial = if taken == end { Vec::new() } else { buffer[taken..end].to_vec() };
            true
        })
    }

    /// Takes whole frames.
    ///
    /// # Returns
    /// How many bytes they had.
    fn take_frames<W: Wire>(&mut self, pipe: &Pipe<W>, bytes: &mut [u8], ear: &mut impl Ear) -> usize {
        let mut taken = 0;
        while !pipe.is_closing() {
            let message = match self.decoder.next(&mut bytes[taken..], self.max_bytes) {
                Ok(None) => return taken,
                Ok(Some((message, size))) => {
                    taken += size;
                    message
                }
                Err(Violation(code)) => {
                    pipe.close(CloseCode::ProtocolError, Some(code), None);
                    break;
                }
            };
            if !ear.allows(&message) {
                pipe.close(CloseCode::TooManyFrames, None, Some(1_000));
                break;
            }
            match message {
                Message::Text(text) => ear.text(&text),
                Message::Ping(payload) => pipe.send_control(encode::pong(payload)),
                Message::Close(payload) => pipe.close_echo(payload),
                Message::Pong | Message::Fragment => {}
            }
        }
        bytes.len()
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
