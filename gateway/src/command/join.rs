//! Joining a conversation: what the client lacks, then everything live, without a gap or a repeat between the two.

use std::{collections::HashMap, sync::Arc, time::Duration};

use partyline_shared::{
    event::Participant,
    ids::{ConversationId, Seq, UserId},
    wire::{DEFAULT_PAGE, ErrorCode, JoinConversation, MAX_PAGE, Refusal},
};
use serde::Serialize;

use super::typing;
use crate::{
    app::Chat,
    authorise, encode,
    encode::{Class, Frame},
    history::{self, Range, resume},
    log::Rest,
    metrics::{self, ResumeSource},
    room::{Glance, Room, forward::Forward},
    session::conn::Conn,
};

/// Upper bound on the bytes of events in one answer, except that a single event always fits. With `after` the client asks
/// for the rest by joining again; without it, REST has the older messages.
const PAGE_BYTES: usize = 256 * 1_024;

/// How long this node may take to deliver what another one had.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);

/// What goes before the live events.
struct Page {
    /// Events as a JSON list without its brackets.
    json: Vec<u8>,
    count: usize,
    /// Everything up to here is in the page, or with the client already.
    cursor: Seq,
    has_older: bool,
    full: bool,
    source: ResumeSource,
    markers: Forward,
}

impl Page {
    fn new(cursor: Seq) -> Self {
        Self {
            json: Vec::new(),
            count: 0,
            cursor,
            has_older: false,
            full: false,
            source: ResumeSource::Ring,
            markers: Forward::default(),
        }
    }

    /// The first page of a client that holds nothing: the newest messages that fit, oldest first. It ends at `head`; what
    /// doesn't fit is older than everything in the page.
    fn newest(last: &history::Page, head: Seq) -> Self {
        let mut page = Self { has_older: last.has_older, ..Self::new(head) };
        let mut newest_first: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for message in last.messages.iter().rev().filter(|message| message.seq <= head) {
            let mut json = Vec::new();
            resume::write_message(message, &mut json);
            bytes += json.len() + 1;
            if bytes > PAGE_BYTES && !newest_first.is_empty() {
                page.has_older = true;
                break;
            }
            newest_first.push(json);
        }
        newest_first.reverse();
        page.count = newest_first.len();
        page.json = newest_first.join(&b',');
        page
    }

    /// Adds an event; false if there is no room for it.
    fn add(&mut self, seq: Seq, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.count >= MAX_PAGE as usize || self.json.len() > PAGE_BYTES {
            self.full = true;
            return false;
        }
        if self.count > 0 {
            self.json.push(b',');
        }
        write(&mut self.json);
        self.count += 1;
        self.cursor = self.cursor.max(seq);
        true
    }
}

#[derive(Serialize)]
struct Joined<'a> {
    r#type: &'static str,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    conversation_id: ConversationId,
    epoch: &'a str,
    more: bool,
    has_older: bool,
    participants: &'a [Participant],
    online: &'a [&'a UserId],
    read_markers: &'a HashMap<UserId, Seq>,
}

/// Joins, and answers.
///
/// # Errors
/// `not_found`, `forbidden`, `conflict` (too many joined), `unavailable`.
pub async fn join(
    chat: &Arc<Chat>,
    conn: &Arc<Conn>,
    reference: Option<&str>,
    command: &JoinConversation,
) -> Result<(), Refusal> {
    let conversation = command.conversation_id;
    let membership = chat.members.get(conversation).await?;
    authorise::take_part(&conn.identity(), &membership)?;
    let joined = conn.side(|side| side.joined.iter().filter(|room| room.id != conversation).count());
    if joined >= chat.config.limits.joined_max as usize {
        return Err(Refusal::new(ErrorCode::Conflict, "too many conversations joined on this connection"));
    }
    let mut page = None;
    loop {
        let room = chat.rooms.open(conversation).await?;
        // Read afresh when the room was opened, and kept up to date since.
        authorise::take_part(&conn.identity(), &room.membership())?;
        let page = match &mut page {
            Some(page) => page,
            none => none.insert(first_page(chat, &room, command.after).await?),
        };
        let attached = attach(chat, conn, reference, &room, page).await;
        if attached.is_err() && !room.holds(conn) {
            // Not joined after all: news of it is for this connection.
            not_joined(chat, conn, room.id);
        }
        if attached? {
            if command.after.is_some() {
                metrics::resumed(page.source, page.count);
            }
            return Ok(());
        }
    }
}

