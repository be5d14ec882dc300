//! How far the log has come into Postgres, and whether Postgres still holds it.

use std::collections::BTreeMap;

use partyline_shared::{ids::Seq, postgres::Statements};
use sqlx::FromRow;

use super::bigint;

/// Another one after a restore into a new cluster or database, and after a promotion.
macro_rules! history {
    () => {
        "(SELECT system_identifier FROM pg_control_system()) || '.' ||
         (SELECT oid FROM pg_database WHERE datname = current_database()) || '.' ||
         left(pg_walfile_name(pg_current_wal_lsn()), 8)"
    };
}
/// What Postgres tells of a partition.
#[derive(Clone, Copy, Debug, Default, FromRow)]
pub struct Watermark {
    /// The highest place of which something has been written.
    #[sqlx(try_from = "i64")]
    pub seq: Seq,
    /// Everything up to here was settled when the row was written.
    #[sqlx(try_from = "i64")]
    pub settled: Seq,
    /// How often the partition has been read again.
    pub rewinds: i64,
    /// Whether the row was written in another cluster or database, or before a standby was promoted.
    pub moved: bool,
}

/// What this process knows from JetStream about a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Everything up to here is acknowledged.
    pub floor: Seq,
    /// The number of rewinds that this is true for.
    pub rewinds: i64,
}

impl Watermark {
    /// Whether Postgres lacks something that was acknowledged.
    #[must_use]
    pub fn is_behind(&self, known: Known) -> bool {
        self.moved || self.rewinds < known.rewinds || (self.rewinds == known.rewinds && self.seq < known.floor)
    }
}

/// Writes that a partition has been written up to a place. It never moves back.
///
/// # Returns
/// What was there before.
pub(super) async fn raise(
    statements: &mut Statements<'_>,
    has_history: bool,
    partition: u16,
    seq: Seq,
    known: Known,
) -> sqlx::Result<Watermark> {
    let before: Option<Watermark> = sqlx::query_as(if has_history { RAISE } else { RAISE_WITHOUT_HISTORY })
        .bind(i32::from(partition))
        .bind(bigint(seq))
        .bind(bigint(known.floor))
        .bind(known.rewinds)
        .fetch_optional(statements)
        .await?;
    Ok(before.unwrap_or_default())
}

/// The highest place of each partition.
pub(super) async fn read(statements: &mut Statements<'_>) -> sqlx::Result<BTreeMap<u16, Seq>> {
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("SELECT partition, seq FROM log_watermarks").fetch_all(statements).await?;
    Ok(rows
        .into_iter()
        .filter_map(|(partition, seq)| Some((partition.try_into().ok()?, seq.try_into().ok()?)))
        .collect())
}

/// One partition's row.
pub(super) async fn find(
    statements: &mut Statements<'_>,
    has_history: bool,
    partition: u16,
) -> sqlx::Result<Watermark> {
    let found: Option<Watermark> = sqlx::query_as(if has_history { FIND } else { FIND_WITHOUT_HISTORY })
        .bind(i32::from(partition))
        .fetch_optional(statements)
        .await?;
    Ok(found.unwrap_or_default())
}

/// Locks one partition's row, so that no batch of it is committed meanwhile.
pub(super) async fn lock(
    statements: &mut Statements<'_>,
    has_history: bool,
    partition: u16,
) -> sqlx::Result<Watermark> {
    sqlx::query("INSERT INTO log_watermarks (partition, seq) VALUES ($1, 0) ON CONFLICT (partition) DO NOTHING")
        .bind(i32::from(partition))
        .execute(&mut *statements)
        .await?;
    sqlx::query("SELECT 1 FROM log_watermarks WHERE partition = $1 FOR NO KEY UPDATE")
        .bind(i32::from(partition))
        .execute(&mut *statements)
        .await?;
    // As it is now that nobody changes it.
    find(statements, has_history, partition).await
}

/// Takes note that what Postgres lacks will be read again from `begin` on, or that there is nothing to read.
pub(super) async fn renew(
    statements: &mut Statements<'_>,
    has_history: bool,
    partition: u16,
    renewed: Watermark,
) -> sqlx::Result<()> {
    sqlx::query(if has_history { RENEW } else { RENEW_WITHOUT_HISTORY })
        .bind(i32::from(partition))
        .bind(bigint(renewed.seq))
        .bind(bigint(renewed.settled))
        .bind(renewed.rewinds)
        .execute(statements)
        .await?;
    Ok(())
}

/// Whether Postgres tells which history of data it has: some hosted ones don't, and there only watermarks can be compared.
///
/// # Errors
/// If that can't be told now: Postgres away, or a standby that is not promoted yet.
pub(super) async fn has_history(statements: &mut Statements<'_>) -> sqlx::Result<bool> {
    match sqlx::query(concat!("SELECT ", history!())).execute(statements).await {
        Ok(_) => Ok(true),
        Err(error) => {
            let code = error.as_database_error().and_then(|it| Some(it.code()?.into_owned()));
            // insufficient_privilege, undefined_function, undefined_table, feature_not_supported
            if code.is_some_and(|code| ["42501", "42883", "42P01", "0A000"].contains(&code.as_str())) {
                tracing::warn!(%error, "Postgres does not tell its timeline");
                return Ok(false);
            }
            Err(error)
        }
    }
}

macro_rules! find {
    ($history:expr) => {
        concat!(
            "SELECT held.seq, held.settled, held.rewinds,
                    held.history <> '' AND present.history <> '' AND held.history <> present.history AS moved
               FROM log_watermarks held, (SELECT ",
            $history,
            " AS history) present
              WHERE held.partition = $1"
        )
    };
}

macro_rules! raise {
    ($history:expr) => {
        concat!(
            "WITH present AS MATERIALIZED (SELECT ",
            $history,
            " AS history),
            before AS MATERIALIZED (
                SELECT held.seq, held.settled, held.rewinds,
                       held.history <> '' AND present.history <> '' AND held.history <> present.history AS moved
                  FROM log_watermarks held, present WHERE held.partition = $1),
            raised AS (
                INSERT INTO log_watermarks AS held (partition, seq, settled, rewinds, history)
                SELECT $1::integer, $2::bigint, $3::bigint, $4::bigint, present.history FROM present
                    ON CONFLICT (partition) DO UPDATE
                   SET seq = GREATEST(held.seq, EXCLUDED.seq),
                       settled = CASE WHEN held.rewinds = EXCLUDED.rewinds
                                      THEN GREATEST(held.settled, EXCLUDED.settled) ELSE held.settled END,
                       history = EXCLUDED.history)
            SELECT seq, settled, rewinds, moved FROM before"
        )
    };
}

macro_rules! renew {
    ($history:expr) => {
        concat!(
            "UPDATE log_watermarks SET seq = $2, settled = $3, rewinds = $4, history = ",
            $history,
            " WHERE partition = $1"
        )
    };
}

const FIND: &str = find!(history!());
const FIND_WITHOUT_HISTORY: &str = find!("''::text");
const RAISE: &str = raise!(history!());
const RAISE_WITHOUT_HISTORY: &str = raise!("''::text");
const RENEW: &str = renew!(history!());
const RENEW_WITHOUT_HISTORY: &str = renew!("''::text");
