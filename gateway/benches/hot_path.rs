//! What a gateway does for every frame, without the network between: `make bench`.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{
    hint::black_box,
    io::{ErrorKind, Read},
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partyline_gateway::{
    command::send::SendAck,
    encode::{self, Class, Frame},
    log::Entry,
    room::timeline::Timeline,
    session::{pipe::Pipe, wire::Native},
    trace, validate,
    ws::frame::Decoder,
};
use partyline_shared::{
    claims::UserType,
    event::{Event, Message, MessageType},
    ids::{ClientId, ConversationId, MessageId, UserId},
    timestamp::Timestamp,
    wire::{Command, Request},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

/// Sockets that a frame goes to.
const SOCKETS: usize = 1_000;
const CONTENT: &str =
    "Thank you! We could set up from ten, the garden would be best for the buffet. How many will come?";
const MAX_BYTES: usize = 20_480;

fn event() -> Event {
    Event::NewMessage(Message {
        conversation_id: ConversationId::generate(),
        message_id: MessageId::generate(),
        client_id: ClientId::generate(),
        sender_id: UserId::new("1041").unwrap(),
        sender_username: "Garden Catering".into(),
        sender_type: UserType::Vendor,
        content: CONTENT.into(),
        message_type: MessageType::Text,
        metadata: validate::metadata(None).unwrap(),
        reply_to: None,
        created_at: Timestamp::now(),
    })
}

fn entry() -> Entry {
    Entry { seq: 1_234_567, prev_seq: 1_234_560, payload: serde_json::to_vec(&event()).unwrap().into() }
}

/// What a client sends for a message.
fn send_message() -> String {
    let (conversation_id, client_id) = (ConversationId::generate(), ClientId::generate());
    json!({ "type": "send_message", "ref": "17", "conversation_id": conversation_id, "client_id": client_id,
            "content": CONTENT, "metadata": { "quote": { "total": 1840.5, "currency": "EUR" } } })
    .to_string()
}

fn encoding(c: &mut Criterion) {
    let entry = entry();
    c.bench_function("encode: event to frame", |b| b.iter(|| encode::event(black_box(&entry))));
    let ack = SendAck {
        conversation_id: ConversationId::generate(),
        client_id: ClientId::generate(),
        message_id: MessageId::generate(),
        seq: 1_234_567,
        created_at: Timestamp::now(),
        duplicate: false,
    };
    c.bench_function("encode: ack", |b| b.iter(|| encode::reply("ack", black_box(Some("17")), &ack)));
}

fn decoding(c: &mut Criterion) {
    let text = send_message();
    // A mask of zeros costs what any other does, and leaves the frame as it is for the next time.
    let mut wire = vec![0x81, 0x80 | 126];
    wire.extend_from_slice(&(text.len() as u16).to_be_bytes());
    wire.extend_from_slice(&[0; 4]);
    wire.extend_from_slice(text.as_bytes());
    let mut decoder = Decoder::default();
    c.bench_function("decode: frame to text", |b| {
        b.iter(|| {
            let (message, size) = decoder.next(black_box(&mut wire), MAX_BYTES).unwrap().unwrap();
            black_box(&message);
            size
        });
    });
    c.bench_function("decode: send_message, parse and validate", |b| {
        b.iter(|| {
            let Ok(Command::SendMessage(command)) = Request::parse(black_box(&text)).command else { unreachable!() };
            (validate::content(&command.content).unwrap(), validate::metadata(command.metadata).unwrap())
        });
    });
}

fn timeline(c: &mut Criterion) {
    let frame = encode::event(&entry());
    let full = || {
        let mut timeline = Timeline::new(0);
        (1..=128).for_each(|seq| timeline.push(seq * 2, frame.clone(), seq));
        timeline
    };
    let (mut live, mut seq) = (full(), 256);
    c.bench_function("timeline: place and push", |b| {
        b.iter(|| {
            black_box(live.place(seq + 2, seq));
            seq += 2;
            live.push(seq, frame.clone(), 128);
        });
    });
    let held = full();
    c.bench_function("timeline: find a gap", |b| b.iter(|| black_box(&held).place(260, 258)));
    // What a client that comes back gets of the ring.
    c.bench_function("timeline: merge 64 held events into a page", |b| {
        b.iter(|| {
            let mut page = Vec::with_capacity(32 * 1_024);
            for (_, frame) in black_box(&held).after(128).unwrap() {
                page.extend_from_slice(frame.text());
            }
            page
        });
    });
}

/// Sockets of this process's own, both ends.
struct Crowd {
    pipes: Vec<Pipe<Native>>,
    clients: Vec<std::net::TcpStream>,
    _runtime: tokio::runtime::Runtime,
}

impl Crowd {
    fn gather() -> Self {
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (mut pipes, mut clients) = (Vec::new(), Vec::new());
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            for _ in 0..SOCKETS {
                let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                client.set_nonblocking(true).unwrap();
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                stream.writable().await.unwrap();
                pipes.push(Pipe::new(Native(stream), 1_048_576));
                clients.push(client);
            }
        });
        Self { pipes, clients, _runtime: runtime }
    }

    /// Times writing alone; what was written is read in between, so that no socket is ever full.
    fn time(&mut self, times: u64, write: impl Fn(&Pipe<Native>)) -> Duration {
        let mut buffer = vec![0; 64 * 1_024];
        let mut took = Duration::ZERO;
        for _ in 0..times {
            let began = Instant::now();
            self.pipes.iter().for_each(&write);
            took += began.elapsed();
            for client in &mut self.clients {
                match client.read(&mut buffer) {
                    Ok(read) => assert!(read > 0, "a pipe was closed"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        }
        assert!(self.pipes.iter().all(|pipe| pipe.waiting().is_none()), "a socket was full");
        took
    }
}

fn fan_out(c: &mut Criterion) {
    let mut crowd = Crowd::gather();
    let frame = encode::event(&entry());
    let ping = Frame::json(b"{}", Class::Ephemeral);
    let mut group = c.benchmark_group("fan-out");
    group.throughput(Throughput::Elements(SOCKETS as u64)).sample_size(20).measurement_time(Duration::from_secs(10));
    group.bench_function("one event to 1,000 sockets", |b| {
        b.iter_custom(|times| crowd.time(times, |pipe| pipe.send_all(std::slice::from_ref(&frame))));
    });
    group.bench_function("two frames to 1,000 sockets, in one call each", |b| {
        let frames = [frame.clone(), ping.clone()];
        b.iter_custom(|times| crowd.time(times, |pipe| pipe.send_all(&frames)));
    });
    // What the kernel takes of it.
    group.bench_function("the same bytes to 1,000 sockets by a bare write", |b| {
        b.iter_custom(|times| {
            crowd.time(times, |pipe| {
                pipe.wire().0.try_write(frame.wire()).unwrap();
            })
        });
    });
    group.finish();
}

/// What an append pays for traces while there is no collector.
fn tracing_off(c: &mut Criterion) {
    let event = event();
    c.bench_function("trace: an append's span, traces off", |b| {
        b.iter(|| trace::publish(0, black_box(&event), 400).is_some())
    });
}

criterion_group!(benches, encoding, decoding, timeline, tracing_off, fan_out);
criterion_main!(benches);
