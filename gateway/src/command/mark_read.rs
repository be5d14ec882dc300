//! Moving a read marker, forward only.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    event::{Event, Read},
    ids::{ConversationId, Seq},
    timestamp::Timestamp,
    wire::Refusal,
};
use serde::Serialize;

use crate::{
    app::Chat,
    authorise,
    inbox::{News, Reason},
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
    let current = match &room {
        Some(room) => room.marker(&who.user_id),
        None => membership.participant(&who.user_id).map_or(0, |it| it.last_read_seq),
    };
    if seq.is_some_and(|seq| seq <= current) {
        return Ok(MarkReadAck { conversation_id, last_read_seq: current });
    }
    let delivered = room.map_or(0, |room| room.head());
    let head = match seq {
        Some(seq) if seq <= delivered => seq,
        _ => chat.log.head(conversation_id).await?.map_or(0, |entry| entry.seq).max(current),
    };
    let last_read_seq = seq.unwrap_or(head).min(head);
    if last_read_seq <= current {
        return Ok(MarkReadAck { conversation_id, last_read_seq: current });
    }
    let event =
        Event::Read(Read { conversation_id, user_id: who.user_id.clone(), last_read_seq, read_at: Timestamp::now() });
    let appended = chat.log.append(permit, &event, None).await?;
    // The same person's other devices drop their badges.
    let news = News {
        conversation_id,
        reason: Reason::Read,
        seq: appended.seq,
        last_message: None,
        by: Some(who.user_id.clone()),
        users: vec![who.user_id.clone()],
    };
    let chat = chat.clone();
    tokio::spawn(async move { chat.inbox.tell(news).await });
    Ok(MarkReadAck { conversation_id, last_read_seq })
}
