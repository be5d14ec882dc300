//! The server does what its OpenAPI document says, and all that it says.

use std::collections::BTreeSet;

use devstack::testing::Proxy;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    document::{Caller, Document},
    support::{CONVERSATIONS, World, answer, client_id, message, messages_of},
};

const ONE: &str = "/chat/api/conversations/{id}/";
const MESSAGES: &str = "/chat/api/conversations/{id}/messages/";
const MARK_READ: &str = "/chat/api/conversations/{id}/mark_read/";
const PARTICIPANTS: &str = "/chat/api/conversations/{id}/participants/";
const PARTICIPANT: &str = "/chat/api/conversations/{id}/participants/{user_id}/";

#[tokio::test]
async fn every_operation_answers_as_the_document_says() {
    let world = World::new().await;
    let launch = world.env.gateway().unwrap().env("PARTYLINE_GROUP_MAX", "4");
    let gateway = launch.start().await.unwrap();
    let document = Document::of(&world, &gateway).await;
    let call = Caller { world: &world, gateway: &gateway, document: &document };
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);

    let new = |people: &[&str], kind: &str| json!({ "participant_ids": people, "kind": kind, "title": "Ärger" });
    let create = (post.clone(), CONVERSATIONS);
    let made = call.send(201, create.clone(), CONVERSATIONS, "ann", new(&["bob"], "direct")).await;
    let pair = made.body["id"].as_str().unwrap().to_owned();
    assert_eq!(made.headers["location"], format!("{CONVERSATIONS}{pair}/"));
    let found = call.send(200, create.clone(), CONVERSATIONS, "bob", new(&["ann"], "direct")).await;
    assert_eq!(found.body["id"], pair);
    call.send(409, create.clone(), CONVERSATIONS, "ann", new(&["ann"], "direct")).await;
    call.send(409, create.clone(), CONVERSATIONS, "ann", new(&["b", "c", "d", "e"], "group")).await;
    for body in [json!({}), json!({ "participant_ids": "bob" }), new(&["bob"], "crowd"), new(&[""], "group")] {
        call.send(400, create.clone(), CONVERSATIONS, "ann", body).await;
    }
    call.refuses_bodies(create.clone(), CONVERSATIONS).await;
    call.refuses_strangers(create.clone(), &pair, &new(&["bob"], "direct")).await;
    let group = call.send(201, create, CONVERSATIONS, "ann", new(&["bob"], "group")).await;
    let group = group.body["id"].as_str().unwrap().to_owned();
    let in_group = |path: &str| path.replace("{id}", &group);

    let send = (post.clone(), MESSAGES);
    let body =
        |content: &str| json!({ "client_id": client_id(), "content": content, "metadata": { "a": [1, 2.5, "ü"] } });
    let sent = call.send(200, send.clone(), &in_group(MESSAGES), "ann", body("hello")).await;
    let repeat = json!({ "client_id": sent.body["client_id"], "content": "hello" });
    assert_eq!(call.send(200, send.clone(), &in_group(MESSAGES), "ann", repeat).await.body["duplicate"], true);
    call.send(422, send.clone(), &in_group(MESSAGES), "ann", body(" ")).await;
    let mut wrong = body("x");
    wrong["metadata"] = json!([]);
    call.send(422, send.clone(), &in_group(MESSAGES), "ann", wrong.clone()).await;
    wrong["client_id"] = json!("x");
    call.send(400, send.clone(), &in_group(MESSAGES), "ann", wrong).await;
    call.refuses_bodies(send.clone(), &in_group(MESSAGES)).await;
    call.refuses_strangers(send.clone(), &group, &body("x")).await;
    let mut reply = body("an answer");
    reply["reply_to"] = sent.body["seq"].clone();
    call.send(200, send.clone(), &in_group(MESSAGES), "bob", reply).await;
    let mut ann = world.person(&gateway, "ann").await;
    let change = |kind: &str, content: &str| json!({ "type": kind, "conversation_id": group, "seq": sent.body["seq"], "content": content });
    ann.get("ack", change("edit_message", "hello again")).await;
    let page = (get.clone(), MESSAGES);
    call.get(200, MESSAGES, &in_group(MESSAGES), "bob").await;
    ann.get("ack", change("delete_message", "")).await;
    for query in ["?limit=1", "?limit=200&before=9007199254740991", "?after=0&limit=1", "?before=0"] {
        call.get(200, MESSAGES, &format!("{}{query}", in_group(MESSAGES)), "bob").await;
    }
    for query in ["?limit=0", "?limit=201", "?limit=x", "?before=-1", "?after=9007199254740992"] {
        call.get(400, MESSAGES, &format!("{}{query}", in_group(MESSAGES)), "bob").await;
    }
    call.refuses_strangers(page, &group, &Value::Null).await;

    let mark = (post.clone(), MARK_READ);
    let everything = |path: &str| call.request("bob", &post, path);
    let marked = call.ask(200, mark.clone(), &in_group(MARK_READ), everything).await;
    call.send(200, mark.clone(), &in_group(MARK_READ), "bob", Value::Null).await;
    let again = call.send(200, mark.clone(), &in_group(MARK_READ), "bob", json!({ "seq": 1 })).await;
    assert!(again.body["last_read_seq"].as_u64() >= marked.body["last_read_seq"].as_u64());
    call.send(400, mark.clone(), &in_group(MARK_READ), "bob", json!({ "seq": "1" })).await;
    call.refuses_bodies(mark.clone(), &in_group(MARK_READ)).await;
    call.refuses_strangers(mark, &group, &json!({})).await;

    let add = (post.clone(), PARTICIPANTS);
    // Ids are the marketplace's own: they may hold anything that a path has to escape.
    let strange = "a/b?c%d #ü";
    call.send(201, add.clone(), &in_group(PARTICIPANTS), "ann", json!({ "user_id": strange })).await;
    call.send(200, add.clone(), &in_group(PARTICIPANTS), "ann", json!({ "user_id": strange })).await;
    call.send(201, add.clone(), &in_group(PARTICIPANTS), "market", json!({ "user_id": "cat" })).await;
    call.send(409, add.clone(), &in_group(PARTICIPANTS), "ann", json!({ "user_id": "dan" })).await;
    call.send(400, add.clone(), &in_group(PARTICIPANTS), "ann", json!({ "user_id": 7 })).await;
    call.send(403, add.clone(), &in_group(PARTICIPANTS), "bob", json!({ "user_id": "dan" })).await;
    call.refuses_bodies(add.clone(), &in_group(PARTICIPANTS)).await;
    call.refuses_strangers(add, &group, &json!({ "user_id": "dan" })).await;

    call.get(200, ONE, &in_group(ONE), "bob").await;
    call.refuses_strangers((get.clone(), ONE), &group, &Value::Null).await;
    let list = call.get(200, CONVERSATIONS, CONVERSATIONS, "bob").await;
    assert_eq!(list.body["results"].as_array().unwrap().len(), 2);
    let mut walked = Vec::new();
    let mut next = format!("{CONVERSATIONS}?limit=1");
    loop {
        let part = call.get(200, CONVERSATIONS, &next, "bob").await;
        walked.push(part.body["results"][0]["id"].clone());
        let Some(cursor) = part.body["next"].as_str() else { break };
        next = format!("{CONVERSATIONS}?limit=1&cursor={cursor}");
    }
    assert_eq!(walked.len(), 2);
    assert_ne!(walked[0], walked[1]);
    for query in ["?limit=0", "?limit=201", "?cursor=x", "?cursor=7.7"] {
        call.get(400, CONVERSATIONS, &format!("{CONVERSATIONS}{query}"), "bob").await;
    }
    call.refuses_strangers((get, CONVERSATIONS), &group, &Value::Null).await;

    let remove = (delete.clone(), PARTICIPANT);
    let person = |user: &str| in_group(PARTICIPANT).replace("{user_id}", user);
    let escaped = "a%2Fb%3Fc%25d%20%23%C3%BC";
    for (status, user, path) in [
        (204, "ann", person(escaped)),
        (404, "ann", person(escaped)),
        (403, "bob", person("ann")),
        (204, "cat", person("cat")),
        (409, "ann", PARTICIPANT.replace("{id}", &pair).replace("{user_id}", "bob")),
        (400, "ann", person(&"x".repeat(129))),
    ] {
        call.ask(status, remove.clone(), &path, |path| call.request(user, &delete, path)).await;
    }
    call.refuses_strangers(remove, &group, &Value::Null).await;

    let mut sent = 200;
    while sent == 200 {
        let told = world.post(&gateway, "ann", &in_group(MESSAGES), body("more")).await;
        document.judge("POST", MESSAGES, &told);
        sent = told.status;
    }
    assert_eq!(sent, 429);

    too_often(&world, &document, &group).await;
    without_postgres(&world, &document, &group).await;
    let unseen: Vec<_> = document.promised().difference(&document.seen()).cloned().collect();
    assert!(unseen.is_empty(), "promised and never given: {unseen:#?}");
}