async fn first_page(chat: &Chat, room: &Room, after: Option<Seq>) -> Result<Page, Refusal> {
    if let Some(after) = after {
        return Ok(Page::new(after));
    }
    // Whatever comes after this head is added as events.
    let head = room.head();
    let last = history::page(&chat.store, &chat.log, room.id, Range::Last, DEFAULT_PAGE).await?;
    Ok(Page::newest(&last, head))
}

/// Adds what the room doesn't hold until the client can become a member.
///
/// # Returns
/// Whether the client was answered; if not, the room was being closed.
async fn attach(
    chat: &Chat,
    conn: &Arc<Conn>,
    reference: Option<&str>,
    room: &Arc<Room>,
    page: &mut Page,
) -> Result<bool, Refusal> {
    let epoch = chat.log.epoch(room.id);
    let who = conn.identity();
    loop {
        let membership = room.membership();
        let markers = room.markers();
        let participant = |it: &Participant| {
            let mut it = it.clone();
            // What Postgres had when they were read may be behind the markers.
            it.last_read_seq = markers.get(&it.user_id).copied().unwrap_or(0);
            if it.user_id == who.user_id && it.username == it.user_id.as_str() {
                // Somebody's first connection: what the token says is on its way to Postgres.
                it.username.clone_from(&who.username);
                it.user_type = who.user_type;
            }
            it
        };
        let participants: Vec<_> = membership.participants.iter().map(participant).collect();
        let online: Vec<_> =
            membership.participants.iter().map(|it| &it.user_id).filter(|user| chat.presence.online(user)).collect();
        let opening = opening(&Joined {
            r#type: "joined",
            reference,
            conversation_id: room.id,
            epoch: &epoch,
            more: page.full,
            has_older: page.has_older,
            participants: &participants,
            online: &online,
            read_markers: &markers,
        });
        if page.full {
            // The rest is asked for with `after`; until then nothing live, which would leave a gap.
            room.leave(conn);
            not_joined(chat, conn, room.id);
            conn.send(&finish(&opening, page.cursor, &page.json, &mut std::iter::empty()));
            return Ok(true);
        }
        match room.attach(conn, page.cursor, |live, head| finish(&opening, head, &page.json, live)) {
            Glance::Attached => {
                chat.registry.changed();
                if conn.is_gone() {
                    room.leave(conn);
                }
                return Ok(true);
            }
            Glance::Closed => {
                not_joined(chat, conn, room.id);
                return Ok(false);
            }
            Glance::Removed => return Err(authorise::not_a_participant()),
            Glance::Behind { head } => catch_up(chat, room, page, head).await?,
            Glance::Ahead => fall_back(chat, room, page).await?,
        }
    }
}

fn not_joined(chat: &Chat, conn: &Conn, conversation: ConversationId) {
    conn.side(|side| side.joined.retain(|room| room.id != conversation));
    chat.registry.changed();
}

