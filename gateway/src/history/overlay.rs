//! Lists of conversations with what the log holds and Postgres doesn't yet.

use std::cmp::Reverse;

use futures_util::{StreamExt, stream};
use partyline_shared::ids::{ConversationId, UserId};

use super::{Range, tail::Tail};
use crate::{
    log::{Floors, Log},
    store::{COMMAND_TIMEOUT, Cursor, Listed, ListedPage, Store, UNREAD_MAX, UnreadKey},
};

/// Conversations looked up at once.
const AT_ONCE: usize = 16;

/// A part of somebody's list, newest activity first, by what the log holds: a conversation whose newest message Postgres
/// lacks stands at that message's place, and nowhere else.
///
/// # Errors
/// If Postgres doesn't answer.
pub async fn list(
    store: &Store,
    log: &Log,
    user: &UserId,
    cursor: Option<Cursor>,
    limit: u32,
) -> sqlx::Result<ListedPage> {
    let floors = log.floors().await.ok();
    let mut page = store.conversations(user, cursor, limit).await?;
    let Some(floors) = floors else { return Ok(page) };
    if page.next.is_some() {
        let lifted = lifted(store, log, &floors, user, &page.conversations).await?;
        page.conversations.extend(lifted);
    }
    refresh(store, log, &floors, user, &mut page.conversations).await;
    page.conversations.sort_by_key(|listed| Reverse(listed.place));
    // What lies above was in an earlier part or has come to the top since; what lies below is in a later part.
    let (above, below) = (cursor, page.next);
    page.conversations.retain(|listed| {
        above.is_none_or(|above| listed.place < above) && below.is_none_or(|below| listed.place >= below)
    });
    if page.conversations.len() > limit as usize {
        page.conversations.truncate(limit as usize);
        page.next = page.conversations.last().map(|listed| listed.place);
    }
    Ok(page)
}

/// Other conversations with events that Postgres lacks.
async fn lifted(
    store: &Store,
    log: &Log,
    floors: &Floors,
    user: &UserId,
    first: &[Listed],
) -> sqlx::Result<Vec<Listed>> {
    let mut others = store.conversation_ids(user).await?;
    others.retain(|id| !first.iter().any(|listed| listed.id == *id));
    let with_tail: Vec<ConversationId> = match log.with_tail(floors, &others).await {
        Ok(found) => found.into_iter().collect(),
        Err(error) => {
            tracing::debug!(%error, "a list without the log's end");
            return Ok(Vec::new());
        }
    };
    if with_tail.is_empty() {
        return Ok(Vec::new());
    }
    store.conversations_by_id(&with_tail, user).await
}

/// Brings conversations up to date as `user` sees them. If the log doesn't answer they stay as Postgres has them: a list
/// is worth more than none, and what is missing is told live. The floors must have been read before the list.
pub async fn refresh(store: &Store, log: &Log, floors: &Floors, user: &UserId, listed: &mut [Listed]) {
    // One request tells for many which of them have something to add; but not where it may miss the newest.
    let with_tail = if log.may_lag() || listed.len() < 2 {
        None
    } else {
        let ids: Vec<ConversationId> = listed.iter().map(|listed| listed.id).collect();
        log.with_tail(floors, &ids).await.ok()
    };
    let mut behind: Vec<&mut Listed> = listed.iter_mut().collect();
    if let Some(found) = with_tail {
        behind.retain(|listed| found.contains(&listed.id));
    }
    stream::iter(behind)
        .for_each_concurrent(AT_ONCE, |conversation| async move {
            let floor = log.floor(floors, conversation.id);
            match Tail::read_from(log, conversation.id, floor, Range::Last, UNREAD_MAX as usize).await {
                Ok(tail) => apply(&tail, store, user, conversation).await,
                Err(error) => tracing::debug!(%error, "a list without the log's end"),
            }
        })
        .await;
}

async fn apply(tail: &Tail, store: &Store, user: &UserId, listed: &mut Listed) {
    let stored = listed.last_message.take();
    listed.last_message = tail.merge(stored.into_iter().collect()).pop();
    if let Some(message) = &listed.last_message {
        listed.active_at = listed.active_at.max(message.message.created_at);
        listed.place.advance(message.message.created_at);
    }
    for (participant, _) in &mut listed.participants {
        participant.last_read_seq = participant.last_read_seq.max(tail.marker(&participant.user_id));
    }
    if !listed.participants.iter().any(|(participant, _)| participant.user_id == *user) {
        return;
    }
    if tail.is_quiet() {
        return;
    }
    let marker = listed.last_read_seq.max(tail.marker(user));
    listed.last_read_seq = marker;
    // Postgres may hold some of the tail: counted anew up to where the tail begins.
    let (user_id, floor, deleted) = (user.clone(), tail.floor, tail.deleted());
    let key = UnreadKey { user: user_id, conversation: listed.id, marker, floor, deleted };
    let Ok(counted) = store.unread(COMMAND_TIMEOUT, &[key]).await else { return };
    let stored = counted.first().map_or(0, |it| it.count);
    listed.unread = stored.saturating_add(tail.unread(user, marker.max(tail.floor))).min(UNREAD_MAX);
}
