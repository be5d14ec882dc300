//! The native WebSocket transport: the handshake here, a socket's life in [`task`], its frames in [`frame`].

pub mod frame;
pub mod reader;
pub mod task;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use hyper::{
    HeaderMap, Method, StatusCode, Version,
    header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use hyper_util::rt::TokioIo;
use partyline_shared::{
    claims::Identity,
    wire::{ErrorCode, Refusal, SUBPROTOCOL},
};
use tokio::net::TcpStream;

use crate::{
    http::{lent::Lent, problem::Problem},
    metrics, origin,
    server::Gateway,
    tasks,
};

/// The one version of WebSocket.
const VERSION: &str = "13";

/// `GET /ws`: refuses before the upgrade whoever may not come in.
pub async fn upgrade(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    let (identity, named) = match admit(&gateway, request.headers()).await {
        Ok(admitted) => admitted,
        Err((reason, refusal)) => {
            metrics::handshake_refused(reason);
            let wants_upgrade = fastwebsockets::upgrade::is_upgrade_request(&request);
            let mut response = Problem::from(refusal).into_response();
            if reason == "not_websocket" && !wants_upgrade {
                *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            }
            return response;
        }
    };
    let switched = switch(&mut request, move |stream, early| task::spawn(&gateway, identity, stream, early));
    let mut response = match switched {
        Ok(response) => response,
        Err(error) => {
            metrics::handshake_refused("not_websocket");
            let mut response = Problem::from(Refusal::new(ErrorCode::BadRequest, error.to_string())).into_response();
            if matches!(error, NoHandshake::Version) {
                // RFC 6455, 4.4.
                *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
                response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
            }
            return response;
        }
    };
    if named {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    response
}

/// Why a request is no handshake of a WebSocket's.
#[derive(Debug, thiserror::Error)]
pub enum NoHandshake {
    #[error("the version of WebSocket is {VERSION}")]
    Version,
    #[error("{0}")]
    Other(String),
}

/// RFC 6455, 4.2.1, as far as the library leaves it to us.
fn check(request: &Request) -> Result<(), NoHandshake> {
    let refuse = |why: &str| Err(NoHandshake::Other(why.to_owned()));
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return refuse("a WebSocket begins with GET in HTTP/1.1");
    }
    let header = |name| request.headers().get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    if header(SEC_WEBSOCKET_VERSION) != VERSION {
        return Err(NoHandshake::Version);
    }
    // RFC 6455, 11.3.1: a proxy and a gateway that read two keys differently would not speak of the same handshake.
    if request.headers().get_all(SEC_WEBSOCKET_KEY).iter().count() > 1 {
        return refuse("a handshake has one Sec-WebSocket-Key");
    }
    // 16 bytes in Base64.
    let key = header(SEC_WEBSOCKET_KEY).strip_suffix("==").unwrap_or_default();
    if key.len() != 22 || !key.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'+' || it == b'/') {
        return refuse("Sec-WebSocket-Key is none");
    }
    Ok(())
}

/// Answers a WebSocket's handshake; then `take` gets the socket, and what arrived with the handshake.
///
/// # Errors
/// If the request is no such handshake.
pub fn switch(
    request: &mut Request,
    take: impl FnOnce(TcpStream, Vec<u8>) + Send + 'static,
) -> Result<Response, NoHandshake> {
    check(request)?;
    let upgraded = fastwebsockets::upgrade::upgrade(request);
    let (response, upgraded) = upgraded.map_err(|error| NoHandshake::Other(error.to_string()))?;
    let handed_over = async move {
        let socket = match upgraded.await {
            Ok(socket) => socket.into_inner(),
            Err(error) => return tracing::debug!(%error, "handshake not finished"),
        };
        let Ok(parts) = socket.into_inner().downcast::<TokioIo<Lent>>() else {
            return tracing::error!("the upgraded socket is not ours");
        };
        if let Some(stream) = parts.io.into_inner().into_stream() {
            take(stream, parts.read_buf.to_vec());
        }
    };
    tokio::spawn(tasks::caught("handshake", handed_over));
    Ok(response.map(|_| Body::empty()))
}

/// Who may come in, and whether the client named our subprotocol.
async fn admit(gateway: &Gateway, headers: &HeaderMap) -> Result<(Identity, bool), (&'static str, Refusal)> {
    let has = |name, value: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|it| it.to_str().ok())
            .flat_map(|it| it.split(','))
            .any(|it| it.trim().eq_ignore_ascii_case(value))
    };
    if !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") {
        return Err(("not_websocket", Refusal::new(ErrorCode::BadRequest, "this path speaks WebSocket only")));
    }
    origin::check(headers, &gateway.chat.config.allowed_origins).map_err(|refusal| ("origin", refusal))?;
    if gateway.is_draining() {
        return Err(("draining", Refusal::unavailable("this node, which is leaving,")));
    }
    let identity =
        gateway.chat.verifier.from_handshake_or_refresh(headers).await.map_err(|refusal| ("token", refusal))?;
    let offers_any = headers.contains_key(SEC_WEBSOCKET_PROTOCOL);
    let named = has(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    if offers_any && !named {
        // A browser would give up on a server that picks none.
        let refusal = Refusal::new(ErrorCode::BadRequest, "the subprotocol is partyline.v1");
        return Err(("subprotocol", refusal));
    }
    Ok((identity, named))
}
