//! Clients that break the WebSocket protocol, its limits, or their promise to read.

use std::time::Duration;

use devstack::testing::Process;
use futures_util::{SinkExt, StreamExt, future::join_all};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::{
    person::{Person, handshake},
    support::{NOWHERE, World, message, messages_of, seq, until},
};

/// A client's frame; the mask changes nothing, being zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&[first, 0x80 | 126], &length.to_be_bytes()[..], &[0; 4], payload].concat()
}

/// A control frame, whose length fits into seven bits.
fn control(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[first, 0x80 | length], &[0; 4][..], payload].concat()
}

#[tokio::test]
async fn breaking_the_protocol_ends_the_one_socket() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let mut bob = world.person(&gateway, "bob").await;
    bob.join(&chat).await;
    let half = vec![b' '; 12_000];
    let endless: Vec<u8> =
        std::iter::once(frame(0x01, b"{")).chain((0..21_000).map(|_| frame(0x00, b" "))).flatten().collect();
    let broken = [
        ("binary_frame", frame(0x82, b"{}")),
        ("unmasked_frame", b"\x81\x02{}".to_vec()),
        ("reserved_bits", frame(0xC1, b"{}")),
        ("reserved_bits", frame(0x91, b"{}")),
        ("unknown_opcode", frame(0x83, b"{}")),
        ("unknown_opcode", control(0x8B, b"{}")),
        ("frame_too_large", [&[0x81, 0x80 | 126], &20_481_u16.to_be_bytes()[..], &[0; 4]].concat()),
        ("frame_too_large", [&[0x81, 0x80 | 127], &[0xff; 8][..], &[0; 4]].concat()),
        ("frame_too_large", [frame(0x01, &half), frame(0x00, &half)].concat()),
        ("frame_too_large", endless),
        ("continuation_without_start", frame(0x80, b"{}")),
        ("unfinished_fragments", [frame(0x01, b"{"), frame(0x81, b"{}")].concat()),
        ("bad_control_frame", control(0x09, b"part of a ping")),
        ("bad_control_frame", frame(0x89, &[b'x'; 126])),
        ("invalid_utf8", frame(0x81, b"\xff\xfe")),
        ("bad_close_frame", control(0x88, &[3])),
        ("bad_close_frame", control(0x88, &999_u16.to_be_bytes())),
    ];
    for (code, bytes) in broken {
        // The same user's other socket must not suffer either.
        let mut breaker = world.person(&gateway, "ann").await;
        // The server may have closed before it has read all.
        let _ = breaker.socket.get_mut().write_all(&bytes).await;
        let closed = breaker.closed().await;
        assert_eq!((closed.code, closed.reason), (4500, json!({ "code": code })));
        ann.send(&chat, code).await;
        assert_eq!(bob.expect("new_message").await["content"], code);
    }
}

