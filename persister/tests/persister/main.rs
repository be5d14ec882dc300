//! One persister, or several, as whole processes or in this one, on real NATS and Postgres.

mod changes;
mod failures;
mod flow;
mod plans;
mod seen;
mod sharing;
mod support;
