//! What a session is written to: nothing while it polls, then a WebSocket. Everything that waits is a finished text
//! frame of a WebSocket; a polling client gets the texts.

use std::{
    io::{self, IoSlice},
    sync::OnceLock,
};

use bytes::Bytes;
use partyline_shared::wire::CloseCode;
use serde::Serialize;
use tokio::net::TcpStream;

use crate::{
    encode::{self, Class, Frame},
    session::wire::{self, Wire},
};

/// Engine.IO's ping, as a text frame.
pub const PING: Bytes = Bytes::from_static(&[0x81, 0x01, b'2']);
/// Engine.IO's packets in one body are separated by this.
pub const SEPARATOR: char = '\u{1e}';
/// Engine.IO: the transport is closed.
pub const CLOSE: &str = "1";
/// Engine.IO: an answer without anything in it.
pub const NOOP: &str = "6";
/// Socket.IO: out of the namespace. A client that hears this doesn't come back by itself.
const DISCONNECT: &str = "41";

/// The socket of a session, once it has one.
#[derive(Debug, Default)]
pub struct Late(OnceLock<TcpStream>);

impl Late {
    #[must_use]
    pub fn stream(&self) -> Option<&TcpStream> {
        self.0.get()
    }

    /// From now on the session is written to. False if it is already, elsewhere.
    pub fn attach(&self, stream: TcpStream) -> bool {
        self.0.set(stream).is_ok()
    }
}

impl Wire for Late {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.0.get() {
            Some(stream) => wire::try_write(stream, slices),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// An event that tells why; Socket.IO's own word if the client shall not come back by itself; then the close frame.
    fn goodbye(code: CloseCode, special: Option<&str>, retry_after_ms: Option<u64>) -> Bytes {
        #[derive(Serialize)]
        struct Closing<'a> {
            code: &'a str,
            close_code: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_ms: Option<u64>,
        }
        let closing = Closing { code: special.unwrap_or(code.as_str()), close_code: code.code(), retry_after_ms };
        let closing = serde_json::to_string(&closing).unwrap_or_default();
        let mut bytes = text(&format!("42[\"closing\",{closing}]")).to_vec();
        if !comes_back(code) {
            bytes.extend_from_slice(&text(DISCONNECT));
        }
        bytes.extend_from_slice(&encode::close(code, special, retry_after_ms));
        bytes.into()
    }
}

/// Whether a client shall come back by itself. One that was replaced would replace another of the same user's.
fn comes_back(code: CloseCode) -> bool {
    !matches!(code, CloseCode::Replaced | CloseCode::ProtocolError)
}

/// A text frame.
#[must_use]
pub fn text(text: &str) -> Bytes {
    Frame::json(text.as_bytes(), Class::Durable).wire().clone()
}

/// The body that has the texts of finished frames. A close frame has none: its reason stands in the event before it, and
/// the transport's end is told by an answer of its own.
#[must_use]
pub fn payload(frames: &[Bytes]) -> Vec<u8> {
    let mut body = Vec::with_capacity(frames.iter().map(Bytes::len).sum());
    for text in texts(frames) {
        if !body.is_empty() {
            body.push(SEPARATOR as u8);
        }
        body.extend_from_slice(text);
    }
    body
}

/// Whether the client is put out of the namespace by these frames.
#[must_use]
pub fn end_namespace(frames: &[Bytes]) -> bool {
    texts(frames).any(|text| text == DISCONNECT.as_bytes())
}

fn texts(frames: &[Bytes]) -> impl Iterator<Item = &[u8]> {
    frames.iter().flat_map(|frames| {
        let mut rest = &frames[..];
        std::iter::from_fn(move || {
            while let Some((opcode, payload, next)) = split(rest) {
                rest = next;
                if opcode == 0x1 {
                    return Some(payload);
                }
            }
            None
        })
    })
}

/// The first frame's opcode and payload, and what follows it. Frames are our own, whole and unmasked.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [first, second, rest @ ..] = bytes else { return None };
    let extended = match second {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let (length, rest) = rest.split_at_checked(extended)?;
    let length = match extended {
        0 => usize::from(*second),
        _ => length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
    };
    let (payload, next) = rest.split_at_checked(length)?;
    Some((first & 0x0f, payload, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_texts_of_the_frames() {
        let long = "x".repeat(300);
        let page = "y".repeat(70_000);
        let frames = [text("40{}"), text(&long), text(&page), PING];
        let body = String::from_utf8(payload(&frames)).unwrap();
        assert_eq!(body.split(SEPARATOR).collect::<Vec<_>>(), ["40{}", &*long, &*page, "2"]);
        assert!(payload(&[]).is_empty());
    }

    #[test]
    fn a_goodbye_tells_why_and_whether_to_come_back() {
        let drained = String::from_utf8(payload(&[Late::goodbye(CloseCode::Draining, None, Some(70))])).unwrap();
        let why = "42[\"closing\",{\"code\":\"draining\",\"close_code\":4001,\"retry_after_ms\":70}]";
        assert_eq!(drained, why);
        let broken = String::from_utf8(payload(&[Late::goodbye(CloseCode::ProtocolError, Some("bad_packet"), None)]));
        let why = "42[\"closing\",{\"code\":\"bad_packet\",\"close_code\":4500}]";
        assert_eq!(broken.unwrap().split(SEPARATOR).collect::<Vec<_>>(), [why, "41"]);
        assert!(end_namespace(&[PING, Late::goodbye(CloseCode::Replaced, None, None)]));
        assert!(!end_namespace(&[PING, Late::goodbye(CloseCode::TokenExpired, None, None), text("411")]));
    }
}
