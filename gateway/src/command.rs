//! What clients ask for: one verb a file, the same for every transport.

pub mod change;
pub mod create;
pub mod join;
pub mod join_many;
pub mod mark_read;
pub mod participants;
pub mod send;
pub mod sent;
pub mod typing;

use std::sync::Arc;

use opentelemetry::context::FutureExt;
use partyline_shared::wire::{Command, RefreshToken, Refusal, Request};
use serde::Serialize;

use crate::{
    app::Chat,
    budget::Entrance,
    encode,
    metrics::{self, Verb},
    session::conn::Conn,
    trace,
};

/// Does what a socket asks and answers it.
pub async fn run(chat: &Arc<Chat>, conn: &Arc<Conn>, request: Request) {
    let reference = request.reference.as_deref();
    let verb = Verb::of(&request.command);
    let span = trace::command(verb, conn);
    let done = match (request.command, &span) {
        (Ok(command), None) => dispatch(chat, conn, reference, command).await,
        (Ok(command), Some(span)) => dispatch(chat, conn, reference, command).with_context(span.clone()).await,
        (Err(refusal), _) => Err(refusal),
    };
    let refused = done.as_ref().err().map(|refusal| refusal.code);
    metrics::command(verb, refused);
    if let Some(span) = &span {
        trace::done(span, refused);
    }
    if let Err(refusal) = done {
        metrics::refused(refusal.code);
        conn.send(&encode::error(reference, &refusal));
    }
}

async fn dispatch(
    chat: &Arc<Chat>,
    conn: &Arc<Conn>,
    reference: Option<&str>,
    command: Command,
) -> Result<(), Refusal> {
    let who = &conn.identity();
    match command {
        Command::JoinConversation(it) => join::join(chat, conn, reference, &it).await,
        Command::JoinConversations(it) => {
            let ack = join_many::join_many(chat, conn, reference, &it).await;
            conn.send(&encode::reply("ack", reference, &ack));
            Ok(())
        }
        Command::LeaveConversation(it) => {
            join::leave(chat, conn, it.conversation_id).await;
            conn.send(&encode::reply("left", reference, &Left { conversation_id: it.conversation_id }));
            Ok(())
        }
        Command::SendMessage(it) => {
            let ack = send::send(chat, who, it, Entrance::Socket).await?;
            conn.send(&encode::reply("ack", reference, &ack));
            Ok(())
        }
        Command::Typing(it) => typing::typing(chat, conn, &it).await,
        Command::MarkRead(it) => {
            let ack = mark_read::mark_read(chat, who, it.conversation_id, Some(it.seq)).await?;
            conn.send(&encode::reply("ack", reference, &ack));
            Ok(())
        }
        Command::EditMessage(it) => {
            let ack = change::edit(chat, who, it).await?;
            conn.send(&encode::reply("ack", reference, &ack));
            Ok(())
        }
        Command::DeleteMessage(it) => {
            let ack = change::delete(chat, who, it).await?;
            conn.send(&encode::reply("ack", reference, &ack));
            Ok(())
        }
        Command::RefreshToken(it) => {
            let ack = refresh_token(chat, conn, &it).await?;
            conn.send(&encode::reply("ack", reference, &ack));
            Ok(())
        }
    }
}

#[derive(Serialize)]
struct Left {
    conversation_id: partyline_shared::ids::ConversationId,
}

#[derive(Serialize)]
struct Refreshed {
    /// Seconds since 1970.
    expires_at: i64,
}

async fn refresh_token(chat: &Chat, conn: &Arc<Conn>, command: &RefreshToken) -> Result<Refreshed, Refusal> {
    // The sweeper does not close for the old token's end meanwhile.
    let _renewal = conn.begin_renewal();
    let renewed = chat.verifier.verify_or_refresh(&command.token).await?;
    if renewed.user_id != conn.user_id {
        return Err(Refusal::new(partyline_shared::wire::ErrorCode::Forbidden, "the token is another person's"));
    }
    let expires_at = renewed.expires_at;
    chat.people.note(&renewed);
    conn.renew(renewed);
    Ok(Refreshed { expires_at })
}
