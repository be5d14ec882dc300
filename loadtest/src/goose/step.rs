//! Steps of a scenario, as Goose takes them.

use std::{future::Future, pin::Pin, sync::Arc};

use ::goose::prelude::*;

use super::{
    page::Page,
    world::{Cast, World},
};

pub(super) type Step<'u> = Pin<Box<dyn Future<Output = TransactionResult> + Send + 'u>>;

/// The first step of a user: takes a place, and begins with `run`.
pub(super) fn start(
    name: &str,
    world: &Arc<World>,
    cast: &Arc<Cast>,
    run: for<'u> fn(&'u mut GooseUser, &'u Arc<Page>) -> Step<'u>,
) -> Transaction {
    let (world, cast) = (world.clone(), cast.clone());
    let function: TransactionFunction = Arc::new(move |user| {
        let page = Arc::new(Page::new(cast.take(), world.clone()));
        Box::pin(async move {
            user.set_session_data(page.clone());
            run(user, &page).await
        })
    });
    Transaction::new(function).set_name(name).set_on_start()
}

/// Any other step.
pub(super) fn step(name: &str, run: for<'u> fn(&'u mut GooseUser, &'u Arc<Page>) -> Step<'u>) -> Transaction {
    let function: TransactionFunction = Arc::new(move |user| {
        Box::pin(async move {
            let Some(page) = user.get_session_data::<Arc<Page>>().cloned() else { return Ok(()) };
            page.count_deliveries(user).await?;
            run(user, &page).await
        })
    });
    Transaction::new(function).set_name(name)
}
