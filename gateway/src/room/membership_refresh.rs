//! Keeps the memberships of open rooms as Postgres has them. One task reads, many rooms in one query; however often a
//! room is marked while it waits, it is read once. Knows the rooms by participant, too.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use partyline_shared::ids::{ConversationId, UserId};
use tokio::sync::Notify;

use super::Room;
use crate::{
    authorise::Membership,
    inbox,
    members::{Members, Snapshot},
    session::conn::Conn,
    sync::Mutex,
};

/// Rooms in one query.
const BATCH: usize = 64;
/// Before rooms are read again that could not be read.
const RETRY: Duration = Duration::from_millis(500);

/// Why a room's membership is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Participants are known to have come or gone, and those who were removed get the news of it. Such rooms go first.
    Changed,
    /// A participant has another name or type. If somebody turns out to be removed, the news of that may have been missed.
    Renamed,
    /// A change may have been missed, and the news of it to those who were removed.
    Doubt,
}

#[derive(Debug)]
struct Pending {
    room: Arc<Room>,
    urgent: bool,
    tells_removed: bool,
}

/// Rooms whose membership is to be read, each once.
#[derive(Debug, Default)]
struct Queue {
    pending: HashMap<ConversationId, Pending>,
    urgent: VecDeque<ConversationId>,
    rest: VecDeque<ConversationId>,
}

impl Queue {
    fn add(&mut self, room: &Arc<Room>, urgent: bool, tells_removed: bool) {
        let held = self.pending.get_mut(&room.id);
        let is_new = held.is_none();
        let becomes_urgent = urgent && held.as_ref().is_none_or(|held| !held.urgent);
        match held {
            Some(held) => {
                held.room = room.clone();
                held.urgent |= urgent;
                held.tells_removed |= tells_removed;
            }
            None => drop(self.pending.insert(room.id, Pending { room: room.clone(), urgent, tells_removed })),
        }
        if becomes_urgent {
            self.urgent.push_back(room.id);
        } else if is_new {
            self.rest.push_back(room.id);
        }
    }

    fn take(&mut self, limit: usize) -> Vec<Pending> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(id) = self.urgent.pop_front().or_else(|| self.rest.pop_front())
        {
            // A room that became urgent stands in both lists.
            taken.extend(self.pending.remove(&id));
        }
        taken
    }
}

/// Reads memberships again, and has rooms take them over.
pub(super) struct MembershipRefresher {
    members: Arc<Members>,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Open rooms by participant. Its lock also makes a change of a room's membership and of its entries here one step.
    by_user: Mutex<HashMap<UserId, Vec<Arc<Room>>>>,
}

impl MembershipRefresher {
    pub(super) fn new(members: Arc<Members>) -> Self {
        Self { members, queue: Mutex::default(), wake: Notify::new(), by_user: Mutex::default() }
    }

    /// Enters a room that was opened.
    pub(super) fn opened(&self, room: &Arc<Room>) {
        index(&mut self.by_user.lock(), room, None, &room.membership());
    }

    /// Takes out a room that is closed; it takes over no membership any more.
    pub(super) fn closed(&self, room: &Arc<Room>) {
        let mut by_user = self.by_user.lock();
        room.end.cancel();
        for participant in &room.membership().participants {
            remove(&mut by_user, &participant.user_id, room);
        }
    }

    /// The open rooms of a user.
    pub(super) fn rooms_of(&self, user: &UserId) -> Vec<Arc<Room>> {
        self.by_user.lock().get(user).cloned().unwrap_or_default()
    }

    /// The open rooms of any of these users, each once.
    pub(super) fn rooms_of_any(&self, users: &[UserId]) -> Vec<Arc<Room>> {
        let by_user = self.by_user.lock();
        let mut seen = HashSet::new();
        let rooms = users.iter().filter_map(|user| by_user.get(user)).flatten();
        rooms.filter(|room| seen.insert(room.id)).cloned().collect()
    }

    /// Has a room's membership read again soon.
    pub(super) fn mark_stale(&self, room: &Arc<Room>, cause: Cause) {
        self.queue.lock().add(room, cause != Cause::Doubt, cause != Cause::Changed);
        self.wake.notify_one();
    }

    /// Gives a room a membership, unless it has a newer one; clients who no longer belong are taken out.
    ///
    /// # Returns
    /// These clients.
    pub(super) fn adopt(&self, room: &Arc<Room>, snapshot: &Snapshot) -> Vec<Arc<Conn>> {
        self.change(room, || snapshot.clone())
    }

    /// Gives a room the membership that `next` makes, unless it has a newer one. No other change comes in between.
    fn change(&self, room: &Arc<Room>, next: impl FnOnce() -> Snapshot) -> Vec<Arc<Conn>> {
        {
            let mut by_user = self.by_user.lock();
            if room.end.is_cancelled() {
                return Vec::new();
            }
            let snapshot = next();
            if let Some(before) = room.replace_membership(&snapshot) {
                index(&mut by_user, room, Some(&before), &snapshot.membership);
            }
        }
        room.evict_removed()
    }

