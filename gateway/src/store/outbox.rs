//! Committed changes that still have to be told: a row each, written in the change's own transaction and deleted once
//! everybody concerned has been told.

use std::time::Duration;

use partyline_shared::{
    event::Event,
    ids::{ConversationId, Seq, UserId},
    postgres::Statements,
};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{BACKGROUND_TIMEOUT, COMMAND_TIMEOUT, Store, row};

/// How long a change belongs to the gateway that committed it. Any gateway may relay it afterwards.
pub const FIRST_LEASE: Duration = Duration::from_secs(2);
/// How long a change belongs to the gateway that claimed it later.
const CLAIM_LEASE: Duration = Duration::from_secs(10);
/// Rows that are counted for the metrics.
const COUNTED: i64 = 10_000;

/// A committed change that has to be told.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Within a conversation: the order of the commits.
    pub id: i64,
    /// Names the event in the log.
    pub event_id: Uuid,
    pub conversation_id: ConversationId,
    /// The event stands after this place in the log.
    pub after: Seq,
    /// The event; a new conversation has none.
    pub event: Option<Event>,
    /// Whom `conversation_updated` goes to.
    pub users: Vec<UserId>,
    /// Time since the commit.
    pub age: Duration,
    /// No earlier change of the conversation was still to be told when this one was written.
    pub is_first: bool,
}

/// What waits in the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutboxState {
    /// Rows, counted up to 10,000.
    pub rows: u64,
    /// Age of the oldest; zero without any.
    pub oldest: Duration,
}

/// Writes a change that is to be told, in the transaction that makes it and under the conversation's lock.
pub(super) async fn write(
    statements: &mut Statements<'_>,
    conversation_id: ConversationId,
    after: Seq,
    event: Option<Event>,
    users: Vec<UserId>,
) -> sqlx::Result<Outgoing> {
    let event_id = Uuid::now_v7();
    let json =
        event.as_ref().map(serde_json::to_string).transpose().map_err(|error| sqlx::Error::Encode(error.into()))?;
    let names: Vec<&str> = users.iter().map(UserId::as_str).collect();
    let written = sqlx::query(WRITE)
        .bind(conversation_id.0)
        .bind(event_id)
        .bind(row::bigint(after))
        .bind(json)
        .bind(names)
        .bind(millis(FIRST_LEASE))
        .fetch_one(statements)
        .await?;
    Ok(Outgoing {
        id: written.try_get("id")?,
        event_id,
        conversation_id,
        after,
        event,
        users,
        age: Duration::ZERO,
        is_first: written.try_get("is_first")?,
    })
}

impl Store {
    /// Claims changes whose gateway has not told them in time: of each conversation the oldest, since they are told in
    /// the order of their commits. A row that this gateway can't read (a newer one may have written it) stays, and later
    /// changes of its conversation wait for it.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn claim_outgoing(&self, limit: u32) -> sqlx::Result<Vec<Outgoing>> {
        loop {
            let query = sqlx::query(CLAIM).bind(i64::from(limit)).bind(millis(CLAIM_LEASE));
            let rows = self.fetch_all(BACKGROUND_TIMEOUT, query).await?;
            let changes: Vec<Outgoing> = rows.iter().filter_map(readable).collect();
            // Unreadable rows are claimed as well: the next ones are due then.
            if rows.is_empty() || !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// Whether every earlier change of the conversation has been told.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn is_first_outgoing(&self, change: &Outgoing) -> sqlx::Result<bool> {
        let query = sqlx::query(IS_FIRST).bind(change.conversation_id.0).bind(change.id);
        self.fetch_one(COMMAND_TIMEOUT, query).await?.try_get(0)
    }

