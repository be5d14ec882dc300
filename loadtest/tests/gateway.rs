//! The load test itself against a real gateway.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Output, Stdio},
};

use devstack::testing::{Process, TestEnv, binary};
use serde_json::Value;

struct World {
    gateways: Vec<Process>,
    env: TestEnv,
}

impl World {
    async fn start() -> Self {
        Self::of(1, "10").await
    }

    async fn of(gateways: usize, messages_per_minute: &str) -> Self {
        let env = TestEnv::start().await.unwrap();
        let launch = || env.gateway().unwrap().env("PARTYLINE_MESSAGES_PER_MINUTE", messages_per_minute);
        let mut started = Vec::new();
        for _ in 0..gateways {
            started.push(launch().start().await.unwrap());
        }
        Self { gateways: started, env }
    }

    /// Runs the program; what it did, and the JSON that it wrote.
    async fn loadtest(&self, words: &[&str]) -> (Output, Value) {
        let json = self.env.dir().join(format!("loadtest-{}.json", words[0]));
        let _ = std::fs::remove_file(&json);
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        // What comes after -- is not ours.
        command.args(&words[..1]);
        for gateway in &self.gateways {
            command.args(["--url", &gateway.ws_url(), "--pid", &gateway.pid().to_string()]);
        }
        command
            .args(&words[1..])
            .env("PARTYLINE_JWT_SECRET", self.env.secret())
            .env("PARTYLINE_DATA_DIR", self.env.dir())
            .current_dir(self.env.dir())
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let result = std::fs::read(&json).ok().and_then(|json| serde_json::from_slice(&json).ok());
        (output, result.unwrap_or_default())
    }
}

