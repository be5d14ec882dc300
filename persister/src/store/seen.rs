//! When people were last seen.

use std::collections::BTreeMap;

use partyline_shared::{ids::UserId, postgres::Statements, timestamp::Timestamp};
use time::OffsetDateTime;

/// Sorted by id, so that two persisters can't wait for each other.
pub(super) async fn write(statements: &mut Statements<'_>, seen: &BTreeMap<UserId, Timestamp>) -> sqlx::Result<()> {
    let ids: Vec<&str> = seen.keys().map(UserId::as_str).collect();
    let times: Vec<OffsetDateTime> = seen.values().map(|at| at.to_datetime()).collect();
    sqlx::query(UPSERT).bind(ids).bind(times).execute(statements).await?;
    Ok(())
}

const UPSERT: &str = "
    INSERT INTO users AS known (id, last_seen)
    SELECT seen.id, seen.at FROM unnest($1::text[], $2::timestamptz[]) AS seen (id, at)
        ON CONFLICT (id) DO UPDATE SET last_seen = EXCLUDED.last_seen
     WHERE known.last_seen IS NULL OR known.last_seen < EXCLUDED.last_seen";
