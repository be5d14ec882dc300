//! Partyline's gateway: stateless between browsers and NATS. See ARCHITECTURE.md for the map.

pub mod auth;
pub mod authorise;
pub mod config;
pub mod history;
pub mod log;
pub mod metrics;
pub mod store;
