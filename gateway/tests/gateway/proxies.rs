//! Behind real proxies and real identity providers: what they add to requests and to tokens, and what they take.

use std::{io::Read, time::Duration};

use devstack::testing::{Process, binary, sign};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{
    client::IntoClientRequest,
    error::Error as WsError,
    http::{HeaderName, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
};

use crate::{
    person::{Person, connect, handshake},
    socketio::{Poller, Raw},
    support::{Answer, CONVERSATIONS, PATIENCE, World, answer, client_id, message, messages_of},
};

const POLLING: &str = "/socket.io/?EIO=4&transport=polling";
const SOCKETIO_WS: &str = "/socket.io/?EIO=4&transport=websocket";

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut claims = json!({ "sub": "ann", "username": "Ann", "iat": now, "exp": now + 60 });
    change(&mut claims);
    claims
}

fn header(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    (name.parse().unwrap(), value.parse().unwrap())
}

/// A native handshake with these headers added: 101 or the status of the refusal, and its body.
async fn native(gateway: &Process, token: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = handshake(gateway, token);
    if token.is_empty() {
        request.headers_mut().remove(SEC_WEBSOCKET_PROTOCOL);
    }
    for (name, value) in headers.iter().map(|(name, value)| header(name, value)) {
        if name == "host" {
            request.headers_mut().insert(name, value)
        } else {
            request.headers_mut().append(name, value);
            None
        };
    }
    opened(gateway, request).await
}

async fn opened(
    gateway: &Process,
    request: tokio_tungstenite::tungstenite::handshake::client::Request,
) -> (u16, Value) {
    match connect(gateway, request).await {
        Ok((_, response)) => (response.status().as_u16(), Value::Null),
        Err(WsError::Http(response)) => {
            let body = serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap_or_default();
            (response.status().as_u16(), body)
        }
        Err(error) => panic!("{error}"),
    }
}

/// The same by Socket.IO over a WebSocket.
async fn socketio(gateway: &Process, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = gateway.url(SOCKETIO_WS).replace("http", "ws").into_client_request().unwrap();
    for (name, value) in headers.iter().map(|(name, value)| header(name, value)) {
        request.headers_mut().insert(name, value);
    }
    opened(gateway, request).await
}

