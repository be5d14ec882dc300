//! Messages: a page of history, sending without a socket, the read marker.

use std::sync::Arc;

use axum::{Json, extract::State};
use partyline_shared::{
    event::MessageType,
    ids::{ClientId, ConversationId, Seq},
    wire::{SendMessage, seq},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{
    caller::Caller,
    complete::to_end,
    input::{Asked, Given, InConversation, PerhapsGiven, page_size},
    openapi::{Common, OfBody, OfConversation},
    problem::Problem,
    views::MessagePage,
};
use crate::{
    authorise,
    budget::Entrance,
    command::{
        mark_read::{self as marking, MarkReadAck},
        send::{self as sending, SendAck},
    },
    history::{self, Range},
    server::Gateway,
};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// Messages at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// The newest messages before this `seq`.
    #[serde(default, deserialize_with = "seq::optional")]
    #[param(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    before: Option<Seq>,
    /// The oldest messages after this `seq`; with `before`, only those before that.
    #[serde(default, deserialize_with = "seq::optional")]
    #[param(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    after: Option<Seq>,
}

/// A page of messages, oldest first: the newest ones unless `before` or `after` says otherwise. What was acknowledged
/// is in it, at once.
#[utoipa::path(get, path = "/chat/api/conversations/{id}/messages/", tag = "messages",
    params(("id" = ConversationId, Path), PageParams),
    responses((status = 200, description = "The page", body = MessagePage), Common, OfConversation))]
pub(super) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Caller(who): Caller,
    InConversation(id): InConversation,
    Asked(params): Asked<PageParams>,
) -> Result<Json<MessagePage>, Problem> {
    let limit = page_size(params.limit)?;
    let range = match (params.before, params.after) {
        (None, None) => Range::Last,
        (Some(before), None) => Range::Before(before),
        (_, Some(after)) => Range::After(after),
    };
    let chat = &gateway.chat;
    let membership = chat.members.get(id).await?;
    authorise::take_part(&who, &membership)?;
    let mut page = history::page(&chat.store, &chat.log, id, range, limit).await?;
    if let (Some(before), Some(_)) = (params.before, params.after)
        && let Some(end) = page.messages.iter().position(|message| message.seq >= before)
    {
        page.messages.truncate(end);
        page.has_newer = false;
    }
    Ok(Json(MessagePage {
        next_before: page.messages.first().filter(|_| page.has_older).map(|first| first.seq),
        next_after: page.messages.last().filter(|_| page.has_newer).map(|last| last.seq),
        results: page.messages,
    }))
}

/// A message to send.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewMessage)]
pub(super) struct SendBody {
    /// My own name for the message: sent again with it, it is the same message.
    client_id: ClientId,
    /// 1 to 1,000 characters once white space around it is cut off, of which something can be seen; no control characters
    /// but tab and line breaks. Bidirectional overrides are closed where their paragraph ends.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"
    )]
    content: String,
    /// `text` by default; `system` for services only.
    #[serde(default)]
    message_type: Option<MessageType>,
    /// At most 4 KiB of JSON. Everybody gets the same value, compact.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
    /// The `seq` of the message that this one answers.
    #[serde(default, deserialize_with = "seq::optional")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    reply_to: Option<Seq>,
}

/// Sends a message: the same rules and the same answer as over a socket.
#[utoipa::path(post, path = "/chat/api/conversations/{id}/messages/", tag = "messages",
    params(("id" = ConversationId, Path)), request_body = SendBody,
    responses(
        (status = 200, description = "Stored", body = SendAck),
        (status = 422, description = "`invalid_content`, `invalid_metadata`", body = Problem,
            content_type = "application/problem+json"),
        Common, OfConversation, OfBody
    ))]
pub(super) async fn send(
    State(gateway): State<Arc<Gateway>>,
    Caller(who): Caller,
    InConversation(id): InConversation,
    Given(body): Given<SendBody>,
) -> Result<Json<SendAck>, Problem> {
    let message = SendMessage {
        conversation_id: id,
        client_id: body.client_id,
        content: body.content,
        message_type: body.message_type,
        metadata: body.metadata,
        reply_to: body.reply_to,
        temporary: None,
    };
    let chat = gateway.chat.clone();
    let sent = async move { sending::send(&chat, &who, message, Entrance::Request).await };
    Ok(Json(to_end(&gateway.chat.commands, sent).await?))
}

/// How far I have read.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ReadMarker)]
pub(super) struct MarkReadBody {
    /// The last `seq` that I have read; all if it is missing.
    #[serde(default, deserialize_with = "seq::optional")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    seq: Option<Seq>,
}

/// Moves my read marker, never back. No body: all is read.
#[utoipa::path(post, path = "/chat/api/conversations/{id}/mark_read/", tag = "messages",
    params(("id" = ConversationId, Path)), request_body = Option<MarkReadBody>,
    responses((status = 200, description = "Where the marker stands now", body = MarkReadAck),
        Common, OfConversation, OfBody))]
pub(super) async fn mark_read(
    State(gateway): State<Arc<Gateway>>,
    Caller(who): Caller,
    InConversation(id): InConversation,
    PerhapsGiven(body): PerhapsGiven<MarkReadBody>,
) -> Result<Json<MarkReadAck>, Problem> {
    let seq = body.unwrap_or_default().seq;
    let chat = gateway.chat.clone();
    let marked = async move { marking::mark_read(&chat, &who, id, seq).await };
    Ok(Json(to_end(&gateway.chat.commands, marked).await?))
}
