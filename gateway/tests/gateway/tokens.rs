//! Tokens that end, are renewed, and are signed with keys that change.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing};
use devstack::testing::{Launch, Process, UserType};
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use reqwest::StatusCode;
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::watch};
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    person::{Person, connect, handshake},
    socketio::Raw,
    support::{CONVERSATIONS, World, answer, message, until},
};

#[tokio::test]
async fn a_socket_outlives_its_token_only_if_that_is_renewed() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let token = |user: &str, seconds| world.env.jwt_with(user, "", UserType::Customer, None, seconds).unwrap();
    let short = token("ann", 3);
    let (mut careless, mut careful) = (Person::come(&gateway, &short).await, Person::come(&gateway, &short).await);
    let warning = careful.expect("token_expiring").await;
    let left = warning["expires_in_ms"].as_i64().unwrap();
    assert!((1..=3_000).contains(&left) && warning["expires_at"].is_i64(), "{warning}");

    let refresh = |token: &str| json!({ "type": "refresh_token", "token": token });
    for (token, code) in
        [(token("bob", 60), "forbidden"), (token("ann", -1), "token_expired"), ("garbage".to_owned(), "token_invalid")]
    {
        assert_eq!(careful.refused(refresh(&token)).await, code);
    }
    let ack = careful.get("ack", refresh(&token("ann", 62))).await;
    let expires_in = ack["expires_at"].as_i64().unwrap() - OffsetDateTime::now_utc().unix_timestamp();
    assert!((60..=62).contains(&expires_in), "{ack}");

    let closed = careless.closed().await;
    assert_eq!((closed.code, &closed.reason["code"]), (4401, &json!("token_expired")));
    assert_eq!(careless.held("token_expiring").len(), 1);
    let Err(WsError::Http(refused)) = connect(&gateway, handshake(&gateway, &short)).await else { panic!("came in") };
    assert_eq!(refused.status(), 401);
    // The new token has its own warning.
    careful.expect("token_expiring").await;
    careful.caught_up().await;
    assert!(careful.held("token_expiring").is_empty());
}

#[tokio::test]
async fn a_renewed_token_holds_and_nothing_of_the_one_before() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    ann.join(&chat).await;
    let token = |name: &str, user_type, scope| world.env.jwt_with("market", name, user_type, scope, 3_600).unwrap();
    let service = token("Market", UserType::Customer, Some("mail service"));
    let plain = token("Clerk", UserType::Vendor, Some("mail"));
    let system = || {
        let mut system = message(&chat, "for you");
        system["message_type"] = json!("system");
        system
    };

    let refresh = |token: &str| json!({ "type": "refresh_token", "token": token });
    let mut native = Person::come(&gateway, &service).await;
    native.get("ack", system()).await;
    let heard = ann.expect("new_message").await;
    assert_eq!((&heard["sender_username"], &heard["sender_type"]), (&json!("Market"), &json!("customer")));
    native.get("ack", refresh(&plain)).await;
    assert_eq!(native.refused(system()).await, "forbidden");
    assert_eq!(native.refused(message(&chat, "x")).await, "forbidden");
    // Not a refused one either: what was, stays.
    assert_eq!(native.refused(refresh(&world.token("bob"))).await, "forbidden");
    assert_eq!(native.refused(message(&chat, "x")).await, "forbidden");
    let add = json!({ "participant_ids": ["ann", "market"], "kind": "group" });
    let group = world.post(&gateway, "market", CONVERSATIONS, add).await.body["id"].as_str().unwrap().to_owned();
    ann.join(&group).await;
    native.send(&group, "by a clerk").await;
    let heard = ann.find(|it| it["content"] == "by a clerk").await;
    assert_eq!((&heard["sender_username"], &heard["sender_type"]), (&json!("Clerk"), &json!("vendor")));
    native.get("ack", refresh(&service)).await;
    native.get("ack", system()).await;

    let mut raw = Raw::come(&gateway, &plain).await;
    let mut count = 0;
    let mut ask = async |name: &str, fields: Value| {
        count += 1;
        raw.say(&format!("42{count}{}", json!([name, fields]))).await;
        let answer = raw.expect(&format!("43{count}")).await;
        let answer: Value = serde_json::from_str(&answer[answer.find('[').unwrap()..]).unwrap();
        answer[0].clone()
    };
    assert_eq!(ask("send_message", system()).await["code"], "forbidden");
    assert_eq!(ask("refresh_token", json!({ "token": service })).await["status"], "ok");
    assert_eq!(ask("send_message", system()).await["status"], "ok");
    assert_eq!(ask("refresh_token", json!({ "token": plain })).await["status"], "ok");
    assert_eq!(ask("send_message", system()).await["code"], "forbidden");
}