/// The same by Socket.IO over long polling.
async fn polling(world: &World, gateway: &Process, headers: &[(&str, &str)]) -> Answer {
    let request = world.bare(gateway, Method::GET, POLLING);
    answer(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

#[tokio::test]
async fn authorization_of_proxies_does_not_shadow_the_clients_own_token() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let token = world.token("ann");
    let bearer = format!("Bearer {token}");
    let foreign = format!("Bearer {}", sign(&"x".repeat(64), &claims(|_| {})).unwrap());
    let basic = "Basic dXNlcjpwdw==";
    // A staging site's password, a proxy that cleared the header, and an identity-aware proxy's own token.
    for added in [basic, "", "Bearer", "Negotiate YII=", foreign.as_str()] {
        let (status, body) = native(&gateway, &token, &[("authorization", added)]).await;
        assert_eq!(status, 101, "{added:?}: {body}");
    }
    // Without a subprotocol's token the first bearer counts.
    assert_eq!(native(&gateway, "", &[("authorization", &bearer)]).await.0, 101);
    assert_eq!(native(&gateway, "", &[("authorization", basic), ("authorization", &bearer)]).await.0, 101);
    for added in [basic, "", foreign.as_str()] {
        let (status, body) = native(&gateway, "", &[("authorization", added)]).await;
        assert_eq!((status, &body["code"]), (401, &json!("token_invalid")), "{added:?}");
    }
    // A bad token of the client's own is not replaced by another.
    let (status, _) = native(&gateway, "garbage", &[("authorization", &bearer)]).await;
    assert_eq!(status, 401);

    // Socket.IO: `auth` goes first, and other schemes are ignored.
    for added in [basic, foreign.as_str()] {
        let mut request = gateway.url(SOCKETIO_WS).replace("http", "ws").into_client_request().unwrap();
        request.headers_mut().insert("authorization", added.parse().unwrap());
        let mut raw = Raw::with(connect(&gateway, request).await.unwrap().0);
        raw.say(&format!("40{}", json!({ "token": token }))).await;
        raw.expect("42[\"connected\",").await;
        let mut poller = Poller::open_with(&world, &gateway, &[("authorization", added)]).await;
        poller.post(&format!("40{}", json!({ "token": token }))).await;
        poller.expect("42[\"connected\",").await;
    }
    let mut poller = Poller::open_with(&world, &gateway, &[("authorization", basic), ("authorization", &bearer)]).await;
    poller.post("40").await;
    poller.expect("42[\"connected\",").await;

    // REST has no other place for a token, so that a wrong one is told.
    for added in [basic, "", foreign.as_str()] {
        let refused = answer(world.bare(&gateway, Method::GET, CONVERSATIONS).header("authorization", added)).await;
        assert_eq!((refused.status, refused.code()), (401, "token_invalid"), "{added:?}");
    }
}

#[tokio::test]
async fn an_origin_is_the_same_whatever_a_proxy_makes_of_the_host() {
    let world = World::new().await;
    let listed = "https://shop.example:443,wss://app.example";
    let launch = || world.launch().env("PARTYLINE_ALLOWED_ORIGINS", listed);
    let gateway = launch().start().await.unwrap();
    let trusting = launch().env("PARTYLINE_TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.1").start().await.unwrap();
    let elsewhere = launch().env("PARTYLINE_TRUSTED_PROXIES", "10.0.0.0/8").start().await.unwrap();
    let token = world.token("ann");
    let proxied = Some("chat.example");
    for (gateway, host, origin, forwarded, comes_in) in [
        // A proxy that names the port, and Starscream, the WebSocket of iOS.
        (&gateway, "chat.example:443", "https://chat.example", None, true),
        (&gateway, "chat.example:443", "wss://chat.example", None, true),
        (&gateway, "chat.example", "https://chat.example:443", None, true),
        (&gateway, "chat.example:80", "ws://chat.example", None, true),
        (&gateway, "chat.example", "https://chat.example:8443", None, false),
        (&gateway, "chat.example:8443", "https://chat.example", None, false),
        (&gateway, "chat.example:80", "https://evil.example", None, false),
        (&gateway, "gateway:8080", "wss://shop.example", None, true),
        (&gateway, "gateway:8080", "https://app.example:443", None, true),
        (&gateway, "gateway:8080", "http://shop.example", None, false),
        // A proxy that writes a name of its own.
        (&gateway, "gateway:8080", "https://chat.example", proxied, false),
        (&elsewhere, "gateway:8080", "https://chat.example", proxied, false),
        (&trusting, "gateway:8080", "https://chat.example", proxied, true),
        (&trusting, "gateway:8080", "https://evil.example", proxied, false),
    ] {
        let mut headers = vec![("host", host), ("origin", origin)];
        headers.extend(forwarded.map(|forwarded| ("x-forwarded-host", forwarded)));
        let why = format!("{headers:?}");
        let answers = [native(gateway, &token, &headers).await, socketio(gateway, &headers).await, {
            let told = polling(&world, gateway, &headers).await;
            (told.status, told.body)
        }];
        for (transport, (status, body)) in answers.iter().enumerate() {
            let good = if transport == 2 { 200 } else { 101 };
            assert_eq!(*status, if comes_in { good } else { 403 }, "{why} {transport}: {body}");
            if !comes_in {
                let told = body["detail"].as_str().or(body["message"].as_str()).unwrap();
                for named in [host, origin, "PARTYLINE_ALLOWED_ORIGINS"] {
                    assert!(told.contains(named), "{why} {transport}: {told}");
                }
            }
        }
        assert_eq!(answers[1].1["code"], if comes_in { Value::Null } else { json!(4) });
    }
    let log = trusting.log();
    let line = log.lines().find(|line| line.contains("origin refused")).unwrap_or_else(|| panic!("{log}"));
    for named in ["https://evil.example", "gateway:8080", "chat.example", "PARTYLINE_ALLOWED_ORIGINS"] {
        assert!(line.contains(named), "{line}");
    }
    // Strangers decide how often it happens, not how long the log is.
    assert_eq!(log.matches("origin refused").count(), 1, "{log}");
}

#[tokio::test]
async fn an_audience_is_checked_only_if_one_is_configured() {
    let world = World::new().await;
    let secret = world.env.secret();
    let token = |aud: Option<Value>| {
        sign(secret, &claims(|it| it.as_object_mut().unwrap().extend(aud.map(|aud| ("aud".into(), aud))))).unwrap()
    };
    let lists = || [json!("authenticated"), json!(["account", "https://issuer.example/userinfo"]), json!([]), json!(7)];
    let gateway = world.gateway().await;
    for aud in lists() {
        let token = token(Some(aud.clone()));
        assert_eq!(native(&gateway, &token, &[]).await.0, 101, "{aud}");
        assert_eq!(
            answer(world.bare(&gateway, Method::GET, CONVERSATIONS).bearer_auth(&token)).await.status,
            200,
            "{aud}"
        );
        Raw::come(&gateway, &token).await;
    }
    let strict = world.launch().env("PARTYLINE_JWT_AUDIENCE", "account").start().await.unwrap();
    for (aud, status) in lists().into_iter().map(Some).chain([None]).zip([401, 101, 401, 401, 401]) {
        assert_eq!(native(&strict, &token(aud.clone()), &[]).await.0, status, "{aud:?}");
    }
}

#[tokio::test]
async fn pages_of_allowed_origins_may_send_any_header_and_read_the_location() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_ALLOWED_ORIGINS", "https://shop.example").start().await.unwrap();
    let wanted = "authorization,baggage,content-type,sentry-trace,traceparent,x-csrftoken,x-requested-with";
    for path in [CONVERSATIONS, POLLING] {
        let preflight = async |origin: &str| {
            let request = world.bare(&gateway, Method::OPTIONS, path).header("origin", origin);
            let request = request.header("access-control-request-method", "POST");
            answer(request.header("access-control-request-headers", wanted)).await
        };
        let told = preflight("https://shop.example").await;
        assert_eq!(
            (told.status, &told.headers["access-control-allow-headers"]),
            (200, &wanted.parse().unwrap()),
            "{path}"
        );
        assert_eq!(told.headers["access-control-allow-origin"], "https://shop.example");
        let foreign = preflight("https://evil.example").await;
        assert!(!foreign.headers.contains_key("access-control-allow-origin"), "{path}");
    }
    let body = json!({ "participant_ids": ["bob"] });
    let create = world.bare(&gateway, Method::POST, CONVERSATIONS).bearer_auth(world.token("ann")).json(&body);
    let made = answer(create.header("origin", "https://shop.example").header("traceparent", "x")).await;
    assert_eq!(made.status, 201);
    assert!(made.headers["access-control-expose-headers"].to_str().unwrap().contains("location"), "{:?}", made.headers);
}

