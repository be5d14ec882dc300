//! Partyline's schema (`sql/`) and the migrator that every process may run: whoever comes first.

use sqlx::{PgPool, migrate::Migrator};

/// The embedded migrations.
pub static MIGRATOR: Migrator = sqlx::migrate!("./sql");

/// Brings the database up to date; processes that start together wait for one another.
///
/// # Errors
/// If Postgres can't be reached, or holds a schema that this version doesn't know.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    Ok(MIGRATOR.run(pool).await?)
}
