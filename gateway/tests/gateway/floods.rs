//! More at once than a node, or its clients, take in one go: nothing is lost, doubled or out of order, and the work that
//! it makes has a bound.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use devstack::testing::{Process, Proxy, Signal};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{
    person::{Follower, Person},
    support::{CONVERSATIONS, World, message, seq, until},
};

const DROPPED: &str = "partyline_gateway_nats_events_total{event=\"slow_consumer\"}";
const VERIFICATIONS: &str = "partyline_gateway_verifications_total";
const TOO_SLOW: &str = "partyline_gateway_connections_closed_total{reason=\"too_slow\"}";
/// Messages while the slow node is stopped: more than one subscription of it holds.
const FLOOD: usize = 3_000;
const SENDERS: usize = 4;
/// Clients of the slow node: as many as a user may have, so that a message takes longer to deliver than to receive.
const READERS: usize = 10;
/// Messages of a sender that wait for their acknowledgement.
const IN_FLIGHT: usize = 200;
/// Floods at most, until messages are dropped often enough.
const FLOODS: usize = 12;
/// Dropped messages that are enough.
const MANY: f64 = 100.0;
/// How long a client may hear nothing while there is something to hear.
const SILENCE: Duration = Duration::from_secs(20);

/// Sends `count` messages; their places.
async fn flood(sender: &mut Person, chat: &str, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    while seqs.len() < count {
        let batch = IN_FLIGHT.min(count - seqs.len());
        for n in 0..batch {
            let mut frame = message(chat, &format!("{n}"));
            frame["ref"] = json!("flood");
            sender.say(&frame).await;
        }
        for _ in 0..batch {
            let reply = sender.find(|it| it["ref"] == "flood").await;
            assert_eq!(reply["type"], "ack", "{reply}");
            seqs.push(seq(&reply));
        }
        sender.held.clear();
    }
    seqs
}

/// Reads events until one stands at `last`.
async fn follow(reader: &mut Person, follower: &mut Follower, last: u64) {
    while follower.last < last {
        let event = match reader.held.pop_front() {
            Some(event) => event,
            None => timeout(SILENCE, reader.read()).await.expect("a client hears nothing").unwrap(),
        };
        if event["prev_seq"].is_u64() {
            follower.take(&event, "flood");
        }
    }
}

/// A node that drops live messages, while another takes a flood of them. Its own way to Postgres hangs if asked to.
async fn node_that_drops_messages(hang_postgres: bool) {
    let world = World::new().await;
    let fast = world.gateway().await;
    let postgres = Proxy::start(world.env.database_url()).await.unwrap();
    let slow = world
        .launch()
        .env("PARTYLINE_DATABASE_URL", postgres.through(world.env.database_url()))
        .env("PARTYLINE_NATS_SUBSCRIPTION_CAPACITY", "512")
        .env("PARTYLINE_OUTBOUND_QUEUE_BYTES", "67108864");
    let slow = slow.start().await.unwrap();
    let chat = world.group(&fast, &["ann", "bob"]).await;
    let mut senders = join_all((0..SENDERS).map(|_| world.person(&fast, "ann"))).await;
    let mut readers = join_all((0..READERS).map(|_| world.person(&slow, "bob"))).await;
    let mut followers = Vec::new();
    for reader in &mut readers {
        followers.push(Follower { last: seq(&reader.join(&chat).await), seqs: Vec::new() });
    }

    let began = Instant::now();
    let mut sent = Vec::new();
    for _ in 0..FLOODS {
        if hang_postgres {
            postgres.pause();
        }
        slow.signal(Signal::STOP);
        let floods = senders.iter_mut().map(|sender| flood(sender, &chat, FLOOD / SENDERS));
        let seqs = join_all(floods).await.concat();
        slow.signal(Signal::CONT);
        let last = seqs.iter().copied().max().unwrap();
        sent.extend(seqs);
        // Postgres still hangs: what was dropped is in the log.
        let all = readers.iter_mut().zip(&mut followers);
        join_all(all.map(|(reader, follower)| follow(reader, follower, last))).await;
        postgres.resume();
        if world.metric(&slow, DROPPED).await >= MANY {
            break;
        }
    }
    sent.sort_unstable();
    for follower in &followers {
        assert!(follower.seqs == sent, "{} of {} messages came", follower.seqs.len(), sent.len());
    }

    // However many messages were dropped, all rooms are verified at most once a second.
    until("the node to be well", async || world.is_ready(&slow).await).await;
    let dropped = world.metric(&slow, DROPPED).await;
    let verified = world.metric(&slow, VERIFICATIONS).await;
    let bound = began.elapsed().as_secs_f64() + 2.0;
    assert!(dropped >= 1.0, "no message was dropped");
    assert!((1.0..=bound).contains(&verified), "verified {verified} times, {dropped} dropped, bound {bound}");
    assert_eq!(world.metric(&slow, TOO_SLOW).await, 0.0);
    // The node goes on as before.
    let last = seq(&senders[0].send(&chat, "after").await);
    follow(&mut readers[0], &mut followers[0], last).await;
    assert_eq!(readers[1].join_after(&chat, last).await["seq"], last);
}

