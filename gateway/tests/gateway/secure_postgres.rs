//! Postgres by TLS.

use std::{path::PathBuf, time::Duration};

use devstack::testing::{Authority, Launch, OwnPostgres, Process, TestEnv};
use serde_json::json;
use tokio::time::timeout;

use crate::support::{CONVERSATIONS, World, until};

/// A Postgres of the test's own, whose users besides the superuser have to come by TLS.
struct Secured {
    world: World,
    authority: Authority,
    port: u16,
    _postgres: OwnPostgres,
    _folder: Folder,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Secured {
    /// With `mutual`, clients need a certificate of the authority.
    async fn start(mutual: bool) -> Self {
        let folder = Folder(std::env::temp_dir().join(format!("partyline-tls-{}", uuid::Uuid::new_v4().simple())));
        let authority = Authority::new(&folder.0, "authority").unwrap();
        let server = authority.issue("postgres", &["localhost"]).unwrap();
        let clients = mutual.then(|| authority.ca_file());
        let postgres = OwnPostgres::start(&server, clients.as_deref()).await.unwrap();
        let world = World::of(TestEnv::on(&postgres.addresses).await.unwrap());
        let pool = world.env.pool().await.unwrap();
        for statement in [
            "CREATE ROLE chat LOGIN",
            "GRANT ALL ON SCHEMA public TO chat",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO chat",
            "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO chat",
        ] {
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
        Self { world, authority, port: postgres.port, _postgres: postgres, _folder: folder }
    }

    fn url(&self, host: &str, query: &str) -> String {
        let database = self.world.env.database_url().rsplit_once('/').unwrap().1;
        format!("postgres://chat@{host}:{}/{database}{query}", self.port)
    }

    fn both(&self, settings: impl Fn(Launch) -> Launch) -> [Launch; 2] {
        [settings(self.world.launch()), settings(self.world.env.persister().unwrap())]
    }

    /// Stores a message, then checks that no connection of the programs is plain text.
    async fn is_used_by_tls_alone(&self, settings: impl Fn(Launch) -> Launch) {
        let world = &self.world;
        let [gateway, persister] = self.both(settings);
        let (gateway, _persister) = (gateway.start().await.unwrap(), persister.start().await.unwrap());
        let chat = world.direct(&gateway, ["ann", "bob"]).await;
        let mut ann = world.person(&gateway, "ann").await;
        ann.join(&chat).await;
        ann.send(&chat, "over TLS").await;
        let pool = world.env.pool().await.unwrap();
        until("the message to be in Postgres", async || {
            let count = "SELECT count(*) FROM messages WHERE content = 'over TLS'";
            sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap() == 1
        })
        .await;
        assert_eq!(world.get(&gateway, "bob", CONVERSATIONS).await.status, 200);
        let by_tls = "SELECT s.ssl FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.usename = 'chat'";
        let by_tls: Vec<bool> = sqlx::query_scalar(by_tls).fetch_all(&pool).await.unwrap();
        assert!(by_tls.len() >= 2 && by_tls.iter().all(|by_tls| *by_tls), "{by_tls:?}");
    }
}

async fn is_ready_by_now(world: &World, process: &Process) -> bool {
    timeout(Duration::from_secs(1), world.is_ready(process)).await.unwrap_or(false)
}

/// Makes the log: a gateway without Postgres can't.
async fn make_log(world: &World) {
    world.gateway().await.kill().await;
}

/// The persister waits, and the gateway answers that Postgres is not there; both log the reason.
async fn is_refused(world: &World, [gateway, persister]: &[Process; 2], reason: &str) {
    for process in [gateway, persister] {
        until(reason, async || process.log().contains(reason)).await;
        assert_eq!(process.status(), None);
        assert!(!is_ready_by_now(world, process).await);
    }
    assert_eq!(world.get(gateway, "ann", CONVERSATIONS).await.status, 503);
}

#[tokio::test]
async fn postgres_is_verified_in_full_and_gets_a_client_certificate() {
    let secured = Secured::start(true).await;
    let client = secured.authority.issue("chat", &[]).unwrap();
    let url = secured.url("localhost", "");
    secured
        .is_used_by_tls_alone(|launch| {
            launch
                .env("PARTYLINE_DATABASE_URL", &url)
                .env("PARTYLINE_DATABASE_CA_FILE", secured.authority.ca_file())
                .env("PARTYLINE_DATABASE_CERT_FILE", &client.cert)
                .env("PARTYLINE_DATABASE_KEY_FILE", &client.key)
        })
        .await;
}

#[tokio::test]
async fn sslmode_and_authority_may_stand_in_the_url() {
    let secured = Secured::start(false).await;
    let ca = secured.authority.ca_file();
    let url = secured.url("127.0.0.1", &format!("?sslmode=verify-ca&sslrootcert={}", ca.display()));
    secured.is_used_by_tls_alone(|launch| launch.env("PARTYLINE_DATABASE_URL", &url)).await;
}

#[tokio::test]
async fn postgres_of_a_wrong_authority_or_name_is_refused_by_name_until_the_file_is_mended() {
    let secured = Secured::start(false).await;
    let world = &secured.world;
    let other = Authority::new(world.env.dir(), "other").unwrap();
    let ca = world.env.dir().join("ca.pem");
    std::fs::copy(other.ca_file(), &ca).unwrap();
    let spawn = |url: String| {
        secured
            .both(|launch| launch.env("PARTYLINE_DATABASE_URL", &url).env("PARTYLINE_DATABASE_CA_FILE", &ca))
            .map(|launch| launch.spawn().unwrap())
    };
    make_log(world).await;
    let processes = spawn(secured.url("localhost", ""));
    is_refused(world, &processes, "invalid peer certificate: UnknownIssuer").await;
    std::fs::copy(secured.authority.ca_file(), &ca).unwrap();
    let [gateway, persister] = &processes;
    persister.wait_ready().await.unwrap();
    until("the gateway to reach Postgres", async || world.get(gateway, "ann", CONVERSATIONS).await.status == 200).await;

    let processes = spawn(secured.url("127.0.0.1", ""));
    is_refused(world, &processes, "certificate not valid for name").await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let world = World::new().await;
    make_log(&world).await;
    let authority = Authority::new(world.env.dir(), "authority").unwrap();
    let required =
        |launch: Launch| launch.env("PARTYLINE_DATABASE_URL", format!("{}?sslmode=require", world.env.database_url()));
    let verified = |launch: Launch| launch.env("PARTYLINE_DATABASE_CA_FILE", authority.ca_file());
    for processes in [
        [required(world.launch()), required(world.env.persister().unwrap())],
        [verified(world.launch()), verified(world.env.persister().unwrap())],
    ] {
        is_refused(&world, &processes.map(|launch| launch.spawn().unwrap()), "server does not support TLS").await;
    }
}

#[tokio::test]
async fn new_password_in_the_file_is_taken_without_a_restart() {
    let secured = Secured::start(false).await;
    let world = &secured.world;
    let (url, password) = (world.env.dir().join("url"), world.env.dir().join("password"));
    std::fs::write(&url, secured.url("localhost", "?application_name=before")).unwrap();
    std::fs::write(&password, "trusted anyway").unwrap();
    let gateway = world
        .launch()
        // The environment's own URL, which the file takes the place of.
        .env("PARTYLINE_DATABASE_URL", "postgres://partyline@127.0.0.1:5432/partyline")
        .env("PARTYLINE_DATABASE_URL_FILE", &url)
        .env("PARTYLINE_DATABASE_PASSWORD_FILE", &password)
        .env("PARTYLINE_DATABASE_CA_FILE", secured.authority.ca_file())
        .start()
        .await
        .unwrap();
    assert_eq!(world.get(&gateway, "ann", CONVERSATIONS).await.status, 200);
    // The role takes the place of the old one, as a rotation that changes the user does.
    let pool = world.env.pool().await.unwrap();
    sqlx::query("CREATE ROLE chat_2 LOGIN IN ROLE chat").execute(&pool).await.unwrap();
    std::fs::write(&url, secured.url("localhost", "").replace("chat@", "chat_2@")).unwrap();
    until("the file to be read", async || gateway.log().contains("were read again")).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'chat'";
    sqlx::query(end).execute(&pool).await.unwrap();
    until("the gateway to reach Postgres", async || world.get(&gateway, "ann", CONVERSATIONS).await.status == 200)
        .await;
    let users = "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE usename LIKE 'chat%'";
    assert_eq!(sqlx::query_scalar::<_, String>(users).fetch_all(&pool).await.unwrap(), ["chat_2"]);
    let made =
        world.post(&gateway, "ann", CONVERSATIONS, json!({ "kind": "direct", "participant_ids": ["bob"] })).await;
    assert_eq!(made.status, 201, "{made:?}");
}
