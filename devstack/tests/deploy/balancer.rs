//! Traffic through HAProxy on its deployed file, to two gateways on a cluster of three NATS servers, while one gateway
//! leaves and comes back.

use std::{io::Write, sync::Arc, time::Duration};

use devstack::testing::{Signal, TestEnv, UserType};
use reqwest::header::{COOKIE, SET_COOKIE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    count,
    participant::{Person, Plan},
    stack::{Balancer, Stack},
    world::{self, World},
};

const PATIENCE: Duration = Duration::from_secs(60);
const CONVERSATIONS: usize = 30;
/// From each of the two people of a conversation.
const MESSAGES: usize = 50;
const TOTAL: usize = CONVERSATIONS * 2 * MESSAGES;
/// The times of compose.yaml, with a shorter drain.
const SETTINGS: [(&str, &str); 4] = [
    ("PARTYLINE_MESSAGES_PER_MINUTE", "0"),
    ("PARTYLINE_FRAMES_PER_SECOND", "0"),
    ("PARTYLINE_DRAIN_NOTICE_SECONDS", "3"),
    ("PARTYLINE_DRAIN_SECONDS", "2"),
];

async fn until(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !probe().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn sum(balancer: &Balancer, name: &str, labels: &str) -> f64 {
    balancer.metric(name, labels).await.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_leaves_behind_haproxy_and_nothing_acknowledged_is_lost() {
    let env = TestEnv::start().await.unwrap();
    let Some(mut stack) = Stack::start(&env, &SETTINGS).await else { return };
    for server in stack.nats.jetstream().await {
        assert_eq!(server["config"]["sync_always"], true, "an acknowledged message may not be on the disk: {server}");
    }
    let world = Arc::new(World::new(vec![stack.balancer.url.replacen("http", "ws", 1) + "/ws"]));
    let mut plans = Vec::new();
    for number in 0..CONVERSATIONS {
        let pair = [format!("left-{number}"), format!("right-{number}")];
        let conversation = world::create_conversation(&env, &stack.gateways[0], "direct", &pair).await;
        for name in pair {
            let token = env.jwt(&name, &name, UserType::Customer).unwrap();
            plans.push(Plan { conversation: conversation.clone(), name, token, messages: MESSAGES });
        }
    }
    let people: JoinSet<_> = plans.into_iter().map(|plan| Person::new(world.clone(), plan).live()).collect();
    world.reached(TOTAL / 4).await;
    let sessions = ["gateway-1", "gateway-2"].map(|server| format!("proxy=\"servers\",server=\"{server}\""));
    for server in &sessions {
        let open = sum(&stack.balancer, "haproxy_server_current_sessions", server).await;
        assert!(open >= CONVERSATIONS as f64 / 2.0, "{open} of {} sockets: {server}", 2 * CONVERSATIONS);
    }

    let [leaving, _] = &stack.gateways;
    leaving.signal(Signal::TERM);
    until("HAProxy sends nobody to the gateway that leaves", async || {
        sum(&stack.balancer, "haproxy_backend_active_servers", "proxy=\"servers\"").await == 1.0
    })
    .await;
    let kept = sum(&stack.balancer, "haproxy_server_current_sessions", &sessions[0]).await;
    assert!(kept > 0.0, "HAProxy closed what the gateway was to close");
    let status = leaving.terminate(PATIENCE).await;
    assert!(status.success(), "{status}\n{}", leaving.log());
    let [left, stayed] = stack.gateways;
    stack.gateways = [left.restart().await.unwrap(), stayed];
    until("HAProxy takes it back", async || {
        sum(&stack.balancer, "haproxy_backend_active_servers", "proxy=\"servers\"").await == 2.0
    })
    .await;

    world.all_acknowledged(TOTAL).await;
    let seen = people.join_all().await;
    let counts = count::check(&env, &seen, TOTAL).await;
    let (reconnections, repeats) = (world.reconnections(), world.repeats() + world.stored_repeats().0);
    let _ = writeln!(
        std::io::stderr(),
        "balancer: {counts}; {} sockets told to move, {reconnections} reconnections, {repeats} sends repeated",
        kept
    );
    assert!(reconnections >= kept as usize, "the gateway that left had {kept} sockets");
    let failed = sum(&stack.balancer, "haproxy_frontend_http_responses_total", "proxy=\"clients\",code=\"5xx\"").await;
    assert_eq!(failed, 0.0, "handshakes that HAProxy or a gateway refused");
    stack.stop().await;
}

/// The node that HAProxy's cookie names, if the answer sets one.
async fn asked(url: &str, cookie: Option<&str>) -> Option<String> {
    let mut request = reqwest::Client::new().get(url);
    if let Some(node) = cookie {
        request = request.header(COOKIE, format!("partyline_node={node}"));
    }
    let response = request.send().await.unwrap();
    let cookie = response.headers().get(SET_COOKIE)?.to_str().unwrap();
    Some(cookie.strip_prefix("partyline_node=")?.split(';').next().unwrap().to_owned())
}

#[tokio::test]
async fn long_polling_stays_on_its_gateway_and_nothing_else_does() {
    let Some(haproxy) = crate::debian::program("haproxy", "haproxy") else { return };
    let env = TestEnv::start().await.unwrap();
    let [one, two] = [env.gateway().unwrap(), env.gateway().unwrap()];
    let (one, two) = tokio::join!(one.start(), two.start());
    let (one, two) = (one.unwrap(), two.unwrap());
    let balancer = Balancer::start(&env, &haproxy, [one.http_addr(), two.http_addr()]).await;
    until("both gateways take part", async || {
        sum(&balancer, "haproxy_backend_active_servers", "proxy=\"servers\"").await == 2.0
    })
    .await;

    let polling = format!("{}/socket.io/?EIO=4&transport=polling", balancer.url);
    let node = asked(&polling, None).await.unwrap();
    let answers = format!("proxy=\"polling\",server=\"{node}\"");
    let before = sum(&balancer, "haproxy_server_http_responses_total", &answers).await;
    // The same session: its polls, and its upgrade.
    for url in [&polling, &polling, &polling.replace("polling", "websocket&sid=x")] {
        assert_eq!(asked(url, Some(&node)).await, None);
    }
    assert_eq!(sum(&balancer, "haproxy_server_http_responses_total", &answers).await, before + 3.0);

    let free = [format!("{}/livez", balancer.url), polling.replace("polling", "websocket")];
    for url in &free {
        assert_eq!(asked(url, Some(&node)).await, None, "{url}");
    }
    assert_eq!(sum(&balancer, "haproxy_server_http_responses_total", &answers).await, before + 3.0);
}

/// A server that answers each request with its head; its `host:port`.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let length = head.len();
                let status = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(&[status.as_bytes(), &head].concat()).await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn nobody_outside_decides_what_is_traced() {
    let Some(haproxy) = crate::debian::program("haproxy", "haproxy") else { return };
    let env = TestEnv::start().await.unwrap();
    let balancer = Balancer::start(&env, &haproxy, [echo().await, echo().await]).await;
    for path in ["/chat/api/conversations/", "/ws", "/socket.io/?EIO=4&transport=polling"] {
        let request = reqwest::Client::new().get(format!("{}{path}", balancer.url));
        let request = request
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .header("Tracestate", "a=1")
            .header("tracestate", "b=2")
            .header("baggage", "c=3")
            .header("x-kept", "yes");
        let seen = request.send().await.unwrap().text().await.unwrap().to_lowercase();
        assert!(seen.contains("x-kept: yes"), "{path}: {seen}");
        for name in ["traceparent", "tracestate", "baggage"] {
            assert!(!seen.contains(name), "{path}: {seen}");
        }
    }
}
