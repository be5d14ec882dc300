//! Gateways as whole processes on real NATS and Postgres, and clients that know the contract only.

mod frames;
mod handshake;
mod requests;
mod support;
