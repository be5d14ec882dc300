//! Engine.IO's refusals of a request.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// Why a request is refused; the codes are Engine.IO's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    UnknownTransport,
    UnknownSession,
    BadHandshakeMethod,
    BadRequest,
    UnsupportedVersion,
    /// The node is full, or leaves.
    Unavailable,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::UnknownTransport => (StatusCode::BAD_REQUEST, 0, "Transport unknown"),
            Self::UnknownSession => (StatusCode::BAD_REQUEST, 1, "Session ID unknown"),
            Self::BadHandshakeMethod => (StatusCode::BAD_REQUEST, 2, "Bad handshake method"),
            Self::BadRequest => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            Self::UnsupportedVersion => (StatusCode::BAD_REQUEST, 5, "Unsupported protocol version"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, 4, "This node takes no new connections now"),
        };
        respond(status, code, message)
    }
}

/// Refuses a request that may not come in; Engine.IO leaves the words to the server.
pub fn forbidden(message: &str) -> Response {
    respond(StatusCode::FORBIDDEN, 4, message)
}

fn respond(status: StatusCode, code: u8, message: &str) -> Response {
    (status, Json(json!({ "code": code, "message": message }))).into_response()
}
