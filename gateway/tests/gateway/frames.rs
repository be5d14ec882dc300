//! Clients that break the WebSocket protocol, its limits, or their promise to read.

use std::time::Duration;

use devstack::testing::Process;
use futures_util::{SinkExt, future::join_all};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::{
    person::{Person, handshake},
    support::{World, message, messages_of, until},
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
    let half = vec![b' '; 10_000];
    let endless: Vec<u8> =
        std::iter::once(frame(0x01, b"{")).chain((0..20_000).map(|_| frame(0x00, b" "))).flatten().collect();
    let broken = [
        ("binary_frame", frame(0x82, b"{}")),
        ("unmasked_frame", b"\x81\x02{}".to_vec()),
        ("reserved_bits", frame(0xC1, b"{}")),
        ("reserved_bits", frame(0x91, b"{}")),
        ("unknown_opcode", frame(0x83, b"{}")),
        ("unknown_opcode", control(0x8B, b"{}")),
        ("frame_too_large", [&[0x81, 0x80 | 126], &16_385_u16.to_be_bytes()[..], &[0; 4]].concat()),
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
        frame(0x81, format!("{:16384}", r#"{"type":"nothing","ref":"2"}"#).as_bytes()),
    ];
    for part in bytes.concat().chunks(1_000) {
        ann.socket.get_mut().write_all(part).await.unwrap();
    }
    for reference in ["1", "2"] {
        let error = ann.expect("error").await;
        assert_eq!((&error["ref"], &error["code"]), (&json!(reference), &json!("unknown_type")));
    }
}

#[tokio::test]
async fn too_many_frames_end_the_one_socket() {
    let world = World::new().await;
    let gateway = world.env.gateway().unwrap().start().await.unwrap();
    let mut ann = world.person(&gateway, "ann").await;
    let mut hasty = world.person(&gateway, "ann").await;
    for _ in 0..60 {
        // Of any kind: pings cost as much.
        let _ = hasty.socket.feed(Message::Ping("x".into())).await;
    }
    let _ = hasty.socket.flush().await;
    let closed = hasty.closed().await;
    assert_eq!((closed.code, &closed.reason["code"]), (4029, &json!("too_many_frames")));
    assert!(closed.reason["retry_after_ms"].as_u64().unwrap() > 0);
    ann.caught_up().await;
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
            sent.push(ann.get("ack", big).await["seq"].clone());
        }
    }
    for seq in &sent {
        assert_eq!(&bob.expect("new_message").await["seq"], seq);
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
