//! Rooms under random schedules: delivery against joins and leaves, and changes of membership against all of these.

use std::{collections::BTreeSet, time::Duration};

use partyline_shared::claims::{Identity, UserType};
use shuttle::{
    future::block_on,
    thread::{self, JoinHandle},
};

use super::{membership_refresh::MembershipRefresher, *};
use crate::{
    encode::Class,
    members::Members,
    session::conn::{Link, Remote},
    sync::explore,
    test_support::{snapshot, unreachable_store},
};

const ROUNDS: usize = 400;

/// A client that notes what it is sent.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Frame>>);

impl Remote for Recorder {
    fn send_all(&self, frames: &[Frame]) {
        self.0.lock().extend_from_slice(frames);
    }

    fn ask_to_close(&self, _: CloseCode, _: Option<u64>) {}

    fn is_leaving(&self) -> bool {
        false
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn waiting(&self) -> Option<(usize, u64)> {
        None
    }

    fn has_room(&self) -> bool {
        true
    }
}

/// A frame as these tests write it: `joined` with its head and its events, or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Joined { head: Seq, events: Vec<Seq> },
    Event(Seq),
}

struct Client {
    conn: Arc<Conn>,
    recorder: Arc<Recorder>,
}

impl Client {
    fn new(id: u64, user: &str) -> Arc<Self> {
        let recorder = Arc::new(Recorder::default());
        let identity = Identity {
            user_id: UserId::new(user).unwrap(),
            username: user.into(),
            user_type: UserType::Customer,
            service: false,
            expires_at: i64::MAX,
        };
        Arc::new(Self { conn: Conn::new(id, identity, Link::SocketIo(recorder.clone())), recorder })
    }

    /// As the command joins, except that this client's place is never too old.
    fn join(&self, room: &Arc<Room>, after: Seq) -> Glance {
        room.attach(&self.conn, after, |events, head| {
            let events = events.map(|(seq, _)| seq.to_string()).collect::<Vec<_>>().join(",");
            Frame::json(format!("joined {head} {events}").as_bytes(), Class::Durable)
        })
    }

    /// As the command leaves.
    fn leave(&self, room: &Arc<Room>) {
        let held = self.conn.side(|side| {
            let held = side.joined.len();
            side.joined.retain(|it| !Arc::ptr_eq(it, room));
            held > side.joined.len()
        });
        if held {
            room.leave(&self.conn);
        }
    }

    fn got(&self) -> Vec<Got> {
        let parse = |frame: &Frame| {
            let text = std::str::from_utf8(frame.text()).unwrap();
            match text.strip_prefix("joined ") {
                None => Got::Event(text.parse().unwrap()),
                Some(joined) => {
                    let (head, events) = joined.split_once(' ').unwrap();
                    let events = events.split(',').filter(|it| !it.is_empty()).map(|it| it.parse().unwrap());
                    Got::Joined { head: head.parse().unwrap(), events: events.collect() }
                }
            }
        };
        self.recorder.0.lock().iter().map(parse).collect()
    }

    fn has_side_entry(&self, room: &Arc<Room>) -> bool {
        self.conn.side(|side| side.joined.iter().any(|it| Arc::ptr_eq(it, room)))
    }
}

fn members() -> Arc<Members> {
    Arc::new(Members::new(unreachable_store(), Duration::from_secs(60)))
}

fn refresher() -> Arc<MembershipRefresher> {
    Arc::new(MembershipRefresher::new(members()))
}

fn open(users: &[&str]) -> Arc<Room> {
    let id = ConversationId::generate();
    Arc::new(Room::new(id, End { seq: 0, is_event: false }, &snapshot(id, 1, users), HashMap::new()))
}

