//! A connection's socket, lent to hyper and had back while a request waits for packets: hyper's buffers are most of what
//! an idle polling client would take. The bytes of that request are kept; when there is an answer, hyper reads them
//! again. So all of HTTP stays hyper's.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::socketio::polling::Place;

/// How the requests begin that may wait.
const START: &[u8] = b"GET /socket.io";
/// The longest that is kept, in bytes; a longer one waits in hyper.
const LONGEST: usize = 8 * 1_024;

/// The request under way was set aside; not an error that anybody sees.
#[derive(Debug, thiserror::Error)]
#[error("the request waits elsewhere")]
pub struct SetAside;

/// What a connection's lender and its request share.
#[derive(Debug)]
pub struct Desk<P = Place>(Mutex<State<P>>);

impl<P> Default for Desk<P> {
    fn default() -> Self {
        Self(Mutex::new(State {
            phase: ReadPhase::default(),
            read: Vec::new(),
            keeping: Keeping::default(),
            waiting: None,
            stream: None,
            resumed: None,
        }))
    }
}

#[derive(Debug)]
struct State<P> {
    phase: ReadPhase,
    /// What was read since the last answer, if that may be worth it.
    read: Vec<u8>,
    keeping: Keeping,
    waiting: Option<P>,
    stream: Option<TcpStream>,
    /// The place of the request that is read again.
    resumed: Option<P>,
}

/// What the connection waits for, which decides how long it may wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReadPhase {
    /// The rest of a request's head, or the first one's beginning.
    #[default]
    Head,
    /// The handler. A body has a limit of its own, where it is read.
    Answering,
    /// The next request, of which nothing was read yet.
    Idle,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Keeping {
    /// Nothing was read since the last answer.
    #[default]
    Unknown,
    Yes,
    No,
}

/// What was set aside.
#[derive(Debug)]
pub struct Waiting<P = Place> {
    pub place: P,
    pub stream: TcpStream,
    /// The request, to be read again.
    pub request: Vec<u8>,
}

impl<P> Desk<P> {
    /// Sets the request of this target aside, if all of it is here. Then it must fail with [`SetAside`].
    ///
    /// # Errors
    /// Gives the place back if the request must wait where it is.
    pub fn set_aside(&self, target: &str, place: P) -> Result<(), P> {
        let mut state = self.0.lock();
        let is_whole = state.keeping == Keeping::Yes
            && state.read.strip_prefix(b"GET ").and_then(|rest| rest.strip_prefix(target.as_bytes())).is_some();
        if !is_whole {
            return Err(place);
        }
        state.waiting = Some(place);
        Ok(())
    }

    /// What was set aside, once hyper has let go of the socket.
    pub fn take(&self) -> Option<Waiting<P>> {
        let mut state = self.0.lock();
        let (place, stream) = (state.waiting.take()?, state.stream.take()?);
        Some(Waiting { place, stream, request: std::mem::take(&mut state.read) })
    }

    /// The request that was set aside is read again, and keeps its place.
    pub fn resume(&self, place: P) {
        self.0.lock().resumed = Some(place);
    }

    /// The place of the request under way, if it was set aside before.
    pub fn resumed(&self) -> Option<P> {
        self.0.lock().resumed.take()
    }

    fn note(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        if state.phase == ReadPhase::Idle && !bytes.is_empty() {
            state.phase = ReadPhase::Head;
        }
        if state.keeping == Keeping::Unknown && !bytes.is_empty() {
            state.keeping = if bytes.starts_with(START) { Keeping::Yes } else { Keeping::No };
        }
        if state.keeping == Keeping::Yes {
            if state.read.len() + bytes.len() > LONGEST {
                state.keeping = Keeping::No;
                state.read = Vec::new();
            } else {
                state.read.extend_from_slice(bytes);
            }
        }
    }

    /// The head of a request was read.
    pub(super) fn request_started(&self) {
        self.0.lock().phase = ReadPhase::Answering;
    }

    /// The answer to a request is about to be written.
    pub(super) fn response_ready(&self) {
        self.0.lock().phase = ReadPhase::Idle;
    }

    fn phase(&self) -> ReadPhase {
        self.0.lock().phase
    }

    /// The request under way waits where it is.
    pub fn stay(&self) {
        self.0.lock().keeping = Keeping::No;
    }

    fn answered(&self) {
        let mut state = self.0.lock();
        state.read = Vec::new();
        state.keeping = Keeping::Unknown;
    }
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the head of a request, from its first byte on; and to take anything of an answer, which waits in memory.
    pub request: Duration,
    /// Between an answer and the next request.
    pub keep_alive: Duration,
}

/// The socket, as hyper has it.
#[derive(Debug)]
pub struct Lent<P = Place> {
    stream: Option<TcpStream>,
    /// To be read before anything else.
    again: io::Cursor<Vec<u8>>,
    desk: Arc<Desk<P>>,
    timeouts: Timeouts,
    /// When the client has taken nothing of an answer for too long; none while it takes what comes.
    stalled: Option<Pin<Box<Sleep>>>,
    /// When the read under way times out, and the phase that this holds for.
    read_deadline: Option<(ReadPhase, Pin<Box<Sleep>>)>,
}

impl<P> Lent<P> {
    #[must_use]
    pub fn new(stream: TcpStream, again: Vec<u8>, desk: Arc<Desk<P>>, timeouts: Timeouts) -> Self {
        Self { stream: Some(stream), again: io::Cursor::new(again), desk, timeouts, stalled: None, read_deadline: None }
    }

    /// The socket for good; nothing was read of it that hyper doesn't have.
    #[must_use]
    pub fn into_stream(mut self) -> Option<TcpStream> {
        self.stream.take()
    }

