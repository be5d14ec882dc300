//! Somebody with a socket: a client that knows the contract only.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use devstack::testing::Process;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        error::Error as WsError,
        handshake::client::{Request, Response},
        http::header::SEC_WEBSOCKET_PROTOCOL,
    },
};

use crate::support::{PATIENCE, message, seq, until};

/// How the server closed a socket.
#[derive(Debug, PartialEq)]
pub(crate) struct Closed {
    pub(crate) code: u16,
    pub(crate) reason: Value,
}

/// The request for a socket, with a token as browsers send it.
pub(crate) fn handshake(gateway: &Process, token: &str) -> Request {
    let mut request = gateway.ws_url().into_client_request().unwrap();
    let offer = format!("partyline.v1, bearer.{token}");
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
    request
}

/// Opens a socket.
pub(crate) async fn connect(
    gateway: &Process,
    request: Request,
) -> Result<(WebSocketStream<TcpStream>, Response), WsError> {
    let stream = TcpStream::connect(gateway.http_addr()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    timeout(PATIENCE, client_async(request, stream)).await.unwrap()
}

/// Somebody with a socket.
pub(crate) struct Person {
    pub(crate) socket: WebSocketStream<TcpStream>,
    pub(crate) welcome: Value,
    /// Read and not asked for yet.
    pub(crate) held: VecDeque<Value>,
}

impl Person {
    pub(crate) async fn come(gateway: &Process, token: &str) -> Self {
        let (socket, _) = connect(gateway, handshake(gateway, token)).await.unwrap();
        Self::with(socket).await
    }

    pub(crate) async fn with(socket: WebSocketStream<TcpStream>) -> Self {
        let mut person = Self { socket, welcome: Value::Null, held: VecDeque::new() };
        person.welcome = person.expect("welcome").await;
        person
    }

    pub(crate) async fn say(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Sends a frame as it is written.
    pub(crate) async fn say_text(&mut self, frame: &str) {
        self.socket.send(Message::text(frame)).await.unwrap();
    }

    /// The next frame that fits, as it is written.
    pub(crate) async fn find_text(&mut self, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await.expect("nothing came");
            match next.expect("the socket ended").unwrap() {
                Message::Text(text) if fits(&text) => return text.to_string(),
                _ => {}
            }
        }
    }

    /// The next frame, or how the socket was closed.
    pub(crate) async fn read(&mut self) -> Result<Value, Closed> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let next = timeout_at(deadline, self.socket.next())
                .await
                .unwrap_or_else(|_| panic!("nothing came; held: {:#?}", self.held));
            match next.expect("the socket ended without a close frame").unwrap() {
                Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
                Message::Close(frame) => {
                    let frame = frame.unwrap();
                    let reason = serde_json::from_str(&frame.reason).unwrap();
                    return Err(Closed { code: frame.code.into(), reason });
                }
                Message::Binary(_) => panic!("the server sends text only"),
                _ => {}
            }
        }
    }

    /// The next frame that fits; others are held.
    pub(crate) async fn find(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(place) = self.held.iter().position(&fits) {
            return self.held.remove(place).unwrap();
        }
        loop {
            let frame = self.read().await.unwrap();
            if fits(&frame) {
                return frame;
            }
            self.held.push_back(frame);
        }
    }

    /// The next frame of a type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        self.find(|frame| frame["type"] == kind).await
    }

    /// Sends, and waits for the reply.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Value {
        static REFS: AtomicU64 = AtomicU64::new(0);
        let reference = format!("r{}", REFS.fetch_add(1, Ordering::Relaxed));
        frame["ref"] = json!(reference);
        self.say(&frame).await;
        self.find(|frame| frame["ref"] == reference).await
    }

    /// Asks again until it is acknowledged, as clients do in an outage.
    pub(crate) async fn insist(&mut self, frame: &Value) -> Value {
        let mut reply = Value::Null;
        until("an acknowledgement", async || {
            reply = self.ask(frame.clone()).await;
            assert!(reply["type"] == "ack" || reply["code"] == "unavailable", "{reply}");
            reply["type"] == "ack"
        })
        .await;
        reply
    }

    /// Sends, and waits for the reply, which must be of this type.
    pub(crate) async fn get(&mut self, kind: &str, frame: Value) -> Value {
        let reply = self.ask(frame).await;
        assert_eq!(reply["type"], kind, "{reply}");
        reply
    }

    /// Sends what is refused; the error's code.
    pub(crate) async fn refused(&mut self, frame: Value) -> String {
        self.get("error", frame).await["code"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn join(&mut self, conversation: &str) -> Value {
        self.get("joined", json!({ "type": "join_conversation", "conversation_id": conversation })).await
    }

    pub(crate) async fn join_after(&mut self, conversation: &str, after: u64) -> Value {
        let join = json!({ "type": "join_conversation", "conversation_id": conversation, "after": after });
        self.get("joined", join).await
    }

    /// Sends a message; its acknowledgement.
    pub(crate) async fn send(&mut self, conversation: &str, content: &str) -> Value {
        self.get("ack", message(conversation, content)).await
    }

    /// Waits until everything that the server has written so far is read; it is held.
    pub(crate) async fn caught_up(&mut self) {
        assert_eq!(self.refused(json!({ "type": "nothing" })).await, "unknown_type");
    }

    /// The held frames of a type, in order.
    pub(crate) fn held(&self, kind: &str) -> Vec<&Value> {
        self.held.iter().filter(|frame| frame["type"] == kind).collect()
    }

    /// Waits until the server closes the socket, and answers; frames before that are held.
    pub(crate) async fn closed(&mut self) -> Closed {
        loop {
            match self.read().await {
                Ok(frame) => self.held.push_back(frame),
                Err(closed) => {
                    self.bow_out().await;
                    return closed;
                }
            }
        }
    }

    /// Ends the closing handshake and the connection.
    pub(crate) async fn bow_out(&mut self) {
        while let Ok(Some(Ok(_))) = timeout(PATIENCE, self.socket.next()).await {}
        let _ = self.socket.get_mut().shutdown().await;
    }

    /// Closes the socket, and waits until the server has done so, too.
    pub(crate) async fn leave(mut self) {
        self.socket.close(None).await.unwrap();
        self.bow_out().await;
    }
}

/// Somebody who holds a log up to a place, and takes nothing but what follows it.
#[derive(Default)]
pub(crate) struct Follower {
    pub(crate) last: u64,
    pub(crate) seqs: Vec<u64>,
}

impl Follower {
    pub(crate) fn take(&mut self, event: &Value, how: &str) {
        assert!(seq(event) > self.last, "{how}: a repeat after {}: {event}", self.last);
        assert!(event["prev_seq"].as_u64().unwrap() <= self.last, "{how}: a gap after {}: {event}", self.last);
        self.last = seq(event);
        self.seqs.push(self.last);
    }
}
