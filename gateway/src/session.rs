//! A connected client, whatever the transport: who it is, what it has joined, what waits to be written.

pub mod conn;
pub mod frame_limiter;
pub mod life;
pub mod outbox;
pub mod pace;
pub mod pipe;
pub mod registry;
pub mod sweep;
pub mod wire;
