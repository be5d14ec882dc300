//! What every role needs: a socket on some node, and a join.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, http::header::SEC_WEBSOCKET_PROTOCOL},
};

/// A node that gives no answer for this long is given up.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The connection can't be used any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// Connects to one of the nodes, chosen at random.
pub(crate) async fn connect(gateways: &[String], token: &str) -> Result<Socket, Gone> {
    let url = &gateways[rand::rng().random_range(0..gateways.len())];
    let mut request = url.into_client_request().unwrap();
    let offer = format!("partyline.v1, bearer.{token}");
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
    match timeout(ANSWER_TIMEOUT, tokio_tungstenite::connect_async(request)).await {
        Ok(Ok((socket, _))) => Ok(socket),
        _ => Err(Gone),
    }
}

/// The next frame; pings and pongs are passed over.
pub(crate) async fn next(socket: &mut Socket) -> Result<Value, Gone> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            _ => return Err(Gone),
        }
    }
}

pub(crate) async fn say(socket: &mut Socket, frame: &Value) -> Result<(), Gone> {
    socket.send(Message::text(frame.to_string())).await.map_err(|_| Gone)
}

/// Asks to join, and returns the answer, `joined` or `error`. Frames that come before it go to `other`.
pub(crate) async fn join(
    socket: &mut Socket,
    conversation: &str,
    after: Option<u64>,
    mut other: impl FnMut(Value),
) -> Result<Value, Gone> {
    let mut ask = json!({ "type": "join_conversation", "ref": "join", "conversation_id": conversation });
    if let Some(after) = after {
        ask["after"] = json!(after);
    }
    say(socket, &ask).await?;
    loop {
        let frame = timeout(ANSWER_TIMEOUT, next(socket)).await.map_err(|_| Gone)??;
        if frame["ref"] == "join" {
            return Ok(frame);
        }
        other(frame);
    }
}

/// Whether the frame is an event of a log.
pub(crate) fn is_event(frame: &Value) -> bool {
    frame["seq"].is_u64() && frame["prev_seq"].is_u64()
}