/// The Unix time, with fractions.
fn unix_time() -> f64 {
    OffsetDateTime::now_utc().unix_timestamp_nanos() as f64 / 1e9
}

async fn wait_until(time: f64) {
    until("the time", async || unix_time() >= time).await;
}

/// After this time the sweeper, which looks once a second, has seen that a token ended.
const SWEPT: f64 = 1.2;

#[tokio::test]
async fn socket_with_a_renewal_in_hand_outlives_its_token() {
    let world = World::new().await;
    let (old, new) = (Key::new(Algorithm::EdDSA, "old"), Key::new(Algorithm::EdDSA, "new"));
    let provider = Provider::start(keys(&[&old])).await;
    let gateway = provider.gateway(&world).start().await.unwrap();
    let ends = unix_time().floor() + 2.0;
    let mut native = Person::come(&gateway, &old.token_for(2)).await;
    let mut raw = Raw::come(&gateway, &old.token_for(2)).await;
    provider.serve(Served::Hanging);
    let token = new.token();
    native.say(&json!({ "type": "refresh_token", "token": token })).await;
    raw.say(&format!("427{}", json!(["refresh_token", { "token": token }]))).await;
    until("the JWKS to be asked", async || provider.asked() == 2).await;
    wait_until(ends + SWEPT).await;
    provider.serve(keys(&[&old, &new]));
    native.expect("ack").await;
    let answer = raw.expect("437").await;
    assert!(answer.contains("\"status\":\"ok\""), "{answer}");
    native.caught_up().await;
}

#[tokio::test]
async fn socket_with_a_renewal_behind_another_command_outlives_its_token() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let ends = unix_time().floor() + 2.0;
    let short = world.env.jwt_with("ann", "", UserType::Customer, None, 2).unwrap();
    let mut native = Person::come(&gateway, &short).await;
    let mut raw = Raw::come(&gateway, &short).await;
    // A command lasts 2 s at most.
    wait_until(ends - 0.3).await;
    let lock = world.lock_conversations().await;
    let (join, token) = (json!({ "conversation_id": chat }), world.token("ann"));
    native.say(&json!({ "type": "join_conversation", "conversation_id": chat })).await;
    native.say(&json!({ "type": "refresh_token", "token": token })).await;
    raw.say(&format!("426{}", json!(["join_conversation", join]))).await;
    raw.say(&format!("427{}", json!(["refresh_token", { "token": token }]))).await;
    world.is_waited_for().await;
    wait_until(ends + SWEPT).await;
    lock.rollback().await.unwrap();
    native.expect("joined").await;
    native.expect("ack").await;
    raw.expect("436").await;
    let answer = raw.expect("437").await;
    assert!(answer.contains("\"status\":\"ok\""), "{answer}");
    native.caught_up().await;
}

/// A private key and how its public half is published.
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    private: EncodingKey,
}

impl Key {
    fn new(algorithm: Algorithm, id: &'static str) -> Self {
        let mut random = [0; 32];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
        // PKCS #8 (RFC 5958), up to the 32 bytes of the key.
        let private = match algorithm {
            Algorithm::EdDSA => {
                let head = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
                EncodingKey::from_ed_der(&[&head[..], &random].concat())
            }
            Algorithm::ES256 => {
                let head =
                    b"\x30\x41\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\
                    \x03\x01\x07\x04\x27\x30\x25\x02\x01\x01\x04\x20";
                EncodingKey::from_ec_der(&[&head[..], &random].concat())
            }
            _ => {
                let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2_048).unwrap();
                EncodingKey::from_rsa_der(key.to_pkcs1_der().unwrap().as_bytes())
            }
        };
        Self { id, algorithm, private }
    }

    fn token(&self) -> String {
        self.token_for(600)
    }

    /// A token that ends so many seconds from now.
    fn token_for(&self, seconds: i64) -> String {
        let header = Header { kid: Some(self.id.into()), ..Header::new(self.algorithm) };
        let exp = OffsetDateTime::now_utc().unix_timestamp() + seconds;
        jsonwebtoken::encode(&header, &json!({ "sub": "ann", "exp": exp }), &self.private).unwrap()
    }

    fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.into());
        serde_json::to_value(jwk).unwrap()
    }
}

