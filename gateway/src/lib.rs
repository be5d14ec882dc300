//! Partyline's gateway: stateless between browsers and NATS. See ARCHITECTURE.md for the map.

pub mod app;
pub mod auth;
pub mod authorise;
pub mod budget;
pub mod clock;
pub mod command;
pub mod config;
pub mod encode;
pub mod history;
pub mod http;
pub mod inbox;
pub mod log;
pub mod members;
pub mod metrics;
pub mod origin;
pub mod people;
pub mod presence;
pub mod relay;
pub mod requests;
pub mod room;
pub mod server;
pub mod session;
pub mod socketio;
pub mod store;
pub mod sync;
pub mod tasks;
#[cfg(test)]
mod test_support;
pub mod text;
pub mod trace;
pub mod validate;
pub mod ws;
