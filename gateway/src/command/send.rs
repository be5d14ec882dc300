//! Sending a message: stored by JetStream before anybody hears of it, once however often it is sent.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    event::{Event, Message, MessageType, dedup_id},
    ids::{ClientId, ConversationId, MessageId, Seq},
    timestamp::Timestamp,
    wire::{ErrorCode, Refusal, SendMessage},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    sent::{Names, Sent},
    typing,
};
use crate::{
    app::Chat,
    authorise,
    budget::{Entrance, Spent},
    encode, history,
    inbox::Reason,
    log::Entry,
    metrics, tasks, validate,
};

/// JetStream has the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SendAck {
    pub conversation_id: ConversationId,
    pub client_id: ClientId,
    pub message_id: MessageId,
    pub seq: Seq,
    pub created_at: Timestamp,
    /// The message had been sent before; this tells of the first one.
    pub duplicate: bool,
}

/// Sends a message.
///
/// # Errors
/// `not_found`, `forbidden`, `invalid_content`, `invalid_metadata`, `rate_limited`;
/// `unavailable`: perhaps stored, and a repeat with the same `client_id` finds out.
pub async fn send(
    chat: &Arc<Chat>,
    who: &Identity,
    mut command: SendMessage,
    entrance: Entrance,
) -> Result<SendAck, Refusal> {
    let conversation_id = command.conversation_id;
    let membership = chat.members.get(conversation_id).await?;
    let permit = authorise::send(who, &membership)?;
    let content = validate::content(&command.content)?;
    let metadata = validate::metadata(command.metadata.take())?;
    let names = Names::of(&command);
    let client_id = names.client_id;
    let spent = match admit(chat, who, &command, &names, entrance).await {
        Ok(Admitted::New(spent)) => spent,
        Ok(Admitted::Repeat(first)) => return Ok(again(conversation_id, first)),
        // What it is refused for may have come about since it was stored. A repeat is never refused for that.
        Err(refusal) => match chat.sent.find_recent(conversation_id, &who.user_id, &names).await {
            Ok(Some(first)) => return Ok(again(conversation_id, first)),
            Ok(None) | Err(_) => return Err(refusal),
        },
    };

    let message = Message {
        conversation_id,
        message_id: MessageId::generate(),
        client_id,
        sender_id: who.user_id.clone(),
        sender_username: who.username.clone(),
        sender_type: who.user_type,
        content,
        message_type: command.message_type.unwrap_or_default(),
        metadata,
        reply_to: command.reply_to,
        created_at: Timestamp::now(),
    };
    let (message_id, created_at) = (message.message_id, message.created_at);
    let event = Event::NewMessage(message);
    let dedup = dedup_id(conversation_id, &who.user_id, names.for_window());
    let appended = chat.log.append(permit, &event, Some(dedup)).await?;
    if appended.duplicate {
        chat.budget.give_back(spent);
        let first = chat.sent.at(conversation_id, appended.seq, &who.user_id, &names).await?;
        return Ok(again(conversation_id, first));
    }
    metrics::message_taken(false);
    typing::end_by_message(chat, who, conversation_id);

    let inbox = chat.inbox.clone();
    let telling = async move {
        inbox.tell_all(&membership, Reason::Message, appended.seq, || as_seen(&event, appended.seq));
    };
    chat.commands.spawn(tasks::caught("tell_message", telling));
    Ok(SendAck { conversation_id, client_id, message_id, seq: appended.seq, created_at, duplicate: false })
}

/// A message that is not refused.
enum Admitted {
    /// It was not sent before, as far as is known, and is paid for.
    New(Spent),
    Repeat(Sent),
}

/// Recognises a repeat, then refuses what depends on more than the message itself.
async fn admit(
    chat: &Chat,
    who: &Identity,
    command: &SendMessage,
    names: &Names,
    entrance: Entrance,
) -> Result<Admitted, Refusal> {
    let conversation_id = command.conversation_id;
    if let Some(sent) = chat.sent.find(conversation_id, &who.user_id, names).await? {
        return Ok(Admitted::Repeat(sent));
    }
    if command.message_type == Some(MessageType::System) && !who.service {
        return Err(Refusal::new(ErrorCode::Forbidden, "system messages are for services"));
    }
    if let Some(seq) = command.reply_to {
        let found = history::original(&chat.store, &chat.log, conversation_id, seq).await?;
        found.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "reply_to names no message of this conversation"))?;
    }
    Ok(Admitted::New(chat.budget.spend(who, entrance).await?))
}

fn again(conversation_id: ConversationId, first: Sent) -> SendAck {
    metrics::message_taken(true);
    SendAck {
        conversation_id,
        client_id: first.client_id,
        message_id: first.message_id,
        seq: first.seq,
        created_at: first.created_at,
        duplicate: true,
    }
}

/// The message as members see it, for those who have not joined.
fn as_seen(event: &Event, seq: Seq) -> Option<Box<RawValue>> {
    let payload = serde_json::to_vec(event).ok()?.into();
    let mut json = Vec::new();
    encode::event_json(&Entry { seq, prev_seq: 0, payload }, &mut json);
    RawValue::from_string(String::from_utf8(json).ok()?).ok()
}