    /// The change has been told.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn delete_outgoing(&self, change: &Outgoing) -> sqlx::Result<()> {
        self.write_outgoing(DELETE, change).await
    }

    /// The change could not be told: any gateway may try at once.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn release_outgoing(&self, change: &Outgoing) -> sqlx::Result<()> {
        self.write_outgoing(RELEASE, change).await
    }

    /// The limit is what is left of the claim after the change was told.
    async fn write_outgoing(&self, sql: &'static str, change: &Outgoing) -> sqlx::Result<()> {
        let query = sqlx::query(sql).bind(change.id);
        self.execute(COMMAND_TIMEOUT, query).await
    }

    /// How much waits to be told, of all gateways together.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn outbox_state(&self) -> sqlx::Result<OutboxState> {
        let query = sqlx::query(STATE).bind(COUNTED);
        let found = self.fetch_one(BACKGROUND_TIMEOUT, query).await?;
        Ok(OutboxState {
            rows: u64::try_from(found.try_get::<i64, _>("rows")?).unwrap_or(0),
            oldest: seconds(found.try_get("oldest")?),
        })
    }
}

fn readable(row: &PgRow) -> Option<Outgoing> {
    let unreadable = |error: &sqlx::Error| {
        let id = row.try_get::<i64, _>("id").unwrap_or_default();
        tracing::error!(id, %error, "a row of the outbox is not readable: it stays, and its conversation's later ones");
    };
    outgoing(row).inspect_err(unreadable).ok()
}

fn outgoing(row: &PgRow) -> sqlx::Result<Outgoing> {
    let event: Option<&str> = row.try_get("event")?;
    let event = event.map(|json| Event::from_json(json.as_bytes())).transpose();
    let users: Vec<String> = row.try_get("users")?;
    Ok(Outgoing {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        conversation_id: ConversationId(row.try_get("conversation_id")?),
        after: row::seq(row.try_get("after_seq")?),
        event: event.map_err(|error| sqlx::Error::Decode(error.into()))?,
        users: users.iter().map(|user| row::user_id(user)).collect::<sqlx::Result<_>>()?,
        age: seconds(row.try_get("age")?),
        is_first: true,
    })
}

fn seconds(of_postgres: f64) -> Duration {
    Duration::try_from_secs_f64(of_postgres).unwrap_or_default()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The statement does not see its own row, only earlier ones.
const WRITE: &str = "
    INSERT INTO outbox (conversation_id, event_id, after_seq, event, users, due_at)
    VALUES ($1, $2, $3, $4::text::json, $5, clock_timestamp() + $6 * interval '1 millisecond')
    RETURNING id, NOT EXISTS (SELECT 1 FROM outbox earlier WHERE earlier.conversation_id = $1) AS is_first";

const CLAIM: &str = "
    WITH due AS MATERIALIZED (
         SELECT o.id FROM outbox o
          WHERE o.due_at <= now()
            AND NOT EXISTS (SELECT 1 FROM outbox earlier
                             WHERE earlier.conversation_id = o.conversation_id AND earlier.id < o.id)
          ORDER BY o.id LIMIT $1
            FOR UPDATE OF o SKIP LOCKED)
    UPDATE outbox claimed SET due_at = clock_timestamp() + $2 * interval '1 millisecond'
      FROM due WHERE claimed.id = due.id
    RETURNING claimed.id, claimed.event_id, claimed.conversation_id, claimed.after_seq, claimed.event::text AS event,
              claimed.users, extract(epoch FROM clock_timestamp() - claimed.created_at)::float8 AS age";

const IS_FIRST: &str = "SELECT NOT EXISTS (SELECT 1 FROM outbox WHERE conversation_id = $1 AND id < $2)";

const DELETE: &str = "DELETE FROM outbox WHERE id = $1";

const RELEASE: &str = "UPDATE outbox SET due_at = now() WHERE id = $1";

const STATE: &str = "
    SELECT count(*) AS rows, COALESCE(extract(epoch FROM now() - min(held.created_at)), 0)::float8 AS oldest
      FROM (SELECT created_at FROM outbox ORDER BY id LIMIT $1) held";
