//! Partyline's schema (`sql/`), the migrator that the owner of the schema runs, and the check that a database has the
//! schema that this version needs. Every migration is additive: processes of the version before it run on
//! (docs/decisions/0027-migrations-and-roles.md).

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

pub use sqlx::migrate::MigrateError;
use sqlx::{Executor, PgConnection, PgPool, Postgres, migrate::Migrator};

/// The embedded migrations. Migrations of a newer version, which this one does not know, are ignored.
pub static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("./sql");
    migrator.set_ignore_missing(true);
    migrator
});

/// How long a statement of a migration waits for a lock unless told otherwise: the statements of others wait behind it
/// meanwhile.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the migrations that this version needs and the database does not have. Needs `SELECT` on the table of
/// migrations, if there is one, and no other right.
///
/// # Errors
/// If Postgres doesn't answer, or refuses.
pub async fn missing<'c>(executor: impl Executor<'c, Database = Postgres>) -> sqlx::Result<Vec<i64>> {
    let applied = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(executor).await;
    let applied: BTreeSet<i64> = match applied {
        Ok(versions) => versions.into_iter().collect(),
        // No such table: nothing was migrated yet.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    Ok(MIGRATOR.iter().map(|migration| migration.version).filter(|version| !applied.contains(version)).collect())
}

/// Brings the database up to date; processes that do so at the same time wait for one another. With nothing to do it needs
/// no right to create anything. After an error the connection must be closed, which frees the migrator's lock.
///
/// # Returns
/// The migrations that were applied.
///
/// # Errors
/// If Postgres doesn't answer or refuses, if a lock was not free within `lock_timeout`, or if a migration that the database
/// has was changed afterwards.
pub async fn migrate(connection: &mut PgConnection, lock_timeout: Duration) -> Result<Vec<i64>, MigrateError> {
    let limit = format!("{}ms", lock_timeout.as_millis());
    sqlx::query("SELECT set_config('lock_timeout', $1, false)").bind(limit).execute(&mut *connection).await?;
    let missing = missing(&mut *connection).await?;
    if !missing.is_empty() {
        MIGRATOR.run_direct(None, connection, false).await?;
        finish(connection).await?;
    }
    Ok(missing)
}

/// Makes the indexes that are made without a lock on their table, and [`grant`]s. [`migrate`] does so after migrations; run
/// again, it finishes what was broken off.
///
/// # Errors
/// If Postgres doesn't answer, or refuses.
pub async fn finish(connection: &mut PgConnection) -> sqlx::Result<()> {
    // One at a time; a second one has nothing to do. Waiting for a lock would hold a snapshot, for which the index waits.
    let is_first: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('partyline indexes'))")
        .fetch_one(&mut *connection)
        .await?;
    if is_first {
        index(connection).await?;
        sqlx::query("SELECT pg_advisory_unlock(hashtext('partyline indexes'))").execute(&mut *connection).await?;
    }
    grant(connection).await
}

async fn index(connection: &mut PgConnection) -> sqlx::Result<()> {
    // Nothing waits behind it, so it may wait for as long as it takes.
    sqlx::query("SET lock_timeout = 0").execute(&mut *connection).await?;
    let invalid =
        "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('participants_by_activity') AND NOT indisvalid";
    if sqlx::query(invalid).fetch_optional(&mut *connection).await?.is_some() {
        sqlx::query("DROP INDEX CONCURRENTLY participants_by_activity").execute(&mut *connection).await?;
    }
    sqlx::query(
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS participants_by_activity
             ON participants (user_id, active_at, conversation_id)",
    )
    .execute(&mut *connection)
    .await?;
    // The new one serves what this one did.
    sqlx::query("DROP INDEX CONCURRENTLY IF EXISTS participants_by_user").execute(connection).await?;
    Ok(())
}

/// Grants the roles of `deploy/postgres/roles.sql`, as far as there are any, what they need of each table. The owner of the
/// schema may do so.
///
/// # Errors
/// If Postgres doesn't answer, or refuses.
pub async fn grant(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(include_str!("../grants.sql")).execute(connection).await.map(drop)
}

/// [`migrate`] on a connection of the pool's.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_pool(pool: &PgPool) -> anyhow::Result<()> {
    // Detached, so that it is closed whatever happens.
    let mut connection = pool.acquire().await?.detach();
    migrate(&mut connection, LOCK_TIMEOUT).await?;
    Ok(())
}
