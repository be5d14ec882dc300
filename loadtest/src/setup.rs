//! Conversations for the people of a run, made over REST as a service makes them.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Client, StatusCode};
use serde::Deserialize;

use crate::{bench::Bench, progress::Progress};

/// Requests under way at once: enough to keep Postgres busy.
const AT_ONCE: usize = 16;
const TRIES: u32 = 10;

#[derive(Deserialize)]
struct Conversation {
    id: String,
}

/// Makes a conversation for each group of people; a direct one for two.
///
/// # Returns
/// Their ids, in order.
///
/// # Errors
/// If the gateway refuses, or doesn't answer.
pub(crate) async fn conversations(bench: &Bench, groups: &[Vec<String>]) -> anyhow::Result<Vec<String>> {
    let client = Client::builder().timeout(Duration::from_secs(60)).build()?;
    let token = bench.signer.service(&format!("{}-service", bench.prefix))?;
    let began = Instant::now();
    let mut progress = Progress::new("conversations", groups.len());
    let mut made = stream::iter(groups.iter().enumerate())
        .map(|(number, people)| create(bench, &client, &token, number, people))
        .buffered(AT_ONCE);
    let mut ids = Vec::with_capacity(groups.len());
    while let Some(id) = made.try_next().await? {
        ids.push(id);
        progress.step(ids.len());
    }
    eprintln!("{} conversation(s) in {:.1} s", ids.len(), began.elapsed().as_secs_f64());
    Ok(ids)
}

async fn create(
    bench: &Bench,
    client: &Client,
    token: &str,
    number: usize,
    people: &[String],
) -> anyhow::Result<String> {
    let url = bench.gateways[number % bench.gateways.len()].http("/chat/api/conversations/");
    let direct = people.len() == 2;
    let body = serde_json::json!({
        "participant_ids": people,
        "kind": if direct { "direct" } else { "group" },
        "title": if direct { None } else { Some("load test") },
    });
    for attempt in 1.. {
        let response = client.post(&url).bearer_auth(token).json(&body).send().await.with_context(|| url.clone())?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.json::<Conversation>().await.with_context(|| format!("POST {url}"))?.id);
        }
        let later = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if !later || attempt == TRIES {
            bail!("POST {url}: {status}: {}", response.text().await.unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    unreachable!("the last attempt returns")
}
