//! What a request brings: path, query and body, each refused with a problem that names what is wrong.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use partyline_shared::{
    ids::{ConversationId, UserId},
    wire::{ErrorCode, Refusal},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::problem::Problem;
use crate::server::Gateway;

/// A body at most, in bytes, before participants are counted.
const BODY_BYTES: usize = 64 * 1_024;
/// One participant in a body at most, in bytes.
const PARTICIPANT_BYTES: usize = 6 * UserId::MAX_BYTES;

fn bad_request(message: impl Into<String>) -> Problem {
    Refusal::new(ErrorCode::BadRequest, message).into()
}

/// The conversation that the path names.
pub(super) struct InConversation(pub(super) ConversationId);

impl<S: Send + Sync> FromRequestParts<S> for InConversation {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Named {
            id: ConversationId,
        }
        let named = Path::<Named>::from_request_parts(parts, state).await;
        named.map(|Path(named)| Self(named.id)).map_err(|_| bad_request("the path names no conversation id (a UUID)"))
    }
}

/// The participant that the path names.
pub(super) struct OfUser(pub(super) UserId);

impl<S: Send + Sync> FromRequestParts<S> for OfUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Named {
            user_id: UserId,
        }
        let named = Path::<Named>::from_request_parts(parts, state).await;
        named.map(|Path(named)| Self(named.user_id)).map_err(|_| bad_request("the path names no user id"))
    }
}

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(bad_request(rejection.body_text())),
        }
    }
}

/// A JSON object as the body.
pub(super) struct Given<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Gateway>> for Given<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        if !says_json(&parts.headers) {
            return Err(Refusal::new(ErrorCode::UnsupportedMediaType, "the body is not application/json").into());
        }
        parse(&read(body, gateway).await?).map(Self)
    }
}

/// A JSON object as the body, or none at all.
pub(super) struct PerhapsGiven<T>(pub(super) Option<T>);

impl<T: DeserializeOwned> FromRequest<Arc<Gateway>> for PerhapsGiven<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read(body, gateway).await?;
        if matches!(bytes.trim_ascii(), b"" | b"null") {
            return Ok(Self(None));
        }
        if !says_json(&parts.headers) {
            return Err(Refusal::new(ErrorCode::UnsupportedMediaType, "the body is not application/json").into());
        }
        parse(&bytes).map(Some).map(Self)
    }
}

fn says_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|it| it.trim().eq_ignore_ascii_case("application/json"))
}

async fn read(body: Body, gateway: &Gateway) -> Result<Vec<u8>, Problem> {
    let config = &gateway.chat.config;
    let limit = BODY_BYTES + PARTICIPANT_BYTES * config.group_max as usize;
    let patience = Duration::from_secs(u64::from(config.limits.handshake_seconds));
    match tokio::time::timeout(patience, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) if is_too_large(&error) => {
            Err(Refusal::new(ErrorCode::TooLarge, format!("a body has {limit} bytes at most")).into())
        }
        Ok(Err(_)) => Err(bad_request("the body broke off")),
        Err(_) => Err(bad_request("the body did not come in time")),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        source = error.source();
    }
    error.to_string().contains("length limit exceeded")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde takes an array for a struct; the contract says an object.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        let code = if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
            ErrorCode::BadRequest
        } else {
            ErrorCode::BadJson
        };
        return Err(Refusal::new(code, "the body is not a JSON object").into());
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let code = if error.is_data() { ErrorCode::BadRequest } else { ErrorCode::BadJson };
        Refusal::new(code, error.to_string()).into()
    })
}

/// The size of a page that was asked for.
///
/// # Errors
/// `bad_request`.
pub(super) fn page_size(limit: Option<u32>) -> Result<u32, Refusal> {
    use partyline_shared::wire::{DEFAULT_PAGE, MAX_PAGE};
    match limit.unwrap_or(DEFAULT_PAGE) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        _ => Err(Refusal::new(ErrorCode::BadRequest, format!("limit is between 1 and {MAX_PAGE}"))),
    }
}
