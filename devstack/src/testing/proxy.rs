//! A TCP proxy that fails on demand, to put in front of Postgres or NATS.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections stand, nothing passes.
    Paused,
    /// Connections are closed, new ones at once.
    Cut,
}

/// The proxy; dropped, all its connections close.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    /// How often connections were stranded.
    stranded: watch::Sender<u64>,
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback and connects to `target` (`host:port`, or a URL with such a part).
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(target: &str) -> io::Result<Self> {
        let target = authority(target).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (mode, watched) = watch::channel(Mode::Open);
        let (stranded, generation) = watch::channel(0);
        let sent = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(listener, target, watched, generation, sent.clone()));
        Ok(Self { addr, mode, stranded, sent, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL, through the proxy.
    #[must_use]
    pub fn through(&self, url: &str) -> String {
        url.replacen(authority(url), &self.addr.to_string(), 1)
    }

    /// Returns how often clients have sent something so far. A client that waits for each answer sends once a round trip.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Lets nothing pass: the other side seems to hang.
    pub fn pause(&self) {
        self.mode.send_replace(Mode::Paused);
    }

    /// Closes every connection, and each new one at once: the other side seems to be gone.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Lets nothing pass on the connections that stand, ever again: their peer is dead and nobody has told. New ones pass.
    pub fn strand(&self) {
        self.stranded.send_modify(|generation| *generation += 1);
    }

    /// All is well again; what was held passes, but on stranded connections.
    pub fn resume(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `host:port` of a URL, or the text itself.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host)
}

async fn accept(
    listener: TcpListener,
    target: String,
    mode: watch::Receiver<Mode>,
    stranded: watch::Receiver<u64>,
    sent: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                if *mode.borrow() != Mode::Cut {
                    connections.spawn(carry(client, target.clone(), mode.clone(), stranded.clone(), sent.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(
    client: TcpStream,
    target: String,
    mode: watch::Receiver<Mode>,
    stranded: watch::Receiver<u64>,
    sent: Arc<AtomicU64>,
) {
    let mut cut = mode.clone();
    let generation = *stranded.borrow();
    let carried = async {
        let mut open = mode.clone();
        open.wait_for(|mode| *mode == Mode::Open).await.ok()?;
        let server = TcpStream::connect(target).await.ok()?;
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let (client_in, client_out) = client.into_split();
        let (server_in, server_out) = server.into_split();
        let is_stranded = || *stranded.borrow() != generation;
        tokio::join!(
            copy(client_in, server_out, mode.clone(), is_stranded, || {
                sent.fetch_add(1, Ordering::Relaxed);
            }),
            copy(server_in, client_out, mode, is_stranded, || {}),
        );
        Some(())
    };
    tokio::select! {
        _ = carried => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// Copies until the end of one side, then tells the other; holds what it read while paused, and for good once stranded.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    is_stranded: impl Fn() -> bool,
    read: impl Fn(),
) {
    let mut buffer = vec![0; 16 * 1_024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        read();
        if mode.wait_for(|mode| *mode == Mode::Open).await.is_err() {
            return;
        }
        if is_stranded() {
            return std::future::pending().await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        addr
    }

    #[tokio::test]
    async fn passes_holds_and_cuts() {
        let proxy = Proxy::start(&echo().await.to_string()).await.unwrap();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        let mut got = [0; 2];
        stream.write_all(b"ab").await.unwrap();
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ab");

        proxy.pause();
        stream.write_all(b"cd").await.unwrap();
        assert!(timeout(Duration::from_millis(100), stream.read_exact(&mut got)).await.is_err());
        proxy.resume();
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"cd");

        proxy.strand();
        let mut other = TcpStream::connect(proxy.addr()).await.unwrap();
        stream.write_all(b"gh").await.unwrap();
        other.write_all(b"ij").await.unwrap();
        other.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ij");
        assert!(timeout(Duration::from_millis(100), stream.read_exact(&mut got)).await.is_err());

        proxy.cut();
        assert_eq!(stream.read(&mut got).await.unwrap_or(0), 0);
        proxy.resume();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        stream.write_all(b"ef").await.unwrap();
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ef");
    }

    #[tokio::test]
    async fn puts_itself_into_urls() {
        let proxy = Proxy::start("postgres://u:p@127.0.0.1:5432/db").await.unwrap();
        let addr = proxy.addr();
        assert_eq!(proxy.through("postgres://u:p@127.0.0.1:5432/db"), format!("postgres://u:p@{addr}/db"));
        assert_eq!(proxy.through("nats://127.0.0.1:4222"), format!("nats://{addr}"));
    }
}