#[tokio::test]
async fn times_of_tokens_are_told_as_what_they_are() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let key = EncodingKey::from_secret(world.env.secret().as_bytes());
    // Numbers that `json!` can't write.
    let token = |times: &str| {
        let claims = serde_json::value::RawValue::from_string(format!("{{\"sub\":\"ann\"{times}}}")).unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for (times, code, told) in [
        (",\"exp\":1e300".to_owned(), "token_invalid", "\"exp\" is no time"),
        (",\"exp\":1000000000000000000000000000000".to_owned(), "token_invalid", "\"exp\" is no time"),
        (",\"exp\":\"tomorrow\"".to_owned(), "token_invalid", "\"exp\" is no time"),
        (",\"exp\":null".to_owned(), "token_invalid", "lacks the claim \"exp\""),
        (String::new(), "token_invalid", "lacks the claim \"exp\""),
        (",\"exp\":-5".to_owned(), "token_expired", "has expired"),
        (",\"exp\":-5.5e300".to_owned(), "token_expired", "has expired"),
        (",\"exp\":0".to_owned(), "token_expired", "has expired"),
        (format!(",\"exp\":{now}"), "token_expired", "has expired"),
        (format!(",\"exp\":{},\"nbf\":1e300", now + 60), "token_invalid", "\"nbf\" is no time"),
        (format!(",\"exp\":{0},\"nbf\":{0}", now + 60), "token_invalid", "not valid yet"),
    ] {
        let refused = answer(world.bare(&gateway, Method::GET, CONVERSATIONS).bearer_auth(token(&times))).await;
        assert_eq!((refused.status, refused.code()), (401, code), "{times}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(told), "{times}: {detail}");
        assert_eq!(native(&gateway, &token(&times), &[]).await, (401, refused.body), "{times}");
    }
    for times in [format!("{}.5", now + 60), "18446744073709551615".into(), format!("{},\"nbf\":-1", now + 60)] {
        assert_eq!(native(&gateway, &token(&format!(",\"exp\":{times}")), &[]).await.0, 101, "{times}");
    }
}

#[tokio::test]
async fn every_path_works_with_and_without_its_last_slash() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let mut request = handshake(&gateway, &world.token("ann"));
    *request.uri_mut() = format!("{}/?x=1", gateway.ws_url()).parse().unwrap();
    Person::with(connect(&gateway, request).await.unwrap().0).await;
    for path in ["/livez/", "/readyz/", "/chat/api/openapi.json/", "/chat/api/openapi.json"] {
        assert_eq!(answer(world.bare(&gateway, Method::GET, path)).await.status, 200, "{path}");
    }
    let plain = answer(world.bare(&gateway, Method::GET, "/ws/").bearer_auth(world.token("ann"))).await;
    assert_eq!(plain.status, 426);
}

