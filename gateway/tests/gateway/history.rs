//! Pages of history are the same before Postgres has the messages and after.

use serde_json::{Value, json};

use crate::support::{CONVERSATIONS, World, client_id, messages_of, seq, until};

#[tokio::test]
async fn what_is_acknowledged_is_in_the_next_page_without_a_persister() {
    let world = World::new().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let chat = world.direct(&here, ["ann", "bob"]).await;
    let mut ann = world.person(&here, "ann").await;
    let path = messages_of(&chat);
    let newest = async |field: &str| {
        let page = world.get(&there, "bob", &path).await;
        page.body["results"].as_array().unwrap().last().unwrap()[field].clone()
    };
    for n in 0..10 {
        let ack = ann.send(&chat, &n.to_string()).await;
        assert_eq!(newest("seq").await, ack["seq"]);
        assert_eq!(newest("content").await, n.to_string());
        let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": ack["seq"], "content": "edited" });
        ann.get("ack", edit).await;
        assert_eq!(newest("content").await, "edited");
        assert!(newest("edited_at").await.is_string() && newest("deleted_at").await.is_null());
        ann.get("ack", json!({ "type": "delete_message", "conversation_id": chat, "seq": ack["seq"] })).await;
        assert_eq!(newest("content").await, "");
        assert!(newest("deleted_at").await.is_string());
        let body = json!({ "client_id": client_id(), "content": "by request" });
        let sent = world.post(&here, "ann", &path, body).await;
        assert_eq!(newest("seq").await, sent.body["seq"]);
    }
}

#[tokio::test]
async fn every_page_reads_the_same_from_the_log_from_both_and_from_postgres() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let chat = world.direct(&gateway, ["ann", "bob"]).await;
    let other = world.direct(&gateway, ["ann", "cat"]).await;
    let (mut ann, mut bob) = (world.person(&gateway, "ann").await, world.person(&gateway, "bob").await);
    let mut seqs = Vec::new();
    for n in 0..12 {
        // Others' events lie between: places are not dense.
        ann.send(&other, "elsewhere").await;
        seqs.push(seq(&if n % 3 == 0 { &mut bob } else { &mut ann }.send(&chat, &n.to_string()).await));
    }
    let change =
        |kind: &str, n: usize| json!({ "type": kind, "conversation_id": chat, "seq": seqs[n], "content": "edited" });
    ann.get("ack", change("edit_message", 1)).await;
    ann.get("ack", change("edit_message", 7)).await;
    ann.get("ack", change("delete_message", 7)).await;
    bob.get("ack", change("delete_message", 3)).await;
    bob.get("ack", json!({ "type": "mark_read", "conversation_id": chat, "seq": seqs[5] })).await;

    let mut queries = vec![String::new(), "?limit=1".into(), "?limit=12".into(), "?limit=11".into()];
    for place in (seqs[0] - 1..=seqs[11] + 1).step_by(3) {
        queries.extend([format!("?limit=4&before={place}"), format!("?limit=4&after={place}")]);
        queries.push(format!("?limit=4&after={place}&before={}", place + 7));
    }
    let read = async || {
        let mut pages = Vec::new();
        for query in &queries {
            let page = world.get(&gateway, "ann", &format!("{}{query}", messages_of(&chat))).await;
            assert_eq!(page.status, 200, "{query}: {page:?}");
            pages.push((query.clone(), page.body));
        }
        // What the list shows of each: its newest message, what is unread, the markers.
        for user in ["ann", "bob"] {
            pages.push((user.to_owned(), world.get(&gateway, user, CONVERSATIONS).await.body));
        }
        pages
    };
    let from_log = read().await;
    let whole = &from_log[0].1["results"];
    assert_eq!(places(whole), seqs);
    let followed: Vec<_> = whole.as_array().unwrap().iter().map(|it| it["prev_seq"].as_u64().unwrap()).collect();
    assert_eq!(followed, [&[0], &seqs[..11]].concat());
    // Two messages follow the last one of bob's own.
    assert_eq!(from_log.last().unwrap().1["results"][0]["unread_count"], 2);

    let persister = world.persister().await;
    world.persisted().await;
    let assert_same = |pages: &[(String, Value)]| {
        for (one, another) in from_log.iter().zip(pages) {
            assert_eq!(one, another);
        }
    };
    // The gateway's word of how far Postgres has come is a moment old: both sources at once.
    assert_same(&read().await);
    assert_same(&read().await);
    drop(persister);
    let fresh = world.get(&world.gateway().await, "ann", &messages_of(&chat)).await;
    assert_eq!(&fresh.body["results"], whole);

    // One page leads to the next, both ways.
    for (next, query, mut place) in [("next_before", "before", seqs[11] + 1), ("next_after", "after", 0)] {
        let mut walked = Vec::new();
        loop {
            let page = world.get(&gateway, "bob", &format!("{}?limit=5&{query}={place}", messages_of(&chat))).await;
            let found = places(&page.body["results"]);
            if query == "after" {
                walked.extend(found)
            } else {
                walked.splice(0..0, found);
            }
            match page.body[next].as_u64() {
                Some(next) => place = next,
                None => break,
            }
        }
        assert_eq!(walked, seqs, "{query}");
    }
}

