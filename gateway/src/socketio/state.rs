//! What a session is at, who it is, what it has to do.

use std::sync::Arc;

use crate::session::conn::Conn;

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
    },
    Disconnect,
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