#[tokio::test]
async fn whole_numbers_are_read_alike_by_every_transport() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let mut raw = Raw::come(&gateway, &world.token("ann")).await;
    let first = ann.send(&chat, "first").await["seq"].as_u64().unwrap();
    // A number as the client writes it, and whether it is taken.
    let written = [
        (format!("{first}"), true),
        (format!("{first}.0"), true),
        (format!("{first}0e-1"), true),
        (format!("{first}.5"), false),
        (format!("\"{first}\""), false),
        ("-1".into(), false),
        ("9007199254740992".into(), false),
    ];
    for (number, good) in &written {
        for (kind, field, rest) in [
            ("send_message", "reply_to", format!(",\"client_id\":\"{}\",\"content\":\"x\"", client_id())),
            ("join_conversation", "after", String::new()),
            ("mark_read", "seq", String::new()),
            ("edit_message", "seq", ",\"content\":\"first\"".to_owned()),
        ] {
            let fields = format!("\"conversation_id\":\"{chat}\",\"{field}\":{number}{rest}");
            ann.say_text(&format!("{{\"type\":\"{kind}\",\"ref\":\"{kind}\",{fields}}}")).await;
            let told = ann.find(|frame| frame["ref"] == kind).await;
            assert_eq!(told["type"] != "error", *good, "{kind} {number}: {told}");
            raw.say(&format!("421[\"{kind}\",{{{fields}}}]")).await;
            let told = raw.expect("431[").await;
            assert_eq!(told.starts_with("431[{\"status\":\"ok\""), *good, "{kind} {number}: {told}");
            let path = match kind {
                "send_message" => messages_of(&chat),
                "mark_read" => format!("{CONVERSATIONS}{chat}/mark_read/"),
                _ => continue,
            };
            let rest = rest.trim_start_matches(',');
            let body = if rest.is_empty() {
                format!("{{\"{field}\":{number}}}")
            } else {
                format!("{{\"{field}\":{number},{rest}}}")
            };
            let post = world.bare(&gateway, Method::POST, &path).bearer_auth(world.token("ann"));
            let told = answer(post.header("content-type", "application/json").body(body)).await;
            assert_eq!(told.status, if *good { 200 } else { 400 }, "{kind} {number}: {told:?}");
        }
    }
    // A user's id that is a number is the same person however the number is written.
    let numbered = world.launch().env("PARTYLINE_JWT_USER_CLAIM", "user_id").start().await.unwrap();
    for (id, user) in [(json!(7), "7"), (json!(7.0), "7")] {
        let token = sign(world.env.secret(), &claims(|it| it["user_id"] = id)).unwrap();
        assert_eq!(Person::come(&numbered, &token).await.welcome["user"]["user_id"], user);
    }
}