/// Every operation, and the body that it takes.
fn operations() -> [(Method, &'static str, Value); 8] {
    [
        (Method::GET, CONVERSATIONS, Value::Null),
        (Method::POST, CONVERSATIONS, json!({ "participant_ids": ["bob"] })),
        (Method::GET, ONE, Value::Null),
        (Method::GET, MESSAGES, Value::Null),
        (Method::POST, MESSAGES, json!({ "client_id": client_id(), "content": "x" })),
        (Method::POST, MARK_READ, json!({})),
        (Method::POST, PARTICIPANTS, json!({ "user_id": "dan" })),
        (Method::DELETE, PARTICIPANT, Value::Null),
    ]
}

/// Each operation until it is refused, which a gateway that takes one request a second does soon.
async fn too_often(world: &World, document: &Document, group: &str) {
    let gateway = world.launch().env("PARTYLINE_REQUESTS_PER_SECOND", "1").start().await.unwrap();
    let call = Caller { world, gateway: &gateway, document };
    for (method, path, body) in operations() {
        let actual = path.replace("{id}", group).replace("{user_id}", "bob");
        loop {
            let told = answer(call.request("ann", &method, &actual).json(&body)).await;
            document.judge(method.as_str(), path, &told);
            if told.status == 429 {
                break;
            }
        }
    }
}

/// A gateway that knows nothing yet, and whose Postgres is gone.
async fn without_postgres(world: &World, document: &Document, group: &str) {
    let postgres = Proxy::start(world.env.database_url()).await.unwrap();
    let launch = world.launch().env("PARTYLINE_DATABASE_URL", postgres.through(world.env.database_url()));
    let gateway = launch.start().await.unwrap();
    postgres.cut();
    let call = Caller { world, gateway: &gateway, document };
    let asked = operations().into_iter().map(async |(method, path, body)| {
        let actual = path.replace("{id}", group).replace("{user_id}", "bob");
        call.send(503, (method, path), &actual, "ann", body).await;
    });
    join_all(asked).await;
}

#[tokio::test]
async fn what_is_true_of_every_path() {
    let world = World::new().await;
    let gateway = world.launch().env("PARTYLINE_ALLOWED_ORIGINS", "https://shop.example").start().await.unwrap();
    let document = Document::of(&world, &gateway).await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    world.person(&gateway, "ann").await.get("ack", message(&chat, "hello")).await;
    for (path, methods) in document.paths() {
        let path = path.replace("{id}", &chat).replace("{user_id}", "bob");
        for method in [Method::PUT, Method::PATCH, Method::from_bytes(b"DANCE").unwrap()] {
            let refused = answer(world.bare(&gateway, method, &path).bearer_auth(world.token("ann"))).await;
            assert_eq!((refused.status, refused.code()), (405, "method_not_allowed"), "{path}");
            let allow = refused.headers["allow"].to_str().unwrap();
            let allowed: BTreeSet<_> =
                allow.split(',').map(|it| it.trim().to_owned()).filter(|it| it != "HEAD").collect();
            assert_eq!(allowed, methods, "{path}");
        }
        if methods.contains("GET") {
            let bare = path.trim_end_matches('/').to_owned();
            let (with, without) = (world.get(&gateway, "ann", &path).await, world.get(&gateway, "ann", &bare).await);
            assert_eq!((with.status, &with.body), (without.status, &without.body), "{path}");
            let asked = world.get(&gateway, "ann", &format!("{bare}?limit=1")).await;
            assert_eq!(asked.status, 200, "{bare}");
            assert_eq!(with.headers["cache-control"], "no-store");
            assert_eq!(with.headers["x-content-type-options"], "nosniff");
        }
        for (origin, may) in [("https://shop.example", true), ("https://evil.example", false)] {
            let preflight = world
                .bare(&gateway, Method::OPTIONS, &path)
                .header("origin", origin)
                .header("access-control-request-method", methods.first().unwrap())
                .header("access-control-request-headers", "authorization,content-type");
            let told = answer(preflight).await;
            assert_eq!(told.headers.get("access-control-allow-origin").is_some(), may, "{path}");
            if may {
                assert_eq!(told.status, 200);
                assert_eq!(told.headers["access-control-allow-origin"], origin);
                let list = |name: &str| told.headers[name].to_str().unwrap().to_lowercase();
                assert!(methods.iter().all(|it| list("access-control-allow-methods").contains(&it.to_lowercase())));
                assert!(list("access-control-allow-headers").contains("authorization"));
            }
        }
    }
    let foreign = world.bare(&gateway, Method::GET, CONVERSATIONS).bearer_auth(world.token("ann"));
    let told = answer(foreign.header("origin", "https://evil.example")).await;
    assert!(!told.headers.contains_key("access-control-allow-origin"));
    for path in ["/", "/nothing", "/chat/api/", "/chat/api/nothing", &format!("{}x/", messages_of(&chat))] {
        let told = world.get(&gateway, "ann", path).await;
        assert_eq!((told.status, told.code()), (404, "not_found"), "{path}");
        assert_eq!(told.headers["content-type"], "application/problem+json");
    }
    for (path, expected) in [("/livez", "alive\n"), ("/readyz", "ready\n")] {
        assert_eq!(answer(world.bare(&gateway, Method::GET, path)).await.body, expected);
    }
}
