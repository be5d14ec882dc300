//! Moving a read marker, forward only.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    event::{Event, Read},
    ids::{ConversationId, Seq},
    timestamp::Timestamp,
    wire::{ErrorCode, Refusal},
};
use serde::Serialize;

use crate::{
    app::Chat,
    authorise::{self, Membership},
    history::{Range, tail::Tail},
    inbox::{News, Reason},
    tasks,
};

/// Where the marker stands now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct MarkReadAck {
    pub conversation_id: ConversationId,
    pub last_read_seq: Seq,
}

/// Moves the marker to `seq`, or to the log's end; a `seq` beyond the end means the end.
///
/// # Errors
/// `not_found`, `forbidden`, `unavailable`.
pub async fn mark_read(
    chat: &Arc<Chat>,
    who: &Identity,
    conversation_id: ConversationId,
    seq: Option<Seq>,
) -> Result<MarkReadAck, Refusal> {
    let membership = chat.members.get(conversation_id).await?;
    let permit = authorise::take_part(who, &membership)?;
    let room = chat.rooms.get(conversation_id);
    let (current, delivered) = match &room {
        Some(room) => (room.marker(&who.user_id), room.head()),
        None => (stored(chat, who, &membership).await?, 0),
    };
    if seq.is_some_and(|seq| seq <= current) {
        return Ok(MarkReadAck { conversation_id, last_read_seq: current });
    }
    let last_read_seq = match seq {
        Some(seq) if seq <= delivered => seq,
        _ => {
            let end = end(chat, who, conversation_id).await?;
            seq.unwrap_or(end).min(end)
        }
    };
    if last_read_seq <= current {
        return Ok(MarkReadAck { conversation_id, last_read_seq: current });
    }
    let event =
        Event::Read(Read { conversation_id, user_id: who.user_id.clone(), last_read_seq, read_at: Timestamp::now() });
    let appended = chat.log.append(permit, &event, None).await?;
    if let Some(room) = &room {
        // The next command may come before the event does.
        room.note_read(who.user_id.clone(), last_read_seq);
    }
    // The same person's other devices drop their badges.
    let news = News {
        conversation_id,
        reason: Reason::Read,
        seq: appended.seq,
        last_message: None,

        users: vec![who.user_id.clone()],
    };
    let inbox = chat.inbox.clone();
    let telling = async move {
        if let Err(error) = inbox.tell(news) {
            tracing::debug!(%error, "a read marker not told");
        }
    };
    chat.commands.spawn(tasks::caught("tell_read", telling));
    Ok(MarkReadAck { conversation_id, last_read_seq })
}

/// Where all is read: the log's end, unless nothing but this reader's own marker stands there. That would be an event
/// more each time, for everybody.
async fn end(chat: &Chat, who: &Identity, conversation: ConversationId) -> Result<Seq, Refusal> {
    let Some(head) = chat.log.head(conversation).await? else { return Ok(chat.log.end(conversation).await?.seq) };
    let Ok(Event::Read(own)) = Event::from_json(&head.payload) else { return Ok(head.seq) };
    if own.user_id != who.user_id {
        return Ok(head.seq);
    }
    let unread = chat.log.read_after(conversation, own.last_read_seq, 2).await?;
    Ok(if unread.iter().all(|entry| entry.seq == head.seq) { own.last_read_seq } else { head.seq })
}

/// The marker of somebody whose conversation is not open on this node: as Postgres and the log's tail have it, since what
/// is cached may be older than what another node has answered.
async fn stored(chat: &Chat, who: &Identity, cached: &Membership) -> Result<Seq, Refusal> {
    let conversation = cached.conversation_id;
    let tail = Tail::read(&chat.log, conversation, Range::Last, 0).await?;
    let read = chat.members.read(conversation).await;
    let membership = match &read {
        Ok(read) => &read.membership,
        Err(refusal) if refusal.code == ErrorCode::Unavailable => cached,
        Err(refusal) => return Err(refusal.clone()),
    };
    let marker = membership.participant(&who.user_id).map_or(0, |it| it.last_read_seq);
    Ok(marker.max(tail.marker(&who.user_id)))
}
