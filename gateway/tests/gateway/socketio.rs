//! Socket.IO's edges, written by hand: what the official client never does, or doesn't show. That client's own tests are
//! in `gateway/tests/socketio`.

use std::{cell::Cell, collections::VecDeque, time::Duration};

use devstack::testing::{Launch, Process, Signal};
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{
    once::Probe,
    person::connect,
    support::{Answer, PATIENCE, World, answer, client_id, messages_of, until},
};

/// A path with a query, for one transport.
fn path(transport: &str, rest: &str) -> String {
    format!("/socket.io/?EIO=4&transport={transport}{rest}")
}

/// A WebSocket, packet by packet.
pub(crate) struct Raw(WebSocketStream<TcpStream>);

impl Raw {
    pub(crate) async fn open(gateway: &Process, rest: &str) -> Self {
        let request = gateway.url(&path("websocket", rest)).replace("http", "ws").into_client_request().unwrap();
        Self(connect(gateway, request).await.unwrap().0)
    }

    pub(crate) fn with(socket: WebSocketStream<TcpStream>) -> Self {
        Self(socket)
    }

    /// Inside the namespace, after `connected`.
    pub(crate) async fn come(gateway: &Process, token: &str) -> Self {
        let mut raw = Self::open(gateway, "").await;
        raw.say(&format!("40{}", json!({ "token": token }))).await;
        raw.expect("42[\"connected\",").await;
        raw
    }

    pub(crate) async fn say(&mut self, packet: &str) {
        self.0.send(Message::text(packet)).await.unwrap();
    }

    /// The next packet, or the code of the close frame.
    async fn read(&mut self) -> Result<String, u16> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("nothing came").unwrap().unwrap() {
                Message::Text(text) => return Ok(text.to_string()),
                Message::Close(frame) => return Err(frame.unwrap().code.into()),
                _ => {}
            }
        }
    }

    /// The next packet that begins so.
    pub(crate) async fn expect(&mut self, start: &str) -> String {
        loop {
            let packet = self.read().await.unwrap_or_else(|code| panic!("closed with {code}, waiting for {start}"));
            if packet.starts_with(start) {
                return packet;
            }
        }
    }

    /// Sends a WebSocket's own ping after a packet: how many pongs come before the answer that begins so.
    pub(crate) async fn pings_before_the_answer(&mut self, packet: &str, answer: &str) -> usize {
        self.say(packet).await;
        self.0.send(Message::Ping("x".into())).await.unwrap();
        let mut pongs = 0;
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("nothing came").unwrap().unwrap() {
                Message::Pong(_) => pongs += 1,
                Message::Text(text) if text.starts_with(answer) => return pongs,
                _ => {}
            }
        }
    }

    /// Waits until the server has closed the socket, without a word.
    pub(crate) async fn is_cut_off(&mut self) {
        while let Some(Ok(message)) = timeout(PATIENCE, self.0.next()).await.expect("the socket stayed open") {
            assert!(message.is_text(), "{message:?}");
        }
    }

    /// All packets to the end but pings, and the close code.
    async fn rest(mut self) -> (Vec<String>, u16) {
        let mut packets = Vec::new();
        loop {
            match self.read().await {
                Ok(packet) if packet == "2" => {}
                Ok(packet) => packets.push(packet),
                Err(code) => return (packets, code),
            }
        }
    }
}

/// A session that polls.
pub(crate) struct Poller<'a> {
    world: &'a World,
    gateway: &'a Process,
    sid: String,
    held: VecDeque<String>,
}

impl<'a> Poller<'a> {
    async fn open(world: &'a World, gateway: &'a Process) -> Self {
        Self::open_with(world, gateway, &[]).await
    }

