//! No statement may read a whole partition of messages, whatever its size.

use partyline_persister::store::{MESSAGE_STATEMENTS, Store};
use partyline_shared::ids::ConversationId;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::support::{World, delete, edit, numbered, read};

/// The sequential scans over `messages` that Postgres would make for a statement, whatever its parameters.
async fn sequential_scans(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    let count = (1..).take_while(|n| sql.contains(&format!("${n}::"))).count();
    let nulls = vec!["NULL"; count].join(", ");
    let execute = if count == 0 { "EXECUTE asked".to_owned() } else { format!("EXECUTE asked ({nulls})") };
    sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("PREPARE asked AS {sql}"))).execute(&mut *connection).await.unwrap();
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN (FORMAT JSON) {execute}")))
        .persistent(false)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    sqlx::raw_sql("DEALLOCATE asked").execute(connection).await.unwrap();
    assert!(plan.to_string().contains("\"messages"), "the plan does not touch messages: {plan}");
    let mut found = Vec::new();
    look(&plan, &mut found);
    found
}

fn look(plan: &Value, found: &mut Vec<String>) {
    match plan {
        Value::Array(list) => list.iter().for_each(|part| look(part, found)),
        Value::Object(node) => {
            let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default();
            let relation = text("Relation Name");
            if text("Node Type").ends_with("Seq Scan") && relation.starts_with("messages") {
                found.push(relation.to_owned());
            }
            node.values().for_each(|part| look(part, found));
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_statement_finds_messages_by_an_index() {
    let world = World::new().await;
    world.prepare(std::time::Duration::from_secs(30)).await;
    let persister = world.persister(&[]).await;
    // In every partition: an empty one is rightly read from end to end.
    let mut chats = Vec::new();
    while partitions(&world, &chats).await < 8 {
        chats.push(world.conversation(&["ann"]).await);
    }
    for chat in &chats {
        world.append(&numbered(*chat, 0, 500)).await;
    }
    world.settled().await;
    sqlx::raw_sql("ANALYZE").execute(&world.pool).await.unwrap();

    // What Postgres would do, as the persister's own connections are set.
    let store = Store::connect_lazy(&world.config(&[]).database).unwrap();
    let mut connection = store.pool().acquire().await.unwrap();
    let seqscan: String = sqlx::query_scalar("SHOW enable_seqscan").fetch_one(&mut *connection).await.unwrap();
    assert_eq!(seqscan, "on");
    for (name, sql) in MESSAGE_STATEMENTS.iter().filter(|(name, _)| *name != "insert") {
        assert_eq!(sequential_scans(&mut connection, sql).await, [""; 0], "{name}");
    }
    let check = "SELECT * FROM messages WHERE content = $1::text";
    assert_eq!(sequential_scans(&mut connection, check).await.len(), 8, "the check itself finds nothing");

    // What Postgres did, with real parameters in batches of every size.
    let before = scans(&world).await;
    let more: Vec<_> = chats.iter().flat_map(|chat| numbered(*chat, 500, 50)).collect();
    let seqs = world.append(&more).await;
    let mut changes = Vec::new();
    for (event, seq) in more.iter().zip(&seqs) {
        changes.extend([edit(event, *seq, "edited"), delete(event, *seq), read(event.conversation_id(), "ann", *seq)]);
    }
    world.append(&changes).await;
    world.settled().await;
    persister.stop().await;
    assert_eq!(scans(&world).await, before);
}

/// How many partitions of messages these conversations are in.
async fn partitions(world: &World, chats: &[ConversationId]) -> i64 {
    let query = "SELECT count(DISTINCT part) FROM unnest($1::uuid[]) AS chat, generate_series(0, 7) AS part
                  WHERE satisfies_hash_partition('messages'::regclass, 8, part, chat)";
    let chats: Vec<uuid::Uuid> = chats.iter().map(|chat| chat.0).collect();
    sqlx::query_scalar(query).bind(chats).fetch_one(&world.pool).await.unwrap()
}

/// Sequential scans over messages that Postgres has counted.
async fn scans(world: &World) -> i64 {
    sqlx::raw_sql("SELECT pg_stat_force_next_flush()").execute(&world.pool).await.unwrap();
    sqlx::query_scalar("SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'messages%'")
        .fetch_one(&world.pool)
        .await
        .unwrap()
}
