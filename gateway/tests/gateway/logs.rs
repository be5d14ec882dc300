//! Logs in JSON: one object a line, and at the most verbose level still no token and nothing that anybody wrote.

use devstack::testing::Launch;
use partyline_shared::subjects;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    person::{connect, handshake},
    socketio::Raw,
    support::{World, answer, client_id, message, messages_of, until},
};

/// Stands in everything that is written here.
const WORDS: &str = "xyzzy-words";
/// Stands in everything that is no token.
const BAD: &str = "xyzzy-bad-token";

fn verbose(launch: Launch) -> Launch {
    launch.env("PARTYLINE_LOG", "trace").env("PARTYLINE_LOG_FORMAT", "json")
}

#[tokio::test]
async fn no_token_and_no_word_of_a_message_is_logged() {
    let world = World::new().await;
    let gateway = verbose(world.launch()).start().await.unwrap();
    let persister = verbose(world.env.persister().unwrap()).start().await.unwrap();
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let said = |what: &str| format!("{WORDS} {what}");
    let (ann, bob) = (world.token("ann"), world.token("bob"));
    let not_signed = format!("{}{BAD}", ann.rsplit_once('.').unwrap().0.to_owned() + ".");

    // A native socket: what is taken, and what isn't.
    let mut socket = world.person(&gateway, "ann").await;
    socket.join(&chat).await;
    let sent = socket.send(&chat, &said("by socket")).await;
    let change =
        |kind: &str| json!({ "type": kind, "conversation_id": chat, "seq": sent["seq"], "content": said(kind) });
    socket.get("ack", change("edit_message")).await;
    socket.get("ack", json!({ "type": "refresh_token", "token": ann })).await;
    assert_eq!(socket.refused(json!({ "type": "refresh_token", "token": not_signed })).await, "token_invalid");
    let mut odd = message(&chat, &said(&"x".repeat(1_000)));
    assert_eq!(socket.refused(odd.clone()).await, "invalid_content");
    odd["content"] = json!(said("with metadata"));
    odd["metadata"] = json!(WORDS);
    assert_eq!(socket.refused(odd.clone()).await, "invalid_metadata");
    odd["message_type"] = json!(WORDS);
    assert_eq!(socket.refused(odd).await, "bad_request");
    for token in [&not_signed, BAD] {
        assert!(connect(&gateway, handshake(&gateway, token)).await.is_err());
    }
    socket.get("ack", change("delete_message")).await;

    // REST.
    for (token, status) in [(ann.as_str(), 200), (&not_signed, 401), (BAD, 401)] {
        let request = world.bare(&gateway, Method::POST, &messages_of(&chat)).bearer_auth(token);
        let body = json!({ "client_id": client_id(), "content": said("by rest"), "metadata": { "k": WORDS } });
        assert_eq!(answer(request.json(&body)).await.status, status);
    }

    // Socket.IO.
    let mut raw = Raw::come(&gateway, &bob).await;
    let event =
        json!(["send_message", { "conversation_id": chat, "client_id": client_id(), "content": said("by socket.io") }]);
    raw.say(&format!("421{event}")).await;
    raw.expect("431").await;
    let mut refused = Raw::open(&gateway, "").await;
    refused.say(&format!("40{}", json!({ "token": not_signed }))).await;
    refused.expect("44").await;

    // What nobody can read, whose error quotes it: live, in a page of the log's tail, as a dead letter.
    let js = async_nats::jetstream::new(world.env.nats().await.unwrap());
    let unreadable = json!({ "type": "new_message", "message_type": WORDS }).to_string();
    js.publish(subjects::log(0, chat.parse().unwrap()), unreadable.into()).await.unwrap().await.unwrap();
    let page = world.get(&gateway, "ann", &messages_of(&chat)).await;
    assert_eq!(page.status, 200, "{page:?}");
    until("a dead letter", async || persister.log().contains("dead letter")).await;
    world.persisted().await;

    for (name, log) in [("gateway", gateway.log()), ("persister", persister.log())] {
        assert!(log.contains("\"DEBUG\""), "{name} is not verbose: {log}");
        for line in log.lines() {
            let object: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{name}: no JSON: {line}"));
            for key in ["timestamp", "level", "target"] {
                assert!(object[key].is_string(), "{name}: no {key}: {line}");
            }
            let signature = |token: &str| token.rsplit_once('.').unwrap().1.to_owned();
            for secret in [WORDS, BAD, &signature(&ann), &signature(&bob), world.env.secret()] {
                assert!(!line.contains(secret), "{name} tells {secret}: {line}");
            }
        }
    }
}
