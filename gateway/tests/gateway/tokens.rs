//! Tokens that end, are renewed, and are signed with keys that change.

use std::{path::Path, time::Duration};

use devstack::testing::{Process, UserType};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_tungstenite::tungstenite::error::Error as WsError;

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
        let header = Header { kid: Some(self.id.into()), ..Header::new(self.algorithm) };
        let exp = OffsetDateTime::now_utc().unix_timestamp() + 600;
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
