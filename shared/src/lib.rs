//! What two Partyline processes must agree on, and nothing else.

pub mod admin;
pub mod claims;
pub mod event;
pub mod healthcheck;
pub mod ids;
pub mod nats;
pub mod postgres;
pub mod secret;
pub mod settings;
pub mod shutdown;
pub mod start;
pub mod streams;
pub mod subjects;
pub mod task_metrics;
pub mod tasks;
pub mod telemetry;
pub mod timestamp;
pub mod tls;
pub mod trace;
pub mod wire;
