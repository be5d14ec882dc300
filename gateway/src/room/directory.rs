//! All rooms of this node: opened by the first who joins, closed some time after the last has left.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use async_nats::Client;
use parking_lot::Mutex;
use partyline_shared::{
    ids::{ConversationId, Seq, UserId},
    subjects,
    wire::Refusal,
};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Room, feed,
    membership_refresh::{Cause, MembershipRefresher},
};
use crate::{
    clock,
    history::{Range, tail::Tail},
    log::Log,
    members::{Members, Snapshot},
    metrics,
    session::conn::Conn,
    tasks,
};

/// Seconds that an empty room stays open: a reload or a changed network comes back within them.
const GRACE: u32 = 10;
/// Between two times that all rooms are verified.
const DOUBT_GAP: Duration = Duration::from_secs(1);
/// How long a subscription may take to be queued.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Rooms that ask for their log's head at once.
const HEADS: usize = 64;

type Slot = Arc<OnceCell<Arc<Room>>>;

/// All rooms of this node.
pub struct Directory {
    client: Client,
    log: Arc<Log>,
    members: Arc<Members>,
    rooms: Mutex<HashMap<ConversationId, Slot>>,
    refresher: Arc<MembershipRefresher>,
    doubt: Mutex<Doubt>,
    /// Bounds what all rooms together ask of JetStream when they verify their heads.
    pub(super) heads: Semaphore,
    this: Weak<Self>,
}

/// When all rooms were last verified.
#[derive(Debug, Default)]
struct Doubt {
    /// In node milliseconds.
    last: Option<u64>,
    /// They will be again, at the end of the gap.
    pending: bool,
}

impl Doubt {
    /// # Returns
    /// After which time all rooms are to be verified; `None` if that is about to happen anyway.
    fn ask(&mut self, now: u64) -> Option<Duration> {
        if self.pending {
            return None;
        }
        let due = self.last.map_or(now, |last| last + DOUBT_GAP.as_millis() as u64);
        self.pending = due > now;
        if !self.pending {
            self.last = Some(now);
        }
        Some(Duration::from_millis(due.saturating_sub(now)))
    }

    fn done(&mut self, now: u64) {
        *self = Self { last: Some(now), pending: false };
    }
}

impl Directory {
    #[must_use]
    pub fn start(client: Client, log: Arc<Log>, members: Arc<Members>, end: CancellationToken) -> Arc<Self> {
        let refresher = Arc::new(MembershipRefresher::new(members.clone()));
        tasks::until(end, [tokio::spawn(tasks::essential("membership_refresh", refresher.clone().run()))]);
        Arc::new_cyclic(|this| Self {
            client,
            log,
            members,
            rooms: Mutex::default(),
            refresher,
            doubt: Mutex::default(),
            heads: Semaphore::new(HEADS),
            this: this.clone(),
        })
    }

    /// The room of a conversation, opened if need be.
    ///
    /// # Errors
    /// `unavailable`; `not_found`.
    pub async fn open(&self, conversation: ConversationId) -> Result<Arc<Room>, Refusal> {
        loop {
            let room = self.open_slot(conversation).await?;
            if !room.is_closed() {
                return Ok(room);
            }
            // Its end is known to the room and not here yet.
            self.close(&room);
        }
    }

    async fn open_slot(&self, conversation: ConversationId) -> Result<Arc<Room>, Refusal> {
        let slot = self.rooms.lock().entry(conversation).or_default().clone();
        let mut read = None;
        let opened = slot.get_or_try_init(|| Box::pin(self.open_room(conversation, &mut read))).await.cloned();
        // A change may have come after the membership was read, before the room was there to be found.
        if let (Ok(room), Some(read)) = (&opened, &read)
            && !self.members.is_current(read)
        {
            self.refresher.mark_stale(room, Cause::Changed);
        }
        if opened.is_err() {
            // What could not be opened leaves nothing behind.
            let mut rooms = self.rooms.lock();
            let is_mine = rooms.get(&conversation).is_some_and(|it| Arc::ptr_eq(it, &slot) && it.get().is_none());
            // The map's and mine: nobody else is about to try.
            if is_mine && Arc::strong_count(&slot) == 2 {
                rooms.remove(&conversation);
            }
        }
        opened
    }

    /// The room of a conversation, if it is open.
    #[must_use]
    pub fn get(&self, conversation: ConversationId) -> Option<Arc<Room>> {
        self.rooms.lock().get(&conversation).and_then(|slot| slot.get()).cloned()
    }

