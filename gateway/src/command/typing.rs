//! Typing: passed on at most once a second, ended after five, stored never.

use std::{sync::Arc, time::Duration};

use partyline_shared::{
    claims::Identity,
    ids::ConversationId,
    nats, subjects,
    wire::{Refusal, Typing},
};
use serde::Serialize;

use crate::{
    app::Chat,
    authorise, clock,
    session::conn::{self, Conn, Side},
    tasks,
};

/// Between two that are passed on, in milliseconds.
const INTERVAL: u64 = 1_000;
/// When it ends by itself, in milliseconds.
const LASTS: u64 = 5_000;

/// What is to be done about a typing command.
#[derive(Debug, Default, PartialEq, Eq)]
struct Steps {
    /// Typing elsewhere, which ends by this.
    ended: Option<ConversationId>,
    pass_on: bool,
    /// Milliseconds after which a task passes on what is postponed.
    wait: Option<u64>,
}

/// Passes on that somebody types, or no longer does. A start that comes too soon after the one before waits its turn
/// instead of being dropped, unless it is taken back by then.
///
/// # Errors
/// `not_found`, `forbidden`, `unavailable`.
pub async fn typing(chat: &Arc<Chat>, conn: &Arc<Conn>, command: &Typing) -> Result<(), Refusal> {
    let conversation_id = command.conversation_id;
    let membership = chat.members.get(conversation_id).await?;
    authorise::take_part(&conn.identity(), &membership)?;
    let steps = conn.side(|side| decide(side, command, clock::millis()));
    if let Some(wait) = steps.wait {
        let (chat, conn) = (chat.clone(), conn.clone());
        let start = async move {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            if let Some(started) = conn.side(|side| start_postponed(side, clock::millis()))
                && !conn.is_gone()
            {
                publish(&chat, &conn.identity(), started, true);
            }
        };
        tokio::spawn(tasks::caught("typing", start));
    }
    if let Some(ended) = steps.ended {
        publish(chat, &conn.identity(), ended, false);
    }
    if steps.pass_on {
        publish(chat, &conn.identity(), conversation_id, command.is_typing);
    }
    Ok(())
}

fn decide(side: &mut Side, command: &Typing, now: u64) -> Steps {
    let conversation_id = command.conversation_id;
    // What was never passed on needs no end: starting and stopping must not get round the limit either.
    let goes_on = side.typing.is_some_and(|was| was.conversation_id == conversation_id);
    // The newest word holds.
    side.postponed = None;
    if !command.is_typing {
        return Steps { pass_on: goes_on && side.typing.take().is_some(), ..Steps::default() };
    }
    let wait = side.typed.map_or(0, |typed| (typed + INTERVAL).saturating_sub(now));
    let started = conn::Typing { conversation_id, ends: now + LASTS };
    let ended = side.typing.take_if(|_| !goes_on).map(|was| was.conversation_id);
    let mut steps = Steps { ended, pass_on: wait == 0, wait: None };
    if steps.pass_on {
        side.typed = Some(now);
    }
    if steps.pass_on || goes_on {
        side.typing = Some(started);
    } else {
        side.postponed = Some(started);
        if !std::mem::replace(&mut side.is_postponing, true) {
            steps.wait = Some(wait);
        }
    }
    steps
}

/// The interval is over: what is postponed is typing now, if it was not taken back.
fn start_postponed(side: &mut Side, now: u64) -> Option<ConversationId> {
    side.is_postponing = false;
    let started = side.postponed.take()?;
    side.typed = Some(now);
    side.typing = Some(started);
    Some(started.conversation_id)
}

/// A message ends its sender's typing in its conversation, on all of the sender's connections here. Told after the
/// message, which ends it for clients that know the protocol.
pub fn end_by_message(chat: &Chat, who: &Identity, conversation_id: ConversationId) {
    let mut ended = None;
    for conn in chat.registry.of(&who.user_id) {
        conn.side(|side| {
            side.postponed.take_if(|it| it.conversation_id == conversation_id);
            ended = side.typing.take_if(|it| it.conversation_id == conversation_id).or(ended);
        });
    }
    if let Some(ended) = ended {
        end(chat, who, ended);
    }
}

/// Ends what a connection was typing, because it went or fell silent.
pub fn end(chat: &Chat, who: &Identity, typing: conn::Typing) {
    publish(chat, who, typing.conversation_id, false);
}

/// Publishes without waiting; while NATS is away typing is dropped.
fn publish(chat: &Chat, who: &Identity, conversation_id: ConversationId, is_typing: bool) {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: &'static str,
        conversation_id: ConversationId,
        user_id: &'a str,
        username: &'a str,
        is_typing: bool,
    }
    let frame =
        Frame { r#type: "typing", conversation_id, user_id: who.user_id.as_str(), username: &who.username, is_typing };
    let Ok(payload) = serde_json::to_vec(&frame) else { return };
    if let Err(error) = nats::try_publish(&chat.client, subjects::live_typing(conversation_id), payload.into()) {
        tracing::debug!(%error, "typing not passed on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(is_typing: bool) -> Typing {
        Typing { conversation_id: "018f4e9c-7a54-7c8e-b8b5-0a1b2c3d4e5f".parse().unwrap(), is_typing }
    }

    fn passed_on(pass_on: bool) -> Steps {
        Steps { pass_on, ..Steps::default() }
    }

    #[test]
    fn typing_that_starts_again_too_soon_is_passed_on_when_it_may() {
        let mut side = Side::default();
        assert_eq!(decide(&mut side, &say(true), 10_000), passed_on(true));
        assert_eq!(decide(&mut side, &say(true), 10_500), passed_on(false));
        assert_eq!(decide(&mut side, &say(false), 10_600), passed_on(true));
        // One task waits, however often it starts and stops.
        assert_eq!(decide(&mut side, &say(true), 10_700), Steps { wait: Some(300), ..Steps::default() });
        assert_eq!(decide(&mut side, &say(false), 10_800), passed_on(false));
        assert_eq!(decide(&mut side, &say(true), 10_900), Steps::default());
        assert_eq!(start_postponed(&mut side, 11_000), Some(say(true).conversation_id));
        assert_eq!(side.typing.unwrap().ends, 10_900 + LASTS);
        assert_eq!(decide(&mut side, &say(true), 11_500), passed_on(false));
        // Taken back in time, nothing is passed on.
        assert_eq!(decide(&mut side, &say(false), 11_600), passed_on(true));
        assert_eq!(decide(&mut side, &say(true), 11_700), Steps { wait: Some(300), ..Steps::default() });
        assert_eq!(decide(&mut side, &say(false), 11_800), passed_on(false));
        assert_eq!(start_postponed(&mut side, 12_000), None);
        assert_eq!(decide(&mut side, &say(true), 12_100), passed_on(true));
    }
}