    /// Opens a session by a request with these headers.
    pub(crate) async fn open_with(world: &'a World, gateway: &'a Process, headers: &[(&str, &str)]) -> Self {
        let request = world.bare(gateway, Method::GET, &path("polling", ""));
        let opened = answer(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await;
        let told: Value = serde_json::from_str(opened.body.as_str().unwrap().strip_prefix('0').unwrap()).unwrap();
        Self { world, gateway, sid: told["sid"].as_str().unwrap().to_owned(), held: VecDeque::new() }
    }

    pub(crate) async fn come(world: &'a World, gateway: &'a Process, user: &str) -> Self {
        let mut poller = Self::open(world, gateway).await;
        poller.post(&format!("40{}", json!({ "token": world.token(user) }))).await;
        poller.expect("42[\"connected\",").await;
        poller
    }

    pub(crate) fn request(&self, method: Method) -> reqwest::RequestBuilder {
        self.world.bare(self.gateway, method, &path("polling", &format!("&sid={}", self.sid)))
    }

    pub(crate) async fn post(&self, body: &str) -> Answer {
        answer(self.request(Method::POST).body(body.to_owned())).await
    }

    pub(crate) async fn get(&self) -> Answer {
        answer(self.request(Method::GET)).await
    }

    pub(crate) async fn expect(&mut self, start: &str) -> String {
        loop {
            while let Some(packet) = self.held.pop_front() {
                if packet.starts_with(start) {
                    return packet;
                }
            }
            // A single packet may be a number to the reader of JSON.
            let body = self.get().await.body;
            let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
            self.held.extend(text.split('\u{1e}').map(str::to_owned));
        }
    }
}

fn joins(chat: &str) -> String {
    format!("42{}", json!(["join_conversation", { "conversation_id": chat }]))
}

fn closing(code: &str, number: u16) -> String {
    format!("42[\"closing\",{{\"code\":\"{code}\",\"close_code\":{number}}}]")
}

async fn started(launch: Launch) -> Process {
    launch.start().await.unwrap()
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_told_and_stays_away() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let token = world.token("ann");
    let large = format!("42[\"typing\",\"{}\"]", "x".repeat(20_480));
    let broken = [
        (Message::text("42nonsense"), "bad_packet"),
        (Message::text("9"), "bad_packet"),
        (Message::text("451-[\"send_message\",{\"_placeholder\":true,\"num\":0}]"), "binary_frame"),
        (Message::binary(vec![1]), "binary_frame"),
        (Message::text(large), "frame_too_large"),
    ];
    for (message, code) in broken {
        let mut raw = Raw::come(&gateway, &token).await;
        raw.0.send(message).await.unwrap();
        assert_eq!(raw.rest().await, (vec![closing(code, 4500), "41".into()], 4500), "{code}");
    }
    let mut stranger = Raw::open(&gateway, "").await;
    stranger.expect("0{").await;
    stranger.say(&joins("x")).await;
    assert_eq!(stranger.rest().await.0, [closing("not_connected", 4500), "41".into()]);
    until("all to be gone", async || {
        world.metric(&gateway, "partyline_gateway_connections{protocol=\"socketio\"}").await == 0.0
    })
    .await;
    assert_eq!(world.metric(&gateway, "partyline_gateway_connections_opened_total{protocol=\"socketio\"}").await, 5.0);
}

#[tokio::test]
async fn requests_that_are_wrong_get_engine_ios_codes() {
    let world = World::new().await;
    let gateway = started(world.launch().env("PARTYLINE_ALLOWED_ORIGINS", "https://shop.example")).await;
    let unknown = format!("&sid={}", "0".repeat(32));
    let requests = [
        (Method::GET, "/socket.io/?EIO=3&transport=polling".to_owned(), 400, 5),
        (Method::GET, "/socket.io/?EIO=4&transport=pigeon".to_owned(), 400, 0),
        (Method::GET, path("polling", &unknown), 400, 1),
        (Method::GET, path("polling", "&sid=nonsense"), 400, 1),
        (Method::POST, path("polling", ""), 400, 2),
        (Method::GET, path("websocket", ""), 400, 3),
    ];
    for (method, path, status, code) in requests {
        let refused = answer(world.bare(&gateway, method, &path)).await;
        assert_eq!((refused.status, &refused.body["code"]), (status, &json!(code)), "{path}");
    }
    let from = |origin, method| world.bare(&gateway, method, &path("polling", "")).header("origin", origin);
    let refused = answer(from("https://evil.example", Method::GET)).await;
    assert_eq!((refused.status, &refused.body["code"]), (403, &json!(4)));
    let preflight = from("https://shop.example", Method::OPTIONS).header("access-control-request-method", "POST");
    for allowed in [answer(from("https://shop.example", Method::GET)).await, answer(preflight).await] {
        assert_eq!(allowed.status, 200);
        assert_eq!(allowed.headers["access-control-allow-origin"], "https://shop.example");
        assert_eq!(allowed.headers["access-control-allow-credentials"], "true");
    }
}

#[tokio::test]
async fn silence_flood_and_surplus_end_a_connection_as_they_do_natively() {
    let world = World::new().await;
    let launch =
        world.env.gateway().unwrap().env("PARTYLINE_PING_SECONDS", "1").env("PARTYLINE_PING_TIMEOUT_SECONDS", "2");
    let limits = [("PARTYLINE_HANDSHAKE_SECONDS", "1"), ("PARTYLINE_CONNECTIONS_PER_USER", "2")];
    let launch = limits.into_iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    let gateway = started(launch.env("PARTYLINE_FRAMES_PER_SECOND", "5").env("PARTYLINE_JOINED_MAX", "1")).await;

    let mut stranger = Raw::open(&gateway, "").await;
    stranger.expect("0{").await;
    let silent = Raw::come(&gateway, &world.token("ann")).await;
    let mut answering = Raw::come(&gateway, &world.token("bob")).await;
    for _ in 0..5 {
        answering.expect("2").await;
        answering.say("3").await;
    }
    let (packets, code) = silent.rest().await;
    assert_eq!((packets, code), (vec![closing("idle_timeout", 4000)], 4000));
    stranger.is_cut_off().await;

    // What comes too fast is read later, and answered.
    for n in 0..20 {
        answering.say(&format!("42{n}[\"leave_conversation\",{{}}]")).await;
    }
    for n in 0..20 {
        loop {
            let packet = answering.read().await.unwrap();
            if packet == "2" {
                answering.say("3").await;
            }
            if packet.starts_with(&format!("43{n}[")) {
                break;
            }
        }
    }
    let delayed = "partyline_gateway_rate_limited_total{kind=\"frames\"}";
    assert!(world.metric(&gateway, delayed).await > 0.0);

    let mut eves = Vec::new();
    for _ in 0..3 {
        eves.push(Raw::come(&gateway, &world.token("eve")).await);
    }
    let oldest = eves.remove(0).rest().await;
    assert_eq!(oldest, (vec![closing("replaced", 4509), "41".into()], 4509));
}

#[tokio::test]
async fn a_polling_client_that_vanishes_is_offline_after_socketios_own_time() {
    let world = World::new().await;
    let limits = [
        ("PARTYLINE_PING_SECONDS", "2"),
        ("PARTYLINE_PING_TIMEOUT_SECONDS", "1"),
        // A native socket's patience is another's.
        ("PARTYLINE_IDLE_SECONDS", "3600"),
        ("PARTYLINE_PRESENCE_GRACE_SECONDS", "0"),
    ];
    let gateway =
        started(limits.into_iter().fold(world.launch(), |launch, (name, value)| launch.env(name, value))).await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut bob = world.person(&gateway, "bob").await;
    bob.join(&chat).await;
    let _vanished = Poller::come(&world, &gateway, "ann").await;
    bob.find(|it| it["type"] == "presence" && it["online"] == true).await;
    bob.find(|it| it["type"] == "presence" && it["online"] == false).await;
    assert_eq!(
        world.metric(&gateway, "partyline_gateway_connections_closed_total{reason=\"idle_timeout\"}").await,
        1.0
    );
}

#[tokio::test]
async fn a_client_that_polls_too_seldom_is_a_slow_reader() {
    let world = World::new().await;
    let gateway = started(world.launch().env("PARTYLINE_OUTBOUND_QUEUE_BYTES", "65536")).await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut slow = Poller::come(&world, &gateway, "ann").await;
    slow.post(&joins(&chat)).await;
    slow.expect("42[\"joined_conversation\",").await;
    let mut bob = world.person(&gateway, "bob").await;
    for n in 0..40 {
        bob.send(&chat, &format!("{n} {}", "\u{1F600}".repeat(990))).await;
    }
    until("the queue to be full", async || {
        world.metric(&gateway, "partyline_gateway_connections_closed_total{reason=\"too_slow\"}").await == 1.0
    })
    .await;
    assert_eq!(slow.get().await.body, json!(closing("too_slow", 4008)));
    // Asked again for a session that is over, a client begins another one.
    for _ in 0..2 {
        let over = slow.get().await;
        assert_eq!((over.status, &over.body["code"]), (400, &json!(1)));
    }
}

#[tokio::test]
async fn answer_to_a_poll_has_sixteen_packets_at_most() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let poller = Poller::come(&world, &gateway, "ann").await;
    let events: Vec<String> = (0..40).map(|n| format!("42{n}[\"leave_conversation\",{{}}]")).collect();
    // What breaks the protocol ends the session after all answers.
    poller.post(&format!("{}\u{1e}b", events.join("\u{1e}"))).await;
    let mut packets = Vec::new();
    loop {
        let body = poller.get().await.body;
        let Some(body) = body.as_str() else {
            assert_eq!(body, json!(1));
            break;
        };
        let before = packets.len();
        packets.extend(body.split('\u{1e}').map(str::to_owned));
        assert!(packets.len() - before <= 16, "{body}");
    }
    let answers: Vec<&String> = packets.iter().filter(|packet| packet.starts_with("43")).collect();
    assert_eq!(answers.len(), 40);
    assert!(answers.iter().zip(0..).all(|(answer, n)| answer.starts_with(&format!("43{n}["))), "{answers:?}");
    assert_eq!(packets[packets.len() - 2..], [closing("binary_frame", 4500), "41".into()]);
}

