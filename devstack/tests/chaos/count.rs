//! What people saw, against each other and against Postgres.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use devstack::testing::TestEnv;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// One participant's view.
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) conversation: String,
    pub(crate) last_seq: u64,
    /// `seq` and `client_id`, in the order of their coming.
    pub(crate) messages: Vec<(u64, String)>,
    /// `seq` of removals, by the removed.
    pub(crate) removals: Vec<(u64, String)>,
    /// `seq` by `client_id`, as acknowledged.
    pub(crate) acknowledged: BTreeMap<String, u64>,
    /// What no client should see.
    pub(crate) wrong: Vec<String>,
}

impl Seen {
    /// An event of the log, live or caught up with.
    pub(crate) fn event(&mut self, event: &Value, how: &str) {
        let (seq, prev_seq) = (event["seq"].as_u64().unwrap(), event["prev_seq"].as_u64().unwrap());
        if seq <= self.last_seq {
            self.wrong.push(format!("{how}, {seq} after {}", self.last_seq));
        }
        if prev_seq > self.last_seq {
            self.wrong.push(format!("{how}, a gap: {prev_seq} before {seq} was not seen, {} was", self.last_seq));
        }
        self.last_seq = seq;
        if event["type"] == "new_message" {
            self.messages.push((seq, event["client_id"].as_str().unwrap().to_owned()));
        }
        if event["type"] == "participant_removed" {
            self.removals.push((seq, event["user_id"].as_str().unwrap().to_owned()));
        }
    }

    pub(crate) fn caught_up(&mut self, seq: u64) {
        self.last_seq = self.last_seq.max(seq);
    }
}

/// What was counted.
pub(crate) struct Counts {
    acknowledged: usize,
    seen: usize,
    stored: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, seen, stored } = self;
        write!(f, "{acknowledged} acknowledged, {seen} seen (each by two), {stored} in Postgres; 0 lost, 0 doubled")
    }
}

/// Every acknowledged message was seen by both, once and in order, and stands once in Postgres; and nothing else was.
pub(crate) async fn check(env: &TestEnv, people: &[Seen], total: usize) -> Counts {
    let mut acknowledged: HashMap<&str, BTreeMap<u64, &str>> = HashMap::new();
    for person in people {
        assert!(person.wrong.is_empty(), "{} saw: {:?}", person.name, person.wrong);
        for (client_id, seq) in &person.acknowledged {
            let twice = acknowledged.entry(&person.conversation).or_default().insert(*seq, client_id);
            assert_eq!(twice, None, "two messages at {seq} of {}", person.conversation);
        }
    }
    for person in people {
        let expected: Vec<_> =
            acknowledged[&*person.conversation].iter().map(|(seq, id)| (*seq, (*id).to_owned())).collect();
        assert_eq!(person.messages, expected, "{}, of {}", person.name, person.conversation);
    }
    let stored = stored(env, total).await;
    let mut expected: Vec<(Uuid, i64, Uuid)> = Vec::new();
    for (conversation, messages) in &acknowledged {
        for (seq, id) in messages {
            expected.push((conversation.parse().unwrap(), i64::try_from(*seq).unwrap(), id.parse().unwrap()));
        }
    }
    expected.sort();
    assert!(stored == expected, "{} messages in Postgres, {} expected", stored.len(), expected.len());
    let seen: usize = people.iter().map(|person| person.messages.len()).sum();
    Counts { acknowledged: expected.len(), seen, stored: stored.len() }
}

/// Postgres's messages, once the persister has caught up.
async fn stored(env: &TestEnv, total: usize) -> Vec<(Uuid, i64, Uuid)> {
    let pool = env.pool().await.unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let query = "SELECT conversation_id, seq, client_id FROM messages ORDER BY 1, 2, 3";
        let stored: Vec<(Uuid, i64, Uuid)> = sqlx::query_as(query).fetch_all(&pool).await.unwrap();
        if stored.len() >= total || Instant::now() > until {
            return stored;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
