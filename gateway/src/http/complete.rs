//! Commands by REST run to their end: hyper drops a request's handler as soon as its client hangs up, and a command
//! that was dropped between two of its steps would leave the change made and nobody told.

use opentelemetry::context::FutureExt;
use partyline_shared::wire::{ErrorCode, Refusal};
use tokio_util::task::TaskTracker;

use crate::tasks;

/// Runs a command in a task of its own, which goes on if this future is dropped.
///
/// # Errors
/// The command's; `internal` if it panicked.
pub(super) async fn to_end<T: Send + 'static>(
    commands: &TaskTracker,
    command: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    match commands.spawn(tasks::caught("rest_command", command.with_current_context())).await {
        Ok(Ok(done)) => done,
        Ok(Err(tasks::Panicked)) | Err(_) => Err(Refusal::new(ErrorCode::Internal, "a defect of the server")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    #[tokio::test]
    async fn a_command_goes_on_when_its_request_is_dropped() {
        let commands = TaskTracker::new();
        let (begin, begun) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let command = async move {
            begun.await.unwrap();
            done.send("done").unwrap();
            Ok(())
        };
        let request = to_end(&commands, command);
        assert!(timeout(Duration::from_millis(1), request).await.is_err());
        begin.send(()).unwrap();
        assert_eq!(finished.await.unwrap(), "done");
        commands.close();
        commands.wait().await;
    }

    #[tokio::test]
    async fn a_command_that_panics_is_answered_as_internal() {
        let broken = async { if true { panic!("on purpose") } else { Ok(()) } };
        assert_eq!(to_end(&TaskTracker::new(), broken).await.unwrap_err().code, ErrorCode::Internal);
    }
}
