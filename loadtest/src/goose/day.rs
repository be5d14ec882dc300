//! A browser's day: connect, list, read history, join, type, send, mark read, leave, and again.

use std::sync::Arc;

use ::goose::prelude::*;
use serde_json::json;

use super::{
    rest,
    step::{start, step},
    world::{Cast, World},
};

pub(super) fn scenario(empty: Scenario, world: &Arc<World>, cast: &Arc<Cast>) -> Scenario {
    empty
        .register_transaction(start("connect", world, cast, |user, page| Box::pin(page.open(user, "connect"))))
        .register_transaction(step("list conversations", |user, page| Box::pin(rest::list(user, page))).set_sequence(1))
        .register_transaction(step("read history", |user, page| Box::pin(rest::history(user, page))).set_sequence(2))
        .register_transaction(step("join", |user, page| Box::pin(page.join(user, "join", false))).set_sequence(3))
        .register_transaction(step("type", |user, page| Box::pin(page.typing(user))).set_sequence(4))
        .register_transaction(step("send", |user, page| Box::pin(page.send(user))).set_sequence(5))
        .register_transaction(step("mark read", |user, page| Box::pin(page.mark_read(user))).set_sequence(6))
        .register_transaction(
            step("leave", |user, page| {
                Box::pin(async {
                    let frame = json!({ "type": "leave_conversation", "conversation_id": page.person.conversation });
                    page.ask(user, "leave", frame).await.map(|_| ())
                })
            })
            .set_sequence(7),
        )
        .register_transaction(step("close", |user, page| Box::pin(page.close(user))).set_on_stop())
}
