//! Lists of conversations with what the log holds and Postgres doesn't yet.

use futures_util::{StreamExt, stream};
use partyline_shared::ids::UserId;

use super::{Range, tail::Tail};
use crate::{
    log::Log,
    store::{Listed, UNREAD_MAX},
};

/// Conversations looked up at once.
const AT_ONCE: usize = 16;

/// Brings conversations up to date as `user` sees them. If the log doesn't answer they stay as Postgres has them: a list
/// is worth more than none, and what is missing is told live.
pub async fn refresh(log: &Log, user: &UserId, listed: &mut [Listed]) {
    stream::iter(listed)
        .for_each_concurrent(AT_ONCE, |conversation| async move {
            match Tail::read(log, conversation.id, Range::Last, UNREAD_MAX as usize).await {
                Ok(tail) => apply(&tail, user, conversation),
                Err(error) => tracing::debug!(%error, "a list without the log's end"),
            }
        })
        .await;
}

fn apply(tail: &Tail, user: &UserId, listed: &mut Listed) {
    let stored = listed.last_message.take();
    let stored_seq = stored.as_ref().map_or(0, |it| it.seq);
    listed.last_message = tail.merge(stored.into_iter().collect()).pop();
    if let Some(message) = &listed.last_message {
        listed.active_at = listed.active_at.max(message.message.created_at);
    }
    for (participant, _) in &mut listed.participants {
        let marker = tail.markers.get(&participant.user_id).copied().unwrap_or(0);
        participant.last_read_seq = participant.last_read_seq.max(marker);
    }
    if !listed.participants.iter().any(|(participant, _)| participant.user_id == *user) {
        return;
    }
    let marker = tail.markers.get(user).copied().unwrap_or(0).max(listed.last_read_seq);
    if marker >= stored_seq && marker > listed.last_read_seq {
        listed.unread = 0;
    }
    listed.last_read_seq = marker;
    let messages = tail.messages();
    let unread = messages
        .iter()
        .filter(|it| it.seq > marker.max(stored_seq) && it.message.sender_id != *user && it.deleted_at.is_none());
    listed.unread = listed.unread.saturating_add(unread.count() as u32).min(UNREAD_MAX);
}
