//! No query may read a whole partition of messages, whatever its size.

use partyline_gateway::store::MESSAGE_QUERIES;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::support::{CONVERSATIONS, World, message, messages_of};

const MANY: &str = "
    WITH made AS (INSERT INTO conversations (id, kind, created_by)
                  SELECT gen_random_uuid(), 'group', 'ann' FROM generate_series(1, 1000) RETURNING id),
         taken AS (INSERT INTO participants (conversation_id, user_id) SELECT id, 'ann' FROM made)
    INSERT INTO messages (conversation_id, seq, message_id, client_id, sender_id, sender_username, sender_type,
                          content, message_type, metadata, created_at, edited_seq)
    SELECT id, n, gen_random_uuid(), gen_random_uuid(), 'ann', 'Ann', 'customer', 'x', 'text', '{}', now(),
           CASE WHEN n % 10 = 0 THEN n + 1 END
      FROM made, generate_series(1, 30) n";

/// The arguments of a query, in SQL.
fn arguments(name: &str, chat: &str) -> String {
    match name {
        "highest seq" => String::new(),
        "conversations" => "('ann', 1000, NULL, NULL, 51)".into(),
        "conversations by id" => format!("('ann', 1000, ARRAY['{chat}']::uuid[])"),
        "conversation" => format!("('ann', 1000, '{chat}')"),
        "find sent" => format!("(ARRAY['{chat}']::uuid[], ARRAY['ann'], ARRAY['{chat}']::uuid[])"),
        "message" => format!("('{chat}', 7)"),
        "messages before" | "messages after" | "changes after" => format!("('{chat}', 7, 51)"),
        "unread" => format!(
            "(ARRAY['ann'], ARRAY['{chat}']::uuid[], ARRAY[0::bigint], ARRAY[30::bigint], ARRAY['{{5}}'], 1000)"
        ),
        other => panic!("what are the arguments of {other}?"),
    }
}

/// The sequential scans over messages in the plan that serves all arguments.
async fn sequential_scans(connection: &mut PgConnection, sql: &str, arguments: &str) -> Vec<String> {
    sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("PREPARE asked AS {sql}"))).execute(&mut *connection).await.unwrap();
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE asked {arguments}");
    let plan: Value =
        sqlx::query_scalar(AssertSqlSafe(explain)).persistent(false).fetch_one(&mut *connection).await.unwrap();
    sqlx::raw_sql("DEALLOCATE asked").execute(connection).await.unwrap();
    assert!(plan.to_string().contains("\"messages_"), "the plan does not touch messages: {plan}");
    let mut found = Vec::new();
    look(&plan, &mut found);
    found
}

fn look(plan: &Value, found: &mut Vec<String>) {
    match plan {
        Value::Array(list) => list.iter().for_each(|part| look(part, found)),
        Value::Object(node) => {
            let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default();
            if text("Node Type").ends_with("Seq Scan") && text("Relation Name").starts_with("messages") {
                found.push(text("Relation Name").to_owned());
            }
            node.values().for_each(|part| look(part, found));
        }
        _ => {}
    }
}

/// Sequential scans over messages that Postgres has counted.
async fn scans(pool: &PgPool) -> i64 {
    sqlx::raw_sql("SELECT pg_stat_force_next_flush()").execute(pool).await.unwrap();
    let counted = "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'messages%'";
    sqlx::query_scalar(counted).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn every_query_finds_messages_by_an_index() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    sqlx::raw_sql("INSERT INTO users (id) VALUES ('ann')").execute(&pool).await.unwrap();
    sqlx::raw_sql(MANY).execute(&pool).await.unwrap();
    sqlx::raw_sql("ANALYZE").execute(&pool).await.unwrap();
    let chat: uuid::Uuid = sqlx::query_scalar("SELECT id FROM conversations LIMIT 1").fetch_one(&pool).await.unwrap();
    let chat = chat.to_string();
    let mut connection = pool.acquire().await.unwrap();
    for (name, sql) in MESSAGE_QUERIES {
        assert_eq!(sequential_scans(&mut connection, sql, &arguments(name, &chat)).await, [""; 0], "{name}");
    }
    let check = "SELECT * FROM messages WHERE content = $1";
    assert_eq!(sequential_scans(&mut connection, check, "('x')").await.len(), 8, "the check itself finds nothing");

    // And what Postgres does for a gateway that is used in every way.
    let before = scans(&pool).await;
    let gateway = world.gateway().await;
    let mut ann = world.person(&gateway, "ann").await;
    for path in [CONVERSATIONS.to_owned(), format!("{CONVERSATIONS}{chat}/"), messages_of(&chat)] {
        assert_eq!(world.get(&gateway, "ann", &path).await.status, 200);
    }
    for query in ["?before=100", "?after=100", "?limit=200"] {
        assert_eq!(world.get(&gateway, "ann", &format!("{}{query}", messages_of(&chat))).await.status, 200);
    }
    ann.join(&chat).await;
    ann.join_after(&chat, 100).await;
    let mut reply = message(&chat, "x");
    reply["reply_to"] = json!(7);
    ann.get("ack", reply).await;
    for kind in ["edit_message", "delete_message"] {
        ann.get("ack", json!({ "type": kind, "conversation_id": chat, "seq": 9, "content": "x" })).await;
    }
    drop(ann);
    // Its connections end, and tell their counts.
    assert!(gateway.terminate(crate::support::PATIENCE).await.success());
    assert_eq!(scans(&pool).await, before);
}

