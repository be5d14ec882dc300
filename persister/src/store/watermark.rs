//! How far the log has come into Postgres.

use std::collections::BTreeMap;

use partyline_shared::{ids::Seq, postgres::Statements};

use super::bigint;

/// Writes that a partition has been written up to a place. It never moves back.
pub(super) async fn raise(statements: &mut Statements<'_>, partition: u16, seq: Seq) -> sqlx::Result<()> {
    sqlx::query(RAISE).bind(i32::from(partition)).bind(bigint(seq)).execute(statements).await?;
    Ok(())
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

const RAISE: &str = "
    INSERT INTO log_watermarks AS held (partition, seq) VALUES ($1, $2)
        ON CONFLICT (partition) DO UPDATE SET seq = EXCLUDED.seq WHERE held.seq < EXCLUDED.seq";
