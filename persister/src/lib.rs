//! Partyline's persister: pulls the log from JetStream and writes it into Postgres, each event once.
//! `pull` -> `batch` -> `store` -> acknowledgement, with `dead_letter` beside; `pipeline` joins them.

pub mod batch;
pub mod brake;
pub mod config;
pub mod dead;
pub mod dead_letter;
pub mod epoch;
pub mod lag;
pub mod metrics;
pub mod partitions;
pub mod pipeline;
pub mod process;
pub mod pull;
pub mod queue;
pub mod retention;
pub mod retry;
pub mod rewind;
pub mod seen;
pub mod store;
pub mod trace;
pub mod watch;
