//! What an operator does with dead letters: list, show, replay, drop.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    context::ContextBuilder,
    stream::Stream,
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use partyline_shared::{ids::Seq, nats, streams, subjects, timestamp::Timestamp};
use serde_json::{Value, json};

use crate::{
    batch::{self, Entry, Rows},
    config::{Config, DeadAction, Filter},
    queue::NATS_TIMEOUT,
    store::Store,
};

/// Letters in one request.
const PAGE: usize = 500;
/// How long the consumer that reads them outlives its reader.
const CONSUMER_TTL: Duration = Duration::from_secs(60);

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its place among the dead letters.
    stored: u64,
    /// The event's place in the log.
    pub seq: Seq,
    pub partition: u16,
    /// The event's subject in the log.
    pub subject: String,
    pub reason: String,
    /// When it was put aside.
    pub at: Timestamp,
    pub payload: Bytes,
}

/// What came of a command.
#[derive(Debug, Default)]
pub struct Done {
    pub lines: Vec<String>,
    /// Letters that could not be replayed.
    pub failed: usize,
}

/// Does what an operator asks for.
///
/// # Errors
/// If NATS or Postgres does not answer; if there is no letter to show.
pub async fn run(config: &Config, action: &DeadAction) -> anyhow::Result<Done> {
    let (client, _) = nats::connect(&config.nats, "partyline-dead-letters").await?;
    let js = ContextBuilder::new().timeout(NATS_TIMEOUT).build(client);
    let stream = streams::ensure_dead_letters(&js, &config.nats).await?;
    let mut done = Done::default();
    match action {
        DeadAction::List { filter } => {
            done.lines = letters(&stream, filter, true).await?.iter().map(Letter::line).collect();
        }
        DeadAction::Show { seq, partition } => {
            let filter = Filter { seqs: vec![*seq], partition: *partition, reason: None };
            let found = letters(&stream, &filter, false).await?;
            anyhow::ensure!(!found.is_empty(), "there is no dead letter with seq {seq}");
            for letter in found {
                done.lines.push(serde_json::to_string_pretty(&letter.json())?);
            }
        }
        DeadAction::Replay { choice } => {
            let store = Store::connect_lazy(&config.database)?;
            for letter in letters(&stream, &choice.filter, false).await? {
                match replay(&store, &letter).await {
                    Ok(()) => {
                        stream.delete_message(letter.stored).await?;
                        done.lines.push(format!("{}\twritten", letter.seq));
                    }
                    Err(error) => {
                        done.failed += 1;
                        done.lines.push(format!("{}\tstays: {error}", letter.seq));
                    }
                }
            }
        }
        DeadAction::Drop { choice } => {
            for letter in letters(&stream, &choice.filter, true).await? {
                stream.delete_message(letter.stored).await?;
                done.lines.push(format!("{}\tdropped", letter.seq));
            }
        }
    }
    Ok(done)
}

/// Writes a letter's event with its own place.
async fn replay(store: &Store, letter: &Letter) -> anyhow::Result<()> {
    let event = batch::read(&letter.subject, &letter.payload)?;
    let entries = [Entry { seq: letter.seq, event }];
    let written = store.write_late(&Rows::of(&entries)).await?;
    anyhow::ensure!(written.absent.is_empty(), "the message that it changes is not there");
    anyhow::ensure!(written.displaced.is_empty(), "another message has its place");
    Ok(())
}

/// The letters that a filter lets through, by their place in the log.
async fn letters(stream: &Stream, filter: &Filter, headers_only: bool) -> anyhow::Result<Vec<Letter>> {
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        inactive_threshold: CONSUMER_TTL,
        headers_only,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let mut left = usize::try_from(consumer.cached_info().num_pending)?;
    let mut letters = Vec::new();
    while left > 0 {
        let mut page = consumer.batch().max_messages(left.min(PAGE)).expires(NATS_TIMEOUT).messages().await?;
        let mut read = 0;
        while let Some(message) = page.try_next().await.map_err(|error| anyhow::anyhow!(error))? {
            read += 1;
            match Letter::read(&message) {
                Some(letter) if letter.passes(filter) => letters.push(letter),
                Some(_) => {}
                None => tracing::warn!(subject = %message.subject, "a dead letter without its place in the log"),
            }
        }
        anyhow::ensure!(read > 0, "the dead letters could not be read");
        left -= read;
    }
    stream.delete_consumer(&consumer.cached_info().name).await?;
    letters.sort_by_key(|letter| (letter.partition, letter.seq));
    Ok(letters)
}

impl Letter {
    fn read(message: &async_nats::jetstream::Message) -> Option<Self> {
        let info = message.info().ok()?;
        let (subject, partition) = subjects::parse_dead(&message.subject)?;
        let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned());
        Some(Self {
            stored: info.stream_sequence,
            seq: header(subjects::DEAD_SEQ)?.parse().ok()?,
            partition,
            subject,
            reason: header(subjects::DEAD_REASON)?,
            at: info.published.into(),
            payload: message.payload.clone(),
        })
    }

    fn passes(&self, filter: &Filter) -> bool {
        (filter.seqs.is_empty() || filter.seqs.contains(&self.seq))
            && filter.partition.is_none_or(|partition| partition == self.partition)
            && filter.reason.as_ref().is_none_or(|reason| self.reason.split(':').next() == Some(reason))
    }

    fn conversation(&self) -> &str {
        self.subject.rsplit('.').next().unwrap_or_default()
    }

    fn line(&self) -> String {
        format!("{}\t{}\t{}\t{}\t{}", self.seq, self.partition, self.at, self.conversation(), self.reason)
    }

    fn json(&self) -> Value {
        let event = serde_json::from_slice(&self.payload)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.payload).into_owned()));
        json!({
            "seq": self.seq,
            "partition": self.partition,
            "conversation_id": self.conversation(),
            "reason": self.reason,
            "at": self.at,
            "event": event,
        })
    }
}