#[tokio::test]
async fn a_repeated_poll_takes_the_place_of_the_older_one() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let poller = Poller::come(&world, &gateway, "ann").await;
    for n in 0..10 {
        let mut polls = [Box::pin(poller.get()), Box::pin(poller.get())];
        let [one, other] = &mut polls;
        let (first, newer) = tokio::select! {
            answer = one.as_mut() => (answer, other),
            answer = other.as_mut() => (answer, one),
        };
        assert_eq!((first.status, &first.body), (200, &json!(6)), "the older one gets a NOOP");
        let event = format!("42{n}[\"leave_conversation\",{{}}]");
        let (posted, answer) = tokio::join!(poller.post(&event), newer.as_mut());
        assert_eq!(posted.status, 200);
        assert!(answer.body.as_str().unwrap().starts_with(&format!("43{n}[")), "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_cut_off_and_repeated_goes_on() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let mut poller = Poller::come(&world, &gateway, "ann").await;
    for n in 0..20 {
        // Dropped with its connection, perhaps before it arrives.
        let _ = timeout(Duration::from_millis(n), poller.get()).await;
        let asked = poller.post(&format!("42{n}[\"leave_conversation\",{{}}]")).await;
        assert_eq!(asked.status, 200);
        // What the cut one was answered is lost with it; everything later comes.
        poller.post(&format!("42{}[\"leave_conversation\",{{}}]", 100 + n)).await;
        poller.expect(&format!("43{}[", 100 + n)).await;
    }
}

#[tokio::test]
async fn overlapping_posts_end_the_session_and_the_client_comes_back() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let poller = Poller::come(&world, &gateway, "ann").await;
    // The first one is not whole; it is under way once the gateway asks for its rest.
    let mut stream = TcpStream::connect(gateway.http_addr()).await.unwrap();
    let target = path("polling", &format!("&sid={}", poller.sid));
    let host = gateway.http_addr();
    let head = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 12];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");
    let second = poller.post("3").await;
    assert_eq!((second.status, &second.body["code"]), (400, &json!(3)));
    assert_eq!(poller.get().await.body, json!(closing("overlapping_requests", 4011)));
    let over = poller.get().await;
    assert_eq!((over.status, &over.body["code"]), (400, &json!(1)));
}