/// Publishes keys, in one step, as whoever writes such a file should.
fn publish(path: &Path, keys: &[&Key]) {
    let jwks = json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() });
    let draft = path.with_extension("draft");
    std::fs::write(&draft, jwks.to_string()).unwrap();
    std::fs::rename(draft, path).unwrap();
}

/// An identity provider: a JWKS by HTTP that changes, hangs or is away.
struct Provider {
    url: String,
    served: watch::Sender<Served>,
    /// Requests that came.
    asked: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone)]
enum Served {
    Keys(String),
    Nothing,
    /// Requests wait until something else is served.
    Hanging,
}

impl Provider {
    async fn start(served: Served) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let (served, watched) = watch::channel(served);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let answer = move || {
            let (mut watched, count) = (watched.clone(), count.clone());
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                let served = watched.wait_for(|served| !matches!(served, Served::Hanging)).await.unwrap().clone();
                match served {
                    Served::Keys(jwks) => Ok(jwks),
                    _ => Err(StatusCode::SERVICE_UNAVAILABLE),
                }
            }
        };
        let app = Router::new().route("/jwks", routing::get(answer));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, served, asked, _task: AbortOnDropHandle::new(task) }
    }

    fn serve(&self, served: Served) {
        self.served.send_replace(served);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn gateway(&self, world: &World) -> Launch {
        world.launch().env("PARTYLINE_JWT_ALGORITHM", "EdDSA").env("PARTYLINE_JWKS_URL", &self.url)
    }
}

fn keys(keys: &[&Key]) -> Served {
    Served::Keys(json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() }).to_string())
}

