//! Adding and removing people. Postgres decides, every node forgets what it cached, and the log tells: the last two
//! are the [relay](crate::relay)'s, and happen even if this process ends right after the commit.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    event::Participant,
    ids::{ConversationId, UserId},
    wire::{ErrorCode, Refusal},
};

use crate::{app::Chat, authorise, relay, store::Added};

/// What became of adding somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addition {
    New(Participant),
    /// Took part already.
    Already(Participant),
}

fn unavailable(error: sqlx::Error) -> Refusal {
    tracing::warn!(%error, "participants not changed");
    Refusal::unavailable("the database")
}

/// Adds somebody.
///
/// # Errors
/// `not_found`, `forbidden`, `conflict` (a direct conversation, a full group), `unavailable`.
pub async fn add(
    chat: &Arc<Chat>,
    who: &Identity,
    conversation: ConversationId,
    user: &UserId,
) -> Result<Addition, Refusal> {
    authorise::add(who, &*chat.members.get(conversation).await?)?;
    match chat.store.add_participant(conversation, user, &who.user_id, chat.config.group_max).await {
        Ok(Added::New(participant, told)) => {
            relay::after_commit(chat, *told).await;
            Ok(Addition::New(participant))
        }
        Ok(Added::Already(participant)) => Ok(Addition::Already(participant)),
        Ok(Added::Full) => Err(Refusal::new(ErrorCode::Conflict, "the group is full")),
        Ok(Added::NoSuchConversation) => Err(Refusal::new(ErrorCode::NotFound, "no such conversation")),
        Err(error) => Err(unavailable(error)),
    }
}

/// Removes somebody, or leaves.
///
/// # Errors
/// `not_found`, `forbidden`, `conflict` (a direct conversation), `unavailable`.
pub async fn remove(
    chat: &Arc<Chat>,
    who: &Identity,
    conversation: ConversationId,
    user: &UserId,
) -> Result<(), Refusal> {
    authorise::remove(who, &*chat.members.get(conversation).await?, user)?;
    let removed = chat.store.remove_participant(conversation, user, &who.user_id).await.map_err(unavailable)?;
    let told = removed.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such participant"))?;
    relay::after_commit(chat, told).await;
    Ok(())
}
