//! A conversation that is live on this node: one NATS subscription, however many members; one task that delivers in
//! order and fills every gap from the log before it goes on.

pub mod directory;
pub mod feed;
pub mod forward;
#[cfg(test)]
mod interleavings;
pub mod membership_refresh;
pub mod timeline;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use partyline_shared::{
    ids::{ConversationId, Seq, UserId},
    wire::CloseCode,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    authorise::Membership,
    clock,
    encode::Frame,
    log::End,
    members::Snapshot,
    metrics::RoomGuard,
    session::conn::Conn,
    sync::{ArcSwap, AtomicU64, Mutex, Ordering},
};
use timeline::{Place, Timeline};

/// Members who are written to in one go.
const FAN_OUT_CHUNK: usize = 256;

/// A conversation that is live on this node.
#[derive(Debug)]
pub struct Room {
    pub id: ConversationId,
    /// The log had nothing of the conversation up to here when the room was opened: Postgres has it.
    pub archived: Seq,
    state: Mutex<State>,
    membership: ArcSwap<Membership>,
    /// The number of the read that gave the membership, changed only by [`membership_refresh`].
    membership_number: AtomicU64,
    /// When the membership was last read, in node milliseconds.
    membership_read_at: AtomicU64,
    /// Asks the room's task to compare its head with the log's.
    audit: Notify,
    /// The head moved.
    advanced: Notify,
    end: CancellationToken,
    _guard: RoomGuard,
}

#[derive(Debug)]
struct State {
    timeline: Timeline,
    /// Shared with deliveries in flight; cloned only if it changes during one.
    members: Arc<Vec<Arc<Conn>>>,
    /// Read markers that moved since the membership was read, or are newer than it.
    markers: HashMap<UserId, Seq>,
    /// Node seconds since when nobody is here.
    empty_since: Option<u32>,
    closed: bool,
}

/// What a look at a live room gives a joining client.
#[derive(Debug)]
pub enum Glance {
    /// The room is being closed: open it again.
    Closed,
    /// The events after the asked place are not all held; the log is known to reach `head`.
    Behind { head: Seq },
    /// The client holds events that this node has not delivered yet: live, it would get them again.
    Ahead,
    /// The client's user does not take part any more.
    Removed,
    /// The client is a member now and its frame is on the way.
    Attached,
}

impl Room {
    fn new(id: ConversationId, end: End, membership: &Snapshot, markers: HashMap<UserId, Seq>) -> Self {
        Self {
            id,
            archived: if end.is_event { 0 } else { end.seq },
            state: Mutex::new(State {
                timeline: Timeline::new(end.seq),
                members: Arc::default(),
                markers,
                empty_since: Some(clock::seconds()),
                closed: false,
            }),
            membership: ArcSwap::new(membership.membership.clone()),
            membership_number: AtomicU64::new(membership.number),
            membership_read_at: AtomicU64::new(clock::millis()),
            audit: Notify::new(),
            advanced: Notify::new(),
            end: CancellationToken::new(),
            _guard: RoomGuard::open(),
        }
    }

    /// Who takes part.
    #[must_use]
    pub fn membership(&self) -> Arc<Membership> {
        self.membership.load_full()
    }

