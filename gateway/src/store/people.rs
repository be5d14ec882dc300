//! Users and memberships.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use partyline_shared::{
    claims::UserType,
    ids::{ConversationId, UserId},
    timestamp::Timestamp,
};
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{BACKGROUND_TIMEOUT, COMMAND_TIMEOUT, Store, row};
use crate::authorise::{Kind, Membership};

pub(super) fn kind(stored: &str) -> Kind {
    if stored == "group" { Kind::Group } else { Kind::Direct }
}

impl Store {
    /// These conversations, each with all who take part, oldest member first. Those that don't exist are missing.
    ///
    /// # Errors
    /// If Postgres doesn't answer within `limit`.
    pub async fn memberships(
        &self,
        limit: Duration,
        conversations: &[ConversationId],
    ) -> sqlx::Result<Vec<Membership>> {
        let ids: Vec<Uuid> = conversations.iter().map(|conversation| conversation.0).collect();
        let query = sqlx::query(MEMBERSHIPS).bind(ids);
        let rows = self.fetch_all(limit, query).await?;
        let mut memberships: Vec<Membership> = Vec::new();
        for row in &rows {
            let conversation_id = ConversationId(row.try_get("id")?);
            if memberships.last().is_none_or(|last| last.conversation_id != conversation_id) {
                let kind = kind(row.try_get("kind")?);
                memberships.push(Membership { conversation_id, kind, participants: Vec::new() });
            }
            // A conversation that everybody left still has one row.
            if row.try_get::<Option<&str>, _>("user_id")?.is_some()
                && let Some(last) = memberships.last_mut()
            {
                last.participants.push(row::participant(row)?);
            }
        }
        Ok(memberships)
    }

    /// Remembers people as their tokens name them; writes only what differs.
    ///
    /// # Returns
    /// Those who were new, or had another name or type before.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn upsert_users(&self, people: &[(UserId, String, UserType)]) -> sqlx::Result<Vec<UserId>> {
        // Each once, and in one order on every node: two nodes can't wait for each other.
        let people: BTreeMap<&str, (&str, &str)> =
            people.iter().map(|(user, name, user_type)| (user.as_str(), (name.as_str(), user_type.as_str()))).collect();
        let ids: Vec<&str> = people.keys().copied().collect();
        let names: Vec<&str> = people.values().map(|(name, _)| *name).collect();
        let types: Vec<&str> = people.values().map(|(_, user_type)| *user_type).collect();
        let query = sqlx::query(UPSERT_USERS).bind(ids).bind(names).bind(types);
        let rows = self.fetch_all(BACKGROUND_TIMEOUT, query).await?;
        rows.iter().map(|row| row::user_id(row.try_get("id")?)).collect()
    }

    /// When these people were last seen; nothing for who never was.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn last_seen(&self, users: &[UserId]) -> sqlx::Result<HashMap<UserId, Timestamp>> {
        let ids: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let query = sqlx::query(LAST_SEEN).bind(ids);
        let rows = self.fetch_all(COMMAND_TIMEOUT, query).await?;
        rows.iter()
            .map(|row| {
                let at: OffsetDateTime = row.try_get("last_seen")?;
                Ok((row::user_id(row.try_get("id")?)?, at.into()))
            })
            .collect()
    }
}

const MEMBERSHIPS: &str = "
    SELECT c.id, c.kind, p.user_id, COALESCE(NULLIF(u.username, ''), u.id) AS username, u.user_type, p.role, p.last_read_seq
      FROM conversations c
      LEFT JOIN participants p ON p.conversation_id = c.id
      LEFT JOIN users u ON u.id = p.user_id
     WHERE c.id = ANY($1)
     ORDER BY c.id, p.joined_at, p.user_id";

const UPSERT_USERS: &str = "
    INSERT INTO users AS known (id, username, user_type)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
        ON CONFLICT (id) DO UPDATE SET username = EXCLUDED.username, user_type = EXCLUDED.user_type
     WHERE (known.username, known.user_type) IS DISTINCT FROM (EXCLUDED.username, EXCLUDED.user_type)
    RETURNING id";

const LAST_SEEN: &str = "SELECT id, last_seen FROM users WHERE id = ANY($1) AND last_seen IS NOT NULL";
