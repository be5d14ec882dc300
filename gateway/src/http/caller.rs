//! Who calls: every operation of the API asks for it first, so strangers learn nothing else.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use partyline_shared::claims::Identity;

use super::problem::Problem;
use crate::server::Gateway;

/// The verified bearer of the request.
pub(super) struct Caller(pub(super) Identity);

impl FromRequestParts<Arc<Gateway>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let identity = gateway.chat.verifier.from_request_or_refresh(&parts.headers).await?;
        gateway.chat.requests.spend(&identity)?;
        gateway.chat.people.note(&identity);
        Ok(Self(identity))
    }
}
