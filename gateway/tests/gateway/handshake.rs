//! Who comes in, and what everybody else is told before the upgrade.

use devstack::testing::{Process, UserType, sign};
use futures_util::{SinkExt, future::join_all};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    Message,
    error::Error as WsError,
    handshake::client::Request,
    http::header::{AUTHORIZATION, ORIGIN, SEC_WEBSOCKET_PROTOCOL},
};

use crate::{
    person::{Person, connect, handshake},
    support::{CONVERSATIONS, PATIENCE, World, answer, until},
};

/// Status and code of a refused handshake.
async fn refusal(gateway: &Process, request: Request) -> (u16, String) {
    let Err(WsError::Http(response)) = connect(gateway, request).await else { panic!("not refused") };
    let body: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.status() == 401, response.headers().contains_key("www-authenticate"));
    (response.status().as_u16(), body["code"].as_str().unwrap().to_owned())
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut claims = json!({ "sub": "ann", "username": "Ann", "iat": now, "exp": now + 60 });
    change(&mut claims);
    claims
}

fn hs512(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS512), claims, &key).unwrap()
}

#[tokio::test]
async fn bad_tokens_are_refused_alike_by_socket_and_rest() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let mut innocent = world.person(&gateway, "ann").await;
    let secret = world.env.secret();
    let plain = |change: fn(&mut Value)| sign(secret, &claims(change)).unwrap();
    let good = claims(|_| {});
    let unsigned = {
        let parts = plain(|_| {});
        // {"alg":"none","typ":"JWT"}
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts.split('.').nth(1).unwrap())
    };
    let stripped = plain(|_| {}).rsplit_once('.').unwrap().0.to_owned();
    let bad = [
        ("expired", "token_expired", world.env.jwt_with("ann", "Ann", UserType::Vendor, None, -1).unwrap()),
        ("no algorithm", "token_invalid", unsigned),
        ("no signature", "token_invalid", format!("{stripped}.")),
        ("another key", "token_invalid", sign(&"x".repeat(64), &good).unwrap()),
        ("another algorithm", "token_invalid", hs512(secret, &good)),
        ("garbage", "token_invalid", "garbage".into()),
        ("no end", "token_invalid", plain(|it| drop(it.as_object_mut().unwrap().remove("exp")))),
        ("an end that is no time", "token_invalid", plain(|it| it["exp"] = json!("tomorrow"))),
        ("not valid yet", "token_invalid", plain(|it| it["nbf"] = json!(it["exp"]))),
        ("nobody", "token_invalid", plain(|it| it["sub"] = json!(""))),
        ("a long id", "token_invalid", plain(|it| it["sub"] = json!("x".repeat(129)))),
        ("a control character", "token_invalid", plain(|it| it["sub"] = json!("a\nb"))),
        ("a strange type", "token_invalid", plain(|it| it["user_type"] = json!("admin"))),
    ];
    for (what, code, token) in &bad {
        assert_eq!(refusal(&gateway, handshake(&gateway, token)).await, (401, (*code).into()), "{what}");
        let answer = answer(world.bare(&gateway, Method::GET, CONVERSATIONS).bearer_auth(token)).await;
        assert_eq!((answer.status, answer.code()), (401, *code), "{what}");
    }
    let mut none = handshake(&gateway, "");
    none.headers_mut().remove(SEC_WEBSOCKET_PROTOCOL);
    assert_eq!(refusal(&gateway, none.clone()).await, (401, "token_invalid".into()));
    let in_url = format!("{}?token={}&access_token={0}", gateway.ws_url(), world.token("ann"));
    *none.uri_mut() = in_url.parse().unwrap();
    assert_eq!(refusal(&gateway, none).await, (401, "token_invalid".into()));
    innocent.caught_up().await;
    assert!(!gateway.log().contains(world.token("ann").split('.').nth(1).unwrap()), "a token in the log");
}

