//! A proxy before the real Postgres: statements pass, answers wait for the plan.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

use crate::gate::{Gate, Lane, SharedGate};

/// Starts a proxy to `upstream`.
///
/// # Returns
/// Its port.
pub(crate) async fn start(upstream: String, gate: SharedGate) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = AtomicU64::new(0);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Its start is an answer that is waited for, too.
            gate.asked(1);
            let number = connections.fetch_add(1, Ordering::Relaxed);
            client.set_nodelay(true).unwrap();
            let (upstream, gate) = (upstream.clone(), gate.clone());
            tokio::spawn(async move {
                let server = TcpStream::connect(upstream).await.unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (out, written) = mpsc::unbounded_channel();
                let open = Arc::new(AtomicU64::new(1));
                tokio::spawn(write(to_client, written, gate.clone()));
                tokio::spawn(statements(from_client, to_server, gate.clone(), open.clone()));
                answers(from_server, &out, &gate, Lane::Postgres(number), &open).await;
                gate.asked(-i64::try_from(open.swap(0, Ordering::Relaxed)).unwrap());
            });
        }
    });
    port
}

/// Writes what was released.
pub(crate) async fn write(mut to: OwnedWriteHalf, mut written: mpsc::UnboundedReceiver<Bytes>, gate: SharedGate) {
    while let Some(bytes) = written.recv().await {
        gate.stir();
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Passes statements on, and counts them: each ends with a Sync or is a Query.
async fn statements(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, gate: Arc<Gate>, open: Arc<AtomicU64>) {
    let mut buffer = BytesMut::new();
    // The first message has a length, but no type.
    let mut head = 0;
    while from.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        gate.stir();
        let mut whole = 0;
        let mut count: u32 = 0;
        while let Some(length) = message(&buffer[whole..], head) {
            if head == 1 && matches!(buffer[whole], b'S' | b'Q') {
                count += 1;
            }
            whole += length;
            head = 1;
        }
        open.fetch_add(u64::from(count), Ordering::Relaxed);
        gate.asked(i64::from(count));
        if whole > 0 && to.write_all(&buffer.split_to(whole)).await.is_err() {
            return;
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    out: &mpsc::UnboundedSender<Bytes>,
    gate: &Gate,
    lane: Lane,
    open: &AtomicU64,
) {
    let mut buffer = BytesMut::new();
    let mut answer = BytesMut::new();
    let mut started = false;
    while from.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        gate.stir();
        while let Some(length) = message(&buffer, 1) {
            let is_ready = buffer[0] == b'Z';
            answer.extend_from_slice(&buffer[..length]);
            buffer.advance(length);
            if is_ready {
                open.fetch_sub(1, Ordering::Relaxed);
                gate.asked(-1);
                let answer = answer.split().freeze();
                if started {
                    gate.pass(lane, out, answer);
                } else {
                    let _ = out.send(answer);
                }
                started = true;
            }
        }
        // Authentication is a conversation of its own.
        if !started && !answer.is_empty() {
            let _ = out.send(answer.split().freeze());
        }
    }
}

/// The length of the first message, if it is whole.
fn message(bytes: &[u8], head: usize) -> Option<usize> {
    let length = u32::from_be_bytes(bytes.get(head..head + 4)?.try_into().ok()?) as usize + head;
    (bytes.len() >= length).then_some(length)
}
