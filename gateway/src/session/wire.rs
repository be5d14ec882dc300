//! The ends that a client's pipe may have.

use std::{
    fmt,
    io::{self, IoSlice},
};

use bytes::Bytes;
use partyline_shared::wire::CloseCode;
use tokio::net::TcpStream;

use crate::encode;

/// What a pipe's bytes go to.
pub trait Wire: fmt::Debug {
    /// Writes without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing now; anything else if it is broken.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// The last bytes that a client gets: why it is closed, and whether and when it comes back.
    fn goodbye(code: CloseCode, special: Option<&str>, retry_after_ms: Option<u64>) -> Bytes;
}

/// A native WebSocket.
#[derive(Debug)]
pub struct Native(pub TcpStream);

impl Wire for Native {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn goodbye(code: CloseCode, special: Option<&str>, retry_after_ms: Option<u64>) -> Bytes {
        encode::close(code, special, retry_after_ms)
    }
}
