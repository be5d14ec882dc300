//! Real servers: found on the machine or fetched, and started on loopback.

pub mod connect;
pub mod fetch;
pub mod nats;
pub mod postgres;
pub mod ready;
