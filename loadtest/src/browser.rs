//! `goose`: the day of a browser, again and again, under Goose, with REST and WebSocket in one report.

use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use ::goose::{config::GooseConfiguration, prelude::*};
use anyhow::Context;
use clap::{Args, Parser};
use partyline_shared::claims::UserType;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use crate::{
    bench::Bench,
    client::{Asked, Session},
    limits,
    progress::grouped,
    setup,
    target::Gateway,
};

/// Pages of browsers under Goose: connect, list, read history, join, type, send, mark read, leave.
///
/// Every user has a conversation with another one. WebSocket work stands beside REST in Goose's own tables and report,
/// under the method WS. Exits with 1 if anything failed.
///
/// The gateway's default limits are enough for the defaults: each user sends some three messages a minute. With
/// --think-max below 1 s raise PARTYLINE_MESSAGES_PER_MINUTE.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Users, an even number.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=100_000), value_name = "N")]
    users: u32,
    /// Users that come in a second.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    increase_rate: u32,
    /// For how long, once all have come, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..), value_name = "SECONDS")]
    seconds: u32,
    /// Between two actions of a user, at least, in seconds.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    think_min: f64,
    /// Between two actions of a user, at most, in seconds.
    #[arg(long, default_value_t = 4.0, value_name = "SECONDS")]
    think_max: f64,
    /// Where to write the report: .html, .md or .json. Several times for several. Without it `loadtest.html` in the
    /// data folder of `make run`, or here where there is none.
    #[arg(long = "report-file", value_name = "FILE")]
    reports: Vec<PathBuf>,
    /// More of Goose's own options, after `--`.
    #[arg(last = true, value_name = "OPTIONS")]
    goose: Vec<String>,
}

/// One user.
struct Person {
    token: String,
    gateway: Gateway,
    conversation: String,
}

/// A user's open page.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Option<Session>>>);

type Step<'u> = Pin<Box<dyn Future<Output = TransactionResult> + Send + 'u>>;

/// Runs Goose.
///
/// # Returns
/// Whether nothing failed.
///
/// # Errors
/// If Goose doesn't start, or the users have no conversations.
pub(crate) async fn run(bench: &Bench, options: Options) -> anyhow::Result<bool> {
    anyhow::ensure!(options.users.is_multiple_of(2), "every user talks with another one: --users is odd");
    let (min, max) = (seconds(options.think_min)?, seconds(options.think_max)?);
    let count = options.users as usize;
    // Each user has a socket and keeps an HTTP connection.
    limits::make_room(2 * count, &bench.pids)?;
    let configuration = configuration(bench, &options)?;
    let files = configuration.report_file.clone();
    let people = Arc::new(people(bench, count).await?);

    let step = |name: &str, run: for<'u> fn(&'u mut GooseUser, &'u Person) -> Step<'u>| {
        let people = people.clone();
        let function: TransactionFunction = Arc::new(move |user| {
            let people = people.clone();
            Box::pin(async move {
                let person = &people[user.weighted_users_index % people.len()];
                run(user, person).await
            })
        });
        Transaction::new(function).set_name(name)
    };
    let day = Scenario::new("browser's day")
        .set_wait_time(min, max)?
        .register_transaction(step("connect", |user, person| Box::pin(connect(user, person))).set_on_start())
        .register_transaction(step("list conversations", |user, person| Box::pin(list(user, person))).set_sequence(1))
        .register_transaction(step("read history", |user, person| Box::pin(history(user, person))).set_sequence(2))
        .register_transaction(step("join", |user, person| Box::pin(join(user, person))).set_sequence(3))
        .register_transaction(step("type", |user, person| Box::pin(typing(user, person))).set_sequence(4))
        .register_transaction(step("send", |user, person| Box::pin(send(user, person))).set_sequence(5))
        .register_transaction(step("mark read", |user, person| Box::pin(mark_read(user, person))).set_sequence(6))
        .register_transaction(step("leave", |user, person| Box::pin(leave(user, person))).set_sequence(7))
        .register_transaction(step("close", |user, person| Box::pin(close(user, person))).set_on_stop());
    let attack = GooseAttack::initialize_with_config(configuration)?.register_scenario(day);
    let metrics = Box::pin(attack.execute()).await?;

    let (good, bad) = metrics
        .requests
        .values()
        .fold((0, 0), |(good, bad), request| (good + request.success_count as u64, bad + request.fail_count as u64));
    println!("{} requests succeeded, {} failed; the report: {}", grouped(good), grouped(bad), files.join(", "));
    Ok(good > 0 && bad == 0)
}

fn configuration(bench: &Bench, options: &Options) -> anyhow::Result<GooseConfiguration> {
    // Metrics from the beginning: that is when pages connect.
    let fixed = ["goose", "--quiet", "--no-telnet", "--no-reset-metrics", "--host"];
    let mut words: Vec<String> = fixed.map(str::to_owned).into();
    words.push(bench.gateways[0].http(""));
    for (name, value) in [("--users", options.users), ("--increase-rate", options.increase_rate)] {
        words.extend([name.to_owned(), value.to_string()]);
    }
    words.extend(["--run-time".to_owned(), format!("{}s", options.seconds)]);
    let mut reports = options.reports.clone();
    if reports.is_empty() {
        let folder = Some(&bench.data_dir).filter(|folder| folder.is_dir());
        reports.push(folder.map_or_else(PathBuf::new, PathBuf::clone).join("loadtest.html"));
    }
    for file in reports.iter().chain(bench.json.as_ref()) {
        words.extend(["--report-file".to_owned(), file.display().to_string()]);
    }
    words.extend(options.goose.iter().cloned());
    <GooseConfiguration as Parser>::try_parse_from(&words).context("Goose's options, after --")
}

