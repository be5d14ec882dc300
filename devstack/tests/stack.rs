//! The whole stack as a person runs it: started, hurt, stopped.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use devstack::{
    child::{Child, Signal, Spec},
    pids::{self, Process},
    ports::free_port,
    services::connect::connect,
    testing::{UserType, binary},
    token,
};
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(90);
const SECRET: &str = "a secret of the stack's tests, long enough";

/// A data folder that nobody but its owner can enter, as a root's home is; goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let closed = std::env::temp_dir().join(format!("partyline-stack-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self(closed)
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Run by root, Postgres keeps its data outside, where its user can reach it.
        if let Ok(outside) = std::fs::read_link(self.data().join("postgres")) {
            let _ = std::fs::remove_dir_all(outside);
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until `probe` tells something.
async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

struct Stack {
    child: Child,
    data: PathBuf,
    out: PathBuf,
    url: String,
}

impl Stack {
    fn spawn(folder: &Folder, port: u16) -> Self {
        for part in ["gateway", "persister"] {
            binary(part).unwrap();
        }
        let out = folder.0.join(format!("out-{}", uuid::Uuid::new_v4().simple()));
        let admin = |name: &str| (name.to_owned(), format!("127.0.0.1:{}", free_port().unwrap()));
        let mut spec = Spec::new(binary("devstack").unwrap())
            .args(["run", "--no-page"])
            .log(&out)
            .death_signal(Signal::TERM)
            .env("PARTYLINE_DATA_DIR", folder.data())
            .env("PARTYLINE_HTTP_ADDR", format!("127.0.0.1:{port}"))
            .env("PARTYLINE_JWT_SECRET", SECRET)
            .env("PARTYLINE_DRAIN_SECONDS", "0");
        for (name, value) in [admin("PARTYLINE_ADMIN_ADDR"), admin("PARTYLINE_PERSISTER_ADMIN_ADDR")] {
            spec = spec.env(name, value);
        }
        let child = Child::spawn(&spec).unwrap();
        Self { child, data: folder.data(), out, url: format!("http://127.0.0.1:{port}") }
    }

    async fn start(folder: &Folder, port: u16) -> Self {
        let stack = Self::spawn(folder, port);
        until("the stack is up", async || {
            let said = stack.said();
            assert!(stack.child.status().is_none(), "the stack ended:\n{said}");
            said.contains("Ctrl-C stops").then_some(())
        })
        .await;
        stack
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    fn pids(&self) -> BTreeMap<String, Process> {
        pids::read(&self.data.join("pids.json"))
    }

    fn nats_url(&self) -> String {
        let env = std::fs::read_to_string(self.data.join("env")).unwrap();
        let line = env.lines().find_map(|line| line.strip_prefix("PARTYLINE_NATS_URL='")).unwrap();
        line.trim_end_matches('\'').to_owned()
    }

    /// The ids of the demo customer's conversations.
    async fn conversations(&self) -> Vec<String> {
        let token = token::mint(SECRET, "demo-customer", "Casey", UserType::Customer, None, 60).unwrap();
        let url = format!("{}/chat/api/conversations/", self.url);
        let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap();
        let page: serde_json::Value = answer.error_for_status().unwrap().json().await.unwrap();
        page["results"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn alive(parts: &BTreeMap<String, Process>) -> Vec<&String> {
    parts.iter().filter(|(_, process)| process.is_alive()).map(|(name, _)| name).collect()
}

/// The processes that work on this data, by their command lines and folders: no file is trusted with that.
fn users_of(data: &Path) -> Vec<String> {
    let mine = std::process::id().to_string();
    let data = std::fs::canonicalize(data).unwrap();
    let outside = std::fs::canonicalize(data.join("postgres")).unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok() && entry.file_name() != *mine)
        .filter_map(|entry| {
            let words = std::fs::read(entry.path().join("cmdline")).ok()?;
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let folder = std::fs::read_link(entry.path().join("cwd")).ok();
            let there = folder.is_some_and(|folder| folder.starts_with(&data) || folder.starts_with(&outside));
            (there || words.contains(&*data.to_string_lossy())).then_some(words)
        })
        .collect()
}

#[tokio::test]
async fn ctrl_c_ends_everything_and_the_data_stays() {
    let (folder, port) = (Folder::new(), free_port().unwrap());
    let stack = Stack::start(&folder, port).await;
    let parts = stack.pids();
    assert_eq!(alive(&parts), ["devstack", "gateway", "nats", "persister", "postgres"]);
    let before = stack.conversations().await;
    assert_eq!(before.len(), 1);

    let second = Stack::spawn(&folder, free_port().unwrap());
    assert_eq!(second.child.wait().await.code(), Some(1));
    assert!(second.said().contains("is running"), "{}", second.said());

    let status = stack.child.end(Signal::INT, PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", stack.said());
    assert_eq!(alive(&parts), Vec::<&String>::new());
    assert_eq!(users_of(&folder.data()), Vec::<String>::new());
    assert!(stack.pids().is_empty());

    let again = Stack::start(&folder, port).await;
    assert_eq!(again.conversations().await, before);
    assert_eq!(again.child.end(Signal::TERM, PATIENCE).await.code(), Some(0), "{}", again.said());
}

#[tokio::test]
async fn a_killed_stack_leaves_data_and_no_processes() {
    let (folder, port) = (Folder::new(), free_port().unwrap());
    let stack = Stack::start(&folder, port).await;
    let before = stack.conversations().await;
    let jetstream = async_nats::jetstream::new(connect(&stack.nats_url()).await.unwrap());
    let config = async_nats::jetstream::stream::Config { name: "KEPT".into(), ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    let first = stack.pids();
    stack.child.end(Signal::KILL, PATIENCE).await;

    // At once: whatever is still ending is waited for.
    let stack = Stack::start(&folder, port).await;
    assert_eq!(alive(&first), Vec::<&String>::new());
    assert_eq!(stack.conversations().await, before);
    let jetstream = async_nats::jetstream::new(connect(&stack.nats_url()).await.unwrap());
    assert!(jetstream.get_stream("KEPT").await.is_ok());

    stack.child.end(Signal::KILL, PATIENCE).await;
    until("the children of a killed stack end", async || users_of(&folder.data()).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_part_that_dies_comes_back() {
    let folder = Folder::new();
    let stack = Stack::start(&folder, free_port().unwrap()).await;
    for part in ["persister", "nats", "postgres", "gateway"] {
        let first = stack.pids()[part];
        first.signal(Signal::KILL);
        let line = format!("{part} is back");
        until(&line, async || stack.said().contains(&line).then_some(())).await;
        assert_ne!(stack.pids()[part], first);
    }
    assert_eq!(stack.conversations().await.len(), 1);
    assert_eq!(stack.child.end(Signal::INT, PATIENCE).await.code(), Some(0), "{}", stack.said());
    assert_eq!(users_of(&folder.data()), Vec::<String>::new());
}
