//! A hot room: many stay in one conversation, a tenth of them send, all receive.

use std::sync::Arc;

use ::goose::prelude::*;
use rand::RngExt;

use super::{
    page::Page,
    step::{start, step},
    world::{Cast, World},
};

/// Every read marker goes to everybody: of so many steps one moves it.
const READS_ONE_IN: u32 = 10;

pub(super) fn scenario(empty: Scenario, world: &Arc<World>, cast: &Arc<Cast>) -> Scenario {
    empty
        .register_transaction(start("enter the room", world, cast, |user, page| Box::pin(enter(user, page))))
        .register_transaction(step("type in the room", |user, page| Box::pin(typing(user, page))).set_sequence(1))
        .register_transaction(step("send to the room", |user, page| Box::pin(send(user, page))).set_sequence(2))
        .register_transaction(step("read the room", |user, page| Box::pin(read(user, page))).set_sequence(3))
        .register_transaction(step("close", |user, page| Box::pin(page.close(user))).set_on_stop())
}

async fn enter(user: &mut GooseUser, page: &Page) -> TransactionResult {
    page.open(user, "connect").await?;
    page.join(user, "join", false).await
}

async fn typing(user: &mut GooseUser, page: &Page) -> TransactionResult {
    if !page.is_open().await {
        return enter(user, page).await;
    }
    if page.person.speaks { page.typing(user).await } else { Ok(()) }
}

async fn send(user: &mut GooseUser, page: &Page) -> TransactionResult {
    if page.person.speaks { page.send(user).await } else { Ok(()) }
}

async fn read(user: &mut GooseUser, page: &Page) -> TransactionResult {
    let moves = rand::rng().random_ratio(1, READS_ONE_IN);
    if moves { page.mark_read(user).await } else { Ok(()) }
}