#[tokio::test]
async fn a_body_of_many_packets_is_taken_if_each_is_within_the_limit() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut poller = Poller::come(&world, &gateway, "ann").await;
    let large = |n: usize| {
        // As Python writes it.
        let content = format!("{n}{}", "\\ud83d\\ude00".repeat(900));
        format!("42{n}[\"send_message\",{{\"conversation_id\":\"{chat}\",\"content\":\"{content}\"}}]")
    };
    let body = (0..8).map(large).collect::<Vec<_>>().join("\u{1e}");
    assert!(body.len() > 80_000);
    let posted = poller.post(&body).await;
    assert_eq!((posted.status, &posted.body), (200, &json!("ok")));
    for n in 0..8 {
        assert!(poller.expect(&format!("43{n}[")).await.contains("\"status\":\"ok\""));
    }
    // One that is too large ends the session; what came before it is done.
    let body = format!("{}\u{1e}42[\"typing\",\"{}\"]", large(8), "x".repeat(30_000));
    let (posted, _) = tokio::join!(poller.post(&body), async {
        let goodbye = poller.get().await.body;
        let goodbye = goodbye.as_str().unwrap().to_owned();
        let rest = if goodbye.contains("closing") { goodbye } else { format!("{goodbye}{}", poller.get().await.body) };
        assert!(rest.contains("438[") && rest.contains("frame_too_large"), "{rest}");
        assert_eq!(poller.get().await.body, json!(1));
    });
    assert_eq!(posted.status, 413);
}