/// Moves the page to a place that this node can answer for: the client holds more than this node has delivered.
///
/// Either another node delivered an event that is still on its way to this one: the log's head is above the room's, and
/// this node delivers it first. Or the log has nothing above the room's head, so this node is up to date and the client's
/// place stands for "everything": rooms that opened without an event in the log take the persister's floor as their
/// head, which differs between nodes, and a room may stay open after retention has taken its last event.
async fn fall_back(chat: &Chat, room: &Room, page: &mut Page) -> Result<(), Refusal> {
    let stored = chat.log.head(room.id).await?.map_or(0, |entry| entry.seq);
    let head = room.head();
    if stored <= head {
        page.cursor = page.cursor.min(head);
        return Ok(());
    }
    page.cursor = page.cursor.min(stored);
    let reached = tokio::time::timeout(CATCH_UP_TIMEOUT, room.reaches(page.cursor)).await;
    reached.map_err(|_| Refusal::unavailable("the log"))
}

/// Adds events up to `head`, no more, since everything later comes live: from the log; from Postgres if the log no
/// longer reaches back so far.
async fn catch_up(chat: &Chat, room: &Room, page: &mut Page, head: Seq) -> Result<(), Refusal> {
    let rest = if page.cursor < room.archived {
        Rest::InPostgres(room.archived)
    } else {
        let limit = MAX_PAGE as usize + 1 - page.count;
        chat.log.read_rest(room.id, page.cursor, head, limit).await?
    };
    match rest {
        Rest::InPostgres(upto) => {
            page.source = ResumeSource::Postgres;
            let stored = resume::from_store(&chat.store, room.id, page.cursor, upto.min(head), MAX_PAGE).await?;
            for event in &stored.events {
                if !page.add(event.seq, |json| json.extend_from_slice(&event.json)) {
                    return Ok(());
                }
            }
            page.full |= stored.more;
            page.cursor = page.cursor.max(stored.reaches);
        }
        Rest::Here(entries) => {
            if page.source == ResumeSource::Ring {
                page.source = ResumeSource::Log;
            }
            for entry in entries.iter().take_while(|entry| entry.seq <= head) {
                let entry = page.markers.pass(entry, |_| 0);
                if !page.add(entry.seq, |json| encode::event_json(&entry, json)) {
                    return Ok(());
                }
            }
            page.cursor = page.cursor.max(head);
        }
    }
    Ok(())
}

/// The beginning of the answer, up to the fields that are known only under the room's lock: others wait there.
fn opening(joined: &Joined<'_>) -> Vec<u8> {
    let mut json = match serde_json::to_vec(joined) {
        Ok(json) => json,
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON");
            b"{\"type\":\"joined\"}".to_vec()
        }
    };
    json.pop();
    json
}

fn finish(opening: &[u8], seq: Seq, events: &[u8], live: &mut dyn Iterator<Item = (Seq, &Frame)>) -> Frame {
    let place = format!(",\"seq\":{seq},\"events\":[");
    let mut parts = vec![opening, place.as_bytes(), events];
    let mut first = events.is_empty();
    for (_, frame) in live {
        if !first {
            parts.push(b",");
        }
        first = false;
        parts.push(frame.text());
    }
    parts.push(b"]}");
    Frame::of_parts(&parts, Class::Durable)
}

/// Leaves; nothing live comes any more.
pub async fn leave(chat: &Chat, conn: &Conn, conversation: ConversationId) {
    let (room, typed) = conn.side(|side| {
        let place = side.joined.iter().position(|room| room.id == conversation);
        side.postponed.take_if(|typing| typing.conversation_id == conversation);
        let typed = side.typing.take_if(|typing| typing.conversation_id == conversation);
        (place.map(|place| side.joined.swap_remove(place)), typed)
    });
    if let Some(room) = room {
        room.leave(conn);
        chat.registry.changed();
    }
    if let Some(typed) = typed {
        typing::end(chat, &conn.identity(), typed);
    }
}

/// Leaves everything, since the socket is gone.
pub async fn leave_all(chat: &Chat, conn: &Conn) {
    let (rooms, typed) = conn.side(|side| {
        side.postponed = None;
        (std::mem::take(&mut side.joined), side.typing.take())
    });
    rooms.iter().for_each(|room| room.leave(conn));
    if let Some(typed) = typed {
        typing::end(chat, &conn.identity(), typed);
    }
}
