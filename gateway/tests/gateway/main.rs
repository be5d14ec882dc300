//! Gateways as whole processes on real NATS and Postgres, and clients that know the contract only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod autobahn;
mod budget;
mod changes;
mod cluster;
mod collector;
mod document;
mod drain;
mod floods;
mod frames;
mod handshake;
mod healthcheck;
mod history;
mod house;
mod join;
mod logs;
mod membership;
mod mistakes;
mod nats_link;
mod once;
mod outages;
mod outbox;
mod partitions;
mod person;
mod plans;
mod pooler;
mod presence;
mod proxies;
mod reading;
mod requests;
mod rest;
mod restored;
mod roles;
mod secure_nats;
mod secure_postgres;
mod socketio;
mod stalls;
mod start;
mod support;
mod tasks;
mod tokens;
mod traces;
mod upgrade;
