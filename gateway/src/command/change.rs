//! Editing and deleting a message: events of their own, of the message's conversation.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    event::{Event, MessageDeleted, MessageEdited},
    ids::{ConversationId, MessageId, Seq},
    timestamp::Timestamp,
    wire::{DeleteMessage, EditMessage, ErrorCode, Refusal},
};
use serde::Serialize;

use crate::{
    app::Chat,
    authorise,
    budget::Entrance,
    history::{self, HistoryMessage},
    validate,
};

/// The log has the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeAck {
    pub conversation_id: ConversationId,
    /// The change's own place in the log.
    pub seq: Seq,
    pub message_seq: Seq,
    pub message_id: MessageId,
}

async fn target(chat: &Chat, conversation: ConversationId, seq: Seq) -> Result<HistoryMessage, Refusal> {
    let found = history::find(&chat.store, &chat.log, conversation, seq).await?;
    let found = found.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such message"))?;
    if found.deleted_at.is_some() {
        return Err(Refusal::new(ErrorCode::Conflict, "the message is deleted"));
    }
    Ok(found)
}

/// Replaces a message's content. It counts against the budget, as everybody reads it.
///
/// # Errors
/// `not_found`, `forbidden`, `conflict` (deleted), `invalid_content`, `rate_limited`, `unavailable`.
pub async fn edit(chat: &Arc<Chat>, who: &Identity, command: EditMessage) -> Result<ChangeAck, Refusal> {
    let conversation_id = command.conversation_id;
    let membership = chat.members.get(conversation_id).await?;
    authorise::send(who, &membership)?;
    let content = validate::content(&command.content)?;
    let message = target(chat, conversation_id, command.seq).await?.message;
    let permit = authorise::edit(who, &membership, &message)?;
    chat.budget.spend(&who.user_id, Entrance::Socket).await?;
    let event = Event::MessageEdited(MessageEdited {
        conversation_id,
        message_seq: command.seq,
        message_id: message.message_id,
        editor_id: who.user_id.clone(),
        content,
        edited_at: Timestamp::now(),
    });
    let seq = chat.log.append(permit, &event, None).await?.seq;
    Ok(ChangeAck { conversation_id, seq, message_seq: command.seq, message_id: message.message_id })
}

/// Takes a message back.
///
/// # Errors
/// `not_found`, `forbidden`, `conflict` (deleted already), `unavailable`.
pub async fn delete(chat: &Arc<Chat>, who: &Identity, command: DeleteMessage) -> Result<ChangeAck, Refusal> {
    let conversation_id = command.conversation_id;
    let membership = chat.members.get(conversation_id).await?;
    authorise::send(who, &membership)?;
    let message = target(chat, conversation_id, command.seq).await?.message;
    let permit = authorise::delete(who, &membership, &message)?;
    let event = Event::MessageDeleted(MessageDeleted {
        conversation_id,
        message_seq: command.seq,
        message_id: message.message_id,
        deleted_by: who.user_id.clone(),
        deleted_at: Timestamp::now(),
    });
    let seq = chat.log.append(permit, &event, None).await?.seq;
    Ok(ChangeAck { conversation_id, seq, message_seq: command.seq, message_id: message.message_id })
}