fn seconds(seconds: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{seconds} s of thinking"))
}

async fn people(bench: &Bench, count: usize) -> anyhow::Result<Vec<Person>> {
    let pairs: Vec<Vec<String>> =
        (0..count).step_by(2).map(|first| vec![bench.user(first), bench.user(first + 1)]).collect();
    let conversations = setup::conversations(bench, &pairs).await?;
    (0..count)
        .map(|number| {
            let user_type = if number.is_multiple_of(2) { UserType::Customer } else { UserType::Vendor };
            Ok(Person {
                token: bench.signer.person(&bench.user(number), user_type)?,
                gateway: bench.gateways[number % bench.gateways.len()].clone(),
                conversation: conversations[number / 2].clone(),
            })
        })
        .collect()
}

async fn connect(user: &mut GooseUser, person: &Person) -> TransactionResult {
    let page = Page::default();
    user.set_session_data(page.clone());
    open(user, person, &page).await
}

/// Opens the page's socket, unless it is open.
async fn open(user: &mut GooseUser, person: &Person, page: &Page) -> TransactionResult {
    let mut open = page.0.lock().await;
    if open.is_some() {
        return Ok(());
    }
    let began = Instant::now();
    let session = Session::open(&person.gateway, &person.token).await;
    let failure = session.as_ref().err().cloned();
    *open = session.ok();
    record(user, "connect", began, failure).await
}

async fn record(user: &mut GooseUser, name: &str, began: Instant, failure: Option<String>) -> TransactionResult {
    let took = began.elapsed();
    user.record_custom_request_duration("WS", name, took, failure.is_none(), None, failure.as_deref()).await
}

/// Asks over the page's socket; a page whose socket has ended opens it anew the next time, as browsers do.
async fn ask(user: &mut GooseUser, person: &Person, name: &str, frame: Value) -> TransactionResult {
    let page = user.get_session_data::<Page>().cloned().unwrap_or_default();
    open(user, person, &page).await?;
    let mut session = page.0.lock().await;
    let Some(asked) = session.as_mut() else { return Ok(()) };
    let began = Instant::now();
    let answer: Asked = asked.ask(frame).await;
    if asked.has_ended() {
        *session = None;
    }
    record(user, name, began, answer.err()).await
}

async fn list(user: &mut GooseUser, person: &Person) -> TransactionResult {
    get(user, person, "conversations", "/chat/api/conversations/?limit=50").await
}

async fn history(user: &mut GooseUser, person: &Person) -> TransactionResult {
    let path = format!("/chat/api/conversations/{}/messages/?limit=50", person.conversation);
    get(user, person, "messages", &path).await
}

async fn get(user: &mut GooseUser, person: &Person, name: &str, path: &str) -> TransactionResult {
    let url = person.gateway.http(path);
    let builder = user.get_request_builder(&GooseMethod::Get, &url)?.bearer_auth(&person.token);
    let request = GooseRequest::builder().name(name).path(url.as_str()).set_request_builder(builder).build();
    let mut answer = user.request(request).await?;
    let body = match answer.response {
        Ok(response) => response.json::<Value>().await.unwrap_or_default(),
        // Goose has counted it.
        Err(_) => return Ok(()),
    };
    if answer.request.success && !body["results"].is_array() {
        return user.set_failure("no list in the answer", &mut answer.request, None, None);
    }
    Ok(())
}

async fn join(user: &mut GooseUser, person: &Person) -> TransactionResult {
    ask(user, person, "join", json!({ "type": "join_conversation", "conversation_id": person.conversation })).await
}

async fn typing(user: &mut GooseUser, person: &Person) -> TransactionResult {
    let page = user.get_session_data::<Page>().cloned().unwrap_or_default();
    let frame = json!({ "type": "typing", "conversation_id": person.conversation, "is_typing": true });
    let began = Instant::now();
    let told = match page.0.lock().await.as_ref() {
        Some(session) => session.tell(&frame),
        None => return Ok(()),
    };
    record(user, "typing", began, told.err()).await
}

async fn send(user: &mut GooseUser, person: &Person) -> TransactionResult {
    let frame = json!({
        "type": "send_message",
        "conversation_id": person.conversation,
        "client_id": Uuid::new_v4().to_string(),
        "content": "Would Tuesday at three suit you? I could bring the parts along.",
    });
    ask(user, person, "send", frame).await
}

async fn mark_read(user: &mut GooseUser, person: &Person) -> TransactionResult {
    let page = user.get_session_data::<Page>().cloned().unwrap_or_default();
    let seq = page.0.lock().await.as_ref().map_or(0, Session::last_seq);
    if seq == 0 {
        return Ok(());
    }
    let frame = json!({ "type": "mark_read", "conversation_id": person.conversation, "seq": seq });
    ask(user, person, "mark_read", frame).await
}

async fn leave(user: &mut GooseUser, person: &Person) -> TransactionResult {
    ask(user, person, "leave", json!({ "type": "leave_conversation", "conversation_id": person.conversation })).await
}

async fn close(user: &mut GooseUser, _: &Person) -> TransactionResult {
    if let Some(page) = user.get_session_data::<Page>()
        && let Some(session) = page.0.lock().await.take()
    {
        session.close();
    }
    Ok(())
}
