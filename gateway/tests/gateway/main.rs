//! Gateways as whole processes on real NATS and Postgres, and clients that know the contract only.

mod budget;
mod frames;
mod handshake;
mod history;
mod membership;
mod once;
mod requests;
mod support;
