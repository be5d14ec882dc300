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
        try_write(&self.0, slices)
    }

    fn goodbye(code: CloseCode, special: Option<&str>, retry_after_ms: Option<u64>) -> Bytes {
        encode::close(code, special, retry_after_ms)
    }
}

/// One slice, which is what a delivery mostly has, takes the shorter way through the kernel: `send(2)`, not `writev(2)`.
///
/// # Errors
/// As [`Wire::try_write_vectored`].
pub fn try_write(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [one] => stream.try_write(one),
        several => stream.try_write_vectored(several),
    }
}