#[tokio::test]
async fn only_websockets_of_known_origins_come_in() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_ALLOWED_ORIGINS", "https://shop.example").start().await.unwrap();
    let token = world.token("ann");
    let own = format!("http://{}", gateway.http_addr());
    for (origin, welcome) in [
        ("https://shop.example", true),
        (own.as_str(), true),
        ("https://shop.example.evil", false),
        ("http://shop.example", false),
        ("null", false),
    ] {
        let mut request = handshake(&gateway, &token);
        request.headers_mut().insert(ORIGIN, origin.parse().unwrap());
        if welcome {
            connect(&gateway, request).await.unwrap();
        } else {
            assert_eq!(refusal(&gateway, request).await, (403, "forbidden".into()), "{origin}");
        }
    }
    let mut other = handshake(&gateway, &token);
    other.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, format!("graphql-ws, bearer.{token}").parse().unwrap());
    assert_eq!(refusal(&gateway, other).await, (400, "bad_request".into()));

    let plain = answer(world.bare(&gateway, Method::GET, "/ws").bearer_auth(&token)).await;
    assert_eq!((plain.status, &plain.headers["upgrade"]), (426, &"websocket".parse().unwrap()));
    let post = answer(world.bare(&gateway, Method::POST, "/ws").bearer_auth(&token)).await;
    assert_eq!((post.status, post.code()), (405, "method_not_allowed"));
    assert!(post.headers["allow"].to_str().unwrap().contains("GET"));
    // What is not quite a handshake is none.
    let shake = async |method, version: &str, key: &str| {
        let request = world.bare(&gateway, method, "/ws").bearer_auth(&token).header("connection", "Upgrade");
        let request = request.header("upgrade", "websocket").header("sec-websocket-key", key);
        answer(request.header("sec-websocket-version", version)).await
    };
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let other = shake(Method::GET, "8", key).await;
    assert_eq!((other.status, &other.headers["sec-websocket-version"]), (426, &"13".parse().unwrap()));
    assert_eq!(shake(Method::GET, "13", "short").await.status, 400);
    assert_eq!(shake(Method::HEAD, "13", key).await.status, 400);
}

#[tokio::test]
async fn the_welcome_tells_who_i_am_and_what_i_may() {
    let world = World::new().await;
    let gateway = world
        .env
        .gateway()
        .unwrap()
        .env("PARTYLINE_JWT_USER_CLAIM", "user_id")
        .env("PARTYLINE_MAX_FRAME_BYTES", "9000")
        .start()
        .await
        .unwrap();
    // The system being replaced numbers its users.
    let token = sign(world.env.secret(), &claims(|it| it["user_id"] = json!(1))).unwrap();
    let (socket, response) = connect(&gateway, handshake(&gateway, &token)).await.unwrap();
    assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "partyline.v1");
    let person = Person::with(socket).await;
    let welcome = &person.welcome;
    assert_eq!(welcome["user"], json!({ "user_id": "1", "username": "Ann", "user_type": "customer" }));
    assert_eq!(welcome["heartbeat_ms"], 25_000);
    let limits = json!({
        "messages_per_minute": 10, "messages_burst": 10, "frames_per_second": 20, "frames_burst": 500,
        "connections_per_user": 10,
        "max_frame_bytes": 9_000, "max_content_chars": 1_000, "max_metadata_bytes": 4_096,
        "outbound_queue_bytes": 1_048_576, "ping_interval_ms": 25_000, "idle_timeout_ms": 60_000,
    });
    assert_eq!(welcome["limits"], limits);
    assert!(welcome["session_id"].is_string() && welcome["server_time"].is_string());

    // Programs use the header, and no subprotocol is named that they did not offer.
    let mut request = handshake(&gateway, "");
    request.headers_mut().remove(SEC_WEBSOCKET_PROTOCOL);
    request.headers_mut().insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    let (_, response) = connect(&gateway, request).await.unwrap();
    assert!(!response.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
}

