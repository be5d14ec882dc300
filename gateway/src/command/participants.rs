//! Adding and removing people. Postgres decides, every node forgets what it cached, and the log tells.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    event::{Event, Participant, ParticipantAdded, ParticipantRemoved},
    ids::{ConversationId, UserId},
    wire::{ErrorCode, Refusal},
};

use crate::{
    app::Chat,
    authorise,
    inbox::{News, Reason},
    log::Appended,
    store::Added,
};

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
    let permit = authorise::add(who, &*chat.members.get(conversation).await?)?;
    let participant = match chat.store.add_participant(conversation, user, chat.config.group_max).await {
        Ok(Added::New(participant)) => participant,
        Ok(Added::Already(participant)) => return Ok(Addition::Already(participant)),
        Ok(Added::Full) => return Err(Refusal::new(ErrorCode::Conflict, "the group is full")),
        Ok(Added::NoSuchConversation) => return Err(Refusal::new(ErrorCode::NotFound, "no such conversation")),
        Err(error) => return Err(unavailable(error)),
    };
    chat.members_changed(conversation).await;
    let event = Event::ParticipantAdded(ParticipantAdded {
        conversation_id: conversation,
        participant: participant.clone(),
        added_by: who.user_id.clone(),
    });
    let told = chat.log.append(permit, &event, None).await;
    tell(chat, conversation, Reason::Added, user, told);
    Ok(Addition::New(participant))
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
    let permit = authorise::remove(who, &*chat.members.get(conversation).await?, user)?;
    if !chat.store.remove_participant(conversation, user).await.map_err(unavailable)? {
        return Err(Refusal::new(ErrorCode::NotFound, "no such participant"));
    }
    chat.members_changed(conversation).await;
    let event = Event::ParticipantRemoved(ParticipantRemoved {
        conversation_id: conversation,
        user_id: user.clone(),
        removed_by: who.user_id.clone(),
    });
    let told = chat.log.append(permit, &event, None).await;
    tell(chat, conversation, Reason::Removed, user, told);
    Ok(())
}

/// The change is made, whatever becomes of telling it: every answer to a join tells the participants whole.
fn tell(
    chat: &Arc<Chat>,
    conversation_id: ConversationId,
    reason: Reason,
    user: &UserId,
    told: Result<Appended, Refusal>,
) {
    let seq = told.map_or(0, |appended| appended.seq);
    let news = News { conversation_id, reason, seq, last_message: None, users: vec![user.clone()] };
    let chat = chat.clone();
    tokio::spawn(async move { chat.inbox.tell(news).await });
}