/// The status of a handshake; 101 is a success.
async fn handshake_status(gateway: &Process, token: &str) -> u16 {
    match connect(gateway, handshake(gateway, token)).await {
        Ok(_) => 101,
        Err(WsError::Http(refused)) => refused.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

async fn comes_in(gateway: &Process, token: &str) -> bool {
    match connect(gateway, handshake(gateway, token)).await {
        Ok(_) => true,
        Err(WsError::Http(refused)) => {
            assert_eq!(refused.status(), 401);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn keys_of_every_kind_rotate_without_a_restart() {
    let world = World::new().await;
    let rotate = async |algorithm: Algorithm, name: &str| {
        let (old, new) = (Key::new(algorithm, "old"), Key::new(algorithm, "new"));
        let path = world.env.dir().join(format!("{name}.json"));
        publish(&path, &[&old]);
        let gateway = world.launch().env("PARTYLINE_JWT_ALGORITHM", name).env("PARTYLINE_JWKS_FILE", &path);
        let gateway = gateway.start().await.unwrap();
        let mut socket = Person::come(&gateway, &old.token()).await;
        // Neither another algorithm, nor the public key as a shared secret, nor a stranger under a known name.
        assert!(!comes_in(&gateway, &world.token("ann")).await, "{name}");
        let public = old.public().to_string();
        assert!(!comes_in(&gateway, &devstack::testing::sign(&public, &json!({ "sub": "ann" })).unwrap()).await);
        assert!(!comes_in(&gateway, &Key { id: "old", ..Key::new(algorithm, "x") }.token()).await, "{name}");

        // The first token of a new key is as good as any, on the socket that it renews, too.
        publish(&path, &[&old, &new]);
        let ack = socket.ask(json!({ "type": "refresh_token", "token": new.token() })).await;
        assert_eq!(ack["type"], "ack", "{name}: {ack}");
        assert!(comes_in(&gateway, &new.token()).await && comes_in(&gateway, &old.token()).await, "{name}");
        let request = world.bare(&gateway, reqwest::Method::GET, CONVERSATIONS);
        assert_eq!(answer(request.bearer_auth(new.token())).await.status, 200, "{name}");

        // A key that is withdrawn is of no use any more, within the time of a look at the file.
        publish(&path, &[&new]);
        until("the old key to be forgotten", async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            !comes_in(&gateway, &old.token()).await
        })
        .await;
        assert!(comes_in(&gateway, &new.token()).await, "{name}");
        socket.caught_up().await;
    };
    tokio::join!(
        rotate(Algorithm::RS256, "RS256"),
        rotate(Algorithm::ES256, "ES256"),
        rotate(Algorithm::EdDSA, "EdDSA")
    );
}

#[tokio::test]
async fn the_first_handshake_after_a_rotation_comes_in() {
    let world = World::new().await;
    let (old, new) = (Key::new(Algorithm::EdDSA, "old"), Key::new(Algorithm::EdDSA, "new"));
    let path = world.env.dir().join("keys.json");
    publish(&path, &[&old]);
    let gateway = world.launch().env("PARTYLINE_JWT_ALGORITHM", "EdDSA").env("PARTYLINE_JWKS_FILE", &path);
    let gateway = gateway.start().await.unwrap();
    publish(&path, &[&new]);
    assert!(comes_in(&gateway, &new.token()).await);
    assert!(!comes_in(&gateway, &old.token()).await);
}

#[tokio::test]
async fn handshakes_with_unknown_keys_share_the_wait_for_a_jwks_that_hangs() {
    let world = World::new().await;
    let known = Key::new(Algorithm::EdDSA, "known");
    let provider = Provider::start(keys(&[&known])).await;
    let gateway = provider.gateway(&world).start().await.unwrap();
    assert_eq!(provider.asked(), 1);
    provider.serve(Served::Hanging);
    let strangers: Vec<_> = (0..20).map(|_| Key::new(Algorithm::EdDSA, "unknown").token()).collect();
    let flood = join_all(strangers.iter().map(|token| handshake_status(&gateway, token)));
    let served = async {
        // Known keys wait for nobody.
        until("the JWKS to be asked", async || provider.asked() == 2).await;
        for _ in 0..5 {
            assert_eq!(handshake_status(&gateway, &known.token()).await, 101);
        }
        assert_eq!(provider.asked(), 2);
    };
    // One fetch of 5 s is what all of them have waited for; before, each had one of its own.
    let (refused, ()) = tokio::join!(flood, served);
    assert_eq!(refused, [503; 20]);
    assert_eq!(provider.asked(), 2);
    // A failed look is no reason to ask at once again, and the next one finds what is new.
    let new = Key::new(Algorithm::EdDSA, "new");
    provider.serve(keys(&[&known, &new]));
    assert_eq!(handshake_status(&gateway, &new.token()).await, 101);
    let again = Key::new(Algorithm::EdDSA, "unknown").token();
    assert_eq!(handshake_status(&gateway, &again).await, 401);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_keeps_nobody_with_a_new_key_out() {
    let world = World::new().await;
    let (old, new) = (Key::new(Algorithm::EdDSA, "old"), Key::new(Algorithm::EdDSA, "new"));
    let provider = Provider::start(keys(&[&old])).await;
    let gateway = provider.gateway(&world).start().await.unwrap();
    let mut socket = Person::come(&gateway, &old.token()).await;
    let stranger = Key::new(Algorithm::EdDSA, "unknown").token();
    // A stranger uses up the look that may be had at once; then the keys change.
    assert_eq!(handshake_status(&gateway, &stranger).await, 401);
    let flood = AbortOnDropHandle::new(tokio::spawn({
        let (addr, stranger) = (gateway.url(CONVERSATIONS), stranger.clone());
        async move {
            let http = reqwest::Client::new();
            let ask = || async { http.get(&addr).bearer_auth(&stranger).send().await.map(|it| it.status().as_u16()) };
            loop {
                for status in join_all((0..50).map(|_| ask())).await {
                    assert_eq!(status.unwrap(), 401);
                }
            }
        }
    }));
    provider.serve(keys(&[&old, &new]));
    let token = new.token();
    let request = world.bare(&gateway, reqwest::Method::GET, CONVERSATIONS).bearer_auth(&token);
    let refresh = json!({ "type": "refresh_token", "token": token });
    let (native, rest, refreshed) =
        tokio::join!(handshake_status(&gateway, &token), answer(request), socket.ask(refresh));
    assert_eq!((native, rest.status, &refreshed["type"]), (101, 200, &json!("ack")));
    let mut raw = Raw::come(&gateway, &new.token()).await;
    raw.say("2").await;
    assert_eq!(handshake_status(&gateway, &old.token()).await, 101);
    assert!(!flood.is_finished());
}

#[tokio::test]
async fn without_its_identity_provider_a_gateway_waits_or_starts_with_the_kept_keys() {
    let world = World::new().await;
    let key = Key::new(Algorithm::EdDSA, "key");
    let provider = Provider::start(Served::Nothing).await;
    let cache = world.env.dir().join("keys.json");
    let launch = provider.gateway(&world).env("PARTYLINE_JWKS_CACHE_FILE", &cache);
    let waiting = launch.spawn().unwrap();
    // It lives, says what it waits for, and refuses tokens as what can be tried again.
    let probe = async |path: &str| {
        let response = reqwest::get(waiting.admin_url(path)).await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    };
    let why = Some((503, "not ready: keys\n".into()));
    until("the gateway to want keys only", async || probe("/readyz").await == why).await;
    assert_eq!(probe("/livez").await.unwrap().0, 200);
    assert_eq!(handshake_status(&waiting, &key.token()).await, 503);
    assert!(!cache.exists());
    provider.serve(keys(&[&key]));
    waiting.wait_ready().await.unwrap();
    assert_eq!(handshake_status(&waiting, &key.token()).await, 101);
    until("the keys to be kept", async || cache.exists()).await;
    waiting.kill().await;

    for away in [Served::Nothing, Served::Hanging] {
        provider.serve(away);
        let kept = provider.gateway(&world).env("PARTYLINE_JWKS_CACHE_FILE", &cache).start().await.unwrap();
        assert_eq!(handshake_status(&kept, &key.token()).await, 101);
    }
}

/// A token of `ann`, signed with this secret.
fn signed_with(secret: &str) -> String {
    let exp = OffsetDateTime::now_utc().unix_timestamp() + 600;
    devstack::testing::sign(secret, &json!({ "sub": "ann", "exp": exp })).unwrap()
}

#[tokio::test]
async fn secrets_in_a_file_change_without_a_restart_and_each_of_them_is_taken() {
    let world = World::new().await;
    let (old, new) = ("the old secret, of 32 bytes or more", "the new secret, of 32 bytes or more");
    let path = world.env.dir().join("secrets");
    let write = |text: String| {
        let written = path.with_extension("new");
        std::fs::write(&written, text).unwrap();
        std::fs::rename(written, &path).unwrap();
    };
    write(format!("{old}\n"));
    let gateway = world.launch().env("PARTYLINE_JWT_SECRET", "").env("PARTYLINE_JWT_SECRET_FILE", &path);
    let gateway = gateway.start().await.unwrap();
    let mut socket = Person::come(&gateway, &signed_with(old)).await;
    assert!(!comes_in(&gateway, &signed_with(new)).await);
    write(format!("{new}\n{old}\n"));
    // The first token of the new secret waits for the file to be read.
    assert!(comes_in(&gateway, &signed_with(new)).await && comes_in(&gateway, &signed_with(old)).await);
    // A file that is wrong changes nothing.
    write("short\n".into());
    until("the mistake to be logged", async || gateway.log().contains("line 1: 5 bytes")).await;
    assert!(comes_in(&gateway, &signed_with(new)).await);
    write(format!("{new}\n"));
    until("the old secret to be forgotten", async || !comes_in(&gateway, &signed_with(old)).await).await;
    assert!(comes_in(&gateway, &signed_with(new)).await);
    socket.caught_up().await;
}

#[tokio::test]
async fn token_of_an_extra_secret_is_taken() {
    let world = World::new().await;
    let extra = ["one extra secret of 32 bytes and more", "another extra secret of 32 bytes or so"];
    let gateway = world.launch().env("PARTYLINE_JWT_EXTRA_SECRETS", extra.join(",")).start().await.unwrap();
    for secret in [world.env.secret(), extra[0], extra[1]] {
        assert!(comes_in(&gateway, &signed_with(secret)).await);
    }
    assert!(!comes_in(&gateway, &signed_with("a secret that no gateway has been told")).await);
}
