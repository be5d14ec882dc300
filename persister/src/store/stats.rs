//! What Postgres tells of its own work.

use partyline_shared::postgres::Statements;
use sqlx::FromRow;

/// Of this database, since its statistics were reset.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Stats {
    /// Bytes on disk.
    pub bytes: i64,
    /// Connections, everybody's.
    pub connections: i32,
    pub commits: i64,
    pub rollbacks: i64,
    /// Blocks that were not in Postgres's own cache.
    pub blocks_read: i64,
    pub blocks_cached: i64,
    pub deadlocks: i64,
}

pub(super) async fn read(statements: &mut Statements<'_>) -> sqlx::Result<Stats> {
    sqlx::query_as(STATS).fetch_one(statements).await
}

const STATS: &str = "
    SELECT pg_database_size(datid) AS bytes, numbackends AS connections, xact_commit AS commits,
           xact_rollback AS rollbacks, blks_read AS blocks_read, blks_hit AS blocks_cached, deadlocks
      FROM pg_stat_database WHERE datname = current_database()";
