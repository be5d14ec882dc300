//! A WebSocket client that is light enough for tens of thousands in one process beside the server it measures:
//! a small task each, one read buffer a thread, frames read and written without a copy that isn't needed.

mod conn;
mod frame;
mod handshake;
mod session;
mod socketio;

pub(crate) use self::{
    conn::{Conn, Ended, Listener, start},
    frame::encode_bare,
    handshake::{Opened, open, open_tcp},
    session::{Asked, Session},
};
