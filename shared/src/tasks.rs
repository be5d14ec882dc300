//! Background tasks of a process. Each has a name and a policy, so that none ends unseen: [`essential`] ends the process
//! with it, [`restarting`] starts it again, [`caught`] leaves it to the caller. A panic in a task without a policy, which
//! a library has spawned, ends the process.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// How often a task is started again.
const RESTARTS: Restarts = Restarts { pause: Duration::from_secs(1), max: 5, window: Duration::from_secs(60) };

struct Restarts {
    /// Before a task is started again.
    pause: Duration,
    /// Restarts within `window` after which a task counts as broken.
    max: usize,
    window: Duration,
}

/// What happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    Started,
    Ended,
    Panicked,
    Restarted,
}

type Observer = fn(&'static str, TaskEvent);

static OBSERVER: OnceLock<Observer> = OnceLock::new();
/// The name of the first task that ended and should not have.
static FAILED: LazyLock<watch::Sender<Option<&'static str>>> = LazyLock::new(|| watch::Sender::new(None));

/// Name of the threads of a process's runtime ([`install`]).
pub const THREAD_NAME: &str = "partyline";
/// The name under which [`failed`] reports a task without a policy.
const UNSUPERVISED: &str = "unsupervised";

tokio::task_local! {
    /// Set while a task with a policy runs.
    static SUPERVISED: ();
}

/// The process is ending: tasks may return, since what they wait for goes.
static ENDING: AtomicBool = AtomicBool::new(false);

/// A task panicked; the panic hook has logged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task panicked")]
pub struct Panicked;

/// A task ended that the process can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task {0} ended, which the process can't do without")]
pub struct Failed(pub &'static str);

/// Has `observer` count tasks, and panics logged, from now on; the first call counts. A panic on a thread of the name
/// [`THREAD_NAME`] outside of all tasks with a policy makes [`failed`] return: nothing else would notice that, say, the
/// task of a NATS connection is gone.
pub fn install(observer: Observer) {
    let _ = OBSERVER.set(observer);
    panic::set_hook(Box::new(log_panic));
}

/// The process ends in an orderly way from now on: a task that returns is no failure any more, one that panics is.
pub fn process_ends() {
    ENDING.store(true, Ordering::Release);
}

fn is_ending() -> bool {
    ENDING.load(Ordering::Acquire)
}

/// Waits until a task ended that the process can't do without; its name.
pub async fn failed() -> &'static str {
    let mut failed = FAILED.subscribe();
    loop {
        if let Some(name) = *failed.borrow_and_update() {
            return name;
        }
        if failed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A task that the process can't do without: if it ends, by a panic or by returning, [`failed`] tells. Dropped,
/// aborted, or returning after [`process_ends`], it ends as it should.
pub async fn essential(name: &'static str, task: impl Future<Output = ()>) {
    // Never cancelled.
    essential_until(name, task, CancellationToken::new()).await;
}

/// An [`essential`] task that returns once `end` is cancelled.
pub async fn essential_until(name: &'static str, task: impl Future<Output = ()>, end: CancellationToken) {
    let _live = Live::new(name);
    let ended = caught(name, task).await;
    if ended.is_err() || !(end.is_cancelled() || is_ending()) {
        tracing::error!(task = name, panicked = ended.is_err(), "a task ended that must not; the process ends");
        fail(name);
    }
}

/// A task that is made anew after a panic or a return, a moment later. If that happens too often, it is as
/// [`essential`] ones are. Dropped or aborted, it ends as it should.
pub async fn restarting<F: Future<Output = ()>>(name: &'static str, make: impl Fn() -> F) {
    restart(name, make, RESTARTS).await;
}

async fn restart<F: Future<Output = ()>>(name: &'static str, make: impl Fn() -> F, limits: Restarts) {
    let _live = Live::new(name);
    let mut restarts: Vec<Instant> = Vec::new();
    loop {
        let ended = caught(name, make()).await;
        if ended.is_ok() && is_ending() {
            return;
        }
        restarts.retain(|at| at.elapsed() < limits.window);
        if restarts.len() >= limits.max {
            tracing::error!(task = name, "a task ended again and again; the process ends");
            return fail(name);
        }
        restarts.push(Instant::now());
        sleep(limits.pause).await;
        observe(name, TaskEvent::Restarted);
        tracing::error!(task = name, panicked = ended.is_err(), "a task was started again");
    }
}

/// Runs what may panic without taking more with it than itself.
///
/// # Errors
/// [`Panicked`], counted under `name`.
pub fn caught<T>(name: &'static str, task: impl Future<Output = T>) -> impl Future<Output = Result<T, Panicked>> {
    // Combinators hold the task once; an async function would hold it as its argument, too, and be twice as large.
    // Nothing that the task alone owned is seen again.
    AssertUnwindSafe(SUPERVISED.scope((), fault::injected(name, task))).catch_unwind().map(move |ended| {
        ended.map_err(|_| {
            observe(name, TaskEvent::Panicked);
            Panicked
        })
    })
}

fn fail(name: &'static str) {
    FAILED.send_if_modified(|failed| {
        let is_first = failed.is_none();
        failed.get_or_insert(name);
        is_first
    });
}

fn observe(name: &'static str, event: TaskEvent) {
    if let Some(observer) = OBSERVER.get() {
        observer(name, event);
    }
}

/// Counts a task as live until it is dropped.
struct Live(&'static str);

impl Live {
    fn new(name: &'static str) -> Self {
        observe(name, TaskEvent::Started);
        Self(name)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        observe(self.0, TaskEvent::Ended);
    }
}

/// Logs where a panic happened. A message that was formatted may quote what people write, which no log holds.
fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(location, thread, message = constant(info.payload()), backtrace, "panic");
    if thread == THREAD_NAME && SUPERVISED.try_with(|()| ()).is_err() {
        tracing::error!("a task of a library panicked; the process ends");
        fail(UNSUPERVISED);
    }
}

fn constant(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("a formatted message, not logged")
}

/// Panics on purpose, for tests: in a build with debug assertions, a task whose name stands in the file that
/// `PARTYLINE_TEST_PANIC_FILE` names panics. `unsupervised` stands for a task that a library has spawned.
mod fault {
    #[cfg(not(debug_assertions))]
    pub(super) fn injected<T>(_: &'static str, task: impl Future<Output = T>) -> impl Future<Output = T> {
        task
    }

    #[cfg(debug_assertions)]
    pub(super) async fn injected<T>(name: &'static str, task: impl Future<Output = T>) -> T {
        let Some(path) = std::env::var_os("PARTYLINE_TEST_PANIC_FILE") else { return task.await };
        tokio::select! {
            ended = task => ended,
            () = named(name, path.as_ref()) => {
                // Once: a task that is started again goes on.
                let _ = std::fs::remove_file(path);
                #[expect(clippy::panic, reason = "what a test asked for")]
                {
                    panic!("a test's panic")
                }
            }
        }
    }

    #[cfg(debug_assertions)]
    async fn named(name: &str, path: &std::path::Path) {
        loop {
            match std::fs::read_to_string(path).as_deref().map(str::trim) {
                Ok(found) if found == name => return,
                Ok(super::UNSUPERVISED) if std::fs::remove_file(path).is_ok() => {
                    #[expect(clippy::panic, reason = "what a test asked for")]
                    tokio::task::spawn_blocking(|| panic!("a test's panic"));
                }
                _ => {}
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const QUICK: Restarts = Restarts { pause: Duration::from_millis(1), max: 5, window: Duration::from_secs(60) };

    #[tokio::test]
    async fn a_task_is_started_again_until_it_fails_too_often() {
        let starts = AtomicUsize::new(0);
        let make = || async {
            starts.fetch_add(1, Ordering::Relaxed);
            panic!("again");
        };
        restart("often", make, QUICK).await;
        assert_eq!(starts.load(Ordering::Relaxed), QUICK.max + 1);
        assert_eq!(failed().await, "often");
    }

    #[tokio::test]
    async fn a_task_that_fails_seldom_is_always_started_again() {
        let starts = AtomicUsize::new(0);
        let make = || async {
            if starts.fetch_add(1, Ordering::Relaxed) == 3 * QUICK.max {
                std::future::pending::<()>().await;
            }
        };
        let task = restart("seldom", make, Restarts { window: Duration::ZERO, ..QUICK });
        let enough = async {
            while starts.load(Ordering::Relaxed) <= 3 * QUICK.max {
                sleep(QUICK.pause).await;
            }
        };
        tokio::select! {
            () = task => panic!("it counts as broken"),
            () = enough => {}
        }
    }

    #[tokio::test]
    async fn a_panic_is_caught_and_a_task_that_is_aborted_fails_nobody() {
        assert_eq!(caught("caught", async { panic!("x") }).await, Err::<(), _>(Panicked));
        assert_eq!(caught("caught", async { 7 }).await, Ok(7));
        let task = tokio::spawn(essential("aborted", std::future::pending()));
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_ne!(*FAILED.borrow(), Some("aborted"));
    }

    #[test]
    fn a_formatted_panic_message_is_not_logged() {
        assert_eq!(constant(&"index out of bounds"), "index out of bounds");
        assert_eq!(constant(&String::from("secret")), "a formatted message, not logged");
    }
}
