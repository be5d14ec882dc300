//! Lists of conversations with what the log holds and Postgres doesn't yet.

use futures_util::{StreamExt, stream};
use partyline_shared::ids::UserId;

use super::{Range, tail::Tail};
use crate::{
    log::{Floors, Log},
    store::{Listed, Store, UNREAD_MAX, UnreadKey},
};

/// Conversations looked up at once.
const AT_ONCE: usize = 16;

/// Brings conversations up to date as `user` sees them. If the log doesn't answer they stay as Postgres has them: a list
/// is worth more than none, and what is missing is told live. The floors must have been read before the list.
pub async fn refresh(store: &Store, log: &Log, floors: &Floors, user: &UserId, listed: &mut [Listed]) {
    stream::iter(listed)
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
    let Ok(counted) = store.unread(&[key]).await else { return };
    let stored = counted.first().map_or(0, |it| it.count);
    listed.unread = stored.saturating_add(tail.unread(user, marker.max(tail.floor))).min(UNREAD_MAX);
}