/// A vendor with 20,000 direct conversations, ten active at each moment, with one message each.
const LONG_LIST: &str = "
    INSERT INTO users (id) SELECT 'shop' UNION ALL SELECT 'buyer' || n FROM generate_series(1, 20000) n;
    INSERT INTO conversations (id, kind, direct_key, created_by, active_at, last_message_seq)
    SELECT gen_random_uuid(), 'direct', 'buyer' || n || ' shop', 'shop', now() - n / 10 * interval '1 minute', n
      FROM generate_series(1, 20000) n;
    INSERT INTO participants (conversation_id, user_id) SELECT id, 'shop' FROM conversations;
    INSERT INTO participants (conversation_id, user_id) SELECT id, split_part(direct_key, ' ', 1) FROM conversations;
    INSERT INTO messages (conversation_id, seq, message_id, client_id, sender_id, sender_username, sender_type, content,
                          message_type, metadata, created_at)
    SELECT id, last_message_seq, gen_random_uuid(), gen_random_uuid(), 'shop', '', 'vendor', 'x', 'text', '{}', now()
      FROM conversations;
    ANALYZE";

/// The blocks that Postgres needs for a query, by the plan that serves all arguments.
async fn blocks(connection: &mut PgConnection, sql: &str, arguments: &str) -> u64 {
    sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("PREPARE asked AS {sql}"))).execute(&mut *connection).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE asked {arguments}");
    let plan: Value =
        sqlx::query_scalar(AssertSqlSafe(explain)).persistent(false).fetch_one(&mut *connection).await.unwrap();
    sqlx::raw_sql("DEALLOCATE asked").execute(connection).await.unwrap();
    let plan = &plan[0]["Plan"];
    assert_eq!(plan["Actual Rows"].as_f64(), Some(51.0), "{plan}");
    plan["Shared Hit Blocks"].as_u64().unwrap() + plan["Shared Read Blocks"].as_u64().unwrap()
}

#[tokio::test]
async fn a_page_of_a_long_list_reads_no_more_than_a_page() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    sqlx::raw_sql(LONG_LIST).execute(&pool).await.unwrap();
    let middle = "SELECT active_at::text, conversation_id::text FROM participants WHERE user_id = 'shop'
                   ORDER BY active_at DESC, conversation_id DESC OFFSET 10000 LIMIT 1";
    let (at, id): (String, String) = sqlx::query_as(middle).fetch_one(&pool).await.unwrap();
    let (_, list) = MESSAGE_QUERIES.iter().find(|(name, _)| *name == "conversations").unwrap();
    let mut connection = pool.acquire().await.unwrap();
    for place in ["NULL, NULL".to_owned(), format!("'{at}', '{id}'")] {
        let needed = blocks(&mut connection, list, &format!("('shop', 1000, {place}, 51)")).await;
        println!("{needed} blocks for a page of 51 at {place}");
        assert!(needed < 2_000, "{needed} blocks for a page at {place}");
    }
    drop(connection);

    // Every conversation once, newest first, also where many were active at the same time.
    let gateway = world.gateway().await;
    let (mut path, mut seen) = (format!("{CONVERSATIONS}?limit=7"), Vec::new());
    while seen.len() < 60 {
        let page = world.get(&gateway, "shop", &path).await;
        assert_eq!(page.status, 200, "{page:?}");
        let ids = page.body["results"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned());
        seen.extend(ids);
        path = format!("{CONVERSATIONS}?limit=7&cursor={}", page.body["next"].as_str().unwrap());
    }
    let expected = "SELECT conversation_id::text FROM participants JOIN conversations ON id = conversation_id
                     WHERE user_id = 'shop' ORDER BY conversations.active_at DESC, id DESC LIMIT 63";
    let expected: Vec<String> = sqlx::query_scalar(expected).fetch_all(&pool).await.unwrap();
    assert_eq!(seen, expected);
}
