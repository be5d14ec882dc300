//! Joining many conversations by one command: a client that comes back says all that it had joined in one frame.

use std::sync::Arc;

use partyline_shared::wire::JoinConversations;
use serde::Serialize;

use super::join;
use crate::{app::Chat, encode, metrics, session::conn::Conn};

/// How many of the conversations are joined.
#[derive(Debug, Serialize)]
pub struct JoinedMany {
    joined: usize,
    refused: usize,
}

/// Joins one conversation after the other. Each is answered at once, by `joined` or `error`.
pub async fn join_many(
    chat: &Arc<Chat>,
    conn: &Arc<Conn>,
    reference: Option<&str>,
    command: &JoinConversations,
) -> JoinedMany {
    let mut done = JoinedMany { joined: 0, refused: 0 };
    for it in &command.conversations {
        if conn.is_leaving() {
            break;
        }
        conn.has_room().await;
        let reference = it.reference.as_deref().or(reference);
        match join::join(chat, conn, reference, &it.join).await {
            Ok(()) => done.joined += 1,
            Err(refusal) => {
                done.refused += 1;
                metrics::refused(refusal.code);
                conn.send(&encode::error_of(reference, Some(it.join.conversation_id), &refusal));
            }
        }
    }
    done
}
