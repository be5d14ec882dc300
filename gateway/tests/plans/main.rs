//! Randomised plans: people, two gateways, and a network that the plan controls. At rest every client must show what the
//! log comes to. `make plans SEEDS=5000` runs many; a plan that fails is shrunk and written to a file. How it works, and
//! why so: `docs/decisions/0021-plans.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::large_futures, reason = "there is one of each at a time")]

mod compare;
mod device;
mod executor;
mod gate;
mod nats;
mod oracle;
mod plan;
mod postgres;
mod rooms;
mod shrink;
mod world;

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    time::Instant,
};

use devstack::testing::TestEnv;

use parking_lot::Mutex;

use crate::{device::Breach, plan::Plan};

/// Steps of a plan that is made.
const LENGTH: usize = 60;

/// Runs a plan on a runtime of its own, in which time passes only when the plan says so.
fn execute(plan: &Plan, database_url: &str, trace: bool) -> Result<(), Breach> {
    PANICS.lock().clear();
    on_paused_time(executor::run(plan, database_url, trace))
}

fn on_paused_time<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    // While a blocking task runs, idling does not make time pass.
    let (end, ended) = mpsc::channel::<()>();
    runtime.spawn_blocking(move || ended.recv().is_err());
    let outcome = runtime.block_on(run);
    drop(end);
    runtime.shutdown_background();
    outcome
}

/// One database for all plans: each has conversations and people of its own.
struct Database {
    runtime: tokio::runtime::Runtime,
    env: Option<TestEnv>,
}

impl Database {
    fn start() -> Self {
        // The oldest time that any plan may see.
        let _ = partyline_gateway::clock::millis();
        watch_panics();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let env = runtime.block_on(TestEnv::start()).unwrap();
        Self { runtime, env: Some(env) }
    }

    fn url(&self) -> &str {
        self.env.as_ref().unwrap().database_url()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.env.take());
    }
}

/// Panics of tasks, which nobody else sees.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().push(panic.to_string());
        default(panic);
    }));
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans/kept")
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `PLANS`: how many; `PLANS_FROM`: the first seed; `PLANS_OUT`: where those that fail are written.
#[test]
fn every_client_shows_what_the_log_comes_to() {
    let database = Database::start();
    let (from, count) = (number("PLANS_FROM", 0), number("PLANS", 20));
    let out = std::env::var_os("PLANS_OUT").map_or_else(std::env::temp_dir, PathBuf::from);
    let began = Instant::now();
    let mut failed = Vec::new();
    for seed in from..from + count {
        let plan = plan::generate(seed, LENGTH);
        if let Err(found) = execute(&plan, database.url(), false) {
            eprintln!("seed {seed}: {}: {}", found.kind, found.detail);
            failed.push((seed, found.kind));
            let (small, found) = match number("PLANS_SHRINK", 1) {
                0 => (plan, found),
                _ => shrink::shrink(&plan, &found, |plan| execute(plan, database.url(), false)),
            };
            let path = out.join(format!("{}-{seed}.json", found.kind.replace([' ', ','], "-")));
            std::fs::write(&path, serde_json::to_vec_pretty(&small).unwrap()).unwrap();
            eprintln!("  {} steps in {}: {}", small.steps.len(), path.display(), found.detail);
        }
    }
    eprintln!("{count} plans in {:?}", began.elapsed());
    assert!(failed.is_empty(), "{} of {count} plans failed: {failed:?}", failed.len());
}

/// Plans that failed once. `PLAN`: one file instead, told step by step.
#[test]
fn kept_plans_hold() {
    let database = Database::start();
    let one = std::env::var_os("PLAN").map(PathBuf::from);
    let files = match &one {
        Some(file) => vec![file.clone()],
        None => std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect(),
    };
    let mut failed = Vec::new();
    for file in files {
        let plan: Plan = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        if let Err(found) = execute(&plan, database.url(), one.is_some()) {
            failed.push(format!("{}: {}: {}", file.display(), found.kind, found.detail));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
