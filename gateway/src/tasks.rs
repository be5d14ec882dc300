//! Tasks that last as long as the process serves.

pub use partyline_shared::tasks::{
    Failed, Panicked, caught, essential, essential_until, failed, process_ends, restarting,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Aborts tasks at `end`.
pub fn until<const N: usize>(end: CancellationToken, tasks: [JoinHandle<()>; N]) {
    tokio::spawn(async move {
        end.cancelled().await;
        tasks.iter().for_each(JoinHandle::abort);
    });
}
