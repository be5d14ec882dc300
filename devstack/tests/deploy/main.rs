//! `deploy/` and `docs/metrics.md` against real processes: what a loaded stack tells of itself, the rules and dashboards
//! that look at it, and the configuration of the servers around it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod balancer;
mod configuration;
// What counts there counts here.
#[path = "../chaos/client.rs"]
mod client;
#[path = "../chaos/count.rs"]
mod count;
mod dashboards;
mod debian;
mod documents;
mod exposition;
#[path = "../chaos/person.rs"]
mod participant;
mod person;
mod prometheus;
mod rules;
mod stack;
mod traffic;
#[path = "../chaos/world.rs"]
mod world;
