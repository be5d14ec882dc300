//! Traffic over three gateways while one is killed, one drained, the persister killed, Postgres stopped and NATS killed:
//! afterwards everything that was acknowledged is counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod count;
mod person;

use std::{io::Write, sync::Arc, time::Duration};

use devstack::testing::{Process, TestEnv, UserType, servers::Servers};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    count::Seen,
    person::{Person, Plan, World},
};

const CONVERSATIONS: usize = 100;
/// From each of the two people of a conversation.
const MESSAGES: usize = 100;
const TOTAL: usize = CONVERSATIONS * 2 * MESSAGES;
const POSTGRES_AWAY: Duration = Duration::from_secs(10);

/// Says it whether the test passes or not.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "chaos: {line}");
}

async fn gateway(env: &TestEnv) -> Process {
    let launch = env.gateway().unwrap().env("PARTYLINE_MESSAGES_PER_MINUTE", "0");
    launch.env("PARTYLINE_FRAMES_PER_SECOND", "0").env("PARTYLINE_DRAIN_SECONDS", "2").start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled() {
    let mut servers = Servers::start().await.unwrap();
    let env = TestEnv::on(&servers.addresses).await.unwrap();
    let (mut killed, mut drained, steady) = tokio::join!(gateway(&env), gateway(&env), gateway(&env));
    let mut persister = env.persister().unwrap().start().await.unwrap();

    let world = Arc::new(World::new([&killed, &drained, &steady].map(Process::ws_url).into()));
    let mut plans = Vec::new();
    for number in 0..CONVERSATIONS {
        let pair = [format!("left-{number}"), format!("right-{number}")];
        let conversation = person::create_conversation(&env, &steady, &pair).await;
        for name in pair {
            let token = env.jwt(&name, &name, UserType::Customer).unwrap();
            plans.push(Plan { conversation: conversation.clone(), name, token, messages: MESSAGES });
        }
    }
    let people: JoinSet<_> = plans.into_iter().map(|plan| Person::new(world.clone(), plan).live()).collect();
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
    servers.kill_nats().await;
    say(&format!("NATS killed with {}", world.acknowledged()));
    servers.start_nats().await.unwrap();
    world.reached(TOTAL * 3 / 5).await;
    servers.stop_postgres().await;
    say(&format!("Postgres stopped with {}", world.acknowledged()));
    tokio::time::sleep(POSTGRES_AWAY).await;
    say(&format!("Postgres comes back with {}", world.acknowledged()));
    servers.start_postgres().await.unwrap();

    world.all_acknowledged(TOTAL).await;
    let took = began.elapsed();
    let seen: Vec<Seen> = people.join_all().await;
    let counts = count::check(&env, &seen, TOTAL).await;
    say(&format!("{counts}; {} reconnections, {} sends repeated, {took:.1?}", world.reconnections(), world.repeats()));
    for process in [&killed, &drained, &steady, &persister] {
        assert!(process.terminate(Duration::from_secs(30)).await.success(), "{}", process.log());
    }
}
