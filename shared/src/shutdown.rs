//! One token that every task of a process watches.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::tasks;

/// A token that is cancelled by SIGTERM or SIGINT.
///
/// # Errors
/// If the process may not listen to signals.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancelled = token.clone();
    tokio::spawn(tasks::essential("signals", async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: leaving"),
            _ = interrupt.recv() => tracing::info!("SIGINT: leaving"),
        }
        cancelled.cancel();
        std::future::pending().await
    }));
    Ok(token)
}
