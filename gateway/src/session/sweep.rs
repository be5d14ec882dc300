//! One timer for all sockets: pings, silence, tokens that end, typing that ends. Nobody has a timer of their own.

use std::{sync::Arc, time::Duration};

use partyline_shared::wire::CloseCode;
use serde::Serialize;

use super::{conn::Conn, pace::Look};
use crate::{
    app::Chat,
    clock,
    command::typing,
    encode::{self, Class, Frame},
    metrics,
};

/// How long before its end a client is told that its token ends, in seconds.
const WARNING: i64 = 60;
/// How long after its end a token may be renewed by a command that had arrived by then, in seconds.
const RENEWAL_TIMEOUT: i64 = 15;
/// Between two looks at the rooms and at what else changes slowly, in seconds.
const ROOMS_EVERY: u32 = 5;
/// Between two comparisons of a room with the log, in seconds; it finds a lost event that nothing follows.
const AUDIT_EVERY: u32 = 60;

/// Sweeps once a second, for ever.
pub async fn run(chat: Arc<Chat>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut turn: u32 = 0;
    let mut look = Look::begin(clock::seconds());
    loop {
        tick.tick().await;
        turn = turn.wrapping_add(1);
        look = look.next(clock::seconds());
        let mut typed = Vec::new();
        let mut queues = metrics::Queues::default();
        let now = clock::millis();
        chat.registry.for_each(|conn| {
            if let Some((bytes, since)) = conn.waiting() {
                queues.add(bytes, Duration::from_millis(now.saturating_sub(since)));
            }
            if let Some(ended) = look_at(&chat, conn, look) {
                typed.push((conn.clone(), ended));
            }
        });
        queues.tell();
        for (conn, ended) in typed {
            typing::end(&chat, &conn.identity(), ended);
        }
        if turn.is_multiple_of(ROOMS_EVERY) {
            chat.rooms.sweep();
            tell(&chat);
        }
        for room in chat.rooms.all() {
            // Spread over the minute by the conversation's own bytes.
            if u32::from(room.id.0.as_bytes()[15]) % AUDIT_EVERY == turn % AUDIT_EVERY {
                room.audit();
            }
        }
    }
}

/// What is read now and then because counting every change would cost more.
fn tell(chat: &Chat) {
    metrics::room_members(chat.rooms.all().iter().map(|room| room.size()).sum());
    metrics::nats_traffic(&chat.log.traffic());
    let pool = chat.store.pool();
    metrics::postgres(!chat.store.is_away(), pool.size(), pool.num_idle());
}

fn look_at(chat: &Chat, conn: &Arc<Conn>, look: Look) -> Option<super::conn::Typing> {
    let limits = &chat.config.limits;
    if let Some(pipe) = conn.native() {
        if look.silence(pipe.last_heard()) >= limits.idle_seconds {
            pipe.close(CloseCode::IdleTimeout, None, None);
            // It doesn't answer, so it won't read the close frame either.
            pipe.mark_gone();
            return None;
        }
        // Spread over the interval by the connection's number.
        if look.has_come(conn.id as u32 % limits.ping_seconds, limits.ping_seconds) {
            pipe.send_control(encode::PING);
        }
    }
    // Looked at first: a renewal that ends in between has changed the token's end.
    let is_renewing = conn.is_renewing();
    let left = conn.expires_at() - clock::unix_seconds();
    if left <= 0 && is_renewing && left > -RENEWAL_TIMEOUT {
        // Its answer decides.
    } else if left <= 0 {
        conn.ask_to_close(CloseCode::TokenExpired, None);
    } else if left <= WARNING && conn.warn_once() {
        #[derive(Serialize)]
        struct TokenExpiring {
            r#type: &'static str,
            expires_at: i64,
            expires_in_ms: i64,
        }
        let frame =
            TokenExpiring { r#type: "token_expiring", expires_at: conn.expires_at(), expires_in_ms: left * 1_000 };
        conn.send(&Frame::of(&frame, Class::Durable));
    }
    let now = clock::millis();
    conn.side(|side| side.typing.take_if(|typing| typing.ends <= now))
}