#[tokio::test]
async fn what_nobody_can_see_is_no_message_and_no_name() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let mut raw = Raw::come(&gateway, &world.token("ann")).await;
    let sent = ann.send(&chat, "seen").await;
    let blanks = [
        "\u{200B}",
        "\u{2060}",
        "\u{200D}\u{FEFF}",
        "\u{3164}",
        "\u{2800}",
        "\u{AD}",
        "\u{FE0F}",
        "\u{E0061} \u{202E}",
    ];
    for blank in blanks {
        assert_eq!(ann.refused(message(&chat, blank)).await, "invalid_content", "{blank:?}");
        let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": sent["seq"], "content": blank });
        assert_eq!(ann.refused(edit).await, "invalid_content", "{blank:?}");
        let fields = json!({ "conversation_id": chat, "client_id": client_id(), "content": blank });
        raw.say(&format!("421{}", json!(["send_message", fields]))).await;
        assert!(raw.expect("431[").await.contains("\"code\":\"invalid_content\""), "{blank:?}");
        let post = json!({ "client_id": client_id(), "content": blank });
        let told = world.post(&gateway, "ann", &messages_of(&chat), post).await;
        assert_eq!((told.status, told.code()), (422, "invalid_content"), "{blank:?}");
    }
    let mut bob = world.person(&gateway, "bob").await;
    bob.join(&chat).await;
    for (content, seen) in [
        ("\u{202E}gpj.exe", "\u{202E}gpj.exe\u{202C}"),
        ("a \u{2067}b", "a \u{2067}b\u{2069}"),
        ("a\u{2069}b", "ab"),
        (
            "\u{1F469}\u{200D}\u{1F680} \u{2764}\u{FE0F} 1\u{FE0F}\u{20E3}",
            "\u{1F469}\u{200D}\u{1F680} \u{2764}\u{FE0F} 1\u{FE0F}\u{20E3}",
        ),
        (
            "\u{1F3F4}\u{E0067}\u{E0062}\u{E0073}\u{E0063}\u{E0074}\u{E007F}",
            "\u{1F3F4}\u{E0067}\u{E0062}\u{E0073}\u{E0063}\u{E0074}\u{E007F}",
        ),
        ("\u{5E9}\u{5DC}\u{200F}!", "\u{5E9}\u{5DC}\u{200F}!"),
    ] {
        let sent = ann.send(&chat, content).await;
        assert_eq!(bob.expect("new_message").await["content"], seen, "{content:?}");
        let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": sent["seq"], "content": content });
        ann.get("ack", edit).await;
        assert_eq!(bob.expect("message_edited").await["content"], seen, "{content:?}");
    }
    for (name, shown) in [
        ("\u{3164}", "cat"),
        ("\u{2800}\u{200B}", "cat"),
        ("\u{202E}nimdA\u{2066}", "nimdA"),
        ("\u{1F469}\u{200D}\u{1F680} Cat", "\u{1F469}\u{200D}\u{1F680} Cat"),
    ] {
        let token =
            sign(world.env.secret(), &claims(|it| (it["sub"], it["username"]) = (json!("cat"), json!(name)))).unwrap();
        assert_eq!(Person::come(&gateway, &token).await.welcome["user"]["username"], shown, "{name:?}");
    }
    for (title, shown) in [("\u{2800}", Value::Null), ("\u{202E}riaF", json!("riaF"))] {
        let new = json!({ "kind": "group", "participant_ids": ["bob"], "title": title });
        assert_eq!(world.post(&gateway, "ann", CONVERSATIONS, new).await.body["title"], shown, "{title:?}");
    }
}

/// Reads one answer, whose length is told, from a connection that stays open.
async fn answered(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head.to_lowercase();
            let length =
                length.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse::<usize>().unwrap();
            if body.len() == length {
                return;
            }
        }
        let read = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("no answer").unwrap();
        assert!(read > 0, "closed after {text:?}");
    }
}

