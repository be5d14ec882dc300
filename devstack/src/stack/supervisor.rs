//! Keeps parts running, and ends them in order.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::say::say;
use crate::{
    child::{Child, Signal, Spec},
    pids::PidFile,
    services::ready::Ready,
};

/// Before the first restart; doubled for each that follows soon.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A part that ran this long is well: its next restart comes quickly again.
const WELL: Duration = Duration::from_secs(30);

/// A process of the stack.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub name: String,
    pub spec: Spec,
    pub ready: Ready,
    /// Asks it to end.
    pub stop: Signal,
    /// How long it may take to end.
    pub patience: Duration,
    /// How long it may take to start.
    pub start: Duration,
}

/// A started part. `child` is the process of now; it changes with a restart.
struct Running {
    /// Parts of one generation start together and end together.
    generation: usize,
    child: Arc<Mutex<Arc<Child>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub(super) struct Supervisor {
    pids: Arc<PidFile>,
    running: Mutex<Vec<Running>>,
}

impl Supervisor {
    pub(super) fn new(pids: PidFile) -> Self {
        Self { pids: Arc::new(pids), running: Mutex::default() }
    }

    /// Starts parts together, and waits until all are ready.
    pub(super) async fn start(&self, parts: Vec<Part>) -> anyhow::Result<()> {
        let generation = self.running.lock().iter().map(|running| running.generation + 1).max().unwrap_or(0);
        let mut starting = Vec::new();
        for part in parts {
            // A log tells one run; the one before it stays beside it.
            if let Some(log) = part.spec.log_path() {
                let _ = std::fs::rename(log, log.with_extension("log.1"));
            }
            let child = Arc::new(spawn(&part, &self.pids)?);
            let running = self.watch(generation, part.clone(), child.clone());
            self.running.lock().push(running);
            starting.push((part, child));
        }
        for (part, child) in starting {
            part.ready.wait(&part.name, &child, part.spec.log_path(), part.start).await?;
        }
        Ok(())
    }

    fn watch(&self, generation: usize, part: Part, child: Arc<Child>) -> Running {
        let stop = CancellationToken::new();
        let child = Arc::new(Mutex::new(child));
        let task = tokio::spawn(keep_running(part, child.clone(), stop.clone(), self.pids.clone()));
        Running { generation, child, stop, task }
    }

    /// Ends the parts, those first that were started last.
    pub(super) async fn stop(&self) {
        loop {
            let last = {
                let running = self.running.lock();
                let Some(generation) = running.iter().map(|running| running.generation).max() else { return };
                for ending in running.iter().filter(|running| running.generation == generation) {
                    ending.stop.cancel();
                }
                generation
            };
            while let Some(running) = self.take(last) {
                // Put back if this is dropped half-way, so that `kill` finds it.
                let mut held = Held { running: Some(running), all: &self.running };
                if let Some(running) = &mut held.running {
                    let _ = (&mut running.task).await;
                }
                held.running = None;
            }
        }
    }

    fn take(&self, generation: usize) -> Option<Running> {
        let mut running = self.running.lock();
        let index = running.iter().position(|running| running.generation == generation)?;
        Some(running.remove(index))
    }

    /// Kills what is left.
    pub(super) async fn kill(&self) {
        let left = std::mem::take(&mut *self.running.lock());
        for running in &left {
            running.task.abort();
        }
        for running in left {
            let _ = running.task.await;
            let child = running.child.lock().clone();
            child.end(Signal::KILL, Duration::from_secs(5)).await;
        }
    }

    /// Nothing runs any more.
    pub(super) fn finish(self) {
        if let Some(pids) = Arc::into_inner(self.pids) {
            pids.delete();
        }
    }
}

struct Held<'a> {
    running: Option<Running>,
    all: &'a Mutex<Vec<Running>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.all.lock().push(running);
        }
    }
}

fn spawn(part: &Part, pids: &PidFile) -> anyhow::Result<Child> {
    let child =
        Child::spawn(&part.spec).map_err(|error| anyhow::anyhow!("{} could not be started: {error}", part.name))?;
    pids.insert(&part.name, child.process())?;
    Ok(child)
}

/// Starts a part again whenever it ends, until it is told to stop.
async fn keep_running(part: Part, current: Arc<Mutex<Arc<Child>>>, stop: CancellationToken, pids: Arc<PidFile>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let child = current.lock().clone();
        let began = Instant::now();
        let status = tokio::select! {
            status = child.wait() => status,
            () = stop.cancelled() => {
                child.end(part.stop, part.patience).await;
                let _ = pids.remove(&part.name);
                return;
            }
        };
        if began.elapsed() > WELL {
            pause = FIRST_PAUSE;
        }
        let log = part.spec.log_path().map(|log| format!(" (log: {})", log.display())).unwrap_or_default();
        say!("{} ended ({status}); starting it again in {:.1} s{log}", part.name, pause.as_secs_f32());
        let _ = pids.remove(&part.name);
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        match spawn(&part, &pids) {
            Ok(child) => {
                let child = Arc::new(child);
                *current.lock() = child.clone();
                tokio::spawn(tell_ready(part.clone(), child));
            }
            Err(error) => say!("{error:#}"),
        }
    }
}

async fn tell_ready(part: Part, child: Arc<Child>) {
    // One that ends again is told of by its keeper.
    if part.ready.wait(&part.name, &child, None, part.start).await.is_ok() {
        say!("{} is back", part.name);
    }
}
