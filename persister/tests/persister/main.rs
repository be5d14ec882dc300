//! One persister, or several, as whole processes or in this one, on real NATS and Postgres.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod brake;
mod changes;
mod failures;
mod flow;
mod plans;
mod retention;
mod rewind;
mod seen;
mod sharing;
mod support;
