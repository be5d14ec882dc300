//! Runs real servers: NATS and Postgres for tests, and the whole of Partyline as one supervised stack.
//!
//! [`services`] finds or fetches the servers and starts them; [`testing`] gives each test its own account and
//! database on them; [`stack`] is `devstack run`. Children end with the process that started them ([`child`]).

pub mod child;
pub mod paths;
pub mod pids;
pub mod ports;
pub mod services;
pub mod stack;
mod store;
pub mod testing;
pub mod token;
pub mod user;