    /// Takes a user out of a room's membership until Postgres can be asked.
    pub(super) fn evict(&self, room: &Arc<Room>, user: &UserId) {
        self.change(room, || {
            let mut membership = Membership::clone(&room.membership());
            membership.participants.retain(|participant| participant.user_id != *user);
            Snapshot { membership: Arc::new(membership), number: self.members.next_number() }
        });
    }

    /// The users of the index, each as often as it has rooms.
    #[cfg(test)]
    pub(super) fn indexed(&self) -> Vec<String> {
        let by_user = self.by_user.lock();
        let mut entries: Vec<_> =
            by_user.iter().flat_map(|(user, rooms)| vec![user.as_str().to_owned(); rooms.len()]).collect();
        entries.sort();
        entries
    }

    /// Reads what is marked, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let batch = self.queue.lock().take(BATCH);
            if batch.is_empty() {
                self.wake.notified().await;
            } else if !self.refresh(&batch).await {
                {
                    let mut queue = self.queue.lock();
                    batch.iter().for_each(|it| queue.add(&it.room, it.urgent, it.tells_removed));
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// # Returns
    /// Whether Postgres answered.
    async fn refresh(&self, batch: &[Pending]) -> bool {
        let batch: Vec<_> = batch.iter().filter(|it| !it.room.end.is_cancelled()).collect();
        let ids: Vec<_> = batch.iter().map(|it| it.room.id).collect();
        if ids.is_empty() {
            return true;
        }
        let Ok(found) = self.members.read_many(&ids).await else { return false };
        for it in batch {
            let Some(snapshot) = found.get(&it.room.id) else {
                tracing::warn!(conversation = %it.room.id, "an open conversation does not exist any more");
                self.closed(&it.room);
                // The directory finds out when the room is asked for.
                it.room.abandon();
                continue;
            };
            let evicted = self.adopt(&it.room, snapshot);
            if it.tells_removed && !evicted.is_empty() {
                let removed = inbox::removed(it.room.id);
                evicted.iter().for_each(|conn| conn.send(&removed));
            }
        }
        true
    }
}

/// Moves a room's entries from the participants before to those after.
fn index(
    by_user: &mut HashMap<UserId, Vec<Arc<Room>>>,
    room: &Arc<Room>,
    before: Option<&Membership>,
    after: &Membership,
) {
    for participant in before.iter().flat_map(|before| &before.participants) {
        remove(by_user, &participant.user_id, room);
    }
    for participant in &after.participants {
        by_user.entry(participant.user_id.clone()).or_default().push(room.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::End,
        test_support::{snapshot, unreachable_store},
    };

    fn refresher() -> MembershipRefresher {
        MembershipRefresher::new(Arc::new(Members::new(unreachable_store(), Duration::from_secs(60))))
    }

    fn room(refresher: &MembershipRefresher, users: &[&str]) -> Arc<Room> {
        let id = ConversationId::generate();
        let end = End { seq: 0, is_event: false };
        let room = Arc::new(Room::new(id, end, &snapshot(id, 1, users), HashMap::new()));
        refresher.opened(&room);
        room
    }

    #[tokio::test]
    async fn the_newest_read_holds_in_whatever_order_reads_end() {
        let refresher = refresher();
        let room = room(&refresher, &["ann", "bob"]);
        refresher.adopt(&room, &snapshot(room.id, 3, &["ann", "cat"]));
        refresher.adopt(&room, &snapshot(room.id, 2, &["ann", "bob", "eve"]));
        refresher.adopt(&room, &snapshot(room.id, 3, &["ann", "cat"]));
        assert!(room.membership().participant(&UserId::new("bob").unwrap()).is_none());
        assert_eq!(refresher.indexed(), ["ann", "cat"]);
        refresher.closed(&room);
        refresher.adopt(&room, &snapshot(room.id, 4, &["ann", "bob"]));
        assert!(refresher.indexed().is_empty());
    }

    #[tokio::test]
    async fn a_room_that_is_marked_often_is_read_once() {
        let refresher = refresher();
        let [first, second] = [room(&refresher, &["ann"]), room(&refresher, &["ann"])];
        for _ in 0..100 {
            refresher.mark_stale(&first, Cause::Doubt);
            refresher.mark_stale(&second, Cause::Doubt);
            refresher.mark_stale(&second, Cause::Changed);
        }
        let mut queue = refresher.queue.lock();
        let taken = queue.take(BATCH);
        let taken: Vec<_> = taken.iter().map(|it| (it.room.id, it.urgent, it.tells_removed)).collect();
        assert_eq!(taken, [(second.id, true, true), (first.id, false, true)]);
        assert!(queue.take(BATCH).is_empty() && queue.pending.is_empty());
    }
}
