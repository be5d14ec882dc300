//! The OpenAPI 3.1 document: what is common to all operations. Each operation describes itself where it is written.

use utoipa::{
    IntoResponses, Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Partyline",
        description = "Conversations, their messages and their participants. Live events come over WebSocket: \
            docs/protocol.md.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem)),
    security(("token" = [])),
    modifiers(&Bearer)
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The document without its paths.
pub(super) fn document() -> openapi::OpenApi {
    Document::openapi()
}

/// What every operation may answer.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes, is never made")]
pub(super) enum Common {
    #[response(
        status = 400,
        description = "`bad_json`, `bad_request`: what is wrong stands in `detail`",
        content_type = "application/problem+json"
    )]
    BadRequest(Problem),
    #[response(
        status = 401,
        description = "`token_invalid`, `token_expired`",
        content_type = "application/problem+json",
        headers(("www-authenticate" = String))
    )]
    Unauthorized(Problem),
    #[response(
        status = 429,
        description = "`rate_limited`: too many requests, or messages; `retry_after_ms` tells when to try again",
        content_type = "application/problem+json",
        headers(("retry-after" = u64))
    )]
    RateLimited(Problem),
    #[response(
        status = 503,
        description = "`unavailable`: a part behind the gateway doesn't answer; try again",
        content_type = "application/problem+json",
        headers(("retry-after" = u64))
    )]
    Unavailable(Problem),
}

/// What operations on one conversation may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes, is never made")]
pub(super) enum OfConversation {
    #[response(
        status = 403,
        description = "`forbidden`: not a participant, or not mine to do",
        content_type = "application/problem+json"
    )]
    Forbidden(Problem),
    #[response(
        status = 404,
        description = "`not_found`: no such conversation, or nothing of that name in it",
        content_type = "application/problem+json"
    )]
    NotFound(Problem),
}

/// What operations with a body may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes, is never made")]
pub(super) enum OfBody {
    #[response(status = 413, description = "`too_large`", content_type = "application/problem+json")]
    TooLarge(Problem),
    #[response(
        status = 415,
        description = "`unsupported_media_type`: the body is JSON",
        content_type = "application/problem+json"
    )]
    UnsupportedMediaType(Problem),
}
