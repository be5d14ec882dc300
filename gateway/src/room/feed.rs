//! A room's task: takes what NATS brings, fills gaps from the log, delivers.

use std::{sync::Arc, time::Duration};

use async_nats::{Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use partyline_shared::{
    event::Event,
    ids::UserId,
    subjects::{self, Live},
    timestamp::Timestamp,
};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Room, directory::Directory, fan_out, forward::Forward};
use crate::{
    encode::{self, Class, Frame},
    log::{Entry, Log},
    metrics, trace,
};

/// Events taken from the subscription before they are written.
const BATCH: usize = 64;
/// Between attempts to fill a gap while the log doesn't answer.
const HEAL_RETRY: Duration = Duration::from_millis(250);
/// Events in one step of filling a gap.
const HEAL_BATCH: usize = 500;

/// Runs until the room is closed.
pub(super) async fn run(room: Arc<Room>, mut live: Subscriber, log: Arc<Log>, directory: Arc<Directory>) {
    loop {
        tokio::select! {
            () = room.end.cancelled() => return,
            () = room.audit.notified() => Box::pin(heal(&room, &log, &directory)).await,
            message = live.next() => {
                let Some(message) = message else {
                    // The client is shut down: the process is leaving.
                    return;
                };
                let mut entries = Vec::new();
                let mut spans = Vec::new();
                spans.extend(trace::arrived(&message));
                sort_in(&room, message, &mut entries);
                while entries.len() < BATCH && let Some(Some(message)) = live.next().now_or_never() {
                    spans.extend(trace::arrived(&message));
                    sort_in(&room, message, &mut entries);
                }
                if !entries.is_empty() {
                    Box::pin(deliver(&room, entries, &log, &directory)).await;
                }
                for span in spans {
                    trace::delivered(span, room.size());
                }
            }
        }
    }
}

/// Stored events wait for delivery; ephemera go out at once.
fn sort_in(room: &Room, message: Message, entries: &mut Vec<Entry>) {
    match subjects::parse_live(&message.subject) {
        Some(Live::Log) => match entry(&message) {
            Some(entry) => entries.push(entry),
            None => tracing::warn!(subject = %message.subject, "a live event without its place"),
        },
        Some(Live::Typing) => {
            #[derive(Deserialize)]
            struct Who {
                user_id: UserId,
            }
            if let Ok(who) = serde_json::from_slice::<Who>(&message.payload) {
                room.broadcast(&Frame::json(&message.payload, Class::Ephemeral), &who.user_id);
            }
        }
        None => {}
    }
}

fn entry(message: &Message) -> Option<Entry> {
    let headers = message.headers.as_ref()?;
    if let Some(stored) = headers.get(async_nats::header::NATS_TIME_STAMP)
        && let Ok(stored) = OffsetDateTime::parse(stored.as_str(), &Rfc3339)
    {
        // Another machine's clock may be ahead of ours.
        metrics::live_lag((OffsetDateTime::now_utc() - stored).try_into().unwrap_or_default());
    }
    let number = |name| headers.get(name)?.as_str().parse().ok();
    Some(Entry {
        seq: number(async_nats::header::NATS_SEQUENCE)?,
        prev_seq: number(async_nats::header::NATS_LAST_SEQUENCE)?,
        payload: message.payload.clone(),
    })
}

async fn deliver(room: &Arc<Room>, entries: Vec<Entry>, log: &Log, directory: &Directory) {
    let mut rest = &entries[..];
    loop {
        let dealt = hand_out(room, rest, directory).await;
        rest = &rest[dealt..];
        let Some(gap) = rest.first() else { return };
        metrics::gap_healed();
        tracing::info!(conversation = %room.id, head = room.head(), prev_seq = gap.prev_seq, "filling a gap");
        fill(room, gap.prev_seq, log, directory).await;
    }
}

