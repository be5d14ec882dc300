//! Somebody at a socket and at the REST API, one request at a time.

use std::time::Duration;

use devstack::testing::{TestEnv, UserType};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, http::header::SEC_WEBSOCKET_PROTOCOL},
};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Person {
    /// `http://host:port` of a gateway, or of what stands before it.
    base: String,
    token: String,
    http: reqwest::Client,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: u64,
}

impl Person {
    pub(crate) async fn arrive(env: &TestEnv, base: &str, name: &str) -> Self {
        let token = env.jwt(name, name, UserType::Customer).unwrap();
        let socket = connect(base, &token).await;
        Self { base: base.into(), token, http: reqwest::Client::new(), socket, asked: 0 }
    }

    /// A new socket in place of the old one.
    pub(crate) async fn reconnect(&mut self) {
        self.socket.close(None).await.unwrap();
        self.socket = connect(&self.base, &self.token).await;
    }

    /// Sends a frame that has no answer.
    pub(crate) async fn tell(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Sends a frame and waits for its answer, whatever else comes in between.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Value {
        self.asked += 1;
        let reference = format!("{}", self.asked);
        frame["ref"] = json!(reference);
        self.tell(frame).await;
        let answer = async {
            while let Some(message) = self.socket.next().await {
                let Message::Text(text) = message.unwrap() else { continue };
                let frame: Value = serde_json::from_str(&text).unwrap();
                if frame["ref"] == reference {
                    return frame;
                }
            }
            panic!("the socket was closed");
        };
        timeout(PATIENCE, answer).await.unwrap()
    }

    /// A request: its status and its body.
    pub(crate) async fn request(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.request(reqwest::Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.request(reqwest::Method::POST, path, Some(body)).await
    }
}

async fn connect(base: &str, token: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = format!("{}/ws", base.replacen("http", "ws", 1));
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, format!("partyline.v1, bearer.{token}").parse().unwrap());
    let (socket, _) = timeout(PATIENCE, tokio_tungstenite::connect_async(request)).await.unwrap().unwrap();
    socket
}
