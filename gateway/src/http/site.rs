//! The chat page's files.

use std::path::Path;

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use partyline_shared::wire::{ErrorCode, Refusal};
use tower_http::services::ServeDir;

use super::problem::Problem;

/// What a page from here may load and who may frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; \
    style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// Serves a folder.
pub(super) fn serve(folder: &Path) -> Router {
    let files = ServeDir::new(folder).append_index_html_on_directories(true).call_fallback_on_method_not_allowed(false);
    Router::new().fallback_service(files).layer(middleware::from_fn(finish))
}

async fn finish(request: Request, next: Next) -> Response {
    // Vite names these by their content.
    let is_named_by_content = request.uri().path().starts_with("/assets/");
    let mut response = next.run(request).await;
    match response.status() {
        StatusCode::NOT_FOUND => {
            return Problem::from(Refusal::new(ErrorCode::NotFound, "nothing is here")).into_response();
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = response.headers_mut().remove(header::ALLOW);
            let refusal = Refusal::new(ErrorCode::MethodNotAllowed, "this path knows other methods only");
            let mut response = Problem::from(refusal).into_response();
            response.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
            return response;
        }
        _ => {}
    }
    let keep = if is_named_by_content { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    let policy = HeaderName::from_static("content-security-policy");
    headers.insert(policy, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    response
}