#[tokio::test]
async fn messages_that_nats_drops_reach_every_client_once_and_in_order() {
    node_that_drops_messages(false).await;
}

#[tokio::test]
async fn messages_that_nats_drops_reach_every_client_while_postgres_hangs() {
    node_that_drops_messages(true).await;
}

/// What a client shows of a conversation's read markers.
struct Reader {
    person: Person,
    user: String,
    markers: BTreeMap<String, u64>,
    acked: usize,
}

impl Reader {
    /// Marks every message as it comes, until `messages` of them are read by everybody.
    async fn read_all(&mut self, chat: &str, messages: usize, people: usize) {
        let mut seqs = Vec::new();
        let is_done = |it: &Self, seqs: &[u64]| {
            let last = seqs.last().copied().unwrap_or_default();
            let are_read = it.markers.len() == people && it.markers.values().all(|marker| *marker == last);
            seqs.len() == messages && it.acked == messages && are_read
        };
        while !is_done(self, &seqs) {
            let frame = match self.person.held.pop_front() {
                Some(frame) => frame,
                None => self.person.read().await.unwrap(),
            };
            match frame["type"].as_str().unwrap() {
                "new_message" => {
                    seqs.push(seq(&frame));
                    // A message is its sender's marker.
                    let sender = frame["sender_id"].as_str().unwrap();
                    self.advance(sender, seq(&frame));
                    let mark = json!({ "type": "mark_read", "conversation_id": chat, "seq": seq(&frame), "ref": "m" });
                    self.person.say(&mark).await;
                }
                "read" => {
                    let user = frame["user_id"].as_str().unwrap();
                    self.advance(user, frame["last_read_seq"].as_u64().unwrap());
                }
                "ack" if frame["ref"] == "m" => self.acked += 1,
                "error" => panic!("{}: {frame}", self.user),
                _ => {}
            }
        }
    }

    fn advance(&mut self, user: &str, marker: u64) {
        let held = self.markers.entry(user.into()).or_default();
        assert!(marker >= *held, "{}: {user}'s marker went back from {held} to {marker}", self.user);
        *held = marker;
    }
}

#[tokio::test]
async fn everybody_marks_every_message_read_at_once() {
    const PEOPLE: usize = 40;
    const MESSAGES: usize = 30;
    let world = World::new().await;
    let _persister = world.persister().await;
    let gateways = [world.gateway().await, world.gateway().await];
    let node = |n: usize| -> &Process { &gateways[n % 2] };
    let users: Vec<_> = (0..PEOPLE).map(|n| format!("user{n:02}")).collect();
    let names: Vec<_> = users.iter().map(String::as_str).collect();
    let chat = world.group(node(0), &names).await;
    let mut readers = Vec::new();
    for (n, user) in users.iter().enumerate() {
        let mut person = world.person(node(n), user).await;
        person.join(&chat).await;
        readers.push(Reader { person, user: user.clone(), markers: BTreeMap::new(), acked: 0 });
    }
    let mut sender = world.person(node(1), &users[0]).await;
    let sends = flood(&mut sender, &chat, MESSAGES);
    let reads = join_all(readers.iter_mut().map(|reader| reader.read_all(&chat, MESSAGES, PEOPLE)));
    let (seqs, _) = tokio::join!(sends, reads);

    let last = seqs.iter().copied().max().unwrap();
    for reader in &mut readers {
        // Nothing that is still under way moves a marker back.
        reader.person.caught_up().await;
        for frame in reader.person.held("read").into_iter().cloned().collect::<Vec<Value>>() {
            reader.advance(frame["user_id"].as_str().unwrap(), frame["last_read_seq"].as_u64().unwrap());
        }
        assert_eq!(reader.markers, readers_at(&users, last), "{}", reader.user);
    }
    for (n, user) in users.iter().enumerate() {
        let list = world.get(node(n + 1), user, CONVERSATIONS).await;
        assert_eq!(list.body["results"][0]["unread_count"], 0, "{user}: {}", list.body);
    }
    // Who joins now is shown the same.
    let shown = world.person(node(0), &users[1]).await.join(&chat).await["read_markers"].clone();
    assert_eq!(shown, json!(readers_at(&users, last)));
    for gateway in &gateways {
        assert_eq!(world.metric(gateway, TOO_SLOW).await, 0.0);
    }
    assert_eq!(seqs.iter().collect::<HashSet<_>>().len(), MESSAGES);
}

fn readers_at(users: &[String], last: u64) -> BTreeMap<String, u64> {
    users.iter().map(|user| (user.clone(), last)).collect()
}
