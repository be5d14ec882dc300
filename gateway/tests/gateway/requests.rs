//! Requests over the socket that can't be done: each is refused with its code, and the socket goes on.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{NOWHERE, World, client_id, message, messages_of, seq};

#[tokio::test]
async fn what_is_no_request_is_told_so() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    for (text, code) in [
        ("nonsense", "bad_json"),
        ("", "bad_json"),
        ("\0", "bad_json"),
        ("7", "bad_json"),
        ("\"join_conversation\"", "bad_json"),
        ("[{\"type\":\"nothing\"}]", "bad_json"),
        ("{\"type\":\"nothing\"", "bad_json"),
        ("{\"type\":\"nothing\"}{}", "bad_json"),
        ("{\"type\":\"\\ud800\"}", "bad_json"),
        ("{}", "bad_request"),
        ("{\"type\":7}", "bad_request"),
        ("{\"type\":null}", "bad_request"),
        ("{\"type\":\"nothing\",\"ref\":7}", "bad_request"),
        ("{\"type\":\"welcome\"}", "unknown_type"),
        ("{\"type\":\"JOIN_CONVERSATION\"}", "unknown_type"),
    ] {
        ann.socket.send(Message::text(text)).await.unwrap();
        let error = ann.expect("error").await;
        assert_eq!(error["code"], code, "{text:?}: {error}");
        assert!(error["message"].is_string() && error.get("ref").is_none());
    }
    let long = json!({ "type": "nothing", "ref": "x".repeat(129) });
    ann.say(&long).await;
    assert_eq!(ann.expect("error").await["code"], "bad_request");

    let of = |kind: &str, fields: Value| {
        let mut frame = json!({ "type": kind, "conversation_id": chat });
        frame.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        frame
    };
    for wrong in [
        json!({ "type": "join_conversation" }),
        json!({ "type": "leave_conversation" }),
        of("join_conversation", json!({ "conversation_id": "x" })),
        of("join_conversation", json!({ "conversation_id": 7 })),
        of("join_conversation", json!({ "conversation_id": { "id": chat } })),
        of("join_conversation", json!({ "after": -1 })),
        of("join_conversation", json!({ "after": 1.5 })),
        of("join_conversation", json!({ "after": "1" })),
        of("send_message", json!({ "content": "x" })),
        of("send_message", json!({ "content": "x", "client_id": "x" })),
        of("send_message", json!({ "content": "x", "client_id": 7 })),
        of("send_message", json!({ "client_id": client_id() })),
        of("send_message", json!({ "client_id": client_id(), "content": 7 })),
        of("send_message", json!({ "client_id": client_id(), "content": "x", "message_type": "dance" })),
        of("send_message", json!({ "client_id": client_id(), "content": "x", "reply_to": "first" })),
        of("typing", json!({})),
        of("typing", json!({ "is_typing": "yes" })),
        of("mark_read", json!({})),
        of("mark_read", json!({ "seq": -1 })),
        of("edit_message", json!({ "seq": 1 })),
        of("edit_message", json!({ "content": "x" })),
        of("delete_message", json!({})),
        json!({ "type": "refresh_token", "token": 7 }),
    ] {
        assert_eq!(ann.refused(wrong.clone()).await, "bad_request", "{wrong}");
    }
    let mut extra = message(&chat, "with more than is asked for");
    extra["sender_id"] = json!("bob");
    ann.get("ack", extra).await;
    ann.join(&chat).await;
}

#[tokio::test]
async fn content_and_metadata_have_their_limits() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    ann.join(&chat).await;
    let first = seq(&ann.send(&chat, "  first \n").await);
    assert_eq!(ann.expect("new_message").await["content"], "first");
    let long = "x".repeat(1_001);
    for content in ["", " \n\t\u{2003}", &long, "a\0b", "a\u{1b}[31m", "a\u{7f}"] {
        assert_eq!(ann.refused(message(&chat, content)).await, "invalid_content", "{content:?}");
        let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": first, "content": content });
        assert_eq!(ann.refused(edit).await, "invalid_content", "{content:?}");
    }
    let large = json!({ "k": "x".repeat(4_090) });
    for metadata in [json!([]), json!("text"), json!(7), json!({ "k": "\0" }), json!({ "k\0": 1 }), large] {
        let mut frame = message(&chat, "x");
        frame["metadata"] = metadata;
        assert_eq!(ann.refused(frame.clone()).await, "invalid_metadata", "{frame}");
    }
    let mut system = message(&chat, "x");
    system["message_type"] = json!("system");
    assert_eq!(ann.refused(system.clone()).await, "forbidden");
    let mut market = world.person(&gateway, "market").await;
    market.get("ack", system).await;
    let mut reply = message(&chat, "x");
    reply["reply_to"] = json!(first + 1_000);
    assert_eq!(ann.refused(reply).await, "not_found");

    let longest = "\u{1F600}".repeat(1_000);
    let mut frame = message(&chat, &format!(" {longest} "));
    frame["metadata"] = json!({ "k": "x".repeat(4_088) });
    frame["message_type"] = json!("quote");
    frame["reply_to"] = json!(first);
    let ack = ann.get("ack", frame.clone()).await;
    let got = ann.find(|it| it["type"] == "new_message" && it["seq"] == ack["seq"]).await;
    for key in ["metadata", "message_type", "reply_to", "client_id"] {
        assert_eq!(got[key], frame[key], "{key}");
    }
    assert_eq!(got["content"], longest);
}

#[tokio::test]
async fn conversations_of_others_are_forbidden_and_unknown_ones_not_found() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let mut ann = world.person(&gateway, "ann").await;
    let mut eve = world.person(&gateway, "eve").await;
    let seq = ann.send(&chat, "between us").await["seq"].clone();
    for kind in ["join_conversation", "send_message", "typing", "mark_read", "edit_message", "delete_message"] {
        let frame = |conversation: &str| {
            json!({ "type": kind, "conversation_id": conversation, "client_id": client_id(), "content": "x",
                "is_typing": true, "seq": seq })
        };
        assert_eq!(eve.refused(frame(&chat)).await, "forbidden", "{kind}");
        assert_eq!(eve.refused(frame(NOWHERE)).await, "not_found", "{kind}");
    }
    // A participant, and still not hers: another's message, one that isn't there, one that is gone.
    let mut bob = world.person(&gateway, "bob").await;
    for kind in ["edit_message", "delete_message"] {
        let frame = |seq: &Value| json!({ "type": kind, "conversation_id": chat, "seq": seq, "content": "x" });
        assert_eq!(bob.refused(frame(&seq)).await, "forbidden");
        assert_eq!(bob.refused(frame(&json!(987_654))).await, "not_found");
        assert_eq!(bob.refused(frame(&json!(0))).await, "not_found");
    }
    let delete = json!({ "type": "delete_message", "conversation_id": chat, "seq": seq });
    let deleted = ann.get("ack", delete.clone()).await;
    assert_eq!(ann.get("ack", delete).await["seq"], deleted["seq"]);
    let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": seq, "content": "x" });
    assert_eq!(ann.refused(edit).await, "conflict");
    let page = world.get(&gateway, "ann", &messages_of(&chat)).await;
    assert_eq!(page.body["results"].as_array().unwrap().len(), 1, "{page:?}");
}