#[tokio::test]
async fn a_join_in_hand_when_the_goodbye_is_fetched_leaves_nothing_behind() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for n in 0..30 {
        let chat = world.group(&gateway, &["ann", "bob"]).await;
        let poller = Poller::come(&world, &gateway, "ann").await;
        let broken = format!("{}\u{1e}b", joins(&chat));
        let (_, goodbye) = tokio::join!(poller.post(&broken), poller.get());
        assert!(!goodbye.body.is_null(), "{n}");
    }
    for gauge in ["partyline_gateway_connections{protocol=\"socketio\"}", "partyline_gateway_rooms"] {
        until(gauge, async || world.metric(&gateway, gauge).await == 0.0).await;
    }
}

/// Enters the namespace with what the client authenticates with; the socket, and the `pid` that it was given.
async fn enter(gateway: &Process, auth: &Value) -> (Raw, String) {
    let mut raw = Raw::open(gateway, "").await;
    raw.say(&format!("40{auth}")).await;
    let entered: Value = serde_json::from_str(&raw.expect("40{").await[2..]).unwrap();
    raw.expect("42[\"connected\",").await;
    (raw, entered["pid"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_temp_id_names_a_message_of_one_page() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let other_node = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let token = world.token("ann");
    let send = format!("425{}", json!(["send_message", { "conversation_id": chat, "temp_id": 1, "content": "ok" }]));
    let sent = async |raw: &mut Raw| {
        raw.say(&send).await;
        let answer: Value = serde_json::from_str(&raw.expect("435[").await[3..]).unwrap();
        (answer[0]["seq"].as_u64().unwrap(), answer[0]["duplicate"].as_bool().unwrap())
    };
    let (mut first, pid) = enter(&gateway, &json!({ "token": token })).await;
    let (seq, duplicate) = sent(&mut first).await;
    assert!(!duplicate);
    assert_eq!(sent(&mut first).await, (seq, true), "again on the same connection");
    // The official client brings back the `pid` when it reconnects, and sends what was not answered.
    let (mut again, next_pid) = enter(&other_node, &json!({ "token": token, "pid": pid })).await;
    assert_ne!(next_pid, pid, "no state is recovered");
    assert_eq!(sent(&mut again).await, (seq, true), "on another node");
    let (mut third, _) = enter(&gateway, &json!({ "token": token, "pid": next_pid })).await;
    assert_eq!(sent(&mut third).await, (seq, true));
    // The page is loaded anew, counts from 1, and says the same.
    let (mut reloaded, _) = enter(&gateway, &json!({ "token": token })).await;
    let (later, duplicate) = sent(&mut reloaded).await;
    assert!(later > seq && !duplicate);
    // A client without a `pid` of ours names its page by itself.
    let nonce = json!({ "token": token, "nonce": "page-1" });
    let (seq, duplicate) = sent(&mut enter(&gateway, &nonce).await.0).await;
    assert!(!duplicate);
    assert_eq!(sent(&mut enter(&other_node, &nonce).await.0).await, (seq, true));
}

#[tokio::test]
async fn repeated_temp_id_is_a_new_message_once_its_lifetime_is_over() {
    let world = World::new().await;
    let launch = || {
        let lifetime = [("PARTYLINE_TEMP_ID_SECONDS", "3"), ("PARTYLINE_DEDUP_SECONDS", "3")];
        lifetime.into_iter().fold(world.launch(), |launch, (name, value)| launch.env(name, value))
    };
    let (one, two) = (started(launch()).await, started(launch()).await);
    let persister = world.env.persister().unwrap().env("PARTYLINE_DEDUP_SECONDS", "3").start().await.unwrap();
    let chat = world.direct(&one, ["ann", "bob"]).await;
    let page = json!({ "token": world.token("ann"), "nonce": "a page that lives long" });
    let (mut left, mut right) = (enter(&one, &page).await.0, enter(&two, &page).await.0);
    left.say(&joins(&chat)).await;
    left.expect("42[\"joined_conversation\",").await;
    let send = format!("426{}", json!(["send_message", { "conversation_id": chat, "temp_id": 1, "content": "ok" }]));
    let new_message = |packet: &str| -> Option<Value> {
        serde_json::from_str(packet.strip_prefix("42[\"new_message\",")?.strip_suffix(']')?).unwrap()
    };
    let sent = async |raw: &mut Raw, heard: &mut Vec<Value>| {
        raw.say(&send).await;
        let answer: Value = loop {
            let packet = raw.read().await.unwrap();
            heard.extend(new_message(&packet));
            if let Some(answer) = packet.strip_prefix("436") {
                break serde_json::from_str(answer).unwrap();
            }
        };
        assert_eq!((&answer[0]["status"], &answer[0]["temp_id"]), (&json!("ok"), &json!(1)));
        let field = |name: &str| answer[0][name].as_str().unwrap().to_owned();
        (answer[0]["seq"].as_u64().unwrap(), field("message_id"), field("client_id"), answer[0]["duplicate"] == true)
    };
    let mut probe = Probe::new(&world).await;
    let (mut expected, mut others) = (Vec::new(), Vec::new());
    for n in 0..4 {
        // All messages of the name that are there are older than its lifetime.
        probe.begin().await;
        until("the lifetime to pass", async || !probe.is_remembered().await).await;
        if n == 2 {
            // Postgres is behind from here on.
            world.persisted().await;
            persister.signal(Signal::STOP);
        }
        loop {
            probe.begin().await;
            let mut heard = Vec::new();
            let first = sent(&mut left, &mut heard).await;
            assert!(!first.3, "taken for a repeat of {expected:?}");
            let (left_again, right_again) = tokio::join!(sent(&mut left, &mut heard), sent(&mut right, &mut others));
            let within = probe.is_remembered().await;
            expected.push(first.0);
            while !heard.iter().any(|it| it["seq"] == first.0) {
                heard.extend(new_message(&left.expect("42[\"new_message\",").await));
            }
            let message = heard.iter().find(|it| it["seq"] == first.0).unwrap();
            assert_eq!((&message["temp_id"], message["client_id"].as_str()), (&json!(1), Some(&*first.2)));
            if within {
                let repeat = (first.0, first.1, first.2, true);
                assert_eq!((&left_again, &right_again), (&repeat, &repeat));
                break;
            }
            // Too slow to tell: the second ones may have been new messages.
            expected.extend([left_again, right_again].into_iter().filter(|it| !it.3).map(|it| it.0));
            probe.begin().await;
            until("the lifetime to pass", async || !probe.is_remembered().await).await;
        }
    }
    persister.signal(Signal::CONT);
    world.persisted().await;
    let page = world.get(&one, "bob", &messages_of(&chat)).await.body;
    let mut stored: Vec<u64> =
        page["results"].as_array().unwrap().iter().map(|it| it["seq"].as_u64().unwrap()).collect();
    stored.sort_unstable();
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn a_request_that_breaks_the_protocol_is_answered_after_the_goodbye() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let bodies = [("frame_too_large", 413, vec![b'4'; 20_481]), ("invalid_utf8", 400, b"42[\"\xff\"]".to_vec())];
    for (code, status, body) in bodies {
        let poller = Poller::come(&world, &gateway, "ann").await;
        let answered = Cell::new(false);
        let post = async {
            let answer = answer(poller.request(Method::POST).body(body.clone())).await;
            answered.set(true);
            answer.status
        };
        let fetch = async {
            let goodbye = poller.get().await.body;
            assert_eq!(goodbye, json!(format!("{}\u{1e}41", closing(code, 4500))));
            // A client that takes its time: the gateway has answered others meanwhile.
            for _ in 0..20 {
                assert!(world.is_ready(&gateway).await);
            }
            assert!(!answered.get(), "{code}: answered before the end was fetched");
            assert_eq!(poller.get().await.body, json!(1));
        };
        let (answered, ()) = tokio::join!(post, fetch);
        assert_eq!(answered, status, "{code}");
    }
    // Nobody fetches it, and the request is answered all the same.
    let large = Poller::open(&world, &gateway).await;
    assert_eq!(large.post(&"4".repeat(20_481)).await.status, 413);
}

#[tokio::test]
async fn a_session_goes_over_to_a_websocket_without_losing_a_packet() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut poller = Poller::come(&world, &gateway, "ann").await;
    poller.post(&joins(&chat)).await;
    poller.expect("42[\"joined_conversation\",").await;

    let upgrade = async {
        let mut raw = Raw::open(&gateway, &format!("&sid={}", poller.sid)).await;
        raw.say("2probe").await;
        assert_eq!(raw.read().await.unwrap(), "3probe");
        raw
    };
    // What waits for packets is answered when the WebSocket has proved itself.
    let (waiting, mut raw) = tokio::join!(poller.get(), upgrade);
    assert_eq!(waiting.body, json!(6));
    let sent = json!({ "client_id": client_id(), "content": "in between" });
    assert_eq!(world.post(&gateway, "bob", &messages_of(&chat), sent).await.status, 200);
    raw.0.feed(Message::text("5")).await.unwrap();
    raw.say(&format!("427{}", json!(["send_message", { "conversation_id": chat, "content": "at once" }]))).await;
    assert!(raw.expect("42[\"new_message\",").await.contains("in between"));
    assert!(raw.expect("437[{\"status\":\"ok\",").await.contains("\"duplicate\":false"));
    assert_eq!(poller.get().await.body["code"], 3, "it polls no more");
    raw.say("41").await;
    raw.is_cut_off().await;
    assert_eq!(answer(poller.request(Method::POST).body("3")).await.body["code"], 1);
}
