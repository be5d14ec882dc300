//! What a session is at, who it is, what it has to do.

use std::sync::Arc;

use super::packet::Violation;
use crate::{
    session::conn::{Conn, Renewal},
    ws::reader::Last,
};

/// What a session's packets go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    Polling,
    /// A WebSocket is there and has not proved that it works.
    Probing,
    /// It works, and the client ends its polling.
    Upgrading,
    WebSocket,
}

/// What is to be done, one after the other.
#[derive(Debug)]
pub enum Turn {
    /// The JSON that a client authenticates with.
    Connect {
        namespace: String,
        auth: Option<String>,
    },
    /// An event's JSON, and the number of the callback that waits for an answer.
    Event {
        id: Option<u64>,
        json: String,
        /// Of one that brings a new token: that counts from its arrival on.
        renewal: Option<Renewal>,
    },
    Disconnect,
    /// What a WebSocket's client sent last.
    Last(Last),
    /// What breaks the protocol.
    Violation(Violation),
}

impl Turn {
    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Connect { namespace, auth } => namespace.len() + auth.as_ref().map_or(0, String::len),
            Self::Event { json, .. } => json.len(),
            Self::Disconnect | Self::Last(_) | Self::Violation(_) => 0,
        }
    }
}

/// Who is behind a session.
#[derive(Debug)]
pub enum Who {
    /// Nobody has said yet; a token may have come with the handshake.
    Stranger {
        bearer: Option<String>,
    },
    Known(Arc<Conn>),
    Gone,
}
