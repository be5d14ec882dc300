//! When a server can be used: asked, never guessed from the time.

use std::time::Duration;

use anyhow::bail;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{child::Child, paths, store};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(25);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(3);

/// The question that tells.
#[derive(Clone, Debug)]
pub enum Ready {
    /// This URL answers 200.
    Http(String),
    /// This NATS monitoring URL is healthy, and knows a leader and this many servers.
    NatsCluster(String, usize),
    /// A query on this Postgres URL is answered.
    Postgres(String),
    /// This port of 127.0.0.1 takes connections.
    Port(u16),
}

impl Ready {
    /// Asks once.
    pub async fn ask(&self) -> bool {
        let asked = async {
            match self {
                Self::Http(url) => answers(url).await,
                Self::NatsCluster(url, size) => {
                    answers(&format!("{url}/healthz")).await && in_cluster(url, *size).await == Some(true)
                }
                Self::Postgres(url) => store::answers(url).await,
                Self::Port(port) => TcpStream::connect(("127.0.0.1", *port)).await.is_ok(),
            }
        };
        tokio::time::timeout(ANSWER, asked).await.unwrap_or(false)
    }

    /// Asks until the answer is yes.
    ///
    /// # Errors
    /// If the process ends first, or the time is over; with the last lines of its log.
    pub async fn wait(
        &self,
        name: &str,
        child: &Child,
        log: Option<&std::path::Path>,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = child.status() {
                bail!("{name} ended while starting ({status}){}", tail(log));
            }
            if self.ask().await {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{name} is not ready after {} s{}", patience.as_secs(), tail(log));
            }
            sleep(PAUSE).await;
        }
    }
}

fn tail(log: Option<&std::path::Path>) -> String {
    match log {
        Some(path) => format!("; the end of {}:\n{}", path.display(), paths::last_lines(path, 20)),
        None => String::new(),
    }
}

async fn answers(url: &str) -> bool {
    reqwest::get(url).await.is_ok_and(|response| response.status().is_success())
}

async fn in_cluster(url: &str, size: usize) -> Option<bool> {
    let response = reqwest::get(format!("{url}/jsz")).await.ok()?;
    let json: serde_json::Value = response.json().await.ok()?;
    let cluster = &json["meta_cluster"];
    let led = cluster["leader"].as_str().is_some_and(|leader| !leader.is_empty());
    Some(led && cluster["cluster_size"].as_u64().is_some_and(|found| found >= size as u64))
}
