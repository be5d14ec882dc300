//! The dev stack's SQL: databases as a whole, never their content.

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgPoolOptions};

/// Any number that nobody else locks.
const TEMPLATE_LOCK: i64 = 0x0070_6172_7479;
/// The migrated database that the tests' are copies of.
const TEMPLATE: &str = "partyline_template";

/// Whether a query is answered.
pub(crate) async fn answers(url: &str) -> bool {
    let Ok(mut connection) = PgConnection::connect(url).await else { return false };
    let answered = sqlx::query("SELECT 1").execute(&mut connection).await.is_ok();
    let _ = connection.close().await;
    answered
}

/// Creates a database unless it is there.
pub(crate) async fn ensure_database(admin_url: &str, name: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(admin_url).await?;
    if !exists(&mut connection, name).await? {
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).await?;
    }
    Ok(connection.close().await?)
}

async fn exists(connection: &mut PgConnection, name: &str) -> anyhow::Result<bool> {
    Ok(sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1")
        .bind(name)
        .fetch_optional(connection)
        .await?
        .is_some())
}

/// Brings a database's schema up to date.
pub(crate) async fn migrate(url: &str) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await.context("connecting for migrations")?;
    let migrated = partyline_migrations::migrate_pool(&pool).await.context("migrations");
    pool.close().await;
    migrated
}

/// Creates a migrated database as a copy of one that is migrated once a server; `url_of` tells a database's URL.
pub(crate) async fn create_migrated(url_of: impl Fn(&str) -> String, name: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&url_of("postgres")).await?;
    // Test processes come together: one migrates, the others wait. The lock goes with the connection.
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut connection).await?;
    if !exists(&mut connection, TEMPLATE).await? {
        // Under another name until it is whole: a process that dies half-way leaves no half template.
        let half = format!("half_{}", uuid::Uuid::new_v4().simple());
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE \"{half}\""))).await?;
        migrate(&url_of(&half)).await?;
        let rename = format!("ALTER DATABASE \"{half}\" RENAME TO {TEMPLATE}");
        connection.execute(AssertSqlSafe(rename)).await?;
    }
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(TEMPLATE_LOCK).execute(&mut connection).await?;
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE \"{name}\" TEMPLATE {TEMPLATE}"))).await?;
    Ok(connection.close().await?)
}

/// Drops a database, whoever is connected to it.
pub(crate) async fn drop_database(admin_url: &str, name: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(admin_url).await?;
    connection.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"))).await?;
    Ok(connection.close().await?)
}
