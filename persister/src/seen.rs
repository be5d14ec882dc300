//! When people were last seen: notes from the gateways into `users`. Losing one is no harm.

use std::collections::BTreeMap;

use async_nats::jetstream::{AckKind, Message};
use partyline_shared::{ids::UserId, subjects, timestamp::Timestamp};
use serde::Deserialize;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    metrics,
    pipeline::respond,
    pull::Pulled,
    retry::{self, NotTaken},
    store::Store,
};

#[derive(Deserialize)]
struct Note {
    at: Timestamp,
}

/// Writes batches of notes until there are no more.
pub async fn run(store: Store, mut batches: mpsc::Receiver<Pulled>) {
    while let Some(pulled) = batches.recv().await {
        let seen = latest(&pulled.messages);
        let written = retry::until_taken(async || {
            let began = Instant::now();
            store.write_seen(&seen).await?;
            metrics::wrote("seen", began.elapsed());
            Ok(())
        })
        .await;
        match written {
            Ok(()) => metrics::seen_rows(seen.len()),
            // Only batches of the log compare Postgres with the acknowledgements.
            Err(NotTaken::Behind) => {}
            Err(NotTaken::Refused(refused)) => tracing::error!(%refused, notes = seen.len(), "last-seen notes dropped"),
        }
        for message in &pulled.messages {
            respond(message, AckKind::Ack).await;
        }
    }
}

/// The latest note about each person.
fn latest(messages: &[Message]) -> BTreeMap<UserId, Timestamp> {
    let mut latest = BTreeMap::new();
    for message in messages {
        match (subjects::parse_seen(&message.subject), serde_json::from_slice::<Note>(&message.payload)) {
            (Some(user), Ok(Note { at })) => {
                let kept = latest.entry(user).or_insert(at);
                *kept = at.max(*kept);
            }
            _ => tracing::warn!(subject = %message.subject, "a last-seen note that says nothing"),
        }
    }
    latest
}
