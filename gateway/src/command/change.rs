//! Editing and deleting a message: events of their own, of the message's conversation.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    event::{Event, Message, MessageDeleted, MessageEdited, deletion_dedup_id},
    ids::{ConversationId, MessageId, Seq},
    timestamp::Timestamp,
    wire::{DeleteMessage, EditMessage, ErrorCode, Refusal},
};
use serde::Serialize;

use crate::{
    app::Chat,
    authorise::{self, Membership, Permit},
    budget::Entrance,
    history::{current::Current, resume},
    inbox::Reason,
    tasks, validate,
};

/// How often an edit is appended anew because the conversation's log moved on between reading and appending.
const APPEND_ATTEMPTS: usize = 32;

/// The log has the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeAck {
    pub conversation_id: ConversationId,
    /// The change's own place in the log.
    pub seq: Seq,
    pub message_seq: Seq,
    pub message_id: MessageId,
}

impl ChangeAck {
    fn new(message: &Message, message_seq: Seq, seq: Seq) -> Self {
        Self { conversation_id: message.conversation_id, seq, message_seq, message_id: message.message_id }
    }
}

async fn target(chat: &Chat, conversation: ConversationId, seq: Seq) -> Result<Current, Refusal> {
    let found = Current::read(&chat.store, &chat.log, conversation, seq).await?;
    found.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such message"))
}

/// Replaces a message's content. It counts against the budget, as everybody reads it. The log takes the edit only if
/// nothing was appended since the message was read, so no edit follows a deletion.
///
/// # Errors
/// `not_found`, `forbidden`, `conflict` (deleted), `invalid_content`, `rate_limited`, `unavailable`.
pub async fn edit(chat: &Arc<Chat>, who: &Identity, command: EditMessage) -> Result<ChangeAck, Refusal> {
    let conversation_id = command.conversation_id;
    let membership = chat.members.get(conversation_id).await?;
    authorise::send(who, &membership)?;
    let content = validate::content(&command.content)?;
    let mut target = target(chat, conversation_id, command.seq).await?;
    let permit = authorise::edit(who, &membership, &target.message.message)?;
    refuse_deleted(&target)?;
    let spent = chat.budget.spend(who, Entrance::Socket).await?;
    let edit = MessageEdited {
        conversation_id,
        message_seq: command.seq,
        message_id: target.message.message.message_id,
        editor_id: who.user_id.clone(),
        content,
        edited_at: Timestamp::now(),
    };
    let event = Event::MessageEdited(edit.clone());
    let seq = match append_while_undeleted(chat, permit, &event, &mut target).await {
        Ok(seq) => seq,
        Err(refusal) => {
            if refusal.code == ErrorCode::Conflict {
                chat.budget.give_back(spent);
            }
            return Err(refusal);
        }
    };
    let ack = ChangeAck::new(&target.message.message, command.seq, seq);
    target.edit(seq, edit);
    tell(chat, membership, Reason::Edited, seq, target);
    Ok(ack)
}

fn refuse_deleted(target: &Current) -> Result<(), Refusal> {
    match target.message.deleted_seq {
        Some(_) => Err(Refusal::new(ErrorCode::Conflict, "the message is deleted")),
        None => Ok(()),
    }
}

async fn append_while_undeleted(
    chat: &Chat,
    permit: Permit,
    event: &Event,
    target: &mut Current,
) -> Result<Seq, Refusal> {
    for _ in 0..APPEND_ATTEMPTS {
        if let Some(appended) = chat.log.append_after(permit, event, target.head).await? {
            return Ok(appended.seq);
        }
        target.catch_up(&chat.log).await?;
        refuse_deleted(target)?;
    }
    tracing::warn!(conversation = %permit.conversation_id(), "an edit found no gap between other events");
    Err(Refusal::unavailable("the log"))
}

/// Takes a message back. A message is deleted once: later deletions are answered as the first one was.
///
/// # Errors
/// `not_found`, `forbidden`, `unavailable`.
pub async fn delete(chat: &Arc<Chat>, who: &Identity, command: DeleteMessage) -> Result<ChangeAck, Refusal> {
    let conversation_id = command.conversation_id;
    let membership = chat.members.get(conversation_id).await?;
    authorise::send(who, &membership)?;
    let mut target = target(chat, conversation_id, command.seq).await?;
    let message = &target.message.message;
    let permit = authorise::delete(who, &membership, message)?;
    if let Some(deleted_seq) = target.message.deleted_seq {
        return Ok(ChangeAck::new(message, command.seq, deleted_seq));
    }
    let deletion = MessageDeleted {
        conversation_id,
        message_seq: command.seq,
        message_id: message.message_id,
        deleted_by: who.user_id.clone(),
        deleted_at: Timestamp::now(),
    };
    // Of several at the same moment, on whatever nodes, JetStream stores one.
    let dedup = deletion_dedup_id(conversation_id, message.message_id);
    let event = Event::MessageDeleted(deletion.clone());
    let appended = chat.log.append(permit, &event, Some(dedup)).await?;
    let ack = ChangeAck::new(message, command.seq, appended.seq);
    if !appended.duplicate {
        target.delete(appended.seq, &deletion);
        tell(chat, membership, Reason::Deleted, appended.seq, target);
    }
    Ok(ack)
}

/// Tells those who have not joined, if it changes what their lists show: the newest message, or what is unread.
fn tell(chat: &Arc<Chat>, membership: Arc<Membership>, reason: Reason, seq: Seq, changed: Current) {
    let commands = chat.commands.clone();
    let chat = chat.clone();
    let telling = async move {
        let is_newest = changed.is_newest(&chat.store).await;
        if is_newest || reason == Reason::Deleted {
            let last_message = || if is_newest { resume::raw_message(&changed.message) } else { None };
            chat.inbox.tell_all(&membership, reason, seq, last_message);
        }
    };
    commands.spawn(tasks::caught("tell_change", telling));
}
