use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use super::*;
use crate::client::{encode_bare, open_tcp};

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Text(Vec<u8>),
    Ended(Ended),
}

struct Ear(mpsc::UnboundedSender<Heard>);

impl Listener for Ear {
    fn text(&mut self, _: &Arc<Conn>, json: &[u8], _: usize, _: u64) {
        self.0.send(Heard::Text(json.to_vec())).unwrap();
    }
    fn ended(&mut self, why: &Ended) {
        self.0.send(Heard::Ended(why.clone())).unwrap();
    }
}

async fn pair(early: Vec<u8>) -> (Arc<Conn>, TcpStream, mpsc::UnboundedReceiver<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = open_tcp(listener.local_addr().unwrap(), None).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let (tell, heard) = mpsc::unbounded_channel();
    (start(Opened { stream, early, socketio: None }, Ear(tell)), server, heard)
}

#[tokio::test]
async fn frames_arrive_whole_however_they_are_cut() {
    let payloads: Vec<Vec<u8>> = [5, 200, 70_000, 0, 300_000].map(|size| vec![b'x'; size]).into();
    let mut wire = Vec::new();
    payloads.iter().for_each(|payload| encode_bare(payload, &mut wire));
    let early = wire[..3].to_vec();
    let (_conn, mut server, mut heard) = pair(early).await;
    for piece in wire[3..].chunks(7_001) {
        server.write_all(piece).await.unwrap();
    }
    for payload in payloads {
        assert_eq!(heard.recv().await, Some(Heard::Text(payload)));
    }
    server.write_all(&[0x88, 0x02, 0x0F, 0xA8]).await.unwrap();
    assert_eq!(heard.recv().await, Some(Heard::Ended(Ended::ByServer(4008))));
}

#[tokio::test]
async fn pings_are_answered_and_goodbyes_are_ours() {
    let (conn, mut server, mut heard) = pair(Vec::new()).await;
    server.write_all(&[0x89, 0x01, 7]).await.unwrap();
    let mut pong = [0; 7];
    server.read_exact(&mut pong).await.unwrap();
    assert_eq!((pong[0], pong[1], pong[6] ^ pong[2]), (0x8A, 0x81, 7));
    conn.close();
    assert!(conn.send(b"{}").is_err());
    drop(server);
    assert_eq!(heard.recv().await, Some(Heard::Ended(Ended::ByUs)));
}

#[tokio::test]
async fn a_cut_socket_is_gone_without_a_word() {
    let (conn, mut server, mut heard) = pair(Vec::new()).await;
    conn.cut();
    assert_eq!(heard.recv().await, Some(Heard::Ended(Ended::ByUs)));
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(conn.send(b"{}").is_err());
}

#[tokio::test]
async fn what_the_kernel_does_not_take_at_once_follows() {
    let (conn, mut server, _heard) = pair(Vec::new()).await;
    let payload = vec![b'y'; 100_000];
    for _ in 0..100 {
        conn.send(&payload).unwrap();
    }
    assert!(!conn.waiting.lock().is_empty(), "the kernel takes more than a test should send");
    // Head, length and mask of a frame.
    let mut read = vec![0; 100 * (payload.len() + 14)];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(read[..2], [0x81, 0xFF]);
    assert!(conn.waiting.lock().is_empty());
}
