//! What a session's client asks, done one after the other.

use std::sync::Arc;

use partyline_shared::{
    timestamp::Timestamp,
    wire::{Command, ErrorCode, Refusal, Request},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    asked::{Asked, Naming, Page},
    late,
    packet::{Violation, parse_event},
    session::Session,
    state::{Turn, Who},
    voice::Reply,
};
use crate::{
    command::{self, sent::Names},
    metrics,
    server::Gateway,
    session::{
        conn::{Conn, Link},
        life,
    },
    ws::reader::Last,
};

/// The longest name of an event that is repeated in an answer, in bytes.
const NAME_BYTES: usize = 128;

/// Works until nothing is left.
pub(super) async fn run(gateway: &Arc<Gateway>, session: &Arc<Session>) {
    while let Some(turn) = session.next_turn() {
        match turn {
            Turn::Connect { namespace, auth } => connect(gateway, session, &namespace, auth.as_deref()).await,
            Turn::Event { id, json, renewal: _renewal } => event(gateway, session, id, &json).await,
            // A client that leaves the only namespace closes the transport next.
            Turn::Disconnect => session.hang_up(gateway),
            Turn::Last(Last::Close(payload)) => session.pipe.close_echo(&payload),
            Turn::Last(Last::Violation(code)) => session.break_off(Violation(code)),
            Turn::Violation(violation) => session.break_off(violation),
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
    let auth = Auth::read(auth);
    let token = auth.as_ref().map_err(Refusal::clone).and_then(|auth| auth.token(bearer));
    let identity = match token {
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
    let auth = auth.unwrap_or_default();
    let page =
        Page::of(auth.nonce.as_ref().map(Value::to_string).as_deref(), auth.pid.as_ref().and_then(Value::as_str));
    let conn = Conn::new(gateway.chat.registry.next_id(), identity, Link::SocketIo(session.clone()));
    // Held until all know the connection: whoever ends the session finds it, or comes before.
    let mut who = session.who.lock();
    if matches!(*who, Who::Stranger { .. }) {
        let sid = format!("{}-{}", gateway.chat.node, conn.id);
        say(session, &format!("40{}", json!({ "sid": sid, "pid": page.pid() })));
        let _ = session.page.set(page.id);
        // Known first: should the arrival panic, the departure takes back what it did.
        *who = Who::Known(conn.clone());
        life::arrive(gateway, &conn);
        session.frames.raise_burst(gateway.chat.config.limits.joined_max);
    }
}

fn say(session: &Session, packet: &str) {
    session.pipe.send_control(late::text(packet));
}

/// What a client authenticates with.
#[derive(Default, Deserialize)]
struct Auth {
    token: Option<String>,
    /// The client's own name for its page.
    nonce: Option<Value>,
    /// What an earlier connection of the page was given.
    pid: Option<Value>,
}

impl Auth {
    fn read(json: Option<&str>) -> Result<Self, Refusal> {
        let Some(json) = json else { return Ok(Self::default()) };
        serde_json::from_str(json)
            .map_err(|error| Refusal::new(ErrorCode::TokenInvalid, format!("auth is no object with a token: {error}")))
    }

    /// The token, which may have come with the handshake as well.
    fn token(&self, bearer: Option<String>) -> Result<String, Refusal> {
        let token = self.token.as_deref().map(|token| token.strip_prefix("Bearer ").unwrap_or(token).to_owned());
        token.or(bearer).ok_or_else(|| {
            Refusal::new(ErrorCode::TokenInvalid, "a token is needed: auth: { token }, or Authorization: Bearer")
        })
    }
}

async fn event(gateway: &Arc<Gateway>, session: &Arc<Session>, id: Option<u64>, json: &str) {
    let conn = match &*session.who.lock() {
        Who::Known(conn) => conn.clone(),
        Who::Stranger { .. } | Who::Gone => return session.break_off(Violation("not_connected")),
    };
    let Ok((name, argument)) = parse_event(json) else { return session.break_off(Violation("bad_packet")) };
    let chat = &gateway.chat;
    let naming = Naming {
        user: &conn.user_id,
        page: session.page.get().copied().unwrap_or_default(),
        lifetime: chat.config.temp_id_lifetime(),
        now: Timestamp::now(),
    };
    let asked = Asked::read(&name, argument, &naming);
    let names = if let Ok(Command::SendMessage(message)) = &asked.command { Some(Names::of(message)) } else { None };
    if let Ok(Command::JoinConversations(joins)) = &asked.command {
        // Each of them costs what a packet of its own costs.
        session.frames.count(u32::try_from(joins.conversations.len().saturating_sub(1)).unwrap_or(u32::MAX));
    }
    if !conn.has_room().await {
        return;
    }
    let event = if name.len() <= NAME_BYTES { json!(name).to_string() } else { String::new() };
    session
        .voice
        .lock()
        .begin(Reply { id, event, temp_id: asked.temp_id, is_for_many: name == "join_conversations" }, names);
    command::run(chat, &conn, Request { reference: None, command: asked.command }).await;
    let mut voice = session.voice.lock();
    if let Some(answer) = voice.end() {
        session.pipe.send_all(&[answer]);
    }
}
