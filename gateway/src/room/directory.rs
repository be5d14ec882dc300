//! All rooms of this node: opened by the first who joins, closed some time after the last has left.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};

use async_nats::Client;
use parking_lot::Mutex;
use partyline_shared::{
    event::Event,
    ids::{ConversationId, Seq, UserId},
    subjects,
    wire::Refusal,
};
use tokio::sync::OnceCell;

use super::{Room, feed};
use crate::{authorise::Membership, inbox, log::Log, members::Members, session::conn::Conn};

/// Seconds that an empty room stays open: a reload or a changed network comes back within them.
const GRACE: u32 = 10;
/// Events of a log's tail that are searched for read markers when a room opens.
const TAIL: usize = 5_000;

type Slot = Arc<OnceCell<Arc<Room>>>;

/// All rooms of this node.
pub struct Directory {
    client: Client,
    log: Arc<Log>,
    members: Arc<Members>,
    rooms: Mutex<HashMap<ConversationId, Slot>>,
    /// Rooms by participant, for presence.
    by_user: Mutex<HashMap<UserId, Vec<Arc<Room>>>>,
    this: Weak<Self>,
}

impl Directory {
    #[must_use]
    pub fn new(client: Client, log: Arc<Log>, members: Arc<Members>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            client,
            log,
            members,
            rooms: Mutex::default(),
            by_user: Mutex::default(),
            this: this.clone(),
        })
    }

    /// The room of a conversation, opened if need be.
    ///
    /// # Errors
    /// `unavailable`; `not_found`.
    pub async fn open(&self, conversation: ConversationId) -> Result<Arc<Room>, Refusal> {
        let slot = self.rooms.lock().entry(conversation).or_default().clone();
        let opened = slot.get_or_try_init(|| Box::pin(self.start(conversation))).await.cloned();
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

    async fn start(&self, conversation: ConversationId) -> Result<Arc<Room>, Refusal> {
        let live = self.client.subscribe(subjects::live_all(conversation)).await.map_err(|error| {
            tracing::warn!(%error, "not subscribed");
            Refusal::unavailable("the log")
        })?;
        // Asked after the subscription on the same connection: its answer proves that the server has both.
        let end = self.log.end(conversation).await?;
        // Before Postgres is read, which therefore has the markers that the tail lacks.
        let markers = if end.is_event { self.markers(conversation, end.seq).await? } else { HashMap::new() };
        // With Postgres away, what is cached must do.
        let membership = match self.members.read(conversation).await {
            Ok(membership) => membership,
            Err(_) => self.members.get(conversation).await?,
        };
        let room = Arc::new(Room::new(conversation, end, membership.clone(), markers));
        self.index(&room, None, &membership);
        let Some(this) = self.this.upgrade() else { return Err(Refusal::unavailable("the gateway")) };
        tokio::spawn(feed::run(room.clone(), live, self.log.clone(), this));
        Ok(room)
    }

    /// Read markers in the log's tail, which Postgres may not hold yet.
    async fn markers(&self, conversation: ConversationId, head: Seq) -> Result<HashMap<UserId, Seq>, Refusal> {
        let floor = self.log.watermark(conversation).await?.floor;
        let mut markers: HashMap<UserId, Seq> = HashMap::new();
        if head > floor {
            for entry in self.log.read_up_to(conversation, floor, head, TAIL).await? {
                if let Ok(Event::Read(read)) = Event::from_json(&entry.payload) {
                    let marker = markers.entry(read.user_id).or_default();
                    *marker = read.last_read_seq.max(*marker);
                }
            }
        }
        Ok(markers)
    }

    /// Keeps `by_user` in step with a room's participants.
    fn index(&self, room: &Arc<Room>, before: Option<&Membership>, after: &Membership) {
        let mut by_user = self.by_user.lock();
        for participant in before.iter().flat_map(|before| &before.participants) {
            remove(&mut by_user, &participant.user_id, room);
        }
        for participant in &after.participants {
            by_user.entry(participant.user_id.clone()).or_default().push(room.clone());
        }
    }

    /// The participants of a conversation changed somewhere: forget what is cached, and tell the room.
    pub fn members_changed(&self, conversation: ConversationId) {
        self.members.invalidate(conversation);
        let (Some(this), Some(room)) = (self.this.upgrade(), self.get(conversation)) else { return };
        tokio::spawn(async move { this.refresh(&room).await });
    }

    /// Somebody was removed: nothing later reaches them. Postgres tells whether they have come back since.
    pub(super) async fn removed(&self, room: &Arc<Room>, user: &UserId) {
        self.members.invalidate(room.id);
        match self.members.read(room.id).await {
            Ok(membership) => drop(self.adopt(room, membership)),
            Err(_) => {
                room.expel(|member| member == user);
                self.members_changed(room.id);
            }
        }
    }

    /// Whose sockets no longer belong to the room.
    fn adopt(&self, room: &Arc<Room>, membership: Arc<Membership>) -> Vec<Arc<Conn>> {
        let before = room.membership();
        let expelled = room.set_membership(membership.clone());
        self.index(room, Some(&before), &membership);
        expelled
    }

    async fn refresh(&self, room: &Arc<Room>) -> Vec<Arc<Conn>> {
        while !room.end.is_cancelled() {
            match self.members.read(room.id).await {
                Ok(membership) => return self.adopt(room, membership),
                Err(refusal) if refusal.code == partyline_shared::wire::ErrorCode::NotFound => {
                    room.abandon();
                    break;
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(500)).await,
            }
        }
        Vec::new()
    }

    /// Something may have been missed: every room compares itself with the log and with Postgres.
    pub fn doubt_all(&self) {
        self.members.doubt_all();
        for room in self.all() {
            room.audit();
            if let Some(this) = self.this.upgrade() {
                tokio::spawn(async move {
                    // The news of it went by.
                    let removed = inbox::removed(room.id);
                    this.refresh(&room).await.iter().for_each(|conn| conn.send(&removed));
                });
            }
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

    /// Closes rooms where nobody is, and ages the others' rings.
    pub fn sweep(&self) {
        for room in self.all() {
            if room.sweep(GRACE) {
                self.close(&room);
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
        let mut by_user = self.by_user.lock();
        for participant in &room.membership().participants {
            remove(&mut by_user, &participant.user_id, room);
        }
    }

    /// Members, on this node, of the rooms of a user; each once.
    #[must_use]
    pub fn company(&self, user: &UserId) -> Vec<Arc<Conn>> {
        let rooms = self.by_user.lock().get(user).cloned().unwrap_or_default();
        let mut seen = HashSet::new();
        let members = rooms.iter().flat_map(|room| room.members().iter().cloned().collect::<Vec<_>>());
        members.filter(|conn| conn.user_id != *user && seen.insert(conn.id)).collect()
    }
}

fn remove(by_user: &mut HashMap<UserId, Vec<Arc<Room>>>, user: &UserId, room: &Arc<Room>) {
    if let Some(rooms) = by_user.get_mut(user) {
        rooms.retain(|it| !Arc::ptr_eq(it, room));
        if rooms.is_empty() {
            by_user.remove(user);
        }
    }
}
