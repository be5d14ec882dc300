//! The `healthcheck` subcommand, which container images use.

use std::process::Command;

use devstack::testing::{Process, Signal, binary};

use crate::support::{World, until};

/// The exit code and the output of the program's `healthcheck` for a running process.
fn healthcheck(program: &str, process: &Process, args: &[&str]) -> (Option<i32>, String) {
    let addr = process.admin_url("").trim_start_matches("http://").to_owned();
    let command = Command::new(binary(program).unwrap())
        .arg("healthcheck")
        .args(args)
        .env("PARTYLINE_ADMIN_ADDR", addr)
        .output()
        .unwrap();
    (command.status.code(), String::from_utf8(command.stdout).unwrap())
}

#[tokio::test]
async fn healthcheck_tells_ready_from_alive_and_from_gone() {
    let world = World::new().await;
    let (gateway, persister) = (world.gateway().await, world.env.persister().unwrap().start().await.unwrap());
    for (program, process) in [("gateway", &gateway), ("persister", &persister)] {
        assert_eq!(healthcheck(program, process, &[]), (Some(0), "ready\n".into()), "{program}");
        assert_eq!(healthcheck(program, process, &["--live"]), (Some(0), "alive\n".into()), "{program}");
    }
    let leaving = world.launch().env("PARTYLINE_DRAIN_NOTICE_SECONDS", "60").start().await.unwrap();
    leaving.signal(Signal::TERM);
    until("the gateway to leave", async || healthcheck("gateway", &leaving, &[]).0 == Some(1)).await;
    let (_, answer) = healthcheck("gateway", &leaving, &[]);
    assert!(answer.starts_with("not ready: "), "{answer}");
    assert_eq!(healthcheck("gateway", &leaving, &["--live"]).0, Some(0));
    persister.kill().await;
    let (code, answer) = healthcheck("persister", &persister, &[]);
    assert!(code == Some(1) && answer.contains("does not answer"), "{code:?} {answer}");
}
