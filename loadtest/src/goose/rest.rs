//! REST: the calls, and a scenario of nothing else.

use std::sync::Arc;

use ::goose::prelude::*;
use serde_json::{Value, json};

use super::{
    page::Page,
    step::{start, step},
    world::{Cast, World},
};

pub(super) fn scenario(empty: Scenario, world: &Arc<World>, cast: &Arc<Cast>) -> Scenario {
    empty
        .register_transaction(start("begin", world, cast, |user, page| Box::pin(list(user, page))))
        .register_transaction(step("list conversations", |user, page| Box::pin(list(user, page))).set_sequence(1))
        .register_transaction(step("read history", |user, page| Box::pin(history(user, page))).set_sequence(2))
        .register_transaction(step("send", |user, page| Box::pin(send(user, page))).set_sequence(3))
        .register_transaction(step("mark read", |user, page| Box::pin(mark_read(user, page))).set_sequence(4))
}

pub(super) async fn list(user: &mut GooseUser, page: &Page) -> TransactionResult {
    call(user, page, "conversations", "/chat/api/conversations/?limit=50", None, |body| body["results"].is_array())
        .await
        .map(|_| ())
}

pub(super) async fn history(user: &mut GooseUser, page: &Page) -> TransactionResult {
    let path = of_conversation(page, "messages/?limit=50");
    call(user, page, "messages", &path, None, |body| body["results"].is_array()).await.map(|_| ())
}

async fn send(user: &mut GooseUser, page: &Page) -> TransactionResult {
    let marker = page.next_message();
    let path = of_conversation(page, "messages/");
    page.world.tally.sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    if call(user, page, "send", &path, Some(Page::body(marker)), |body| body["seq"].is_u64()).await? {
        page.acked(marker);
    }
    Ok(())
}

async fn mark_read(user: &mut GooseUser, page: &Page) -> TransactionResult {
    let path = of_conversation(page, "mark_read/");
    call(user, page, "mark_read", &path, Some(json!({})), |body| body["last_read_seq"].is_u64()).await.map(|_| ())
}

fn of_conversation(page: &Page, rest: &str) -> String {
    format!("/chat/api/conversations/{}/{rest}", page.person.conversation)
}

/// One call: GET, or POST with a body.
///
/// # Returns
/// Whether it did what was asked, as `is_good` sees it.
async fn call(
    user: &mut GooseUser,
    page: &Page,
    name: &str,
    path: &str,
    body: Option<Value>,
    is_good: fn(&Value) -> bool,
) -> Result<bool, Box<TransactionError>> {
    let url = page.person.gateway.http(path);
    let method = if body.is_some() { GooseMethod::Post } else { GooseMethod::Get };
    let mut builder = user.get_request_builder(&method, &url)?.bearer_auth(&page.person.token);
    if let Some(body) = &body {
        builder = builder.header("content-type", "application/json").body(body.to_string());
    }
    let request = GooseRequest::builder().name(name).path(url.as_str()).method(method).set_request_builder(builder);
    let mut answer = user.request(request.build()).await?;
    let status = answer.request.status_code;
    let body = match answer.response {
        Ok(response) => response.json::<Value>().await.unwrap_or_default(),
        Err(_) => Value::Null,
    };
    let good = answer.request.success && is_good(&body);
    page.count(good, || match body["code"].as_str() {
        Some(code) => code.to_owned(),
        None => format!("http {status}"),
    });
    if answer.request.success && !good {
        user.set_failure("another answer than expected", &mut answer.request, None, None)?;
    }
    Ok(good)
}
