//! Who takes part: adding, removing, leaving.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use partyline_shared::{
    event::Participant,
    ids::{ConversationId, UserId},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    caller::Caller,
    complete::to_end,
    input::{Given, InConversation, OfUser},
    openapi::{Common, OfBody, OfConversation},
    problem::Problem,
};
use crate::{
    command::participants::{self, Addition},
    server::Gateway,
};

/// Somebody to add.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewParticipant)]
pub(super) struct AddBody {
    user_id: UserId,
}

/// Adds somebody to a group, as one who has read everything so far. Its owner may, and services.
#[utoipa::path(post, path = "/chat/api/conversations/{id}/participants/", tag = "participants",
    params(("id" = ConversationId, Path)), request_body = AddBody,
    responses(
        (status = 201, description = "Added", body = Participant),
        (status = 200, description = "Took part already", body = Participant),
        (status = 409, description = "`conflict`: a direct conversation, or a full group", body = Problem,
            content_type = "application/problem+json"),
        Common, OfConversation, OfBody
    ))]
pub(super) async fn add(
    State(gateway): State<Arc<Gateway>>,
    Caller(who): Caller,
    InConversation(id): InConversation,
    Given(body): Given<AddBody>,
) -> Result<Response, Problem> {
    let chat = gateway.chat.clone();
    let added = async move { participants::add(&chat, &who, id, &body.user_id).await };
    let (status, participant) = match to_end(&gateway.chat.commands, added).await? {
        Addition::New(participant) => (StatusCode::CREATED, participant),
        Addition::Already(participant) => (StatusCode::OK, participant),
    };
    Ok((status, Json(participant)).into_response())
}

/// Removes somebody from a group, or leaves it. Open sockets of theirs hear no more of it, at once.
#[utoipa::path(delete, path = "/chat/api/conversations/{id}/participants/{user_id}/", tag = "participants",
    params(("id" = ConversationId, Path), ("user_id" = UserId, Path)),
    responses(
        (status = 204, description = "Removed"),
        (status = 409, description = "`conflict`: a direct conversation", body = Problem,
            content_type = "application/problem+json"),
        Common, OfConversation
    ))]
pub(super) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    Caller(who): Caller,
    InConversation(id): InConversation,
    OfUser(user): OfUser,
) -> Result<StatusCode, Problem> {
    let chat = gateway.chat.clone();
    to_end(&gateway.chat.commands, async move { participants::remove(&chat, &who, id, &user).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
