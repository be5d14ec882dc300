//! The database's roles and the NATS users of `deploy/`: each program can do its work, and no more.

use std::{path::Path, process::Command, time::Duration};

use async_nats::{ConnectOptions, jetstream};
use devstack::{
    child::{Child, Signal, Spec},
    paths::Paths,
    services::{nats, ready::Ready},
    testing::{TestEnv, UserType, binary, free_port},
};
use partyline_shared::subjects;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    person::Person,
    support::{CONVERSATIONS, World, messages_of, seq, until},
};

fn deploy(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

/// A server on `deploy/nats/single.conf`.
struct Nats {
    port: u16,
    log: std::path::PathBuf,
    _server: Child,
}

impl Nats {
    async fn start(env: &TestEnv) -> Self {
        let paths = Paths::new(None).unwrap();
        let program = nats::find(&paths.tools, &|line| println!("{line}")).unwrap();
        let (port, monitor) = (free_port().unwrap(), free_port().unwrap());
        let log = env.dir().join("nats.log");
        let spec = Spec::new(program)
            .arg("-c")
            .arg(deploy("nats/single.conf"))
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-m", &monitor.to_string()])
            .env("NATS_SERVER_NAME", "nats")
            .env("NATS_PASSWORD", "secret-partyline")
            .env("NATS_GATEWAY_PASSWORD", "secret-gateway")
            .env("NATS_PERSISTER_PASSWORD", "secret-persister")
            .env("NATS_STORE_DIR", env.dir().join("nats"))
            .dir(env.dir())
            .log(&log)
            .death_signal(Signal::KILL);
        let server = Child::spawn(&spec).unwrap();
        let ready = Ready::Http(format!("http://127.0.0.1:{monitor}/healthz"));
        ready.wait("nats", &server, Some(&log), Duration::from_secs(60)).await.unwrap();
        Self { port, log, _server: server }
    }

    fn url(&self, user: &str) -> String {
        format!("nats://{user}:secret-{user}@127.0.0.1:{}", self.port)
    }

    async fn client(&self, user: &str) -> async_nats::Client {
        let options = ConnectOptions::with_user_and_password(user.to_owned(), format!("secret-{user}"));
        options.connect(self.url(user)).await.unwrap()
    }
}

/// The database's URL for another role: the test's server asks for no password.
fn as_role(url: &str, role: &str) -> String {
    let (_, host) = url.split_once('@').unwrap();
    format!("postgres://{role}@{host}")
}

/// The code with which Postgres refuses a statement.
async fn refused(pool: &PgPool, sql: &'static str) -> Option<String> {
    let error = sqlx::raw_sql(sql).execute(pool).await.err()?;
    Some(error.as_database_error()?.code()?.into_owned())
}

async fn ask(person: &mut Person, kind: &str, chat: &str, rest: Value) -> Value {
    let mut frame = json!({ "type": kind, "conversation_id": chat });
    frame.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    person.ask(frame).await
}

#[tokio::test]
async fn every_program_works_with_its_own_role_and_user_and_can_do_no_more() {
    let world = World::new().await;
    let nats = Nats::start(&world.env).await;
    let superuser = world.env.pool().await.unwrap();
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").execute(&superuser).await.unwrap();
    let roles = std::fs::read_to_string(deploy("postgres/roles.sql")).unwrap();
    for _ in 0..2 {
        sqlx::raw_sql(sqlx::AssertSqlSafe(roles.clone())).execute(&superuser).await.unwrap();
    }
    let url = |role: &str| as_role(world.env.database_url(), role);
    for _ in 0..2 {
        let migrated = Command::new(binary("persister").unwrap())
            .arg("migrate")
            .env("PARTYLINE_DATABASE_URL", url("partyline_owner"))
            .output()
            .unwrap();
        assert!(migrated.status.success(), "{migrated:?}");
    }

    let of = |launch: devstack::testing::Launch, program: &str| {
        launch
            .env("PARTYLINE_NATS_URL", nats.url(program))
            .env("PARTYLINE_DATABASE_URL", url(&format!("partyline_{program}")))
            .env("PARTYLINE_PARTITIONS", "2")
    };
    // With migrations to be run, of which there are none: that takes no right to create anything.
    let persister = of(world.env.persister().unwrap(), "persister").env("PARTYLINE_MIGRATE", "true");
    let persister = persister.start().await.unwrap();
    let gateways = [
        of(world.launch(), "gateway").start().await.unwrap(),
        // With a budget, so that nodes ask each other.
        of(world.launch(), "gateway").env("PARTYLINE_MESSAGES_PER_MINUTE", "1000").start().await.unwrap(),
    ];

    let chat = world.group(&gateways[0], &["ann", "bob", "cat"]).await;
    let (mut ann, mut bob) = (world.person(&gateways[0], "ann").await, world.person(&gateways[1], "bob").await);
    ann.join(&chat).await;
    bob.join(&chat).await;
    let first = seq(&ann.send(&chat, "first").await);
    let second = seq(&bob.send(&chat, "second").await);
    bob.find(|it| it["content"] == "first").await;
    ann.find(|it| it["content"] == "second").await;
    ann.say(&json!({ "type": "typing", "conversation_id": chat, "is_typing": true })).await;
    bob.expect("typing").await;
    assert_eq!(ask(&mut ann, "edit_message", &chat, json!({ "seq": first, "content": "edited" })).await["type"], "ack");
    assert_eq!(ask(&mut bob, "delete_message", &chat, json!({ "seq": second })).await["type"], "ack");
    let last = seq(&bob.send(&chat, "last").await);
    ask(&mut ann, "mark_read", &chat, json!({ "seq": last })).await;
    let people = format!("{CONVERSATIONS}{chat}/participants/");
    let added = world.post(&gateways[1], "ann", &people, json!({ "user_id": "dan" })).await;
    assert!(added.status < 300, "{added:?}");
    let removed = world.delete(&gateways[0], "ann", &format!("{people}cat/")).await;
    assert_eq!(removed.status, 204, "{removed:?}");
    // The owner leaves: another becomes owner.
    let left = world.delete(&gateways[0], "ann", &format!("{people}ann/")).await;
    assert_eq!(left.status, 204, "{left:?}");
    world.direct(&gateways[1], ["bob", "eve"]).await;
    // A new name.
    let renamed = world.env.jwt("bob", "Robert", UserType::Vendor).unwrap();
    Person::come(&gateways[0], &renamed).await.leave().await;
    ann.leave().await;
    bob.leave().await;
    until("everything to be written", async || {
        let written: (i64, i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM messages WHERE (content, deleted_at IS NULL) IN (('edited', true), ('last', true))),
                    (SELECT count(*) FROM messages WHERE deleted_at IS NOT NULL),
                    (SELECT count(*) FROM users WHERE last_seen IS NOT NULL AND id IN ('ann', 'bob')),
                    (SELECT count(*) FROM outbox)",
        )
        .fetch_one(&superuser)
        .await
        .unwrap();
        written == (2, 1, 2, 0)
    })
    .await;
    let name: String =
        sqlx::query_scalar("SELECT username FROM users WHERE id = 'bob'").fetch_one(&superuser).await.unwrap();
    assert_eq!(name, "Robert");
    let page = world.get(&gateways[0], "dan", &messages_of(&chat)).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(world.get(&gateways[1], "bob", CONVERSATIONS).await.body["results"].as_array().unwrap().len(), 2);

    // What an operator does with the persister's own role and user.
    let people = jetstream::new(nats.client("partyline").await);
    let subject = subjects::log(0, chat.parse().unwrap());
    let buried = people.publish(subject, "{}".into()).await.unwrap().await.unwrap().sequence.to_string();
    let run = |arguments: &[&str]| {
        let done = Command::new(binary("persister").unwrap())
            .args(arguments)
            .env("PARTYLINE_NATS_URL", nats.url("persister"))
            .env("PARTYLINE_DATABASE_URL", url("partyline_persister"))
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    until("a dead letter", async || run(&["dead", "list"]).1.starts_with(&format!("{buried}\t0\t"))).await;
    let (status, told, said) = run(&["dead", "replay", &buried]);
    assert!(status == Some(1) && told.starts_with(&format!("{buried}\tstays")), "{told}{said}");
    let (status, told, said) = run(&["dead", "drop", &buried]);
    assert_eq!((status, told), (Some(0), format!("{buried}\tdropped\n")), "{said}");
    let (status, told, said) = run(&["replay", "--since", "1h"]);
    assert!(status == Some(0) && told.contains("read again from seq"), "{told}{said}");
    // What can't be read is put aside once more.
    until("the log to be read again", async || run(&["dead", "list"]).1.starts_with(&format!("{buried}\t0\t"))).await;

    // Only people can take a log away.
    for process in gateways.iter().chain([&persister]) {
        assert!(!process.log().contains("permission"), "{}", process.log());
    }
    for user in ["gateway", "persister"] {
        let js =
            jetstream::context::ContextBuilder::new().timeout(Duration::from_secs(1)).build(nats.client(user).await);
        assert!(!js.delete_stream(subjects::log_stream(0)).await.is_ok_and(|deleted| deleted.success), "{user}");
        let nobody = partyline_shared::ids::ConversationId::generate();
        if user == "persister" {
            let published = js.publish(subjects::log(0, nobody), "{}".into()).await.unwrap();
            assert!(published.await.is_err(), "the persister appends events");
        }
    }
    assert!(people.get_stream(subjects::log_stream(0)).await.is_ok());
    let violations = std::fs::read_to_string(&nats.log).unwrap();
    let violations: Vec<_> = violations.lines().filter(|line| line.contains("Violation")).collect();
    assert_eq!(violations.len(), 3, "{violations:#?}");

    let [gateway, persister] =
        ["partyline_gateway", "partyline_persister"].map(|role| PgPool::connect_lazy(&url(role)));
    let (gateway, persister) = (gateway.unwrap(), persister.unwrap());
    let denied = Some("42501".to_owned());
    for sql in [
        "CREATE TABLE x (y int)",
        "UPDATE messages SET content = ''",
        "DELETE FROM conversations",
        "UPDATE conversations SET active_at = now()",
        "UPDATE log_watermarks SET seq = 0",
        "DELETE FROM _sqlx_migrations",
    ] {
        assert_eq!(refused(&gateway, sql).await, denied, "the gateway: {sql}");
    }
    for sql in [
        "CREATE TABLE x (y int)",
        "DELETE FROM messages",
        "INSERT INTO participants (conversation_id, user_id) VALUES (gen_random_uuid(), 'x')",
        "UPDATE users SET username = ''",
        "SELECT * FROM outbox",
        "UPDATE participants SET role = 'owner'",
    ] {
        assert_eq!(refused(&persister, sql).await, denied, "the persister: {sql}");
    }
}
