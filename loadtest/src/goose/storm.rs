//! A reconnect storm: all sockets of the scenario are cut at one moment, again and again, and come back after a random
//! wait, with `after`. What was sent meanwhile must be in the join's answer.

use std::sync::Arc;

use ::goose::prelude::*;
use tokio::time::{sleep, sleep_until};

use super::{
    page::Page,
    step::{start, step},
    world::{Cast, World},
};
use crate::backoff;

pub(super) fn scenario(empty: Scenario, world: &Arc<World>, cast: &Arc<Cast>) -> Scenario {
    empty
        .register_transaction(start("connect", world, cast, |user, page| Box::pin(enter(user, page))))
        .register_transaction(step("send before", |user, page| Box::pin(page.send(user))).set_sequence(1))
        .register_transaction(step("storm", |user, page| Box::pin(storm(user, page))).set_sequence(2))
        .register_transaction(step("close", |user, page| Box::pin(page.close(user))).set_on_stop())
}

async fn enter(user: &mut GooseUser, page: &Page) -> TransactionResult {
    page.open(user, "connect").await?;
    page.join(user, "join", false).await
}

async fn storm(user: &mut GooseUser, page: &Page) -> TransactionResult {
    sleep_until(page.world.next_storm()).await;
    page.cut().await;
    sleep(backoff::wait(0)).await;
    page.open(user, "reconnect").await?;
    page.join(user, "rejoin", true).await
}
