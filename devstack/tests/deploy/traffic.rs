//! Traffic that touches everything that is measured.

use std::time::Duration;

use devstack::testing::TestEnv;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::person::Person;

/// Two people in a conversation, each on a way of their own to the gateways.
pub(crate) struct Pair {
    left: Person,
    right: Person,
    conversation: String,
}

impl Pair {
    pub(crate) async fn meet(env: &TestEnv, ways: [&str; 2], number: usize) -> Self {
        let names = [format!("left-{number}"), format!("right-{number}")];
        let mut left = Person::arrive(env, ways[0], &names[0]).await;
        let mut right = Person::arrive(env, ways[1], &names[1]).await;
        let (status, made) = left.post("/chat/api/conversations/", json!({ "participant_ids": [names[1]] })).await;
        assert_eq!(status, 201, "{made}");
        let conversation = made["id"].as_str().unwrap().to_owned();
        for person in [&mut left, &mut right] {
            let joined = person.ask(json!({ "type": "join_conversation", "conversation_id": conversation })).await;
            assert_eq!(joined["type"], "joined", "{joined}");
        }
        Self { left, right, conversation }
    }

    /// Everything once.
    pub(crate) async fn talk(&mut self) {
        let conversation = &self.conversation;
        let (left, right) = (&mut self.left, &mut self.right);
        let send = json!({ "type": "send_message", "conversation_id": conversation,
            "client_id": uuid::Uuid::now_v7(), "content": "hello" });
        let sent = left.ask(send.clone()).await;
        assert_eq!(sent["type"], "ack", "{sent}");
        assert_eq!(left.ask(send).await["duplicate"], true);
        let seq = &sent["seq"];
        right.tell(json!({ "type": "typing", "conversation_id": conversation, "is_typing": true })).await;
        for (person, kind, content) in [(&mut *right, "mark_read", Value::Null), (left, "edit_message", json!("Hello"))]
        {
            let frame = json!({ "type": kind, "conversation_id": conversation, "seq": seq, "content": content });
            let answer = person.ask(frame).await;
            assert_eq!(answer["type"], "ack", "{answer}");
        }
        let refused = right.ask(json!({ "type": "delete_message", "conversation_id": conversation, "seq": seq })).await;
        assert_eq!(refused["code"], "forbidden", "{refused}");

        let path = format!("/chat/api/conversations/{conversation}/messages/");
        assert_eq!(right.get(&path).await.0, 200);
        assert_eq!(right.get("/chat/api/conversations/").await.0, 200);
        let posted = json!({ "client_id": uuid::Uuid::now_v7(), "content": "by REST" });
        assert_eq!(right.post(&path, posted).await.0, 200);

        right.reconnect().await;
        let joined =
            right.ask(json!({ "type": "join_conversation", "conversation_id": conversation, "after": seq })).await;
        assert_eq!(joined["type"], "joined", "{joined}");
    }
}

/// People who talk until this is dropped.
pub(crate) struct Traffic(#[expect(dead_code, reason = "it ends the tasks when it is dropped")] JoinSet<()>);

impl Traffic {
    pub(crate) async fn start(env: &TestEnv, ways: [&str; 2], pairs: usize) -> Self {
        let mut tasks = JoinSet::new();
        for number in 0..pairs {
            let mut pair = Pair::meet(env, ways, number).await;
            tasks.spawn(async move {
                loop {
                    pair.talk().await;
                    sleep(Duration::from_millis(100)).await;
                }
            });
        }
        Self(tasks)
    }
}
