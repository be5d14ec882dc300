//! A connection's first and last step, the same for every transport.

use std::sync::Arc;

use partyline_shared::{
    ids::UserId,
    timestamp::Timestamp,
    wire::{CloseCode, FEATURES, Limits},
};
use serde::Serialize;

use super::conn::Conn;
use crate::{
    command,
    encode::{Class, Frame},
    server::Gateway,
};

#[derive(Serialize)]
struct Welcome<'a> {
    r#type: &'static str,
    session_id: String,
    user: WelcomeUser<'a>,
    server_time: Timestamp,
    heartbeat_ms: u64,
    limits: &'a Limits,
    features: &'static [&'static str],
}

#[derive(Serialize)]
struct WelcomeUser<'a> {
    user_id: &'a UserId,
    username: &'a str,
    user_type: &'a str,
}

/// Makes a connection known, and greets it.
pub fn arrive(gateway: &Gateway, conn: &Arc<Conn>) {
    let chat = &gateway.chat;
    let who = &conn.identity();
    chat.people.note(who);
    let limits = &chat.config.limits;
    if chat.registry.add(conn, limits.connections_per_user as usize) {
        chat.presence.touch(&who.user_id);
    }
    let told = limits.told(who.service);
    conn.send(&Frame::of(
        &Welcome {
            r#type: "welcome",
            session_id: format!("{}-{}", chat.node, conn.id),
            user: WelcomeUser { user_id: &who.user_id, username: &who.username, user_type: who.user_type.as_str() },
            server_time: Timestamp::now(),
            heartbeat_ms: told.ping_interval_ms,
            limits: &told,
            features: FEATURES,
        },
        Class::Durable,
    ));
    // The drain may have begun between the handshake and now.
    if gateway.is_draining() {
        conn.ask_to_close(CloseCode::Draining, Some(500));
    }
}

/// Forgets a connection that is gone.
pub async fn depart(gateway: &Gateway, conn: &Arc<Conn>) {
    let chat = &gateway.chat;
    if chat.registry.remove(conn) {
        chat.presence.touch(&conn.user_id);
    }
    command::join::leave_all(chat, conn).await;
}
