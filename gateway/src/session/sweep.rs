//! One timer for all sockets: pings, silence, tokens that end, typing that ends. Nobody has a timer of their own.

use std::{sync::Arc, time::Duration};

use partyline_shared::wire::CloseCode;
use serde::Serialize;

use super::conn::Conn;
use crate::{
    app::Chat,
    clock,
    command::typing,
    encode::{self, Class, Frame},
    metrics,
};

/// How long before its end a client is told that its token ends, in seconds.
const WARNING: i64 = 60;
/// Between two looks at the rooms and at what else changes slowly, in seconds.
const ROOMS_EVERY: u32 = 5;
/// Between two comparisons of a room with the log, in seconds; it finds a lost event that nothing follows.
const AUDIT_EVERY: u32 = 60;

/// Sweeps once a second, for ever.
pub async fn run(chat: Arc<Chat>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut turn: u32 = 0;
    let mut swept = clock::seconds();
    loop {
        tick.tick().await;
        turn = turn.wrapping_add(1);
        // One time for all, since a second may end while they are looked at.
        let since = std::mem::replace(&mut swept, clock::seconds());
        let mut typed = Vec::new();
        let mut queues = metrics::Queues::default();
        let now = clock::millis();
        chat.registry.for_each(|conn| {
            if let Some((bytes, since)) = conn.waiting() {
                queues.add(bytes, Duration::from_millis(now.saturating_sub(since)));
            }
            if let Some(ended) = look_at(&chat, conn, since, swept) {
                typed.push((conn.clone(), ended));
            }
        });
        queues.tell();
        for (conn, ended) in typed {
            typing::end(&chat, &conn.identity, ended).await;
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
    metrics::nats_traffic(&chat.client.statistics());
    let pool = chat.store.pool();
    metrics::postgres(!chat.store.is_away(), pool.size(), pool.num_idle());
}

/// `since`: when they were looked at last, in node seconds.
fn look_at(chat: &Chat, conn: &Arc<Conn>, since: u32, now: u32) -> Option<super::conn::Typing> {
    let limits = &chat.config.limits;
    if let Some(pipe) = conn.native() {
        if pipe.silent_for(now) >= limits.idle_seconds {
            pipe.close(CloseCode::IdleTimeout, None, None);
            // It doesn't answer, so it won't read the close frame either.
            pipe.mark_gone();
            return None;
        }
        // Spread over the interval by the connection's number.
        if has_come(conn.id as u32 % limits.ping_seconds, limits.ping_seconds, since, now) {
            pipe.send_control(encode::PING);
        }
    }
    let left = conn.expires_at() - clock::unix_seconds();
    if left <= 0 {
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

/// Whether the second `turn` of every `every` seconds came after `since`, until `now`, in node seconds: a sweep may come
/// late, and a turn that is left out twice would be the end of a socket that is well.
pub fn has_come(turn: u32, every: u32, since: u32, now: u32) -> bool {
    let rounds = |second: u32| (u64::from(second) + u64::from(every) - u64::from(turn)) / u64::from(every);
    rounds(now) > rounds(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_turn_is_left_out_and_none_comes_twice() {
        // Seconds as sweeps may see them: one twice, some skipped.
        let seen = [0, 1, 1, 2, 4, 5, 9, 10, 12, 20, 24, 25, 49, 50, 51, 76, 100];
        for turn in 0..25 {
            let came = seen.windows(2).filter(|pair| has_come(turn, 25, pair[0], pair[1])).count();
            // After the first look: four rounds in 100 s. 51 to 76 is one look.
            assert_eq!(came, 4, "turn {turn}");
        }
        assert!(has_come(0, 1, 7, 8));
    }
}