    /// The newest event that this node has delivered.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.state.lock().timeline.head()
    }

    /// Makes a client a member at a place, in one step: `reply` gets the frames after `after` and the head, and what
    /// it makes is the first thing that the client gets; everything later follows live. The room is then among those that
    /// the connection has joined.
    pub fn attach(
        self: &Arc<Self>,
        conn: &Arc<Conn>,
        after: Seq,
        reply: impl FnOnce(&mut dyn Iterator<Item = (Seq, &Frame)>, Seq) -> Frame,
    ) -> Glance {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closed {
            return Glance::Closed;
        }
        // A changed membership is stored before those who left are looked for under this lock: either this sees the
        // change, or the change's eviction sees this client.
        if self.membership.load().participant(&conn.user_id).is_none() {
            return Glance::Removed;
        }
        let head = state.timeline.head();
        if after > head {
            return Glance::Ahead;
        }
        let Some(mut events) = state.timeline.after(after) else { return Glance::Behind { head } };
        let frame = reply(&mut events, head);
        drop(events);
        if !state.members.iter().any(|member| member.id == conn.id) {
            Arc::make_mut(&mut state.members).push(conn.clone());
        }
        // Under this lock, as an eviction does it: otherwise one of the two could be undone and not the other, and the
        // connection would never leave the room.
        conn.side(|side| {
            side.joined.retain(|room| room.id != self.id);
            side.joined.push(self.clone());
        });
        state.empty_since = None;
        conn.send(&frame);
        Glance::Attached
    }

    /// Takes a client out.
    pub fn leave(&self, conn: &Conn) {
        let mut state = self.state.lock();
        if let Some(place) = state.members.iter().position(|member| member.id == conn.id) {
            Arc::make_mut(&mut state.members).swap_remove(place);
        }
        if state.members.is_empty() {
            state.empty_since = Some(clock::seconds());
        }
    }

    /// Whether this client is a member.
    #[must_use]
    pub fn holds(&self, conn: &Conn) -> bool {
        self.state.lock().members.iter().any(|member| member.id == conn.id)
    }

    /// Whether somebody of this user is a member.
    #[must_use]
    pub fn has(&self, user: &UserId) -> bool {
        self.members().iter().any(|member| member.user_id == *user)
    }

    /// Sockets that are members.
    #[must_use]
    pub fn size(&self) -> usize {
        self.state.lock().members.len()
    }

    fn members(&self) -> Arc<Vec<Arc<Conn>>> {
        self.state.lock().members.clone()
    }

    /// Read markers, the newest known.
    #[must_use]
    pub fn markers(&self) -> HashMap<UserId, Seq> {
        let newer = self.state.lock().markers.clone();
        let mut markers: HashMap<_, _> =
            self.membership.load().participants.iter().map(|it| (it.user_id.clone(), it.last_read_seq)).collect();
        for (user, seq) in newer {
            if let Some(marker) = markers.get_mut(&user) {
                *marker = seq.max(*marker);
            }
        }
        markers
    }

    /// A participant's read marker.
    #[must_use]
    pub fn marker(&self, user: &UserId) -> Seq {
        let stored = self.membership.load().participant(user).map_or(0, |it| it.last_read_seq);
        self.state.lock().markers.get(user).copied().unwrap_or(0).max(stored)
    }

    /// A read marker that is in the log. It never moves back.
    pub fn note_read(&self, user: UserId, seq: Seq) {
        let mut state = self.state.lock();
        let marker = state.markers.entry(user).or_default();
        *marker = seq.max(*marker);
    }

    /// Takes events into the timeline up to the first gap.
    ///
    /// # Returns
    /// How many of `events` were dealt with, the frames to deliver, and the members they go to.
    fn take(&self, events: &[(Seq, Seq, Frame)]) -> (usize, Vec<Frame>, Arc<Vec<Arc<Conn>>>) {
        let now = clock::millis();
        let mut state = self.state.lock();
        let mut frames = Vec::with_capacity(events.len());
        let mut dealt = 0;
        for (seq, prev_seq, frame) in events {
            match state.timeline.place(*seq, *prev_seq) {
                Place::Known => {}
                Place::Gap => break,
                Place::Next => {
                    state.timeline.push(*seq, frame.clone(), now);
                    frames.push(frame.clone());
                }
            }
            dealt += 1;
        }
        if !frames.is_empty() {
            self.advanced.notify_waiters();
        }
        (dealt, frames, state.members.clone())
    }

    /// Waits until the head is at least `seq`, which is known to be in the log.
    pub async fn reaches(&self, seq: Seq) {
        loop {
            let mut advanced = std::pin::pin!(self.advanced.notified());
            advanced.as_mut().enable();
            if self.head() >= seq || self.end.is_cancelled() {
                return;
            }
            self.audit();
            advanced.await;
        }
    }

    /// Sends an ephemeral frame to members but those of one user.
    pub fn broadcast(&self, frame: &Frame, but: &UserId) {
        for member in self.members().iter().filter(|member| member.user_id != *but) {
            member.send(frame);
        }
    }

    /// Puts a membership in place of an older one. Clients who no longer belong stay until [`Self::evict_removed`].
    ///
    /// # Returns
    /// The membership before; `None` if this one is not newer.
    fn replace_membership(&self, snapshot: &Snapshot) -> Option<Arc<Membership>> {
        if snapshot.number <= self.membership_number.load(Ordering::Acquire) {
            return None;
        }
        self.membership_number.store(snapshot.number, Ordering::Release);
        self.membership_read_at.store(clock::millis(), Ordering::Release);
        Some(self.membership.swap(snapshot.membership.clone()))
    }

    /// Milliseconds since the membership was last read.
    fn membership_age(&self) -> u64 {
        clock::millis().saturating_sub(self.membership_read_at.load(Ordering::Acquire))
    }

    /// Takes out the clients of users who don't take part: they stop receiving now.
    ///
    /// # Returns
    /// These clients.
    fn evict_removed(&self) -> Vec<Arc<Conn>> {
        loop {
            let membership = self.membership();
            let users: HashSet<_> = membership.participants.iter().map(|it| &it.user_id).collect();
            let mut state = self.state.lock();
            if !Arc::ptr_eq(&membership, &self.membership.load()) {
                // A newer one was stored meanwhile. Who is added again by it may have joined already, and stays.
                continue;
            }
            let stays = |conn: &Arc<Conn>| users.contains(&conn.user_id);
            if state.members.iter().all(stays) {
                return Vec::new();
            }
            let (staying, evicted): (Vec<_>, Vec<_>) = state.members.iter().cloned().partition(stays);
            if staying.is_empty() {
                state.empty_since = Some(clock::seconds());
            }
            state.members = Arc::new(staying);
            for conn in &evicted {
                conn.side(|side| side.joined.retain(|room| !std::ptr::eq(Arc::as_ptr(room), self)));
            }
            return evicted;
        }
    }

    /// Asks the room's task to compare its head with the log's.
    pub fn audit(&self) {
        self.audit.notify_one();
    }

    /// Ages the ring; closes the room if nobody was here for `grace` seconds.
    ///
    /// # Returns
    /// Whether it is closed now.
    fn sweep(&self, grace: u32) -> bool {
        let mut state = self.state.lock();
        state.timeline.trim(clock::millis());
        if state.empty_since.is_some_and(|since| clock::seconds().saturating_sub(since) >= grace) {
            state.closed = true;
            self.end.cancel();
        }
        state.closed
    }

    /// Whether nobody can join any more.
    fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// The log was begun again: nothing that is held counts. Everybody comes back and joins anew.
    fn abandon(&self) {
        let members = {
            let mut state = self.state.lock();
            state.closed = true;
            state.members.clone()
        };
        self.end.cancel();
        for member in members.iter() {
            member.ask_to_close(CloseCode::LogRestarted, Some(200));
        }
    }
}

/// Writes frames to members; in large rooms others get a turn in between. All is handed over when it returns, so order
/// holds. One task writes all: shared out over threads a delivery costs more, and readers on the same cores wait.
async fn fan_out(members: Arc<Vec<Arc<Conn>>>, frames: Vec<Frame>) {
    let mut chunks = members.chunks(FAN_OUT_CHUNK).peekable();
    while let Some(chunk) = chunks.next() {
        chunk.iter().for_each(|member| member.send_all(&frames));
        if chunks.peek().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
