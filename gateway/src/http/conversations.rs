//! Conversations: mine, one of them, a new one.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use partyline_shared::{
    ids::{ConversationId, UserId},
    wire::{ErrorCode, Refusal},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    caller::Caller,
    complete::to_end,
    input::{Asked, Given, InConversation, page_size},
    openapi::{Common, OfBody, OfConversation},
    problem::Problem,
    views::{ConversationPage, ConversationView},
};
use crate::{
    authorise::Kind,
    command::create::{self, NewConversation},
    history::overlay,
    server::Gateway,
    store::Cursor,
};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Conversations at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next` of the part before.
    #[param(pattern = "^[0-9a-f]{1,14}[.][0-9a-f]{32}$")]
    cursor: Option<String>,
}

/// My conversations, newest activity first. What becomes active while I walk through the list is at its top again, and
/// not among the rest: `conversation_updated` tells of it, or the first part, read once more.
#[utoipa::path(get, path = "/chat/api/conversations/", tag = "conversations", params(ListParams),
    responses((status = 200, description = "A part of the list", body = ConversationPage), Common))]
pub(super) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Caller(who): Caller,
    Asked(params): Asked<ListParams>,
) -> Result<Json<ConversationPage>, Problem> {
    let limit = page_size(params.limit)?;
    let cursor: Option<Cursor> = match params.cursor.as_deref() {
        None => None,
        Some(text) => {
            Some(text.parse().map_err(|_| Refusal::new(ErrorCode::BadRequest, "cursor is not one of this list's"))?)
        }
    };
    let chat = &gateway.chat;
    let page = overlay::list(&chat.store, &chat.log, &who.user_id, cursor, limit).await.map_err(unavailable)?;
    Ok(Json(ConversationPage {
        results: page.conversations.into_iter().map(|it| ConversationView::new(it, &chat.presence)).collect(),
        next: page.next.map(|cursor| cursor.to_string()),
    }))
}

/// One conversation, with all its participants.
#[utoipa::path(get, path = "/chat/api/conversations/{id}/", tag = "conversations",
    params(("id" = ConversationId, Path)),
    responses((status = 200, description = "The conversation", body = ConversationView), Common, OfConversation))]
pub(super) async fn one(
    State(gateway): State<Arc<Gateway>>,
    Caller(who): Caller,
    InConversation(id): InConversation,
) -> Result<Json<ConversationView>, Problem> {
    let membership = gateway.chat.members.get(id).await?;
    if !who.service {
        crate::authorise::take_part(&who, &membership)?;
    }
    Ok(Json(view(&gateway, id, &who.user_id).await?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewConversation)]
pub(super) struct CreateBody {
    /// Who takes part, besides me; a service names everybody.
    #[schema(min_items = 1)]
    participant_ids: Vec<UserId>,
    /// At most 200 characters. Bidirectional controls are taken out; a title of which nothing can be seen is none.
    #[serde(default)]
    #[schema(max_length = 200, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    title: Option<String>,
    /// `direct` by default: of two people, and only one of each two.
    #[serde(default)]
    kind: Option<Kind>,
}

/// Creates a conversation; a direct one between the same two people is found.
#[utoipa::path(post, path = "/chat/api/conversations/", tag = "conversations", request_body = CreateBody,
    responses(
        (status = 201, description = "Created", body = ConversationView, headers(("location" = String))),
        (status = 200, description = "These two have this one already", body = ConversationView),
        (status = 409, description = "`conflict`: not two people for a direct one, too many for a group",
            body = Problem, content_type = "application/problem+json"),
        Common, OfBody
    ))]
pub(super) async fn create(
    State(gateway): State<Arc<Gateway>>,
    Caller(who): Caller,
    Given(body): Given<CreateBody>,
) -> Result<Response, Problem> {
    let new = NewConversation {
        kind: body.kind.unwrap_or(Kind::Direct),
        title: body.title,
        participants: body.participant_ids,
    };
    let user = who.user_id.clone();
    let chat = gateway.chat.clone();
    let created = to_end(&gateway.chat.commands, async move { create::create(&chat, &who, new).await }).await?;
    let view = Json(view(&gateway, created.id, &user).await?);
    if created.new.is_some() {
        let location = format!("/chat/api/conversations/{}/", created.id);
        return Ok((StatusCode::CREATED, [(header::LOCATION, location)], view).into_response());
    }
    Ok((StatusCode::OK, view).into_response())
}

async fn view(gateway: &Gateway, id: ConversationId, user: &UserId) -> Result<ConversationView, Refusal> {
    let chat = &gateway.chat;
    let floors = chat.log.floors().await.ok();
    let found = chat.store.conversation(id, user).await.map_err(unavailable)?;
    let found = found.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such conversation"))?;
    let mut found = [found];
    if let Some(floors) = &floors {
        overlay::refresh(&chat.store, &chat.log, floors, user, &mut found).await;
    }
    let [found] = found;
    Ok(ConversationView::new(found, &chat.presence))
}

pub(super) fn unavailable(error: sqlx::Error) -> Refusal {
    tracing::warn!(%error, "request not answered");
    Refusal::unavailable("the database")
}