#[tokio::test]
async fn one_connection_too_many_replaces_the_oldest() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_CONNECTIONS_PER_USER", "2").start().await.unwrap();
    let mut first = world.person(&gateway, "ann").await;
    let mut second = world.person(&gateway, "ann").await;
    let mut other = world.person(&gateway, "bob").await;
    let mut third = world.person(&gateway, "ann").await;
    let closed = first.closed().await;
    assert_eq!((closed.code, &closed.reason["code"]), (4509, &json!("replaced")));
    for person in [&mut second, &mut other, &mut third] {
        person.caught_up().await;
    }
}

#[tokio::test]
async fn of_many_that_come_at_once_no_more_stay_than_may() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let token = world.token("ann");
    let mut people = join_all((0..30).map(|_| Person::come(&gateway, &token))).await;
    let replaced = "partyline_gateway_connections_closed_total{reason=\"replaced\"}";
    until("twenty to be replaced", async || world.metric(&gateway, replaced).await == 20.0).await;
    let mut staying = 0;
    for person in &mut people {
        // Who was replaced finds the close frame before any answer.
        let _ = person.socket.send(Message::text(r#"{"type":"nothing"}"#)).await;
        match person.read().await {
            Ok(_) => staying += 1,
            Err(closed) => assert_eq!(closed.code, 4509),
        }
    }
    assert_eq!(staying, 10);
}

/// What is answered to the bytes of a request, and the code of its problem.
#[tokio::test]
async fn connection_beyond_the_limit_is_dropped_and_counted() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_MAX_CONNECTIONS", "1").start().await.unwrap();
    let full = "partyline_gateway_handshakes_refused_total{reason=\"full\"}";
    // A connection counts from its acceptance on, before it says a word.
    let _first = TcpStream::connect(gateway.http_addr()).await.unwrap();
    let mut second = TcpStream::connect(gateway.http_addr()).await.unwrap();
    let dropped = timeout(PATIENCE, second.read(&mut [0])).await.expect("the connection stayed open");
    assert!(matches!(dropped, Ok(0) | Err(_)), "{dropped:?}");
    assert_eq!(world.metric(&gateway, full).await, 1.0);
}

async fn raw(gateway: &Process, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(gateway.http_addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection stays open").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = serde_json::from_str::<Value>(body).map(|it| it["code"].as_str().unwrap_or_default().to_owned());
    (head.to_lowercase(), code.unwrap_or_default())
}

#[tokio::test]
async fn a_request_names_its_host() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let host = format!("Host: {}\r\n", gateway.http_addr());
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let token = world.token("ann");
    let polling = "/socket.io/?EIO=4&transport=polling";
    let websocket = "/socket.io/?EIO=4&transport=websocket";
    for (path, headers) in [
        (CONVERSATIONS, "Connection: close\r\n".to_owned()),
        ("/livez", "Connection: close\r\n".to_owned()),
        ("/nothing", "Connection: close\r\n".to_owned()),
        ("/ws", format!("Connection: Upgrade, close\r\n{upgrade}")),
        (polling, "Connection: close\r\n".to_owned()),
        (websocket, format!("Connection: Upgrade, close\r\n{upgrade}")),
    ] {
        let ask = async |version: &str, hosts: &str| {
            raw(
                &gateway,
                &format!("GET {path} HTTP/{version}\r\n{hosts}Authorization: Bearer {token}\r\n{headers}\r\n"),
            )
            .await
        };
        for wrong in ["", &host.repeat(2), "Host: a b\r\n"] {
            let (head, code) = ask("1.1", wrong).await;
            assert!(head.starts_with("http/1.1 400 "), "{path} {wrong:?}: {head}");
            assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
            assert!(head.contains("x-content-type-options: nosniff"), "{path}: {head}");
            assert_eq!(code, "bad_request", "{path}");
        }
        if !headers.contains("Upgrade") {
            let status = if path == "/nothing" { " 404 " } else { " 200 " };
            for (version, hosts) in [("1.1", host.as_str()), ("1.0", ""), ("1.0", &host)] {
                let (head, _) = ask(version, hosts).await;
                assert!(head[..16].contains(status), "{path} {version} {hosts:?}: {head}");
            }
        }
    }
}