#[tokio::test]
async fn a_connection_outlives_a_pause_as_long_as_balancers_make_and_no_slow_request() {
    let world = World::new().await;
    let gateway = world
        .launch()
        .env("PARTYLINE_HANDSHAKE_SECONDS", "1")
        .env("PARTYLINE_KEEP_ALIVE_SECONDS", "4")
        .start()
        .await
        .unwrap();
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", world.token("ann"));
    for path in ["/livez", CONVERSATIONS, POLLING] {
        let mut stream = TcpStream::connect(gateway.http_addr()).await.unwrap();
        for pause in [2, 2, 0] {
            stream.write_all(request(path).as_bytes()).await.unwrap();
            answered(&mut stream).await;
            // Longer than a request may take, and shorter than the pause that is allowed.
            tokio::time::sleep(Duration::from_secs(pause)).await;
        }
        // Now it is not used any more, and closed in its time, without an error.
        let idle = Instant::now();
        let read = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("never closed").unwrap();
        assert_eq!((read, idle.elapsed() >= Duration::from_secs(3)), (0, true), "{path}: {:?}", idle.elapsed());
    }
    // A pause is no way to make a slow request: from its first byte on the shorter time counts.
    let mut slow = TcpStream::connect(gateway.http_addr()).await.unwrap();
    slow.write_all(request("/livez").as_bytes()).await.unwrap();
    answered(&mut slow).await;
    let began = Instant::now();
    let mut drip = request("/livez").into_bytes().into_iter();
    for byte in drip.by_ref() {
        if slow.write_all(&[byte]).await.is_err()
            || timeout(Duration::from_millis(50), slow.read(&mut [0; 1])).await.is_ok()
        {
            break;
        }
    }
    assert!(drip.len() > 0 && began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let help = std::process::Command::new(binary("gateway").unwrap()).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.split("PARTYLINE_KEEP_ALIVE_SECONDS=").nth(1).unwrap().contains("[default: 75]"), "{help}");
}

#[tokio::test]
async fn a_message_that_is_legal_field_by_field_fits_the_frame() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    assert_eq!(ann.welcome["limits"]["max_frame_bytes"], 20_480);
    // As Python's `json.dumps` writes it: everything that isn't ASCII is escaped, a character beyond 16 bits twice.
    let content = "\\ud83d\\ude00".repeat(1_000);
    let metadata = format!("{{\"a\": \"{}\"}}", "x".repeat(4_096 - 9));
    assert_eq!(metadata.len(), 4_096);
    let reference = "r".repeat(128);
    let fields = format!(
        "\"conversation_id\": \"{chat}\", \"client_id\": \"{}\", \"message_type\": \"booking_update\", \
         \"reply_to\": null, \"content\": \"{content}\", \"metadata\": {metadata}",
        client_id()
    );
    ann.say_text(&format!("{{\"type\": \"send_message\", \"ref\": \"{reference}\", {fields}}}")).await;
    assert_eq!(ann.find(|frame| frame["ref"] == reference.as_str()).await["type"], "ack");
    let emit = |fields: &str| format!("421[\"send_message\", {{{fields}}}]");
    let fields = format!("{fields}, \"temp_id\": \"{}\"", "t".repeat(126));
    let mut raw = Raw::come(&gateway, &world.token("ann")).await;
    raw.say(&emit(&fields)).await;
    assert!(raw.expect("431[").await.contains("\"status\":\"ok\""));
    let mut poller = Poller::come(&world, &gateway, "ann").await;
    assert_eq!(poller.post(&emit(&fields)).await.status, 200);
    assert!(poller.expect("431[").await.contains("\"status\":\"ok\""));
}

