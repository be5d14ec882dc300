//! Tells what Postgres has committed: a change of participants or a new conversation. The transaction of the change has
//! written a row to the outbox; the row goes once the other nodes have forgotten what they cached, the log has the event
//! and the people concerned have been notified. The gateway that made the change does so right after the commit; what
//! it leaves undone, because it was killed or NATS was away, any gateway's sweep does a few seconds later.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use opentelemetry::context::FutureExt;
use partyline_shared::{
    event::{Event, outbox_dedup_id},
    wire::Refusal,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    app::Chat,
    authorise,
    inbox::{News, Reason},
    metrics::{self, Relayer},
    store::{FIRST_LEASE, Outgoing},
    tasks,
};

/// How long the answer to a command waits for its change to be told. The change itself is safe.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How long one change may take to be told; below the time for which it is claimed.
const RELAY_TIMEOUT: Duration = Duration::from_secs(8);
/// How long NATS may take to confirm that it has what was published.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks whether an earlier change of the same conversation has been told.
const TURN_GAP: Duration = Duration::from_millis(25);
/// Between two sweeps; grows while a sweep fails.
const SWEEP_GAP: Duration = Duration::from_secs(1);
const SWEEP_GAP_MAX: Duration = Duration::from_secs(5);
/// Changes that one sweep claims, and how many of them it tells at once.
const SWEEP_LIMIT: u32 = 64;
const SWEEP_CONCURRENCY: usize = 8;

/// Tells a change that was committed a moment ago. Returns once that is done, or has to wait: the sweep tells the rest.
pub async fn after_commit(chat: &Arc<Chat>, change: Outgoing) {
    if change.event.is_some() {
        // Here it holds at once, whatever NATS does.
        chat.rooms.members_changed(change.conversation_id);
    }
    let relaying = in_turn(chat.clone(), change).with_current_context();
    let relaying = chat.commands.spawn(tasks::caught("relay", relaying));
    if timeout(ANSWER_WAIT, relaying).await.is_err() {
        tracing::warn!("a change was committed and is told later");
    }
}

/// Begins to sweep.
pub fn start(chat: &Arc<Chat>, end: CancellationToken) {
    let chat = chat.clone();
    tasks::until(end, [tokio::spawn(tasks::restarting("outbox_sweep", move || sweep(chat.clone())))]);
}

/// Tells a change after all earlier ones of its conversation, unless they take too long.
async fn in_turn(chat: Arc<Chat>, change: Outgoing) {
    let committed = Instant::now();
    let mut is_first = change.is_first;
    while !is_first {
        sleep(TURN_GAP).await;
        is_first = match chat.store.is_first_outgoing(&change).await {
            // Any gateway may have claimed it by now.
            _ if committed.elapsed() >= FIRST_LEASE => return,
            Ok(is_first) => is_first,
            Err(error) => return tracing::warn!(%error, "a change is told later"),
        };
    }
    relay(&chat, &change, Relayer::Command).await;
}

async fn sweep(chat: Arc<Chat>) {
    let mut gap = SWEEP_GAP;
    loop {
        // Gateways that started together don't sweep together.
        let spread = rand::random_range(0.7..1.3);
        sleep(gap.mul_f64(spread)).await;
        gap = match sweep_once(&chat).await {
            Ok(()) => SWEEP_GAP,
            Err(()) => (gap * 2).min(SWEEP_GAP_MAX),
        };
    }
}

/// Tells everything that is due.
async fn sweep_once(chat: &Arc<Chat>) -> Result<(), ()> {
    let failed = |error: sqlx::Error| tracing::warn!(%error, "the outbox was not read");
    metrics::outbox(chat.store.outbox_state().await.map_err(failed)?);
    // What can't be told is left to a gateway that can.
    while chat.log.check_link().is_ok() {
        let due = chat.store.claim_outgoing(SWEEP_LIMIT).await.map_err(failed)?;
        if due.is_empty() {
            return Ok(());
        }
        let telling = stream::iter(due).map(|change| {
            let chat = chat.clone();
            async move { relay(&chat, &change, Relayer::Sweep).await }
        });
        let told: Vec<bool> = telling.buffer_unordered(SWEEP_CONCURRENCY).collect().await;
        if told.contains(&false) {
            return Err(());
        }
    }
    Err(())
}

/// Tells a change and takes it out of the outbox, or gives it back to be told later.
///
/// # Returns
/// Whether it is told.
async fn relay(chat: &Arc<Chat>, change: &Outgoing, by: Relayer) -> bool {
    let told = timeout(RELAY_TIMEOUT, tell(chat, change)).await.unwrap_or_else(|_| Err(Refusal::unavailable("NATS")));
    let done = match &told {
        Ok(()) => chat.store.delete_outgoing(change).await,
        Err(error) => {
            tracing::warn!(%error, conversation = %change.conversation_id, "a change is told later");
            chat.store.release_outgoing(change).await
        }
    };
    if let Err(error) = done {
        // Told again, it does no harm.
        tracing::warn!(%error, conversation = %change.conversation_id, "the outbox was not written");
        return false;
    }
    if told.is_ok() {
        metrics::relayed(by);
    }
    told.is_ok()
}

/// Tells nodes, the log and the people concerned. To do so again changes nothing.
async fn tell(chat: &Arc<Chat>, change: &Outgoing) -> Result<(), Refusal> {
    let seq = match &change.event {
        Some(event) => {
            // First, and also while this node can't append.
            chat.members_changed(change.conversation_id)?;
            append(chat, change, event).await?
        }
        None => 0,
    };
    let reason = match &change.event {
        Some(Event::ParticipantRemoved(_)) => Reason::Removed,
        _ => Reason::Added,
    };
    let (conversation_id, users) = (change.conversation_id, change.users.clone());
    chat.inbox.tell(News { conversation_id, reason, seq, last_message: None, users }).map_err(|error| {
        tracing::warn!(%error, "news not told yet");
        Refusal::unavailable("NATS")
    })?;
    // An answer over the same connection: what was published before it has reached NATS. A flush only means that the
    // kernel has it.
    let answered = timeout(CONFIRM_TIMEOUT, chat.log.head(conversation_id)).await;
    answered.unwrap_or_else(|_| Err(Refusal::unavailable("NATS"))).map(drop)
}

/// Appends the event, unless the log has it already. JetStream itself recognises a repeat for as long as its window
/// lasts; after that the log is searched.
async fn append(chat: &Chat, change: &Outgoing, event: &Event) -> Result<u64, Refusal> {
    let dedup = outbox_dedup_id(change.conversation_id, change.event_id);
    let window = Duration::from_secs(u64::from(chat.config.nats.dedup_seconds));
    if change.age >= window / 2
        && let Some(seq) = chat.log.find_by_dedup(change.conversation_id, change.after, &dedup).await?
    {
        return Ok(seq);
    }
    let permit = authorise::committed(change.conversation_id);
    Ok(chat.log.append(permit, event, Some(dedup)).await?.seq)
}