#[tokio::test]
async fn a_log_in_several_partitions_looks_like_one() {
    let world = World::new().await;
    let partitions = ("PARTYLINE_PARTITIONS", "3");
    let gateway = world.launch().env(partitions.0, partitions.1).start().await.unwrap();
    let mut ann = world.person(&gateway, "ann").await;
    let mut chats = Vec::new();
    for n in 0..12 {
        let chat = world.group(&gateway, &["ann", "bob"]).await;
        let mut seqs = Vec::new();
        for turn in 0..3 {
            seqs.push(seq(&ann.send(&chat, &format!("{n} {turn}")).await));
        }
        chats.push((chat, seqs));
    }
    let lists = async || {
        let list = world.get(&gateway, "bob", CONVERSATIONS).await.body;
        let shown = list["results"].as_array().unwrap().clone();
        shown.iter().map(|it| (it["last_message"]["content"].clone(), it["unread_count"].clone())).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (0..12).rev().map(|n| (json!(format!("{n} 2")), json!(3))).collect();
    assert_eq!(lists().await, expected);
    let persister = world.env.persister().unwrap().env(partitions.0, partitions.1).start().await.unwrap();
    let stored = async || {
        let pool = world.env.pool().await.unwrap();
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM messages").fetch_one(&pool).await.unwrap()
    };
    until("Postgres to hold the messages", async || stored().await == 36).await;
    assert_eq!(lists().await, expected);
    drop(persister);
    for (chat, seqs) in &chats {
        let page = world.get(&gateway, "bob", &messages_of(chat)).await.body;
        assert_eq!(&places(&page["results"]), seqs);
        assert_eq!(ann.join_after(chat, seqs[0]).await["events"].as_array().unwrap().len(), 2);
    }
    let names = async_nats::jetstream::new(world.env.nats().await.unwrap());
    let mut used = 0;
    for partition in 0..3 {
        let stream = names.get_stream(partyline_shared::subjects::log_stream(partition)).await.unwrap();
        used += u32::from(stream.cached_info().state.messages > 0);
    }
    assert!(used > 1, "all twelve in one partition");
}

fn places(messages: &Value) -> Vec<u64> {
    messages.as_array().unwrap().iter().map(seq).collect()
}

#[tokio::test]
async fn a_conversation_whose_newest_message_postgres_lacks_tops_the_list() {
    let world = World::new().await;
    let (gateway, persister) = (world.gateway().await, world.persister().await);
    let mut ann = world.person(&gateway, "ann").await;
    let mut chats = Vec::new();
    for n in 0..60 {
        let chat = world.group(&gateway, &["ann", "bob"]).await;
        ann.send(&chat, &n.to_string()).await;
        chats.push(chat);
    }
    world.persisted().await;
    persister.kill().await;
    // The order that is expected: newest first.
    chats.reverse();
    let walk = async |limit: usize| {
        let mut walked: Vec<String> = Vec::new();
        let mut query = format!("?limit={limit}");
        loop {
            let part = world.get(&gateway, "bob", &format!("{CONVERSATIONS}{query}")).await.body;
            walked.extend(part["results"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()));
            match part["next"].as_str() {
                Some(next) => query = format!("?limit={limit}&cursor={next}"),
                None => return walked,
            }
        }
    };
    assert_eq!(walk(50).await, chats);
    // The oldest one, one from the middle, and one that Postgres has near the top.
    for (place, marker) in [(59, "oldest"), (30, "middle"), (4, "near")] {
        let chat = chats.remove(place);
        ann.send(&chat, marker).await;
        chats.insert(0, chat);
        let list = world.get(&gateway, "bob", CONVERSATIONS).await.body;
        let top = &list["results"][0];
        assert_eq!((&top["id"], &top["last_message"]["content"]), (&json!(chats[0]), &json!(marker)));
        assert_eq!(top["unread_count"], 2);
        assert_eq!(list["results"].as_array().unwrap().len(), 50);
    }
    // No conversation twice and none missing, however the list is divided.
    for limit in [1, 3, 20, 50, 60, 200] {
        assert_eq!(walk(limit).await, chats, "{limit}");
    }
    // A marker alone moves nothing.
    let mut bob = world.person(&gateway, "bob").await;
    bob.get("ack", json!({ "type": "mark_read", "conversation_id": chats[55], "seq": 9_000_000 })).await;
    assert_eq!(walk(20).await, chats);
}
