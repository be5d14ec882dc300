//! A connected client, whatever the transport.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use partyline_shared::{
    claims::Identity,
    ids::{ConversationId, UserId},
    wire::CloseCode,
};

use super::{pipe::Pipe, wire::Native};
use crate::{
    encode::Frame,
    metrics::{ConnectionGuard, Protocol},
    room::Room,
    sync::Mutex,
};

/// Between two looks at a queue without room.
const ROOM_CHECK: Duration = Duration::from_millis(20);
/// How long a command waits for a client to read.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection types, so that it ends by itself.
#[derive(Clone, Copy, Debug)]
pub struct Typing {
    pub conversation_id: ConversationId,
    /// When it ends by itself, in node milliseconds.
    pub ends: u64,
}

/// State that only commands and the sweeper touch, seldom.
#[derive(Debug, Default)]
pub struct Side {
    pub joined: Vec<Arc<Room>>,
    pub typing: Option<Typing>,
    /// When typing was last passed on, in node milliseconds: stopping and starting must not get round the limit.
    pub typed: Option<u64>,
    /// A start of typing that came too soon after the one before, and is passed on when that is allowed.
    pub postponed: Option<Typing>,
    /// Whether a task waits to pass it on.
    pub is_postponing: bool,
}

/// A client behind another transport, which translates what it gets.
pub trait Remote: fmt::Debug + Send + Sync {
    /// Sends frames, in order.
    fn send_all(&self, frames: &[Frame]);

    /// Closes once the command in hand is answered.
    fn ask_to_close(&self, code: CloseCode, retry_after_ms: Option<u64>);

    /// Whether a goodbye was sent or asked for, or the transport broke.
    fn is_leaving(&self) -> bool;

    /// Whether the transport is done with.
    fn is_gone(&self) -> bool;

    /// What waits for a slow reader: bytes, and since when in node milliseconds.
    fn waiting(&self) -> Option<(usize, u64)>;

    /// Whether the queue has room for the answer of one more command.
    fn has_room(&self) -> bool;
}

/// The way to a client.
#[derive(Debug)]
pub enum Link {
    Native(Pipe<Native>),
    SocketIo(Arc<dyn Remote>),
}

/// A connected client.
#[derive(Debug)]
pub struct Conn {
    /// Unique on this node.
    pub id: u64,
    /// Whose it is: the same for all of its tokens.
    pub user_id: UserId,
    /// What the newest of its tokens says.
    identity: ArcSwap<Identity>,
    link: Link,
    side: Mutex<Side>,
    warned: AtomicBool,
    /// Renewals of the token that wait or are in hand.
    renewals: AtomicU32,
    _guard: ConnectionGuard,
}

impl Conn {
    pub fn new(id: u64, identity: Identity, link: Link) -> Arc<Self> {
        let protocol = match link {
            Link::Native(_) => Protocol::Native,
            Link::SocketIo(_) => Protocol::SocketIo,
        };
        Arc::new(Self {
            id,
            user_id: identity.user_id.clone(),
            identity: ArcSwap::from_pointee(identity),
            link,
            side: Mutex::default(),
            warned: AtomicBool::new(false),
            renewals: AtomicU32::new(0),
            _guard: ConnectionGuard::open(protocol),
        })
    }

    /// The pipe of a native socket.
    #[must_use]
    pub fn native(&self) -> Option<&Pipe<Native>> {
        match &self.link {
            Link::Native(pipe) => Some(pipe),
            Link::SocketIo(_) => None,
        }
    }

    /// Sends one frame.
    pub fn send(&self, frame: &Frame) {
        self.send_all(std::slice::from_ref(frame));
    }

    /// Sends frames, in order.
    pub fn send_all(&self, frames: &[Frame]) {
        match &self.link {
            Link::Native(pipe) => pipe.send_all(frames),
            Link::SocketIo(remote) => remote.send_all(frames),
        }
    }

    /// Closes once the command in hand is answered.
    pub fn ask_to_close(&self, code: CloseCode, retry_after_ms: Option<u64>) {
        match &self.link {
            Link::Native(pipe) => pipe.ask_to_close(code, retry_after_ms),
            Link::SocketIo(remote) => remote.ask_to_close(code, retry_after_ms),
        }
    }

    /// What waits for a slow reader: bytes, and since when in node milliseconds.
    #[must_use]
    pub fn waiting(&self) -> Option<(usize, u64)> {
        match &self.link {
            Link::Native(pipe) => pipe.waiting(),
            Link::SocketIo(remote) => remote.waiting(),
        }
    }

    /// Waits until the queue has room for one more answer, so that a client that asks faster than it reads is answered
    /// later and not closed. One that makes no room in [`ROOM_TIMEOUT`] is closed as too slow.
    ///
    /// # Returns
    /// Whether the command may run: not on a connection that is to be closed.
    pub async fn has_room(&self) -> bool {
        let has_room = || match &self.link {
            Link::Native(pipe) => pipe.has_room(),
            Link::SocketIo(remote) => remote.has_room(),
        };
        let mut waited = Duration::ZERO;
        while !self.is_leaving() && !has_room() {
            if waited >= ROOM_TIMEOUT {
                self.ask_to_close(CloseCode::TooSlow, None);
                break;
            }
            tokio::time::sleep(ROOM_CHECK).await;
            waited += ROOM_CHECK;
        }
        !self.is_leaving()
    }

    /// Whether a goodbye was sent or asked for, or the transport broke.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        match &self.link {
            Link::Native(pipe) => pipe.is_leaving(),
            Link::SocketIo(remote) => remote.is_leaving(),
        }
    }

    #[must_use]
    pub fn is_gone(&self) -> bool {
        match &self.link {
            Link::Native(pipe) => pipe.is_gone(),
            Link::SocketIo(remote) => remote.is_gone(),
        }
    }

    /// Joined rooms and typing.
    pub fn side<T>(&self, look: impl FnOnce(&mut Side) -> T) -> T {
        look(&mut self.side.lock())
    }

    #[must_use]
    pub fn has_joined(&self, conversation: ConversationId) -> bool {
        self.side.lock().joined.iter().any(|room| room.id == conversation)
    }

    /// Who is behind it, with the rights that they have now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// When the token ends, in seconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.identity.load().expires_at
    }

    /// Counts a renewal of the token as under way until the result is dropped.
    #[must_use]
    pub fn begin_renewal(self: &Arc<Self>) -> Renewal {
        self.renewals.fetch_add(1, Ordering::AcqRel);
        Renewal(self.clone())
    }

    /// Whether a renewal of the token waits or is in hand.
    #[must_use]
    pub fn is_renewing(&self) -> bool {
        self.renewals.load(Ordering::Acquire) > 0
    }

    /// The token was renewed, by one of the same user's: what it says holds from now on, and nothing else.
    pub fn renew(&self, identity: Identity) {
        self.identity.store(Arc::new(identity));
        self.warned.store(false, Ordering::Relaxed);
    }

    /// Whether the client is to be warned now: true once a token.
    pub fn warn_once(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }
}

/// A renewal of the token that waits or is in hand.
#[derive(Debug)]
pub struct Renewal(Arc<Conn>);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.renewals.fetch_sub(1, Ordering::AcqRel);
    }
}
