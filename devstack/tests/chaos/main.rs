//! Traffic over three gateways while one is killed, one drained, the persister killed, Postgres stopped and NATS killed.
//! Meanwhile people hold silent conversations open and move from node to node, others are removed and try to come back,
//! and acknowledged messages are repeated. Afterwards everything is counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod client;
mod count;
mod person;
mod quiet;
mod removed;
mod world;

use std::{io::Write, sync::Arc, time::Duration};

use devstack::testing::{Process, TestEnv, UserType, servers::Servers};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    count::Seen,
    person::{Person, Plan},
    quiet::Quiet,
    removed::{Removed, Remover},
    world::World,
};

/// Direct conversations with traffic.
const CONVERSATIONS: usize = 100;
/// Groups with traffic, one of whose participants is removed.
const GROUPS: usize = 10;
/// From each of the two people who send in a conversation.
const MESSAGES: usize = 100;
const TOTAL: usize = (CONVERSATIONS + GROUPS) * 2 * MESSAGES;
/// People with nothing but silent conversations, and how many each has.
const QUIET: usize = 10;
const SILENT_EACH: usize = 3;
const POSTGRES_AWAY: Duration = Duration::from_secs(10);

/// Says it whether the test passes or not.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "chaos: {line}");
}

async fn gateway(env: &TestEnv) -> Process {
    let launch = env.gateway().unwrap().env("PARTYLINE_MESSAGES_PER_MINUTE", "0");
    launch.env("PARTYLINE_FRAMES_PER_SECOND", "0").env("PARTYLINE_DRAIN_SECONDS", "2").start().await.unwrap()
}

fn token(env: &TestEnv, name: &str) -> String {
    env.jwt(name, name, UserType::Customer).unwrap()
}

/// The two senders of each conversation.
async fn senders(env: &TestEnv, gateway: &Process, world: &Arc<World>) -> (Vec<Person>, Vec<Removed>) {
    let (mut senders, mut removed) = (Vec::new(), Vec::new());
    let mut add = |conversation: &str, name: &str| {
        let plan = Plan {
            conversation: conversation.to_owned(),
            name: name.to_owned(),
            token: token(env, name),
            messages: MESSAGES,
        };
        senders.push(Person::new(world.clone(), plan));
    };
    for number in 0..CONVERSATIONS {
        let pair = [format!("left-{number}"), format!("right-{number}")];
        let conversation = world::create_conversation(env, gateway, "direct", &pair).await;
        pair.iter().for_each(|name| add(&conversation, name));
    }
    for number in 0..GROUPS {
        let [one, two, name] = [format!("one-{number}"), format!("two-{number}"), format!("removed-{number}")];
        let people = [one.clone(), two.clone(), name.clone()];
        let conversation = world::create_conversation(env, gateway, "group", &people).await;
        add(&conversation, &one);
        add(&conversation, &two);
        removed.push(Removed { world: world.clone(), token: token(env, &name), name, conversation });
    }
    (senders, removed)
}

async fn quiet(env: &TestEnv, gateway: &Process, world: &Arc<World>) -> Vec<Quiet> {
    let mut people = Vec::new();
    for number in 0..QUIET {
        let name = format!("quiet-{number}");
        let mut conversations = Vec::new();
        for silent in 0..SILENT_EACH {
            let pair = [name.clone(), format!("silent-{number}-{silent}")];
            conversations.push((world::create_conversation(env, gateway, "direct", &pair).await, None));
        }
        people.push(Quiet { world: world.clone(), token: token(env, &name), name, conversations });
    }
    people
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled() {
    let mut servers = Servers::start().await.unwrap();
    let env = TestEnv::on(&servers.addresses).await.unwrap();
    let (mut killed, mut drained, steady) = tokio::join!(gateway(&env), gateway(&env), gateway(&env));
    let mut persister = env.persister().unwrap().start().await.unwrap();

    let world = Arc::new(World::new([&killed, &drained, &steady].map(Process::ws_url).into()));
    let (senders, removed) = senders(&env, &steady, &world).await;
    let removals: Vec<_> = removed.iter().map(|it| (it.conversation.clone(), it.name.clone())).collect();
    let quiet: JoinSet<_> = quiet(&env, &steady, &world).await.into_iter().map(Quiet::live).collect();
    let removed: JoinSet<_> = removed.into_iter().map(Removed::live).collect();
    let people: JoinSet<_> = senders.into_iter().map(Person::live).collect();
    let remover = Remover::new(&env, &steady);
    let removing = tokio::spawn(remove_one_by_one(remover, world.clone(), removals));
    let began = Instant::now();
    world.reached(TOTAL / 10).await;
    killed.kill().await;
    say(&format!("a gateway killed with {} of {TOTAL} acknowledged", world.acknowledged()));
    world.reached(TOTAL / 4).await;
    killed = killed.restart().await.unwrap();
    let status = drained.terminate(Duration::from_secs(30)).await;
    assert!(status.success(), "the drained gateway: {status}\n{}", drained.log());
    say(&format!("another drained with {}", world.acknowledged()));
    drained = drained.restart().await.unwrap();
    world.reached(TOTAL * 2 / 5).await;
    persister.kill().await;
    say(&format!("the persister killed with {}", world.acknowledged()));
    persister = persister.restart().await.unwrap();
    world.reached(TOTAL / 2).await;
    world.toggle_outage();
    servers.kill_nats().await;
    say(&format!("NATS killed with {}", world.acknowledged()));
    servers.start_nats().await.unwrap();
    world.toggle_outage();
    world.reached(TOTAL * 3 / 5).await;
    world.toggle_outage();
    servers.stop_postgres().await;
    say(&format!("Postgres stopped with {}", world.acknowledged()));
    tokio::time::sleep(POSTGRES_AWAY).await;
    say(&format!("Postgres comes back with {}", world.acknowledged()));
    servers.start_postgres().await.unwrap();
    world.toggle_outage();
    world.all_acknowledged(TOTAL).await;
    removing.await.unwrap();
    let took = began.elapsed();
    let seen: Vec<Seen> = people.join_all().await;
    let counts = count::check(&env, &seen, TOTAL).await;
    say(&format!("{counts}; {} reconnections, {} sends repeated, {took:.1?}", world.reconnections(), world.repeats()));
    let (repeats, in_outage) = world.stored_repeats();
    say(&format!("{repeats} acknowledged messages repeated, {in_outage} of them in an outage; none stored twice"));
    assert!(in_outage > 0, "no stored message was repeated while Postgres was stopped");
    let (times, longest) = quiet::check(&quiet.join_all().await);
    say(&format!("silent conversations joined {times} times on other nodes; the longest wait {longest}"));
    let refused = removed::check(&removed.join_all().await, &seen);
    say(&format!("{GROUPS} people removed, {refused} joins refused to them; none received anything afterwards"));
    for process in [&killed, &drained, &steady, &persister] {
        assert!(process.terminate(Duration::from_secs(30)).await.success(), "{}", process.log());
    }
}

/// Spread over the whole traffic, so that each falls into another outage or none.
async fn remove_one_by_one(remover: Remover, world: Arc<World>, removals: Vec<(String, String)>) {
    for (number, (conversation, name)) in removals.iter().enumerate() {
        world.reached(TOTAL * (number + 1) / (GROUPS + 2)).await;
        remover.remove(conversation, name).await;
    }
}
