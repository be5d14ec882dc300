//! All sessions of this node.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use partyline_shared::wire::CloseCode;
use uuid::Uuid;

use super::{
    late::PING,
    session::Session,
    state::{Stage, Who},
};
use crate::{clock, server::Gateway, session::pace::Look};

/// How long a polling client may take to fetch the goodbye, in seconds.
const LINGER: u32 = 5;

/// Sessions by their secret names.
#[derive(Debug, Default)]
pub struct Sessions {
    all: RwLock<HashMap<Uuid, Arc<Session>>>,
    next: AtomicU32,
}

impl Sessions {
    /// Begins a session, unless the node is full.
    pub(super) fn open(&self, gateway: &Gateway, bearer: Option<String>) -> Option<Arc<Session>> {
        let session = Arc::new(Session::new(gateway, self.next.fetch_add(1, Ordering::Relaxed), bearer));
        let mut all = self.all.write();
        if all.len() >= gateway.chat.config.limits.max_connections as usize {
            return None;
        }
        all.insert(session.sid, session.clone());
        Some(session)
    }

    #[must_use]
    pub fn get(&self, sid: Uuid) -> Option<Arc<Session>> {
        self.all.read().get(&sid).cloned()
    }

    pub(super) fn remove(&self, sid: Uuid) {
        self.all.write().remove(&sid);
    }

    fn list(&self) -> Vec<Arc<Session>> {
        self.all.read().values().cloned().collect()
    }

    /// Ends all: the node leaves.
    pub fn end_all(&self, gateway: &Arc<Gateway>) {
        self.list().iter().for_each(|session| session.end(gateway));
    }
}

/// Once a second, for ever: pings, silence, strangers who don't say who they are.
pub async fn sweep(gateway: Arc<Gateway>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut look = Look::begin(clock::seconds());
    loop {
        tick.tick().await;
        look = look.next(clock::seconds());
        for session in gateway.socketio.list() {
            look_at(&gateway, &session, look);
        }
    }
}

fn look_at(gateway: &Arc<Gateway>, session: &Arc<Session>, look: Look) {
    let limits = &gateway.chat.config.limits;
    let is_stranger = matches!(*session.who.lock(), Who::Stranger { .. });
    if is_stranger && look.silence(session.born) > limits.handshake_seconds {
        return session.end(gateway);
    }
    // The ping's interval, and then as long as the client has for its answer.
    if look.silence(session.pipe.last_heard()) >= limits.ping_seconds + limits.ping_timeout_seconds {
        session.pipe.close(CloseCode::IdleTimeout, None, None);
        return session.end(gateway);
    }
    // A socket's own task sees to its end.
    if session.pipe.is_closing() && session.stage() != Stage::WebSocket {
        let since = session.closing_since.load(Ordering::Relaxed);
        if since == 0 {
            session.closing_since.store(look.now().max(1), Ordering::Relaxed);
            session.leave(gateway);
        } else if look.silence(since) >= LINGER {
            session.end(gateway);
        }
        return;
    }
    if look.has_come(session.number % limits.ping_seconds, limits.ping_seconds) {
        session.pipe.send_control(PING);
    }
}