/// Delivers events one by one, as the room's task does.
fn deliver(room: &Arc<Room>, seqs: impl IntoIterator<Item = Seq>) {
    for seq in seqs {
        let frame = Frame::json(seq.to_string().as_bytes(), Class::Durable);
        let (dealt, frames, members) = room.take(&[(seq, seq - 1, frame)]);
        assert_eq!(dealt, 1);
        block_on(fan_out(members, frames));
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::spawn(run)
}

fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_first_join_and_live_events_have_no_gap_and_no_repeat() {
    explore(ROUNDS, || {
        let room = open(&["ann", "bob"]);
        let clients = [Client::new(1, "ann"), Client::new(2, "ann"), Client::new(3, "bob")];
        let feed = spawn({
            let room = room.clone();
            move || deliver(&room, 1..=4)
        });
        let joins = clients.clone().map(|client| {
            let room = room.clone();
            spawn(move || assert!(matches!(client.join(&room, 0), Glance::Attached)))
        });
        join_all(joins.into_iter().chain([feed]));
        for client in clients {
            let got = client.got();
            let Some((Got::Joined { head, events }, live)) = got.split_first() else { panic!("{got:?}") };
            assert_eq!(*events, (1..=*head).collect::<Vec<_>>());
            assert_eq!(live, (head + 1..=4).map(Got::Event).collect::<Vec<_>>());
        }
    });
}

/// A client that leaves and joins again may get an event live that its page has too, as the protocol says.
#[test]
fn joins_after_leaving_have_no_gap() {
    explore(ROUNDS, || {
        let room = open(&["ann", "bob"]);
        let client = Client::new(1, "ann");
        let feed = spawn({
            let room = room.clone();
            move || deliver(&room, 1..=4)
        });
        let comes_and_goes = spawn({
            let (room, client) = (room.clone(), client.clone());
            move || {
                for _ in 0..2 {
                    assert!(matches!(client.join(&room, 0), Glance::Attached));
                    client.leave(&room);
                    assert!(!room.holds(&client.conn));
                }
                assert!(matches!(client.join(&room, 0), Glance::Attached));
            }
        });
        join_all([feed, comes_and_goes]);
        let got = client.got();
        let last = got.iter().rposition(|it| matches!(it, Got::Joined { .. })).unwrap();
        let Got::Joined { head, events } = &got[last] else { unreachable!() };
        assert_eq!(*events, (1..=*head).collect::<Vec<_>>());
        let new = got[last + 1..].iter().filter(|it| !matches!(it, Got::Event(seq) if seq <= head));
        assert_eq!(new.cloned().collect::<Vec<_>>(), (head + 1..=4).map(Got::Event).collect::<Vec<_>>());
        assert_eq!(room.size(), 1);
        client.leave(&room);
        assert_eq!(room.size(), 0);
    });
}

/// What must hold of a room whenever nothing is under way: only participants are in it, whoever is in it can leave, and
/// the index has exactly the participants.
fn assert_consistent(refresher: &MembershipRefresher, room: &Arc<Room>, clients: &[Arc<Client>]) {
    let membership = room.membership();
    let participants: BTreeSet<_> = membership.participants.iter().map(|it| it.user_id.as_str().to_owned()).collect();
    for client in clients {
        let user = client.conn.user_id.as_str();
        assert_eq!(
            room.holds(&client.conn),
            client.has_side_entry(room),
            "the room and the connection of {user} differ on whether it is joined"
        );
        assert!(!room.holds(&client.conn) || participants.contains(user), "{user} is removed and in the room");
    }
    let indexed = refresher.indexed();
    assert_eq!(indexed, participants.into_iter().collect::<Vec<_>>(), "the index differs from the membership");
}

#[test]
fn removed_user_never_remains_in_the_room() {
    explore(ROUNDS, || {
        let (refresher, room) = (refresher(), open(&["ann", "bob"]));
        refresher.opened(&room);
        let clients = [Client::new(1, "ann"), Client::new(2, "bob"), Client::new(3, "bob")];
        let mut threads: Vec<_> = clients
            .iter()
            .map(|client| {
                let (room, client) = (room.clone(), client.clone());
                spawn(move || {
                    for _ in 0..2 {
                        client.join(&room, 0);
                    }
                })
            })
            .collect();
        // Reads end in any order.
        for (number, users) in [(2, &["ann", "bob", "cat"][..]), (3, &["ann"])] {
            let (refresher, room) = (refresher.clone(), room.clone());
            threads.push(spawn(move || drop(refresher.adopt(&room, &snapshot(room.id, number, users)))));
        }
        threads.push(spawn({
            let room = room.clone();
            move || deliver(&room, 1..=2)
        }));
        join_all(threads);
        assert!(room.membership().participant(&UserId::new("bob").unwrap()).is_none());
        assert_consistent(&refresher, &room, &clients);
        // Nothing that is delivered from now on reaches them.
        let before: Vec<_> = clients[1..].iter().map(|client| client.got().len()).collect();
        deliver(&room, [3]);
        assert_eq!(before, clients[1..].iter().map(|client| client.got().len()).collect::<Vec<_>>());
    });
}

#[test]
fn user_who_is_added_again_stays_joined() {
    explore(ROUNDS, || {
        let (refresher, room) = (refresher(), open(&["ann", "bob"]));
        refresher.opened(&room);
        let bob = Client::new(1, "bob");
        assert!(matches!(bob.join(&room, 0), Glance::Attached));
        let adopts = [(2, &["ann"][..]), (3, &["ann", "bob"])].map(|(number, users)| {
            let (refresher, room) = (refresher.clone(), room.clone());
            spawn(move || drop(refresher.adopt(&room, &snapshot(room.id, number, users))))
        });
        let joins = spawn({
            let (room, bob) = (room.clone(), bob.clone());
            move || {
                // Once it is added again, which may be before the node has applied the removal.
                let is_back = || {
                    room.membership_number.load(Ordering::Acquire) == 3
                        && room.membership().participant(&bob.conn.user_id).is_some()
                };
                while !is_back() {
                    thread::yield_now();
                }
                assert!(matches!(bob.join(&room, 0), Glance::Attached));
                deliver(&room, [1]);
            }
        });
        join_all(adopts.into_iter().chain([joins]));
        let (got, is_held) = (bob.got(), room.holds(&bob.conn));
        assert!(is_held, "joined after it was added again, and taken out by the removal before: {got:?}");
        assert!(got.contains(&Got::Event(1)), "{got:?}");
        assert_consistent(&refresher, &room, &[bob]);
    });
}

#[test]
fn an_eviction_is_reported_once() {
    explore(ROUNDS, || {
        let (refresher, room) = (refresher(), open(&["ann", "bob"]));
        refresher.opened(&room);
        let bob = Client::new(1, "bob");
        assert!(matches!(bob.join(&room, 0), Glance::Attached));
        let evicted = Arc::new(Mutex::new(0));
        let adopts = [2, 3].map(|number| {
            let (refresher, room, evicted) = (refresher.clone(), room.clone(), evicted.clone());
            spawn(move || {
                let count = refresher.adopt(&room, &snapshot(room.id, number, &["ann"])).len();
                *evicted.lock() += count;
            })
        });
        join_all(adopts);
        assert_eq!(*evicted.lock(), 1);
    });
}

/// A removal is applied without Postgres while an earlier read ends that has another removal.
#[test]
fn a_removal_without_postgres_undoes_no_other_removal() {
    explore(ROUNDS, || {
        let (members, room) = (members(), open(&["ann", "bob", "cat"]));
        let refresher = Arc::new(MembershipRefresher::new(members.clone()));
        refresher.opened(&room);
        let has = |room: &Room, user| room.membership().participant(&UserId::new(user).unwrap()).is_some();
        let numbers = [members.next_number(), members.next_number()];
        let read = thread::spawn({
            let (refresher, room) = (refresher.clone(), room.clone());
            move || {
                refresher.adopt(&room, &snapshot(room.id, numbers[1], &["ann", "cat"]));
                !has(&room, "bob")
            }
        });
        let removal = spawn({
            let (refresher, room) = (refresher.clone(), room.clone());
            move || {
                refresher.evict(&room, &UserId::new("cat").unwrap());
                assert!(!has(&room, "cat"));
            }
        });
        let bob_was_removed = read.join().unwrap();
        removal.join().unwrap();
        assert!(!has(&room, "cat"));
        assert!(!bob_was_removed || !has(&room, "bob"), "removed, and back without being added");
        assert_consistent(&refresher, &room, &[]);
    });
}

#[test]
fn index_is_empty_when_rooms_are_closed_amid_changes() {
    explore(ROUNDS, || {
        let refresher = refresher();
        let rooms = [open(&["ann", "bob"]), open(&["ann"])];
        let mut threads = Vec::new();
        for room in &rooms {
            let (refresher, room) = (refresher.clone(), room.clone());
            refresher.opened(&room);
            for (number, users) in [(2, &["ann", "cat"][..]), (3, &["bob"])] {
                let (refresher, room) = (refresher.clone(), room.clone());
                threads.push(spawn(move || drop(refresher.adopt(&room, &snapshot(room.id, number, users)))));
            }
            threads.push(spawn(move || {
                let client = Client::new(1, "ann");
                client.join(&room, 0);
                // As the sweep closes a room in which nobody is.
                if room.sweep(0) {
                    refresher.closed(&room);
                    assert!(matches!(client.join(&room, 0), Glance::Closed));
                }
                client.leave(&room);
                if room.sweep(0) {
                    refresher.closed(&room);
                }
            }));
        }
        join_all(threads);
        for room in &rooms {
            assert!(room.end.is_cancelled());
        }
        assert!(refresher.indexed().is_empty(), "{:?}", refresher.indexed());
    });
}