#[tokio::test]
async fn fragments_and_the_largest_frame_are_a_clients_right() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let mut ann = world.person(&gateway, "ann").await;
    let bytes = [
        frame(0x01, br#"{"type":"not"#),
        control(0x89, b"between"),
        frame(0x00, br#"hing","re"#),
        frame(0x80, br#"f":"1"}"#),
        frame(0x81, format!("{:20480}", r#"{"type":"nothing","ref":"2"}"#).as_bytes()),
    ];
    for part in bytes.concat().chunks(1_000) {
        ann.socket.get_mut().write_all(part).await.unwrap();
    }
    for reference in ["1", "2"] {
        let error = ann.expect("error").await;
        assert_eq!((&error["ref"], &error["code"]), (&json!(reference), &json!("unknown_type")));
    }
}

/// Sends frames in one piece, as a client does that says all at once.
async fn say_at_once(person: &mut Person, frames: &[Value]) {
    for frame in frames {
        person.socket.feed(Message::text(frame.to_string())).await.unwrap();
    }
    person.socket.flush().await.unwrap();
}

/// Commands that are refused, each under its number.
fn numbered(count: u32) -> Vec<Value> {
    (0..count).map(|n| json!({ "type": "nothing", "ref": n.to_string() })).collect()
}

#[tokio::test]
async fn frames_beyond_the_rate_are_read_later_and_all_answered() {
    let world = World::new().await;
    let launch = world.env.gateway().unwrap().env("PARTYLINE_FRAMES_PER_SECOND", "20");
    let gateway = launch.env("PARTYLINE_JOINED_MAX", "1").start().await.unwrap();
    let mut ann = world.person(&gateway, "ann").await;
    let mut hasty = world.person(&gateway, "ann").await;
    assert_eq!(hasty.welcome["limits"]["frames_burst"], 20);
    say_at_once(&mut hasty, &numbered(60)).await;
    ann.caught_up().await;
    for n in 0..60 {
        assert_eq!(hasty.expect("error").await["ref"], n.to_string());
    }
    // Pings cost as much.
    for _ in 0..30 {
        hasty.socket.feed(Message::Ping("x".into())).await.unwrap();
    }
    hasty.caught_up().await;
    let delayed = "partyline_gateway_rate_limited_total{kind=\"frames\"}";
    assert!(world.metric(&gateway, delayed).await > 0.0);
}

#[tokio::test]
async fn a_delayed_client_is_not_taken_for_a_silent_one() {
    let world = World::new().await;
    let launch = world.env.gateway().unwrap().env("PARTYLINE_FRAMES_PER_SECOND", "2").env("PARTYLINE_JOINED_MAX", "1");
    let launch = launch.env("PARTYLINE_PING_SECONDS", "1").env("PARTYLINE_IDLE_SECONDS", "2");
    let gateway = launch.start().await.unwrap();
    let mut hasty = world.person(&gateway, "ann").await;
    // Five seconds' worth, in which no pong of the client's can be seen.
    say_at_once(&mut hasty, &numbered(12)).await;
    for n in 0..12 {
        assert_eq!(hasty.expect("error").await["ref"], n.to_string());
    }
    hasty.caught_up().await;
}

#[tokio::test]
async fn forty_commands_of_one_segment_are_all_done_and_answered() {
    let world = World::new().await;
    let gateway = world.env.gateway().unwrap().env("PARTYLINE_MESSAGES_PER_MINUTE", "0").start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let commands: Vec<_> = (0..40)
        .map(|n| {
            let mut command = message(&chat, &n.to_string());
            command["ref"] = json!(n.to_string());
            command
        })
        .collect();
    say_at_once(&mut ann, &commands).await;
    let mut last = 0;
    for n in 0..40 {
        let ack = ann.expect("ack").await;
        assert_eq!(ack["ref"], n.to_string());
        assert!(seq(&ack) > last);
        last = seq(&ack);
    }
}

#[tokio::test]
async fn commands_before_a_broken_or_a_last_frame_are_answered_first() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    for (end, code) in [(Message::binary(vec![1]), 4500), (Message::Close(None), 1005)] {
        let mut ann = world.person(&gateway, "ann").await;
        for frame in numbered(5) {
            ann.socket.feed(Message::text(frame.to_string())).await.unwrap();
        }
        ann.socket.feed(end).await.unwrap();
        ann.socket.flush().await.unwrap();
        let mut refs = Vec::new();
        let closed = loop {
            match ann.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    refs.push(serde_json::from_str::<Value>(&text).unwrap()["ref"].as_str().unwrap().to_owned());
                }
                Some(Ok(Message::Close(frame))) => break frame.map_or(1005, |frame| frame.code.into()),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        };
        assert_eq!((refs, closed), ((0..5).map(|n| n.to_string()).collect(), code));
    }
}

#[tokio::test]
async fn sixty_conversations_are_joined_at_once() {
    let world = World::new().await;
    let gateway = world.env.gateway().unwrap().start().await.unwrap();
    let mut chats = Vec::new();
    for _ in 0..60 {
        chats.push(world.group(&gateway, &["ann", "bob"]).await);
    }
    let joins: Vec<_> =
        chats.iter().map(|chat| json!({ "type": "join_conversation", "conversation_id": chat, "ref": chat })).collect();
    let mut ann = world.person(&gateway, "ann").await;
    say_at_once(&mut ann, &joins).await;
    for chat in &chats {
        let joined = ann.expect("joined").await;
        assert_eq!((&joined["conversation_id"], &joined["ref"]), (&json!(chat), &json!(chat)));
    }
    ann.caught_up().await;
}

#[tokio::test]
async fn join_conversations_answers_each_and_then_all() {
    let world = World::new().await;
    let gateway = world.env.gateway().unwrap().start().await.unwrap();
    let mut chats = Vec::new();
    for _ in 0..60 {
        chats.push(world.group(&gateway, &["ann", "bob"]).await);
    }
    let mut ann = world.person(&gateway, "ann").await;
    let mut bob = world.person(&gateway, "bob").await;
    assert_eq!(ann.welcome["features"], json!(["join_conversations"]));
    let last = seq(&bob.send(&chats[0], "before").await);
    let mut entries: Vec<_> =
        chats.iter().map(|chat| json!({ "conversation_id": chat, "ref": format!("r-{chat}") })).collect();
    entries[0] = json!({ "conversation_id": chats[0], "after": last });
    entries.insert(30, json!({ "conversation_id": NOWHERE }));
    ann.say(&json!({ "type": "join_conversations", "ref": "all", "conversations": entries })).await;
    let mut answers = Vec::new();
    let ack = loop {
        let answer = ann.find(|it| it["ref"].is_string()).await;
        if answer["type"] == "ack" {
            break answer;
        }
        answers.push(answer);
    };
    assert_eq!((&ack["ref"], &ack["joined"], &ack["refused"]), (&json!("all"), &json!(60), &json!(1)));
    assert_eq!(answers.len(), 61);
    for (answer, entry) in answers.iter().zip(&entries) {
        assert_eq!(answer["conversation_id"], entry["conversation_id"]);
        let reference = entry["ref"].as_str().unwrap_or("all");
        assert_eq!(answer["ref"], reference);
    }
    assert_eq!((&answers[0]["seq"], &answers[0]["events"]), (&json!(last), &json!([])));
    assert_eq!((&answers[30]["type"], &answers[30]["code"]), (&json!("error"), &json!("not_found")));
    for chat in [&chats[0], &chats[59]] {
        bob.send(chat, "live").await;
        assert_eq!(ann.expect("new_message").await["conversation_id"], json!(chat));
    }
    for broken in [json!([]), json!("x"), json!([{}]), Value::Null] {
        let refused = json!({ "type": "join_conversations", "conversations": broken });
        assert_eq!(ann.refused(refused).await, "bad_request");
    }
}

#[tokio::test]
async fn who_gives_no_sign_of_life_is_closed() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_PING_SECONDS", "1").env("PARTYLINE_IDLE_SECONDS", "5");
    let gateway = gateway.start().await.unwrap();
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    // Bob's client answers pings while it reads; ann's is asleep.
    let gone = "partyline_gateway_connections_closed_total{reason=\"idle_timeout\"}";
    tokio::select! {
        _ = bob.read() => panic!("nobody spoke"),
        () = until("ann to be given up", async || world.metric(&gateway, gone).await == 1.0) => {}
    }
    // What lies in her kernel: pings, and the close frame.
    let mut bytes = Vec::new();
    ann.socket.get_mut().read_to_end(&mut bytes).await.unwrap();
    let reason = br#"{"code":"idle_timeout"}"#;
    let close = [&[0x88, 2 + u8::try_from(reason.len()).unwrap()], &4_000_u16.to_be_bytes()[..], reason].concat();
    assert!(bytes.ends_with(&close), "{bytes:?}");
    bob.caught_up().await;
}

#[tokio::test]
async fn two_thousand_unfinished_handshakes_keep_nobody_out() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: most, maximum: most }).unwrap();
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_HANDSHAKE_SECONDS", "1").start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let begun = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: webso";
    let open = async |n: usize| {
        let mut stream = TcpStream::connect(gateway.http_addr()).await.unwrap();
        // Some say nothing at all.
        stream.write_all(&begun[..n % begun.len()]).await.unwrap();
        stream
    };
    let mut halves = Vec::new();
    for start in (0..2_000).step_by(100) {
        halves.extend(join_all((start..start + 100).map(open)).await);
    }
    let mut bob = world.person(&gateway, "bob").await;
    bob.join(&chat).await;
    ann.send(&chat, "still here").await;
    assert_eq!(bob.expect("new_message").await["content"], "still here");
    // Each is given up in its time.
    let ends = halves.iter_mut().map(|stream| async {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap_or(0)
    });
    tokio::time::timeout(Duration::from_secs(10), join_all(ends)).await.expect("unfinished handshakes stay open");
    ann.send(&chat, "and after").await;
    bob.expect("new_message").await;
}