/// Compares with the log, and delivers what is missing.
async fn heal(room: &Arc<Room>, log: &Log, directory: &Directory) {
    let head = loop {
        let asked = {
            // Closed never; without a permit it would only be asked beside the others.
            let _permit = directory.heads.acquire().await;
            log.head(room.id).await
        };
        match asked {
            Ok(head) => break head.map_or(0, |entry| entry.seq),
            Err(_) if room.end.is_cancelled() => return,
            Err(_) => tokio::time::sleep(HEAL_RETRY).await,
        }
    };
    if head > room.head() {
        metrics::gap_healed();
        fill(room, head, log, directory).await;
    }
}

/// Delivers from the log until the head is at least `target`.
async fn fill(room: &Arc<Room>, target: u64, log: &Log, directory: &Directory) {
    while room.head() < target && !room.end.is_cancelled() {
        match log.read_up_to(room.id, room.head(), target, HEAL_BATCH).await {
            Ok(entries) => {
                hand_out(room, &entries, directory).await;
            }
            Err(_) => tokio::time::sleep(HEAL_RETRY).await,
        }
    }
}

/// Delivers up to the first gap.
///
/// # Returns
/// How many entries were dealt with.
async fn hand_out(room: &Arc<Room>, entries: &[Entry], directory: &Directory) -> usize {
    let mut dealt = 0;
    // Who is removed gets that event as the last one, however closely others follow.
    for part in entries.split_inclusive(removes) {
        let before = room.head();
        let dealt_here = hand_out_part(room, part, before, directory).await;
        dealt += dealt_here;
        if dealt_here < part.len() {
            break;
        }
        if let Some(removal) = part.last().filter(|entry| entry.seq > before && removes(entry)) {
            Box::pin(expel(room, removal, directory)).await;
        }
    }
    dealt
}

async fn hand_out_part(room: &Arc<Room>, entries: &[Entry], before: u64, directory: &Directory) -> usize {
    let mut forward = Forward::default();
    let as_heard = |it| encode::event(&forward.pass(it, |user| room.marker(user)));
    let frames = entries.iter().map(as_heard);
    let events: Vec<_> = entries.iter().zip(frames).map(|(it, frame)| (it.seq, it.prev_seq, frame)).collect();
    let (dealt, frames, members) = room.take(&events);
    if frames.is_empty() {
        return dealt;
    }
    let (sockets, fresh) = (members.len(), frames.len());
    // Markers first: a client that joins in between must not see an older one.
    for entry in entries[..dealt].iter().filter(|entry| entry.seq > before) {
        note(room, entry, directory);
    }
    fan_out(members, frames).await;
    let age = entries[..dealt].last().and_then(age);
    (0..fresh).for_each(|_| metrics::delivered(sockets, age));
    dealt
}

fn removes(entry: &Entry) -> bool {
    entry.payload.starts_with(b"{\"type\":\"participant_removed\"")
}

async fn expel(room: &Arc<Room>, removal: &Entry, directory: &Directory) {
    if let Ok(Event::ParticipantRemoved(removed)) = Event::from_json(&removal.payload) {
        directory.removed(room, &removed.user_id).await;
    }
}

/// What an event means to the node itself.
fn note(room: &Arc<Room>, entry: &Entry, directory: &Directory) {
    if entry.payload.starts_with(b"{\"type\":\"new_message\"") {
        #[derive(Deserialize)]
        struct Sent {
            sender_id: UserId,
        }
        // Who sends has read what came before.
        if let Ok(sent) = serde_json::from_slice::<Sent>(&entry.payload) {
            room.note_read(sent.sender_id, entry.seq);
        }
        return;
    }
    match Event::from_json(&entry.payload) {
        Ok(Event::Read(read)) => room.note_read(read.user_id, read.last_read_seq),
        Ok(Event::ParticipantAdded(added)) => {
            // An added participant has read everything before the event.
            room.note_read(added.participant.user_id, entry.seq);
            directory.members_changed(room.id);
        }
        Ok(_) => {}
        // The error may quote the event.
        Err(_) => tracing::warn!(conversation = %room.id, seq = entry.seq, "an event that is none"),
    }
}

/// The time since a message's creation on whichever node took it.
fn age(entry: &Entry) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Created {
        created_at: Option<Timestamp>,
    }
    let created = serde_json::from_slice::<Created>(&entry.payload).ok()?.created_at?;
    let millis = Timestamp::now().unix_millis() - created.unix_millis();
    Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}