#[tokio::test]
async fn metadata_has_no_key_with_a_meaning() {
    let world = World::new().await;
    let (gateway, _persister) = (world.gateway().await, world.persister().await);
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    ann.join(&chat).await;
    let mut sent = Vec::new();
    for metadata in [
        r#"{"$serde_json::private::RawValue":"{\"is_admin\":true}"}"#,
        r#"{"a":[{"$serde_json::private::RawValue":"[1]"}]}"#,
        r#"{"$serde_json::private::RawValue":5}"#,
        r#"{"$serde_json::private::Number":"5"}"#,
        r#"{"$serde_json::private::RawValue":"{}","z":1}"#,
    ] {
        let fields = format!("\"conversation_id\":\"{chat}\",\"client_id\":\"{}\",\"content\":\"x\"", client_id());
        ann.say_text(&format!("{{\"type\":\"send_message\",{fields},\"metadata\":{metadata}}}")).await;
        // As text: the test's own reader would interpret it, too.
        let event = ann.find_text(|text| text.contains("\"type\":\"new_message\"")).await;
        assert!(event.contains(&format!("\"metadata\":{metadata}")), "{event}");
        sent.push(metadata);
    }
    // Strings in strings are no way to go deeper than JSON may.
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let nested = json!({ "$serde_json::private::RawValue": deep(100) }).to_string();
    let fields = format!("\"conversation_id\":\"{chat}\",\"client_id\":\"{}\",\"content\":\"x\"", client_id());
    ann.say_text(&format!("{{\"type\":\"send_message\",{fields},\"metadata\":{{\"a\":[{nested}]}}}}")).await;
    let event = ann.find_text(|text| text.contains("\"type\":\"new_message\"")).await;
    assert!(event.contains(&format!("\"metadata\":{{\"a\":[{nested}]}}")), "{event}");
    world.persisted().await;
    let page = world.bare(&gateway, Method::GET, &messages_of(&chat)).bearer_auth(world.token("bob"));
    let page = page.send().await.unwrap().text().await.unwrap().replace("\": ", "\":").replace(", \"", ",\"");
    for metadata in sent {
        // Postgres has an order of keys of its own.
        let fields = metadata.trim_start_matches('{').split(",\"z\"").next().unwrap();
        assert!(page.contains(fields), "{metadata} in {page}");
    }
}

#[tokio::test]
async fn a_handshake_has_one_key() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let token = world.token("ann");
    for path in ["/ws", SOCKETIO_WS] {
        for keys in 1..=2 {
            let mut stream = TcpStream::connect(gateway.http_addr()).await.unwrap();
            let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n".repeat(keys);
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nAuthorization: Bearer {token}\r\n{key}\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut status = [0; 12];
            timeout(PATIENCE, stream.read_exact(&mut status)).await.expect("no answer").unwrap();
            let expected = if keys == 1 { b"HTTP/1.1 101" } else { b"HTTP/1.1 400" };
            assert_eq!(&status, expected, "{path} with {keys}");
        }
    }
}

#[tokio::test]
async fn long_answers_are_compressed_for_who_asks() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    // Another crate of the workspace has reqwest decompress by itself.
    let client = reqwest::Client::builder().no_gzip().no_brotli().no_deflate().build().unwrap();
    let get = async |path: &str, encodings: &str| {
        let request = client.get(gateway.url(path)).bearer_auth(world.token("ann"));
        let response = request.header("accept-encoding", encodings).send().await.unwrap();
        (response.headers().clone(), response.bytes().await.unwrap())
    };
    let list = format!("{CONVERSATIONS}{chat}/messages/");
    let (small, _) = get(&list, "gzip, br").await;
    assert!(!small.contains_key("content-encoding"), "{small:?}");
    let mut ann = world.person(&gateway, "ann").await;
    for n in 0..20 {
        ann.send(&chat, &format!("message {n} {}", "lorem ipsum ".repeat(20))).await;
    }
    let (plain, body) = get(&list, "identity").await;
    assert!(!plain.contains_key("content-encoding") && body.len() > 8_000);
    for encoding in ["gzip", "br"] {
        let (headers, compressed) = get(&list, encoding).await;
        let got = headers.get("content-encoding").map(|it| it.to_str().unwrap());
        assert_eq!(got, Some(encoding), "{headers:?} {compressed:?}");
        assert!(
            headers.get_all("vary").iter().any(|it| it.to_str().unwrap().contains("accept-encoding")),
            "{headers:?}"
        );
        assert_eq!(headers["content-type"], "application/json");
        assert!(compressed.len() < body.len() / 3, "{encoding}: {} of {}", compressed.len(), body.len());
        if encoding == "gzip" {
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut text).unwrap();
            assert_eq!(text, body);
        }
    }
    // A poll waits for packets: nothing may hold them back.
    let poller = Poller::come(&world, &gateway, "ann").await;
    poller.post(&format!("42{}", json!(["join_conversation", { "conversation_id": chat }]))).await;
    loop {
        let polled = poller.request(Method::GET).header("accept-encoding", "gzip, br").send().await.unwrap();
        assert!(!polled.headers().contains_key("content-encoding"), "{:?}", polled.headers());
        // Others may come before the long one.
        if polled.text().await.unwrap().len() > 8_000 {
            break;
        }
    }
}
