//! NATS by TLS, with every way to log in.

use std::time::Duration;

use devstack::testing::{Authority, Launch, OwnNats, Process, nats_tls};
use nkeys::KeyPair;
use serde_json::json;
use tokio::time::timeout;

use crate::support::{World, until};

/// The seed of an nkey for tests.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

/// Users `chat` (password `secret`) and the nkey, in an account with JetStream.
const USERS: &str = "accounts { CHAT: { jetstream: enabled, users: [ { user: chat, password: secret }, \
                     { nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 } ] } }";

/// Starts a gateway and a persister on this server, and has a message stored in Postgres.
async fn stores_a_message(world: &World, settings: impl Fn(Launch) -> Launch) {
    let gateway = settings(world.launch()).start().await.unwrap();
    let _persister = settings(world.env.persister().unwrap()).start().await.unwrap();
    let chat = world.group(&gateway, &["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    ann.join(&chat).await;
    ann.send(&chat, "over TLS").await;
    let pool = world.env.pool().await.unwrap();
    let count = "SELECT count(*) FROM messages WHERE content = 'over TLS'";
    until("the message to be in Postgres", async || {
        sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap() == 1
    })
    .await;
    sqlx::query("DELETE FROM messages").execute(&pool).await.unwrap();
}

/// It lives and waits: what it logs names the reason, and it is not ready.
async fn waits_because_of(world: &World, process: &Process, reason: &str) {
    until("the reason to be logged", async || process.log().contains(reason)).await;
    // A process that is starting may not answer at all.
    assert!(!timeout(Duration::from_secs(1), world.is_ready(process)).await.unwrap_or(false));
    assert_eq!(process.status(), None, "{}", process.log());
}

#[tokio::test]
async fn tls_with_an_own_authority_and_a_client_certificate_takes_every_login() {
    let world = World::new().await;
    let authority = Authority::new(world.env.dir(), "authority").unwrap();
    let server = authority.issue("nats", &["localhost", "127.0.0.1"]).unwrap();
    let client = authority.issue("partyline", &[]).unwrap();
    let tls = nats_tls(&server, Some(&authority.ca_file()));
    let nats = OwnNats::start(world.env.dir(), &format!("{tls}\n{USERS}")).await.unwrap();
    let file = |name: &str, text: &str| {
        let path = world.env.dir().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let secured = |launch: Launch, url: &str| {
        launch
            .env("PARTYLINE_NATS_URL", url)
            .env("PARTYLINE_NATS_CA_FILE", authority.ca_file())
            .env("PARTYLINE_NATS_CERT_FILE", &client.cert)
            .env("PARTYLINE_NATS_KEY_FILE", &client.key)
    };
    let (by_tls, by_name) = (format!("tls://127.0.0.1:{}", nats.port), format!("nats://localhost:{}", nats.port));
    stores_a_message(&world, |launch| secured(launch, &by_tls.replace("://", "://chat:secret@"))).await;
    let password = file("password", "secret\n");
    stores_a_message(&world, |launch| {
        secured(launch, &by_name).env("PARTYLINE_NATS_USER", "chat").env("PARTYLINE_NATS_PASSWORD_FILE", &password)
    })
    .await;
    let seed = file("seed", SEED);
    stores_a_message(&world, |launch| secured(launch, &by_name).env("PARTYLINE_NATS_NKEY_SEED_FILE", &seed)).await;

    let configuration = format!("{tls}\nauthorization {{ token: \"a-token\" }}");
    let token = OwnNats::start(world.env.dir(), &configuration).await.unwrap();
    let url = format!("tls://127.0.0.1:{}", token.port);
    stores_a_message(&world, |launch| secured(launch, &url).env("PARTYLINE_NATS_TOKEN", "a-token")).await;
    stores_a_message(&world, |launch| secured(launch, &url.replace("://", "://a-token@"))).await;
}

#[tokio::test]
async fn certificate_of_a_wrong_authority_is_refused_by_name_until_the_file_is_mended() {
    let world = World::new().await;
    let authority = Authority::new(world.env.dir(), "authority").unwrap();
    let other = Authority::new(world.env.dir(), "other").unwrap();
    let server = authority.issue("nats", &["localhost"]).unwrap();
    let nats = OwnNats::start(world.env.dir(), &nats_tls(&server, None)).await.unwrap();
    let url = format!("tls://localhost:{}", nats.port);
    let ca = world.env.dir().join("ca.pem");
    std::fs::copy(other.ca_file(), &ca).unwrap();
    let launches = [world.launch(), world.env.persister().unwrap()];
    let mut processes = Vec::new();
    for launch in launches {
        let launch = launch.env("PARTYLINE_NATS_URL", &url).env("PARTYLINE_NATS_CA_FILE", &ca);
        processes.push(launch.spawn().unwrap());
    }
    for process in &processes {
        waits_because_of(&world, process, "invalid peer certificate: UnknownIssuer").await;
    }
    std::fs::copy(authority.ca_file(), &ca).unwrap();
    for process in &processes {
        process.wait_ready().await.unwrap();
    }

    // The authority of the machine, and another name than the certificate's.
    let system = world.launch().env("PARTYLINE_NATS_URL", &url).spawn().unwrap();
    waits_because_of(&world, &system, "invalid peer certificate: UnknownIssuer").await;
    let address = url.replace("localhost", "127.0.0.1");
    let named = world.launch().env("PARTYLINE_NATS_URL", address).env("PARTYLINE_NATS_CA_FILE", &ca).spawn().unwrap();
    waits_because_of(&world, &named, "certificate not valid for name").await;
}

#[tokio::test]
async fn with_an_authority_no_server_is_talked_to_in_plain_text() {
    let world = World::new().await;
    let authority = Authority::new(world.env.dir(), "authority").unwrap();
    let plain = world.launch().env("PARTYLINE_NATS_CA_FILE", authority.ca_file()).spawn().unwrap();
    waits_because_of(&world, &plain, "no connection to NATS").await;
}

#[tokio::test]
async fn wrong_password_is_named_and_a_new_one_in_the_file_is_taken_at_the_next_connection() {
    let world = World::new().await;
    let authority = Authority::new(world.env.dir(), "authority").unwrap();
    let server = authority.issue("nats", &["localhost"]).unwrap();
    let mut nats = OwnNats::start(world.env.dir(), &format!("{}\n{USERS}", nats_tls(&server, None))).await.unwrap();
    let password = world.env.dir().join("password");
    std::fs::write(&password, "wrong").unwrap();
    let launch = world
        .launch()
        .env("PARTYLINE_NATS_URL", format!("tls://localhost:{}", nats.port))
        .env("PARTYLINE_NATS_CA_FILE", authority.ca_file())
        .env("PARTYLINE_NATS_USER", "chat")
        .env("PARTYLINE_NATS_PASSWORD_FILE", &password);
    let gateway = launch.spawn().unwrap();
    waits_because_of(&world, &gateway, "authorization violation").await;
    std::fs::write(&password, "secret").unwrap();
    gateway.wait_ready().await.unwrap();

    // A lost connection tells why it does not come back.
    std::fs::write(&password, "wrong").unwrap();
    let known = gateway.log().len();
    nats.restart().await.unwrap();
    until("the reason to be logged", async || {
        gateway.log()[known..].lines().any(|line| line.contains("no connection to NATS") && line.contains("violation"))
    })
    .await;
    std::fs::write(&password, "secret").unwrap();
    until("the node to be well", async || world.is_ready(&gateway).await).await;
}

#[tokio::test]
async fn mistakes_in_files_and_logins_are_named_at_the_start() {
    let world = World::new().await;
    let authority = Authority::new(world.env.dir(), "authority").unwrap();
    let (one, two) = (authority.issue("one", &[]).unwrap(), authority.issue("two", &[]).unwrap());
    let gateway = world
        .launch()
        .env("PARTYLINE_NATS_CA_FILE", &one.key)
        .env("PARTYLINE_NATS_CERT_FILE", &one.cert)
        .env("PARTYLINE_NATS_KEY_FILE", &two.key)
        .env("PARTYLINE_NATS_TOKEN_FILE", "/nowhere/token")
        .env("PARTYLINE_NATS_CREDENTIALS", "/nowhere/credentials")
        .spawn()
        .unwrap();
    assert_eq!(gateway.wait().await.code(), Some(2));
    let log = gateway.log();
    for named in [
        "4 mistake(s)",
        "PARTYLINE_NATS_CA_FILE: ",
        "PARTYLINE_NATS_CERT_FILE and PARTYLINE_NATS_KEY_FILE: ",
        "PARTYLINE_NATS_TOKEN_FILE: /nowhere/token: ",
        "PARTYLINE_NATS_TOKEN and PARTYLINE_NATS_CREDENTIALS: one of them only",
    ] {
        assert!(log.contains(named), "{named}: {log}");
    }
}

/// Base64 for URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let encode = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |n| char::from(LETTERS[(bits >> (18 - 6 * n) & 63) as usize])).collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}

/// A JWT of NATS: `issuer` vouches for `subject`.
fn claims(issuer: &KeyPair, subject: &KeyPair, nats: serde_json::Value) -> String {
    let body = json!({ "jti": "id", "iat": 1, "iss": issuer.public_key(), "sub": subject.public_key(), "name": "x", "nats": nats });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let signed = format!("{}.{}", base64(header.to_string().as_bytes()), base64(body.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", base64(&signature))
}

#[tokio::test]
async fn a_credentials_file_logs_in_over_tls() {
    let world = World::new().await;
    let (operator, account, system, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                         "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1 });
    let of_operator = claims(&operator, &operator, json!({ "type": "operator", "version": 2 }));
    let of_account = claims(&operator, &account, json!({ "type": "account", "version": 2, "limits": limits }));
    let without_jetstream = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                                    "conn": -1, "leaf": -1 });
    let of_system = claims(&operator, &system, json!({ "type": "account", "version": 2, "limits": without_jetstream }));
    let of_user = claims(
        &account,
        &user,
        json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 }),
    );
    let authority = Authority::new(world.env.dir(), "authority").unwrap();
    let server = authority.issue("nats", &["localhost"]).unwrap();
    let configuration = format!(
        "{}\noperator: {of_operator}\nresolver: MEMORY\nsystem_account: {system}\n\
         resolver_preload: {{ {account}: {of_account}, {system}: {of_system} }}",
        nats_tls(&server, None),
        system = system.public_key(),
        account = account.public_key(),
    );
    let nats = OwnNats::start(world.env.dir(), &configuration).await.unwrap();
    let credentials = world.env.dir().join("user.creds");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(&credentials, text).unwrap();
    let url = format!("tls://localhost:{}", nats.port);
    stores_a_message(&world, |launch| {
        launch
            .env("PARTYLINE_NATS_URL", &url)
            .env("PARTYLINE_NATS_CA_FILE", authority.ca_file())
            .env("PARTYLINE_NATS_CREDENTIALS", &credentials)
    })
    .await;
}
