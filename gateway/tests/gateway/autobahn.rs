//! The cases of the Autobahn test suite (sections 1 to 7) against `/ws`: raw frames of RFC 6455, and what the server
//! must answer. Where the suite expects an echo, an unknown command is sent, whose refusal repeats its `ref`. Binary
//! messages and reserved bits are refused, as docs/protocol.md says. Sections 9 (performance) and 12, 13 (compression,
//! which the server never offers) do not apply.

use devstack::testing::Process;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    person::Person,
    support::{PATIENCE, World},
};

const FIN: u8 = 0x80;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// A client's frame with a mask that changes every byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        long @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(long).unwrap().to_be_bytes());
        }
        longest => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&u64::try_from(longest).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// A command that is answered with its `ref`.
fn command(reference: &str) -> String {
    json!({ "type": "nothing", "ref": reference }).to_string()
}

/// What the server sends.
#[derive(Debug, PartialEq)]
enum Got {
    /// The refusal of a command with this `ref`.
    Echo(String),
    Pong(Vec<u8>),
    /// The code, and the rest of the payload.
    Close(u16, Vec<u8>),
}

fn echo(reference: &str) -> Got {
    Got::Echo(reference.to_owned())
}

fn violation(code: &str) -> Got {
    Got::Close(4500, json!({ "code": code }).to_string().into_bytes())
}

/// A connection whose bytes are read as they are.
struct Raw {
    person: Person,
    bytes: Vec<u8>,
}

impl Raw {
    async fn connect(world: &World, gateway: &Process) -> Self {
        Self { person: world.person(gateway, "ann").await, bytes: Vec::new() }
    }

    async fn write(&mut self, bytes: &[u8]) {
        // The server may have closed before it has read all.
        let _ = self.person.socket.get_mut().write_all(bytes).await;
    }

