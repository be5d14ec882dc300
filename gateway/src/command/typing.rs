//! Typing: passed on at most once a second, ended after five, stored never.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    ids::ConversationId,
    nats, subjects,
    wire::{Refusal, Typing},
};
use serde::Serialize;

use crate::{
    app::Chat,
    authorise, clock,
    session::conn::{self, Conn},
};

/// Between two that are passed on, in milliseconds.
const INTERVAL: u64 = 1_000;
/// When it ends by itself, in milliseconds.
const LASTS: u64 = 5_000;

/// Passes on that somebody types, or no longer does.
///
/// # Errors
/// `not_found`, `forbidden`, `unavailable`.
pub async fn typing(chat: &Arc<Chat>, conn: &Arc<Conn>, command: &Typing) -> Result<(), Refusal> {
    let conversation_id = command.conversation_id;
    let membership = chat.members.get(conversation_id).await?;
    authorise::take_part(&conn.identity(), &membership)?;
    let now = clock::millis();
    let (ended, pass_on) = conn.side(|side| {
        // What was never passed on needs no end: starting and stopping must not get round the limit either.
        let goes_on = side.typing.is_some_and(|was| was.conversation_id == conversation_id);
        if !command.is_typing {
            return (None, goes_on && side.typing.take().is_some());
        }
        let pass_on = side.typed.is_none_or(|typed| now >= typed + INTERVAL);
        let ended = side.typing.take_if(|_| !goes_on);
        if pass_on {
            side.typed = Some(now);
        }
        if pass_on || goes_on {
            side.typing = Some(conn::Typing { conversation_id, ends: now + LASTS });
        }
        (ended, pass_on)
    });
    if let Some(ended) = ended {
        publish(chat, &conn.identity(), ended.conversation_id, false);
    }
    if pass_on {
        publish(chat, &conn.identity(), conversation_id, command.is_typing);
    }
    Ok(())
}

/// Ends what a connection was typing, because it went or fell silent.
pub fn end(chat: &Chat, who: &Identity, typing: conn::Typing) {
    publish(chat, who, typing.conversation_id, false);
}

/// Publishes without waiting; while NATS is away typing is dropped.
fn publish(chat: &Chat, who: &Identity, conversation_id: ConversationId, is_typing: bool) {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: &'static str,
        conversation_id: ConversationId,
        user_id: &'a str,
        username: &'a str,
        is_typing: bool,
    }
    let frame =
        Frame { r#type: "typing", conversation_id, user_id: who.user_id.as_str(), username: &who.username, is_typing };
    let Ok(payload) = serde_json::to_vec(&frame) else { return };
    if let Err(error) = nats::try_publish(&chat.client, subjects::live_typing(conversation_id), payload.into()) {
        tracing::debug!(%error, "typing not passed on");
    }
}