    /// Passes on what a write came to; one that waits too long fails.
    fn in_time(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            // The time for the next request begins at the answer's end.
            self.read_deadline = None;
            return written;
        }
        let patience = self.timeouts.request;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Times out a pending read: as the end of the stream between two requests, as an error within one.
    fn enforce_read_timeout(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.desk.phase();
        let limit = match phase {
            ReadPhase::Answering => {
                self.read_deadline = None;
                return Poll::Pending;
            }
            ReadPhase::Head => self.timeouts.request,
            ReadPhase::Idle => self.timeouts.keep_alive,
        };
        if self.read_deadline.as_ref().is_none_or(|(armed_in, _)| *armed_in != phase) {
            self.read_deadline = Some((phase, Box::pin(sleep(limit))));
        }
        if let Some((_, deadline)) = &mut self.read_deadline {
            ready!(deadline.as_mut().poll(cx));
        }
        Poll::Ready(if phase == ReadPhase::Idle { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) })
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<P> Drop for Lent<P> {
    fn drop(&mut self) {
        let mut state = self.desk.0.lock();
        if state.waiting.is_some() {
            state.stream = self.stream.take();
        }
    }
}

impl<P> AsyncRead for Lent<P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let left = self.again.get_ref().len() - self.again.position() as usize;
        if left > 0 {
            ready!(Pin::new(&mut self.again).poll_read(cx, buf))?;
            if left == buf.filled().len() - before {
                self.again = io::Cursor::default();
            }
        } else {
            match self.stream()?.poll_read(cx, buf) {
                Poll::Pending => return self.enforce_read_timeout(cx),
                Poll::Ready(read) => read?,
            }
        }
        self.desk.note(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<P> AsyncWrite for Lent<P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.desk.answered();
        let written = self.stream()?.poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.desk.answered();
        let written = self.stream()?.poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { request: Duration::from_secs(60), keep_alive: Duration::from_secs(60) };

    /// Reads `count` bytes as hyper does, in reads of these sizes, again and again.
    async fn read(lent: &mut Lent<u32>, count: usize, sizes: &mut impl Iterator<Item = usize>) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let mut part = vec![0; sizes.next().unwrap().min(count - bytes.len())];
            let length = lent.read(&mut part).await.unwrap();
            assert!(length > 0);
            bytes.extend_from_slice(&part[..length]);
        }
        bytes
    }

    /// A request is read and set aside, then read again, several times; then it is answered, and another one follows on
    /// the connection, of which `early` bytes were sent before the answer.
    ///
    /// # Returns
    /// Whether the first request could be set aside.
    async fn parks(requests: [Vec<u8>; 2], targets: [String; 2], early: usize, sizes: Vec<usize>, times: u32) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sizes = sizes.into_iter().cycle();
        let [first, second] = requests;
        let early = early.min(second.len());
        client.write_all(&first).await.unwrap();
        client.write_all(&second[..early]).await.unwrap();

        let desk = Arc::new(Desk::default());
        let mut again = Vec::new();
        let mut parked = 0;
        let mut lent = loop {
            let mut lent = Lent::new(stream, std::mem::take(&mut again), desk.clone(), TIMEOUTS);
            assert_eq!(read(&mut lent, first.len(), &mut sizes).await, first);
            desk.request_started();
            assert_eq!(desk.resumed(), (parked > 0).then_some(parked));
            if parked == times {
                break lent;
            }
            match desk.set_aside(&targets[0], parked + 1) {
                Ok(()) => drop(lent),
                // The first read was too short to tell: the request waits in hyper.
                Err(place) => {
                    assert_eq!((place, parked), (1, 0));
                    break lent;
                }
            }
            let waiting = desk.take().unwrap();
            parked += 1;
            assert_eq!((waiting.place, &waiting.request), (parked, &first));
            assert!(desk.take().is_none());
            desk.resume(waiting.place);
            (stream, again) = (waiting.stream, waiting.request);
        };

        desk.response_ready();
        lent.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        client.write_all(&second[early..]).await.unwrap();
        assert_eq!(read(&mut lent, second.len(), &mut sizes).await, second);
        desk.request_started();
        if desk.set_aside(&targets[1], 100).is_ok() {
            drop(lent);
            assert_eq!(desk.take().unwrap().request, second);
        }
        parked > 0
    }

    fn request() -> impl Strategy<Value = (String, Vec<u8>)> {
        ("[a-z0-9=&]{0,40}", "[ -~]{0,300}").prop_map(|(query, header)| {
            let target = format!("/socket.io/?{query}");
            let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nx-any: {header}\r\n\r\n");
            (target, request.into_bytes())
        })
    }

    #[test]
    fn a_request_is_set_aside_whole_however_it_was_cut() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let set_aside = Cell::new(0);
        let cuts = prop_oneof![
            // As TCP may cut it, and as hyper reads it.
            prop::collection::vec(1_usize..64, 1..8),
            prop::collection::vec(START.len()..9_000, 1..4),
        ];
        let plans = (request(), request(), 0_usize..500, cuts, 0_u32..4);
        let mut runner = proptest::test_runner::TestRunner::default();
        let ran = runner.run(&plans, |((target, first), (next_target, second), early, sizes, times)| {
            let must_park = times > 0 && sizes[0] >= START.len();
            let parks = parks([first, second], [target, next_target], early, sizes, times);
            let parked = runtime.block_on(async { tokio::time::timeout(TIMEOUTS.request, parks).await.unwrap() });
            prop_assert!(parked || !must_park);
            set_aside.set(set_aside.get() + u32::from(parked));
            Ok(())
        });
        ran.unwrap();
        assert!(set_aside.get() > 0);
    }
}