    /// Writes byte by byte, as the suite's "octet-wise" cases do.
    async fn chop(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write(&[*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// The next frame that is an answer to a case.
    async fn next(&mut self) -> Got {
        loop {
            let (first, payload) = self.frame().await;
            match first {
                0x81 => {
                    let json: Value = serde_json::from_slice(&payload).unwrap();
                    if json["type"] == "error" {
                        return Got::Echo(json["ref"].as_str().unwrap_or_default().to_owned());
                    }
                }
                0x88 if payload.is_empty() => return Got::Close(0, Vec::new()),
                0x88 => return Got::Close(u16::from_be_bytes([payload[0], payload[1]]), payload[2..].to_vec()),
                0x8A => return Got::Pong(payload),
                0x89 => {}
                other => panic!("the server sent a frame that begins with {other:#x}"),
            }
        }
    }

    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let head = self.read(2).await;
        assert_eq!(head[1] & 0x80, 0, "a server's frame is not masked");
        let length = match head[1] {
            126 => usize::from(u16::from_be_bytes(self.read(2).await.try_into().unwrap())),
            127 => usize::try_from(u64::from_be_bytes(self.read(8).await.try_into().unwrap())).unwrap(),
            short => usize::from(short),
        };
        (head[0], self.read(length).await)
    }

    async fn read(&mut self, count: usize) -> Vec<u8> {
        while self.bytes.len() < count {
            let stream = self.person.socket.get_mut();
            let read = timeout(PATIENCE, stream.read_buf(&mut self.bytes)).await.expect("no answer").unwrap();
            assert!(read > 0, "the connection ended without a close frame");
        }
        self.bytes.drain(..count).collect()
    }

    /// The server ends the connection, once the client's close frame is there or was answered.
    async fn ended(mut self) {
        let stream = self.person.socket.get_mut();
        let mut rest = Vec::new();
        stream.shutdown().await.unwrap();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection stays open");
        assert!(rest.is_empty() && self.bytes.is_empty(), "something came after the close frame");
    }
}

struct Case {
    /// The suite's number.
    name: String,
    bytes: Vec<u8>,
    answers: Vec<Got>,
}

fn case(name: impl ToString, bytes: impl Into<Vec<u8>>, answers: impl Into<Vec<Got>>) -> Case {
    Case { name: name.to_string(), bytes: bytes.into(), answers: answers.into() }
}

fn framing(cases: &mut Vec<Case>) {
    for (number, size) in [0, 1, 50, 128].into_iter().enumerate() {
        let text = "*".repeat(size);
        cases.push(case(format!("1.1.{}", number + 1), frame(FIN | TEXT, command(&text).as_bytes()), [echo(&text)]));
    }
    // Of each of the three forms of a length.
    for (number, size) in [125, 126, 127, 128, 16_000].into_iter().enumerate() {
        let padded = format!("{:size$}", command("padded"));
        cases.push(case(format!("1.1.{}", number + 5), frame(FIN | TEXT, padded.as_bytes()), [echo("padded")]));
    }
    for (number, size) in [0, 125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
        // The head alone says that it is binary, or too large.
        let code = if size > 20_000 { "frame_too_large" } else { "binary_frame" };
        cases.push(case(format!("1.2.{}", number + 1), frame(FIN | BINARY, &vec![0xfe; size]), [violation(code)]));
    }
}

fn pings(cases: &mut Vec<Case>) {
    for (number, payload) in
        [&b""[..], b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", &[0xfe; 125]].into_iter().enumerate()
    {
        cases.push(case(format!("2.{}", number + 1), frame(FIN | PING, payload), [Got::Pong(payload.to_vec())]));
    }
    cases.push(case("2.5", frame(FIN | PING, &[0xfe; 126]), [violation("bad_control_frame")]));
    cases.push(case("2.7", [frame(FIN | PONG, b""), frame(FIN | TEXT, command("x").as_bytes())].concat(), [echo("x")]));
    let unsolicited = [frame(FIN | PONG, b"unsolicited"), frame(FIN | PING, b"ping")].concat();
    cases.push(case("2.9", unsolicited, [Got::Pong(b"ping".to_vec())]));
    let many: Vec<_> = (0..10).map(|number| format!("payload-{number}")).collect();
    let bytes: Vec<_> = many.iter().flat_map(|payload| frame(FIN | PING, payload.as_bytes())).collect();
    let answers: Vec<_> = many.into_iter().map(|payload| Got::Pong(payload.into_bytes())).collect();
    cases.push(case("2.10", bytes, answers));
}

fn reserved(cases: &mut Vec<Case>) {
    for bits in 1..8_u8 {
        let first = FIN | bits << 4;
        for (opcode, payload) in [(TEXT, command("x").into_bytes()), (PING, b"x".to_vec()), (CLOSE, Vec::new())] {
            cases.push(case(format!("3.{bits}"), frame(first | opcode, &payload), [violation("reserved_bits")]));
        }
    }
    for (section, opcodes) in [(1, 0x3..0x8), (2, 0xB..0x10)] {
        for opcode in opcodes {
            let name = format!("4.{section}, opcode {opcode:#x}");
            cases.push(case(name, frame(FIN | opcode, b""), [violation("unknown_opcode")]));
        }
    }
}

fn fragments(cases: &mut Vec<Case>) {
    let text = command("fragmented");
    let (one, two) = text.as_bytes().split_at(11);
    let (first, last) = (frame(TEXT, one), frame(FIN, two));
    let (middle, rest) = (frame(0, &two[..4]), frame(FIN, &two[4..]));
    let ping = frame(FIN | PING, b"between");
    let pong = || Got::Pong(b"between".to_vec());
    let whole = frame(FIN | TEXT, command("whole").as_bytes());
    cases.push(case("5.1", [frame(PING, b"one"), frame(FIN, b"two")].concat(), [violation("bad_control_frame")]));
    cases.push(case("5.2", [frame(PONG, b"one"), frame(FIN, b"two")].concat(), [violation("bad_control_frame")]));
    cases.push(case("5.3", [first.clone(), last.clone()].concat(), [echo("fragmented")]));
    cases.push(case("5.6", [first.clone(), ping.clone(), last].concat(), [pong(), echo("fragmented")]));
    let twice = [first.clone(), ping.clone(), middle, ping, rest].concat();
    cases.push(case("5.19", twice, [pong(), pong(), echo("fragmented")]));
    let without_start = "continuation_without_start";
    cases.push(case("5.9", [frame(FIN, two), whole.clone()].concat(), [violation(without_start)]));
    cases.push(case("5.12", [frame(0, two), whole.clone()].concat(), [violation(without_start)]));
    cases.push(case("5.16", frame(0, b"x"), [violation(without_start)]));
    cases.push(case("5.18", [first, whole].concat(), [violation("unfinished_fragments")]));
}

fn utf8(cases: &mut Vec<Case>) {
    let valid = [
        "Hello-µ@ßöäüàá-UTF-8!!",
        "κόσμε",
        "\u{7f}",
        "\u{7ff}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "\u{fffe}",
    ];
    for (number, text) in valid.into_iter().enumerate() {
        let bytes = command(text).into_bytes();
        cases.push(case(format!("6.2, {number}"), frame(FIN | TEXT, &bytes), [echo(text)]));
        // Cut within every character.
        for cut in 1..bytes.len() {
            let (one, two) = bytes.split_at(cut);
            if std::str::from_utf8(one).is_err() {
                cases.push(case(
                    format!("6.2, {number} at {cut}"),
                    [frame(TEXT, one), frame(FIN, two)].concat(),
                    [echo(text)],
                ));
            }
        }
    }
    let invalid: [&[u8]; 17] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80",
        b"\xc0 \xc1 ",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xc3",
        b"\xe0\xa4",
        b"\xf0\x9f\x98",
        b"\xfe",
        b"\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xbf\xbf",
    ];
    for bytes in invalid {
        let name = format!("6.3, {bytes:02x?}");
        cases.push(case(&name, frame(FIN | TEXT, bytes), [violation("invalid_utf8")]));
        let (one, two) = bytes.split_at(bytes.len() / 2);
        cases.push(case(name, [frame(TEXT, one), frame(FIN, two)].concat(), [violation("invalid_utf8")]));
    }
}

fn closing(cases: &mut Vec<Case>) {
    let text = frame(FIN | TEXT, command("late").as_bytes());
    cases.push(case("7.1.1", [text.clone(), close(1000, b"")].concat(), [echo("late"), Got::Close(1000, Vec::new())]));
    cases.push(case("7.1.2", [close(1000, b""), close(1000, b"")].concat(), [Got::Close(1000, Vec::new())]));
    cases.push(case("7.1.3", [close(1000, b""), frame(FIN | PING, b"x")].concat(), [Got::Close(1000, Vec::new())]));
    cases.push(case("7.1.4", [close(1000, b""), text].concat(), [Got::Close(1000, Vec::new())]));
    let unfinished = [frame(TEXT, b"{"), close(1000, b""), frame(FIN, b"}")].concat();
    cases.push(case("7.1.5", unfinished, [Got::Close(1000, Vec::new())]));
    cases.push(case("7.3.1", frame(FIN | CLOSE, b""), [Got::Close(0, Vec::new())]));
    cases.push(case("7.3.2", frame(FIN | CLOSE, b"\x03"), [violation("bad_close_frame")]));
    cases.push(case("7.3.4", close(1000, b"Hello World!"), [Got::Close(1000, Vec::new())]));
    cases.push(case("7.3.5", close(1000, &[b'*'; 123]), [Got::Close(1000, Vec::new())]));
    cases.push(case("7.3.6", close(1000, &[b'*'; 124]), [violation("bad_control_frame")]));
    cases.push(case("7.5.1", close(1000, b"\xce\xba\xed\xa0\x80"), [violation("invalid_utf8")]));
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(case(format!("7.7, {code}"), close(code, b""), [Got::Close(code, Vec::new())]));
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(case(format!("7.9, {code}"), close(code, b""), [violation("bad_close_frame")]));
    }
}

#[tokio::test]
async fn autobahn_cases_are_answered_as_rfc_6455_says() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_CONNECTIONS_PER_USER", "0").start().await.unwrap();
    let mut cases = Vec::new();
    for section in [framing, pings, reserved, fragments, utf8, closing] {
        section(&mut cases);
    }
    assert!(cases.len() > 150, "{}", cases.len());
    for case in &cases {
        for octet_wise in [false, true] {
            // What is long arrives in many pieces anyway.
            if octet_wise && case.bytes.len() > 400 {
                continue;
            }
            let mut raw = Raw::connect(&world, &gateway).await;
            if octet_wise {
                raw.chop(&case.bytes).await
            } else {
                raw.write(&case.bytes).await
            }
            for expected in &case.answers {
                let got = raw.next().await;
                assert_eq!(&got, expected, "case {}, octet-wise: {octet_wise}", case.name);
            }
            if matches!(case.answers.last(), Some(Got::Close(..))) {
                raw.ended().await;
            }
        }
    }
    // 5.15: what came before the violation is answered, if there was time for it.
    let mut raw = Raw::connect(&world, &gateway).await;
    let text = command("fragmented");
    let (one, two) = text.as_bytes().split_at(11);
    raw.write(&[frame(TEXT, one), frame(FIN, two)].concat()).await;
    assert_eq!(raw.next().await, echo("fragmented"));
    raw.write(&frame(0, b"x")).await;
    assert_eq!(raw.next().await, violation("continuation_without_start"));
    raw.ended().await;
}
