//! For tests: real servers, and for each test a NATS account and a migrated database of its own.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let env = devstack::testing::TestEnv::start().await?;
//! let gateway = env.gateway()?.env("PARTYLINE_MESSAGES_PER_MINUTE", "0").start().await?;
//! let token = env.jwt("ann", "Ann", devstack::testing::UserType::Customer)?;
//! # Ok(()) }
//! ```

mod account;
mod binary;
mod certificates;
mod cluster;
mod env;
mod own;
mod process;
mod proxy;
pub mod servers;

pub use partyline_shared::claims::UserType;

pub use self::{
    binary::binary,
    certificates::{Authority, Certificate},
    cluster::Cluster,
    env::TestEnv,
    own::{Bouncer, OwnNats, OwnPostgres, nats_tls},
    process::{Launch, Process},
    proxy::Proxy,
};
pub use crate::{child::Signal, ports::free_port, token::sign};
