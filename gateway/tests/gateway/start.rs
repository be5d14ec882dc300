//! Starting while NATS, Postgres or the schema is not there.

use std::{process::Command, time::Duration};

use devstack::testing::{Process, Proxy, binary};
use serde_json::json;

use crate::support::{CONVERSATIONS, World, messages_of, until};

/// Status and body on the port for clients and on the admin port. A probe doesn't wait for long.
async fn probe(process: &Process, path: &str) -> [Option<(u16, String)>; 2] {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().unwrap();
    let ask = async |url: String| {
        let response = client.get(url).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    };
    [ask(process.url(path)).await, ask(process.admin_url(path)).await]
}

fn both(status: u16, body: &str) -> [Option<(u16, String)>; 2] {
    [Some((status, body.to_owned())), Some((status, body.to_owned()))]
}

/// Runs `persister migrate`; its standard output.
fn migrate(world: &World) -> String {
    let done = Command::new(binary("persister").unwrap())
        .arg("migrate")
        .env("PARTYLINE_DATABASE_URL", world.env.database_url())
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn gateway_answers_probes_while_its_servers_are_away_at_the_start() {
    let world = World::new().await;
    let servers = [
        ("PARTYLINE_DATABASE_URL", world.env.database_url(), "not ready: postgres, schema\n"),
        ("PARTYLINE_NATS_URL", world.env.nats_url(), "not ready: nats\n"),
    ];
    for (setting, url, why) in servers {
        for fail in [Proxy::cut, Proxy::pause] {
            let proxy = Proxy::start(url).await.unwrap();
            fail(&proxy);
            let gateway = world.launch().env(setting, proxy.through(url)).spawn().unwrap();
            until("the cause", async || probe(&gateway, "/readyz").await == both(503, why)).await;
            for _ in 0..3 {
                assert_eq!(probe(&gateway, "/livez").await, both(200, "alive\n"), "{setting}");
                assert_eq!(probe(&gateway, "/readyz").await, both(503, why), "{setting}");
            }
            let refused = world.get(&gateway, "ann", CONVERSATIONS).await;
            assert_eq!((refused.status, refused.code()), (503, "unavailable"), "{refused:?}");
            proxy.resume();
            gateway.wait_ready().await.unwrap();
            assert_eq!(world.get(&gateway, "ann", CONVERSATIONS).await.status, 200);
        }
    }
}

#[tokio::test]
async fn processes_wait_for_the_schema_and_name_it() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").execute(&pool).await.unwrap();
    let gateway = world.launch().spawn().unwrap();
    let persister = world.env.persister().unwrap().spawn().unwrap();
    let why = "not ready: schema\n";
    until("the gateway to tell", async || probe(&gateway, "/readyz").await == both(503, why)).await;
    until("the persister to tell", async || probe(&persister, "/readyz").await[1] == Some((503, why.into()))).await;
    for process in [&gateway, &persister] {
        assert!(process.log().contains("persister migrate"), "{}", process.log());
    }
    let known: Vec<_> = partyline_migrations::MIGRATOR.iter().map(|it| it.version.to_string()).collect();
    assert_eq!(migrate(&world), format!("{} migration(s) applied: {}\n", known.len(), known.join(", ")));
    gateway.wait_ready().await.unwrap();
    persister.wait_ready().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    ann.join(&chat).await;
    ann.send(&chat, "first").await;
    world.persisted().await;
    assert_eq!(migrate(&world), "0 migration(s) applied\n");

    // Migrated by a version to come, and by one that is older than this.
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'of a newer version', true, '\\x00', 1)";
    sqlx::query(newer).execute(&pool).await.unwrap();
    let other = world.gateway().await;
    let page = world.get(&other, "bob", &messages_of(&chat)).await;
    assert_eq!(page.body["results"][0]["content"], json!("first"), "{page:?}");
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 2").execute(&pool).await.unwrap();
    let older = world.launch().spawn().unwrap();
    until("the gateway to tell", async || probe(&older, "/readyz").await == both(503, why)).await;
}
