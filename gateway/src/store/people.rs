//! Users and memberships.

use std::collections::{BTreeMap, HashMap};

use partyline_shared::{
    claims::UserType,
    ids::{ConversationId, UserId},
    timestamp::Timestamp,
};
use sqlx::Row;
use time::OffsetDateTime;

use super::{Store, row};
use crate::authorise::{Kind, Membership};

pub(super) fn kind(stored: &str) -> Kind {
    if stored == "group" { Kind::Group } else { Kind::Direct }
}

impl Store {
    /// A conversation and all who take part, oldest member first.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn membership(&self, conversation: ConversationId) -> sqlx::Result<Option<Membership>> {
        let rows = sqlx::query(MEMBERSHIP).bind(conversation.0).fetch_all(&mut *self.connection().await?).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let kind = kind(first.try_get("kind")?);
        let mut participants = Vec::with_capacity(rows.len());
        for row in &rows {
            // A conversation that everybody left still has one row.
            if row.try_get::<Option<&str>, _>("user_id")?.is_some() {
                participants.push(row::participant(row)?);
            }
        }
        Ok(Some(Membership { conversation_id: conversation, kind, participants }))
    }

    /// Remembers people as their tokens name them; writes only what differs.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn upsert_users(&self, people: &[(UserId, String, UserType)]) -> sqlx::Result<()> {
        // Each once, and in one order on every node: two nodes can't wait for each other.
        let people: BTreeMap<&str, (&str, &str)> =
            people.iter().map(|(user, name, user_type)| (user.as_str(), (name.as_str(), user_type.as_str()))).collect();
        let ids: Vec<&str> = people.keys().copied().collect();
        let names: Vec<&str> = people.values().map(|(name, _)| *name).collect();
        let types: Vec<&str> = people.values().map(|(_, user_type)| *user_type).collect();
        sqlx::query(UPSERT_USERS).bind(ids).bind(names).bind(types).execute(&self.pool).await?;
        Ok(())
    }

    /// When these people were last seen; nothing for who never was.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn last_seen(&self, users: &[UserId]) -> sqlx::Result<HashMap<UserId, Timestamp>> {
        let ids: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let rows = sqlx::query(LAST_SEEN).bind(ids).fetch_all(&mut *self.connection().await?).await?;
        rows.iter()
            .map(|row| {
                let at: OffsetDateTime = row.try_get("last_seen")?;
                Ok((row::user_id(row.try_get("id")?)?, at.into()))
            })
            .collect()
    }
}

const MEMBERSHIP: &str = "
    SELECT c.kind, p.user_id, COALESCE(NULLIF(u.username, ''), u.id) AS username, u.user_type, p.role, p.last_read_seq
      FROM conversations c
      LEFT JOIN participants p ON p.conversation_id = c.id
      LEFT JOIN users u ON u.id = p.user_id
     WHERE c.id = $1
     ORDER BY p.joined_at, p.user_id";

const UPSERT_USERS: &str = "
    INSERT INTO users AS known (id, username, user_type)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
        ON CONFLICT (id) DO UPDATE SET username = EXCLUDED.username, user_type = EXCLUDED.user_type
     WHERE (known.username, known.user_type) IS DISTINCT FROM (EXCLUDED.username, EXCLUDED.user_type)";

const LAST_SEEN: &str = "SELECT id, last_seen FROM users WHERE id = ANY($1) AND last_seen IS NOT NULL";