    async fn open_room(&self, conversation: ConversationId, read: &mut Option<Snapshot>) -> Result<Arc<Room>, Refusal> {
        self.log.check_link()?;
        // The queue to a server that hangs may be full.
        let live = timeout(SUBSCRIBE_TIMEOUT, self.client.subscribe(subjects::live_all(conversation))).await;
        let live = live.map_err(anyhow::Error::from).and_then(|live| live.map_err(anyhow::Error::from));
        let live = live.map_err(|error| {
            tracing::warn!(%error, "not subscribed");
            Refusal::unavailable("the log")
        })?;
        // Asked after the subscription on the same connection: its answer proves that the server has both.
        let end = self.log.end(conversation).await?;
        // Before Postgres is read, which therefore has the markers that the tail lacks.
        let markers = if end.is_event { self.markers(conversation).await? } else { HashMap::new() };
        // With Postgres away, what is cached must do.
        let membership = self.members.read_or_cached(conversation).await?;
        let room = Arc::new(Room::new(conversation, end, &membership, markers));
        *read = Some(membership);
        let Some(this) = self.this.upgrade() else { return Err(Refusal::unavailable("the gateway")) };
        self.refresher.opened(&room);
        let (task, fed) = (feed::run(room.clone(), live, self.log.clone(), this.clone()), room.clone());
        tokio::spawn(async move {
            // Without its task a room is silent: its members are sent away, and come back to a new one.
            // It returns only once the room has ended, or the subscription.
            if tasks::caught("room", task).await.is_err() || !fed.end.is_cancelled() {
                this.close(&fed);
                fed.abandon();
            }
        });
        Ok(room)
    }

    /// Read markers in the log's tail, which Postgres may not hold yet.
    async fn markers(&self, conversation: ConversationId) -> Result<HashMap<UserId, Seq>, Refusal> {
        Ok(Tail::read(&self.log, conversation, Range::Last, 0).await?.into_markers())
    }

    /// The participants of a conversation changed somewhere: forget what is cached, and tell the room.
    pub fn members_changed(&self, conversation: ConversationId) {
        self.members.invalidate(conversation);
        if let Some(room) = self.get(conversation) {
            self.refresher.mark_stale(&room, Cause::Changed);
        }
    }

    /// Names or types of users changed somewhere: the rooms that they take part in read them again.
    pub fn users_changed(&self, users: &[UserId]) {
        for room in self.refresher.rooms_of_any(users) {
            self.members.doubt(room.id);
            self.refresher.mark_stale(&room, Cause::Renamed);
        }
    }

    /// Somebody was removed: nothing later reaches them. Postgres tells whether they have come back since.
    pub(super) async fn removed(&self, room: &Arc<Room>, user: &UserId) {
        self.members.invalidate(room.id);
        match self.members.read(room.id).await {
            Ok(snapshot) => drop(self.refresher.adopt(room, &snapshot)),
            Err(_) => {
                self.refresher.evict(room, user);
                self.members_changed(room.id);
            }
        }
    }

    /// Something may have been missed: every room compares itself with the log and with Postgres. Repeated calls within
    /// a second count as one more.
    pub fn doubt_all(&self) {
        let Some(after) = self.doubt.lock().ask(clock::millis()) else { return };
        if after.is_zero() {
            return self.verify_all();
        }
        let this = self.this.clone();
        let verify = async move {
            tokio::time::sleep(after).await;
            let Some(this) = this.upgrade() else { return };
            this.doubt.lock().done(clock::millis());
            this.verify_all();
        };
        tokio::spawn(tasks::caught("verify_rooms", verify));
    }

    fn verify_all(&self) {
        metrics::verified_all();
        self.members.doubt_all();
        for room in self.all() {
            room.audit();
            self.refresher.mark_stale(&room, Cause::Doubt);
        }
    }

    /// The log was lost and begun again.
    pub fn abandon_all(&self) {
        for room in self.all() {
            self.close(&room);
            room.abandon();
        }
    }

    /// All open rooms.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Room>> {
        self.rooms.lock().values().filter_map(|slot| slot.get().cloned()).collect()
    }

    /// Closes rooms where nobody is, ages the others' rings, and has memberships read again that are old: the notice of a
    /// change may have been lost.
    pub fn sweep(&self) {
        for room in self.all() {
            if room.sweep(GRACE) {
                self.close(&room);
            } else if u128::from(room.membership_age()) >= self.members.time_to_live_of(room.id).as_millis() {
                self.refresher.mark_stale(&room, Cause::Doubt);
            }
        }
    }

    fn close(&self, room: &Arc<Room>) {
        {
            let mut rooms = self.rooms.lock();
            if rooms.get(&room.id).and_then(|slot| slot.get()).is_some_and(|open| Arc::ptr_eq(open, room)) {
                rooms.remove(&room.id);
            }
        }
        self.refresher.closed(room);
    }

    /// Members, on this node, of the rooms of a user; each once.
    #[must_use]
    pub fn company(&self, user: &UserId) -> Vec<Arc<Conn>> {
        let rooms = self.refresher.rooms_of(user);
        let mut seen = HashSet::new();
        let members = rooms.iter().flat_map(|room| room.members().iter().cloned().collect::<Vec<_>>());
        members.filter(|conn| conn.user_id != *user && seen.insert(conn.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_in_quick_succession_are_one_now_and_one_at_the_end_of_the_gap() {
        let mut doubt = Doubt::default();
        assert_eq!(doubt.ask(5_000), Some(Duration::ZERO));
        assert_eq!(doubt.ask(5_100), Some(Duration::from_millis(900)));
        assert!((5_101..5_900).all(|now| doubt.ask(now).is_none()));
        doubt.done(6_000);
        assert_eq!(doubt.ask(6_400), Some(Duration::from_millis(600)));
        doubt.done(7_000);
        assert_eq!(doubt.ask(8_000), Some(Duration::ZERO));
    }
}