/// Somebody with small buffers in the kernel, so that what isn't read soon waits in the gateway.
async fn slow(world: &World, gateway: &Process, user: &str) -> Person {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream = socket.connect(gateway.http_addr().parse().unwrap()).await.unwrap();
    let (socket, _) = client_async(handshake(gateway, &world.token(user)), stream).await.unwrap();
    Person::with(socket).await
}

#[tokio::test]
async fn who_never_reads_is_closed_and_nobody_waits_for_them() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_OUTBOUND_QUEUE_BYTES", "65536").start().await.unwrap();
    let chat = world.group(&gateway, &["ann", "bob", "eve"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    let mut eve = slow(&world, &gateway, "eve").await;
    bob.join(&chat).await;
    eve.join(&chat).await;
    let closed = "partyline_gateway_connections_closed_total{reason=\"too_slow\"}";
    let mut sent = Vec::new();
    while world.metric(&gateway, closed).await == 0.0 {
        assert!(sent.len() < 2_000, "eve is never closed");
        for _ in 0..20 {
            let mut big = message(&chat, &"\u{1F600}".repeat(1_000));
            big["metadata"] = json!({ "padding": "x".repeat(4_000) });
            let seq = ann.get("ack", big).await["seq"].clone();
            // Bob reads as he goes, or he would be slow himself.
            assert_eq!(bob.expect("new_message").await["seq"], seq);
            sent.push(seq);
        }
    }
    // She comes back with what she has, and lacks nothing.
    assert_eq!(eve.closed().await.code, 4008);
    let got = eve.held("new_message");
    assert!(got.iter().map(|it| &it["seq"]).eq(&sent[..got.len()]) && got.len() < sent.len());
    let last = got.last().map_or(0, |it| it["seq"].as_u64().unwrap());
    let mut eve = world.person(&gateway, "eve").await;
    let mut after = last;
    let mut rest = Vec::new();
    loop {
        let joined = eve.join_after(&chat, after).await;
        rest.extend(joined["events"].as_array().unwrap().iter().map(|it| it["seq"].clone()));
        after = joined["seq"].as_u64().unwrap();
        if joined["more"] == false {
            break;
        }
    }
    assert_eq!(rest, sent[sent.len() - rest.len()..]);
    assert_eq!(rest.first(), sent.iter().find(|seq| seq.as_u64() > Some(last)));
    until("the socket to be gone", async || {
        world.metric(&gateway, "partyline_gateway_connections{protocol=\"native\"}").await == 3.0
    })
    .await;
}

/// Whether a process holds the connection to a port of ours.
fn is_established(pid: u32, port: u16) -> bool {
    let inodes: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let peer = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        fields.len() > 9 && fields[2].ends_with(&peer) && inodes.contains(&format!("socket:[{}]", fields[9]))
    })
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_given_up() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_HANDSHAKE_SECONDS", "1").start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    for _ in 0..200 {
        let mut big = message(&chat, &"\u{1F600}".repeat(1_000));
        big["metadata"] = json!({ "padding": "x".repeat(4_000) });
        ann.get("ack", big).await;
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(gateway.http_addr().parse().unwrap()).await.unwrap();
    let request = format!(
        "GET {}?limit=200 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        messages_of(&chat),
        world.token("bob")
    );
    // An answer, and one or two more, may fit into the kernel's buffers.
    let asked = 20;
    stream.write_all(request.repeat(asked).as_bytes()).await.unwrap();
    stream.readable().await.unwrap();
    // Closed by the server, not by what is read here.
    let ours = stream.local_addr().unwrap().port();
    until("the connection to be given up", async || !is_established(gateway.pid(), ours)).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.starts_with(b"HTTP/1.1 200") && rest.len() < asked * 1_600_000, "{}", rest.len());
    ann.caught_up().await;
}