/// What was printed, for a test that fails.
fn told(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn latency_counts_every_message_of_twenty_people() {
    let world = World::start().await;
    let run = ["latency", "--people", "20", "--rate", "40", "--seconds", "2"];
    // Any machine is that fast: what is judged here is that nothing is lost.
    let (output, result) = world.loadtest(&[&run[..], &["--slo-ms", "60000"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(result["arrival"]["sockets"], 20);
    let messages = &result["messages"];
    assert_eq!((&messages["sent"], &messages["acked"], &messages["received"]), (&80.into(), &80.into(), &160.into()));
    for none in ["refused", "unanswered", "missing", "doubled", "out_of_order", "gaps", "duplicate_acks"] {
        assert_eq!(messages[none], 0, "{none}");
    }
    let latency = &result["latency"];
    assert_eq!((&latency["ack"]["count"], &latency["delivery"]["count"]), (&80.into(), &80.into()));
    assert!(latency["delivery"]["p50_ms"].as_f64().unwrap() > 0.0);
    assert!(latency["delivery"]["p99_ms"].as_f64() <= latency["delivery"]["max_ms"].as_f64());

    // No machine is that fast.
    let (output, result) = world.loadtest(&[&run[..], &["--slo-ms", "0.001"]].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert_eq!(result["slo"]["met"], false);
}

#[tokio::test]
async fn refusals_are_counted_and_miss_the_objective() {
    let world = World::start().await;
    // Two people may send ten messages at once each, and then one every six seconds.
    let (output, result) = world.loadtest(&["latency", "--people", "2", "--rate", "30", "--seconds", "2"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("PARTYLINE_MESSAGES_PER_MINUTE"), "{}", told(&output));
    let messages = &result["messages"];
    let refused = messages["refused"].as_u64().unwrap();
    assert!(refused >= 35, "{refused} refused");
    assert_eq!(messages["errors"]["rate_limited"], refused);
    assert_eq!(messages["acked"].as_u64().unwrap() + refused, 60);
    assert_eq!(messages["missing"], 0);
}

#[tokio::test]
async fn room_and_idle_measure_the_process() {
    let world = World::start().await;
    let room = ["room", "--members", "20", "--rate", "50", "--seconds", "2", "--slo-ms", "60000"];
    let (output, result) = world.loadtest(&room).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    for server in ["gateway", "bare"] {
        assert_eq!(result[server]["deliveries"], 2_000, "{server}");
        assert_eq!(result[server]["latency"]["late"]["count"].as_u64() > Some(0), server == "gateway");
    }
    assert!(result["gateway"]["cpu_seconds"].as_f64().unwrap() > 0.0);

    let (output, result) = world.loadtest(&["idle", "--sockets", "20", "--seconds", "1"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    for memory in ["before", "idle", "after"] {
        assert!(result[memory]["pss"].as_u64() > Some(0), "{memory}");
    }
    assert_eq!(result["lost"], 0);
}

#[tokio::test]
async fn the_same_is_measured_over_socketio() {
    let world = World::start().await;
    let socketio = ["--slo-ms", "60000", "--protocol", "socketio"];
    let latency = ["latency", "--people", "20", "--rate", "40", "--seconds", "2"];
    let (output, result) = world.loadtest(&[&latency[..], &socketio[..]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(result["gateways"][0].as_str().unwrap().ends_with("/socket.io/"), "{}", result["gateways"]);
    let messages = &result["messages"];
    assert_eq!((&messages["sent"], &messages["acked"], &messages["received"]), (&80.into(), &80.into(), &160.into()));
    for none in ["refused", "unanswered", "missing", "doubled", "out_of_order", "gaps"] {
        assert_eq!(messages[none], 0, "{none}");
    }
    assert_eq!(messages["closed"].as_object().map(serde_json::Map::len), Some(0), "{}", messages["closed"]);

    let goose = ["goose", "--users", "8", "--scenarios", "day,room", "--room", "4", "--increase-rate", "16"];
    let time = ["--seconds", "3", "--think-min", "0.05", "--think-max", "0.1", "--slo-ms", "60000"];
    let world = World::of(1, "0").await;
    let (output, result) = world.loadtest(&[&goose[..], &time[..], &["--protocol", "socketio"][..]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(result["requests"]["WS join"]["succeeded"].as_u64() > Some(0), "{}", result["requests"]);
}

#[tokio::test]
async fn a_killed_gateway_loses_nothing() {
    let world = World::of(2, "0").await;
    let storm = ["storm", "--people", "40", "--rate", "40", "--seconds", "12", "--kill-after", "2"];
    // Any machine is that fast.
    let (output, result) = world.loadtest(&[&storm[..], &["--slo-seconds", "60", "--slo-ms", "60000"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(world.gateways[0].wait().await.signal(), Some(9));
    assert_eq!(result["storm"]["people"], 20);
    assert!(result["storm"]["comeback"]["sockets"].as_u64() >= Some(20), "{}", told(&output));
    assert!(result["storm"]["connects_per_second"].as_f64() > Some(0.0));
    let messages = &result["messages"];
    assert_eq!((&messages["acked"], &messages["received"]), (&480.into(), &960.into()), "{}", told(&output));
    for none in ["refused", "unanswered", "missing", "doubled", "out_of_order", "gaps"] {
        assert_eq!(messages[none], 0, "{none}");
    }
    let parts =
        ["before", "during", "after"].map(|part| result["latency"][part]["delivery"]["count"].as_u64().unwrap());
    assert_eq!(parts.iter().sum::<u64>(), 480, "{parts:?}");
}

#[tokio::test]
async fn every_scenario_succeeds_under_goose() {
    let world = World::of(2, "0").await;
    let mix = ["goose", "--users", "16", "--scenarios", "day,room,storm,rest", "--room", "4", "--storm-every", "1"];
    let time = ["--increase-rate", "16", "--seconds", "5", "--think-min", "0.05", "--think-max", "0.1"];
    let more = ["--slo-ms", "60000", "--", "--running-metrics", "1"];
    let (output, result) = world.loadtest(&[&mix[..], &time[..], &more[..]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let requests = &result["requests"];
    let socket = ["connect", "join", "typing", "send", "mark_read", "leave", "delivery", "reconnect", "rejoin"];
    let rest = ["GET conversations", "GET messages", "POST send", "POST mark_read"].map(str::to_owned);
    for name in socket.map(|name| format!("WS {name}")).iter().chain(&rest) {
        assert!(requests[name]["succeeded"].as_u64() > Some(0), "{name} in {requests:?}");
        assert_eq!(requests[name]["failed"], 0, "{name}");
    }
    assert!(result["latency"]["delivery"]["count"].as_u64() > Some(0));
    assert!(result["connects"]["count"].as_u64() >= requests["WS connect"]["succeeded"].as_u64());
    let report = std::fs::read_to_string(world.env.dir().join("loadtest-goose.html")).unwrap();
    for shown in ["mark_read", "conversations", "browser", "hot room", "reconnect storm", "REST only"] {
        assert!(report.contains(shown), "{shown}");
    }
}

#[tokio::test]
async fn without_a_stack_one_is_started_for_the_measurement() {
    for part in ["devstack", "gateway", "persister"] {
        binary(part).unwrap();
    }
    let world = World::of(0, "10").await;
    let run = ["latency", "--people", "20", "--rate", "40", "--seconds", "2", "--slo-ms", "60000", "--gateways", "2"];
    let (output, result) = world.loadtest(&run).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(result["gateways"].as_array().unwrap().len(), 2);
    assert_eq!(result["messages"]["acked"], 80);
    let own = world.env.dir().join("loadtest");
    assert!(own.join("env").is_file() && !own.join("pids.json").exists(), "{}", told(&output));
}

#[tokio::test]
async fn what_cannot_be_measured_exits_with_two() {
    let world = World::start().await;
    let (output, _) = world.loadtest(&["latency", "--people", "20", "--secret", &"x".repeat(32)]).await;
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    let (output, _) = world.loadtest(&["latency", "--people", "2000000"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("open files"), "{}", told(&output));
}
