//! PgBouncer in transaction mode between the programs and Postgres.

use devstack::testing::{Bouncer, Launch};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{CONVERSATIONS, World, message, messages_of, seq, until};

/// Connections of PgBouncer to Postgres: fewer than those to it, so that they change hands.
const SERVER_CONNECTIONS: u16 = 3;

fn through(bouncer: &Bouncer, url: &str) -> String {
    let port = url.rsplit_once('/').unwrap().0.rsplit_once(':').unwrap().1;
    url.replace(&format!(":{port}/"), &format!(":{}/", bouncer.port))
}

fn pooled(launch: Launch, url: &str) -> Launch {
    launch
        .env("PARTYLINE_DATABASE_URL", url)
        .env("PARTYLINE_DATABASE_POOLER", "transaction")
        .env("PARTYLINE_DATABASE_CONNECTIONS", "8")
}

#[tokio::test]
async fn everything_works_behind_a_pooler_in_transaction_mode_that_others_use_too() {
    let world = World::new().await;
    let bouncer = Bouncer::start(world.env.dir(), world.env.database_url(), SERVER_CONNECTIONS).await.unwrap();
    let url = through(&bouncer, world.env.database_url());
    // Another program has left statements on every server connection, under the names that sqlx would choose.
    let mut others = Vec::new();
    for _ in 0..SERVER_CONNECTIONS {
        let mut other = PgConnection::connect_with(
            &url.parse::<sqlx::postgres::PgConnectOptions>().unwrap().extra_float_digits(None),
        )
        .await
        .unwrap();
        sqlx::raw_sql("BEGIN").execute(&mut other).await.unwrap();
        others.push(other);
    }
    for other in &mut others {
        for n in 1..=40 {
            let statement = format!("PREPARE sqlx_s_{n} AS SELECT 'another''s' AS foreign_row");
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *other).await.unwrap();
        }
    }
    for other in &mut others {
        sqlx::raw_sql("COMMIT").execute(other).await.unwrap();
    }

    let gateways =
        [pooled(world.launch(), &url).start().await.unwrap(), pooled(world.launch(), &url).start().await.unwrap()];
    let _persister = pooled(world.env.persister().unwrap(), &url).start().await.unwrap();
    let users: Vec<String> = (0..12).map(|n| format!("user-{n}")).collect();
    let chats = join_all(users.iter().enumerate().map(async |(n, user)| {
        let gateway = &gateways[n % 2];
        let chat = world.group(gateway, &[user, "market"]).await;
        let mut person = world.person(gateway, user).await;
        person.join(&chat).await;
        for k in 0..5 {
            person.send(&chat, &format!("{user} says {k}")).await;
        }
        let first = seq(&person.send(&chat, "to be edited").await);
        let edit = json!({ "type": "edit_message", "conversation_id": chat, "seq": first, "content": "edited" });
        assert_eq!(person.ask(edit).await["type"], "ack");
        // A repeat is found in Postgres or in the log.
        let repeated = message(&chat, "repeated");
        let (once, again) = (person.ask(repeated.clone()).await, person.ask(repeated).await);
        assert_eq!((seq(&once), &again["duplicate"]), (seq(&again), &json!(true)));
        let participants = format!("{CONVERSATIONS}{chat}/participants/");
        let added = world.post(gateway, user, &participants, json!({ "user_id": "guest" })).await;
        assert_eq!(added.status / 100, 2, "{added:?}");
        chat
    }))
    .await;
    world.persisted().await;
    for _ in 0..5 {
        join_all(users.iter().zip(&chats).enumerate().map(async |(n, (user, chat))| {
            let gateway = &gateways[(n + 1) % 2];
            let list = world.get(gateway, user, CONVERSATIONS).await;
            assert_eq!(list.status, 200, "{list:?}");
            let listed = list.body["results"].as_array().unwrap();
            assert_eq!((listed.len(), &listed[0]["id"]), (1, &json!(chat)), "{list:?}");
            let history = world.get(gateway, user, &messages_of(chat)).await;
            let contents: Vec<&str> =
                history.body["results"].as_array().unwrap().iter().filter_map(|it| it["content"].as_str()).collect();
            assert_eq!(contents.len(), 7, "{contents:?}");
            assert!(
                contents.contains(&format!("{user} says 4").as_str()) && contents.contains(&"edited"),
                "{contents:?}"
            );
        }))
        .await;
    }
    // Nothing of the programs' own is left on the server connections.
    for other in &mut others {
        sqlx::raw_sql("BEGIN").execute(&mut *other).await.unwrap();
    }
    for other in &mut others {
        use sqlx::Row;
        let query = "SELECT count(*) FILTER (WHERE statement NOT LIKE '%foreign_row%'), current_setting('statement_timeout') \
                     FROM pg_prepared_statements";
        let row = sqlx::raw_sql(query).fetch_one(&mut *other).await.unwrap();
        assert_eq!((row.get_unchecked::<String, _>(0), row.get_unchecked::<String, _>(1)), ("0".into(), "0".into()));
    }
}

#[tokio::test]
async fn persister_behind_a_pooler_waits_until_the_schema_is_there() {
    let world = World::new().await;
    let pool = world.env.pool().await.unwrap();
    let empty = format!("empty_{}", uuid::Uuid::new_v4().simple());
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {empty}"))).execute(&pool).await.unwrap();
    let direct = format!("{}/{empty}", world.env.database_url().rsplit_once('/').unwrap().0);
    let bouncer = Bouncer::start(world.env.dir(), &direct, SERVER_CONNECTIONS).await.unwrap();
    let waiting = pooled(world.env.persister().unwrap(), &through(&bouncer, &direct))
        .env("PARTYLINE_MIGRATE", "true")
        .spawn()
        .unwrap();
    until("the persister to wait", async || waiting.log().contains("persister migrate")).await;
    assert!(!world.is_ready(&waiting).await);
    let migrating = world
        .env
        .persister()
        .unwrap()
        .env("PARTYLINE_DATABASE_URL", &direct)
        .env("PARTYLINE_MIGRATE", "true")
        .start()
        .await
        .unwrap();
    waiting.wait_ready().await.unwrap();
    drop((migrating, waiting, bouncer));
    let drop_it = sqlx::AssertSqlSafe(format!("DROP DATABASE {empty} WITH (FORCE)"));
    sqlx::raw_sql(drop_it).execute(&pool).await.unwrap();
}
