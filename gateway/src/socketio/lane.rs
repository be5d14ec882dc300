//! What a session's client asks, done one after the other.

use std::sync::Arc;

use partyline_shared::wire::{Command, ErrorCode, Refusal, Request};
use serde::Deserialize;
use serde_json::json;

use super::{
    asked::Asked,
    late,
    packet::{Violation, parse_event},
    session::Session,
    state::{Turn, Who},
    voice::Reply,
};
use crate::{
    command, metrics,
    server::Gateway,
    session::{
        conn::{Conn, Link},
        life,
    },
};

/// The longest name of an event that is repeated in an answer, in bytes.
const NAME_BYTES: usize = 128;

/// Works until nothing is left.
pub(super) async fn run(gateway: Arc<Gateway>, session: Arc<Session>) {
    while let Some(turn) = session.next_turn() {
        match turn {
            Turn::Connect { namespace, auth } => connect(&gateway, &session, &namespace, auth.as_deref()).await,
            Turn::Event { id, json } => event(&gateway, &session, id, &json).await,
            // A client that leaves the only namespace closes the transport next.
            Turn::Disconnect => session.hang_up(&gateway),
        }
    }
}

async fn connect(gateway: &Arc<Gateway>, session: &Arc<Session>, namespace: &str, auth: Option<&str>) {
    if namespace != "/" {
        let refusal = json!({ "message": "Invalid namespace", "data": { "code": ErrorCode::NotFound } });
        return say(session, &format!("44{namespace},{refusal}"));
    }
    let bearer = match &*session.who.lock() {
        Who::Stranger { bearer } => bearer.clone(),
        Who::Known(_) | Who::Gone => return,
    };
    let identity = match token(auth, bearer) {
        Ok(token) => gateway.chat.verifier.verify_or_refresh(&token).await,
        Err(refusal) => Err(refusal),
    };
    let identity = match identity {
        Ok(identity) => identity,
        Err(refusal) => {
            metrics::handshake_refused("token");
            metrics::refused(refusal.code);
            let refusal = json!({ "message": refusal.message, "data": { "code": refusal.code } });
            return say(session, &format!("44{refusal}"));
        }
    };
    let conn = Conn::new(gateway.chat.registry.next_id(), identity, Link::SocketIo(session.clone()));
    // Held until all know the connection: whoever ends the session finds it, or comes before.
    let mut who = session.who.lock();
    if matches!(*who, Who::Stranger { .. }) {
        say(session, &format!("40{}", json!({ "sid": format!("{}-{}", gateway.chat.node, conn.id) })));
        life::arrive(gateway, &conn);
        *who = Who::Known(conn);
    }
}

fn say(session: &Session, packet: &str) {
    session.pipe.send_control(late::text(packet));
}

/// The token that a client brought.
fn token(auth: Option<&str>, bearer: Option<String>) -> Result<String, Refusal> {
    #[derive(Deserialize)]
    struct Auth {
        token: Option<String>,
    }
    let auth = match auth {
        Some(json) => serde_json::from_str::<Auth>(json).map_err(|error| {
            Refusal::new(ErrorCode::TokenInvalid, format!("auth is no object with a token: {error}"))
        })?,
        None => Auth { token: None },
    };
    let token = auth.token.map(|token| token.strip_prefix("Bearer ").map(str::to_owned).unwrap_or(token));
    token.or(bearer).ok_or_else(|| {
        Refusal::new(ErrorCode::TokenInvalid, "a token is needed: auth: { token }, or Authorization: Bearer")
    })
}

async fn event(gateway: &Arc<Gateway>, session: &Arc<Session>, id: Option<u64>, json: &str) {
    let conn = match &*session.who.lock() {
        Who::Known(conn) => conn.clone(),
        Who::Stranger { .. } | Who::Gone => return session.break_off(Violation("not_connected")),
    };
    let Ok((name, argument)) = parse_event(json) else { return session.break_off(Violation("bad_packet")) };
    let chat = &gateway.chat;
    let mut asked = Asked::read(&name, argument, &conn.user_id);
    let mut client_id = None;
    if let Ok(Command::SendMessage(message)) = &mut asked.command {
        if let Some(formerly) = asked.formerly {
            // Sent before the clock went on to the next period, and now repeated?
            let sent = chat.sent.find(message.conversation_id, &conn.user_id, formerly).await;
            if matches!(sent, Ok(Some(_))) {
                message.client_id = formerly;
            }
        }
        client_id = Some(message.client_id);
    }
    let event = if name.len() <= NAME_BYTES { json!(name).to_string() } else { String::new() };
    session.voice.lock().begin(Reply { id, event, temp_id: asked.temp_id }, client_id);
    command::run(chat, &conn, Request { reference: None, command: asked.command }).await;
    let mut voice = session.voice.lock();
    if let Some(answer) = voice.end() {
        session.pipe.send_all(&[answer]);
    }
}
