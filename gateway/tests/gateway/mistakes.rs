//! Mistakes in the configuration: all of them are named at the start.

use crate::support::World;

#[tokio::test]
async fn every_mistake_is_named_at_once_by_both_programs() {
    let world = World::new().await;
    for launch in [world.launch(), world.env.persister().unwrap()] {
        let process = launch
            .env("PARTYLINE_DATABASE_URL", "postgres://partyline:a-password@127.0.0.1:port/partyline")
            .env("PARTYLINE_NATS_CREDENTIALS", "/nowhere/credentials")
            .env("PARTYLINE_PARTITION", "4")
            .env("PARTYLINE_LOG_HOURS", "many")
            .spawn()
            .unwrap();
        assert_eq!(process.wait().await.code(), Some(2), "{}", process.log());
        let log = process.log();
        for named in [
            "4 mistake(s) in the configuration",
            "PARTYLINE_DATABASE_URL: not a Postgres URL: invalid port number",
            "PARTYLINE_NATS_CREDENTIALS: /nowhere/credentials: ",
            "PARTYLINE_PARTITION: not a setting; PARTYLINE_PARTITIONS is one",
            "--log-hours",
        ] {
            assert!(log.contains(named), "{named}: {log}");
        }
        assert!(!log.contains("a-password"), "{log}");
    }
}

#[tokio::test]
async fn variable_that_is_no_setting_is_logged_and_not_refused() {
    let world = World::new().await;
    // As Kubernetes names a service.
    let gateway = world.launch().env("PARTYLINE_SERVICE_HOST", "10.0.0.1").start().await.unwrap();
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("PARTYLINE_SERVICE_HOST"));
    assert!(line.is_some_and(|line| line.contains("WARN") && line.contains("not a setting of any program")), "{log}");
}
