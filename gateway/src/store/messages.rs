//! Reading messages. Each query reaches them by an index whatever the statistics say: `LATERAL` with a limit
//! leaves the planner no other way.

use std::time::Duration;

use partyline_shared::{
    ids::{ClientId, ConversationId, MessageId, Seq, UserId},
    timestamp::Timestamp,
};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{COMMAND_TIMEOUT, Store, connection::StoreConnection, row};
use crate::history::HistoryMessage;

/// A message that was stored under a client's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub seq: Seq,
    pub message_id: MessageId,
    pub created_at: Timestamp,
}

/// How much of a conversation somebody has not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub user: UserId,
    pub conversation: ConversationId,
    /// Others' undeleted messages after the read marker; counted up to [`UNREAD_MAX`].
    pub count: u32,
}

/// Whose unread messages are to be counted, and which.
#[derive(Clone, Debug)]
pub struct UnreadKey {
    pub user: UserId,
    pub conversation: ConversationId,
    /// The read marker may be further than Postgres knows.
    pub marker: Seq,
    /// Counted up to here. Beyond it Postgres may hold some and lack others, whatever order they were written in.
    pub floor: Seq,
    /// Messages that are deleted, though Postgres may not know it yet.
    pub deleted: Vec<Seq>,
}

/// Unread messages are counted up to here: a count costs what it counts.
pub const UNREAD_MAX: u32 = 1_000;

impl Store {
    /// The messages that were stored under these clients' ids, in the order of the keys. `held` is a connection that
    /// stays with whoever asks often: taking one from the pool and giving it back costs two round trips.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn find_sent(
        &self,
        held: &mut Option<StoreConnection>,
        keys: &[(ConversationId, UserId, ClientId)],
    ) -> sqlx::Result<Vec<Option<Sent>>> {
        let query = async {
            // Given back only if it answered. One that Postgres has closed meanwhile is no word about Postgres itself.
            if let Some(mut connection) = held.take()
                && let Ok(found) = find_sent(&mut connection, keys).await
            {
                *held = Some(connection);
                return Ok(found);
            }
            let mut connection = self.connection().await?;
            let found = find_sent(&mut connection, keys).await?;
            *held = Some(connection);
            Ok(found)
        };
        self.answered(COMMAND_TIMEOUT, query).await
    }

    /// One message in its current state.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn message(&self, conversation: ConversationId, seq: Seq) -> sqlx::Result<Option<HistoryMessage>> {
        let query = sqlx::query(MESSAGE).bind(conversation.0).bind(row::bigint(seq));
        let found = self.fetch_optional(COMMAND_TIMEOUT, query).await?;
        found.as_ref().map(HistoryMessage::from_row).transpose()
    }

    /// The newest messages, or those before a place; oldest first.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn messages_before(
        &self,
        conversation: ConversationId,
        before: Option<Seq>,
        limit: u32,
    ) -> sqlx::Result<Vec<HistoryMessage>> {
        let query = sqlx::query(MESSAGES_BEFORE)
            .bind(conversation.0)
            .bind(before.map_or(i64::MAX, row::bigint))
            // One more tells the first one's predecessor.
            .bind(i64::from(limit) + 1);
        let mut found: Vec<HistoryMessage> = row::all(&self.fetch_all(COMMAND_TIMEOUT, query).await?)?;
        found.reverse();
        let extra = found.len() > limit as usize;
        chain(&mut found);
        if extra {
            found.remove(0);
        }
        Ok(found)
    }

    /// The messages after a place, oldest first.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn messages_after(
        &self,
        conversation: ConversationId,
        after: Seq,
        limit: u32,
    ) -> sqlx::Result<Vec<HistoryMessage>> {
        let query = sqlx::query(MESSAGES_AFTER).bind(conversation.0).bind(row::bigint(after)).bind(i64::from(limit));
        let mut found: Vec<HistoryMessage> = row::all(&self.fetch_all(COMMAND_TIMEOUT, query).await?)?;
        chain(&mut found);
        found.retain(|message| message.seq > after);
        Ok(found)
    }

    /// Messages up to a place that were edited or deleted after it, by the order of those changes.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn changes_after(
        &self,
        conversation: ConversationId,
        after: Seq,
        limit: u32,
    ) -> sqlx::Result<Vec<HistoryMessage>> {
        let query = sqlx::query(CHANGES_AFTER).bind(conversation.0).bind(row::bigint(after)).bind(i64::from(limit));
        row::all(&self.fetch_all(COMMAND_TIMEOUT, query).await?)
    }

    /// What these people have not read; nothing for who takes no part.
    ///
    /// # Errors
    /// If Postgres doesn't answer within `limit`.
    pub async fn unread(&self, limit: Duration, keys: &[UnreadKey]) -> sqlx::Result<Vec<Unread>> {
        let users: Vec<&str> = keys.iter().map(|key| key.user.as_str()).collect();
        let conversations: Vec<Uuid> = keys.iter().map(|key| key.conversation.0).collect();
        let markers: Vec<i64> = keys.iter().map(|key| row::bigint(key.marker)).collect();
        let floors: Vec<i64> = keys.iter().map(|key| row::bigint(key.floor)).collect();
        let deleted: Vec<String> = keys.iter().map(|key| row::array(&key.deleted)).collect();
        let query = sqlx::query(UNREAD)
            .bind(users)
            .bind(conversations)
            .bind(markers)
            .bind(floors)
            .bind(deleted)
            .bind(i64::from(UNREAD_MAX));
        let rows = self.fetch_all(limit, query).await?;
        rows.iter()
            .map(|row| {
                Ok(Unread {
                    user: row::user_id(row.try_get("user_id")?)?,
                    conversation: ConversationId(row.try_get("conversation_id")?),
                    count: u32::try_from(row.try_get::<i64, _>("unread")?).unwrap_or(UNREAD_MAX),
                })
            })
            .collect()
    }
}

/// Tells each message the one before it.
fn chain(messages: &mut [HistoryMessage]) {
    let mut prev_seq = 0;
    for message in messages {
        message.prev_seq = prev_seq;
        prev_seq = message.seq;
    }
}

async fn find_sent(
    connection: &mut StoreConnection,
    keys: &[(ConversationId, UserId, ClientId)],
) -> sqlx::Result<Vec<Option<Sent>>> {
    let conversations: Vec<Uuid> = keys.iter().map(|(conversation, _, _)| conversation.0).collect();
    let senders: Vec<&str> = keys.iter().map(|(_, sender, _)| sender.as_str()).collect();
    let clients: Vec<Uuid> = keys.iter().map(|(_, _, client)| client.0).collect();
    let query = sqlx::query(FIND_SENT).bind(conversations).bind(senders).bind(clients);
    let mut statements = connection.statements().await?;
    let rows = query.fetch_all(&mut statements).await?;
    statements.commit().await?;
    rows.iter()
        .map(|row| {
            let Some(seq) = row.try_get::<Option<i64>, _>("seq")? else { return Ok(None) };
            Ok(Some(Sent {
                seq: row::seq(seq),
                message_id: MessageId(row.try_get("message_id")?),
                created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
            }))
        })
        .collect()
}

pub(super) const FIND_SENT: &str = "
    SELECT sent.seq, sent.message_id, sent.created_at
      FROM unnest($1::uuid[], $2::text[], $3::uuid[]) WITH ORDINALITY AS wanted (conversation_id, sender_id, client_id, nth)
      LEFT JOIN LATERAL (
           SELECT m.seq, m.message_id, m.created_at FROM messages m
            WHERE m.conversation_id = wanted.conversation_id
              AND m.sender_id = wanted.sender_id
              AND m.client_id = wanted.client_id
            LIMIT 1) sent ON true
     ORDER BY wanted.nth";

pub(super) const MESSAGE: &str = "
    SELECT m.*, COALESCE((SELECT p.seq FROM messages p WHERE p.conversation_id = $1 AND p.seq < $2
                           ORDER BY p.seq DESC LIMIT 1), 0) AS prev_seq
      FROM messages m
     WHERE m.conversation_id = $1 AND m.seq = $2";

pub(super) const MESSAGES_BEFORE: &str = "
    SELECT m.*, 0::bigint AS prev_seq FROM messages m
     WHERE m.conversation_id = $1 AND m.seq < $2
     ORDER BY m.seq DESC LIMIT $3";

pub(super) const MESSAGES_AFTER: &str = "
    (SELECT m.*, 0::bigint AS prev_seq FROM messages m
      WHERE m.conversation_id = $1 AND m.seq <= $2 ORDER BY m.seq DESC LIMIT 1)
    UNION ALL
    (SELECT m.*, 0::bigint AS prev_seq FROM messages m
      WHERE m.conversation_id = $1 AND m.seq > $2 ORDER BY m.seq LIMIT $3)
    ORDER BY seq";

pub(super) const CHANGES_AFTER: &str = "
    SELECT m.*, COALESCE((SELECT p.seq FROM messages p WHERE p.conversation_id = $1 AND p.seq < m.seq
                           ORDER BY p.seq DESC LIMIT 1), 0) AS prev_seq
      FROM (SELECT e.seq FROM messages e WHERE e.conversation_id = $1 AND e.edited_seq > $2 AND e.seq <= $2
             UNION
            SELECT d.seq FROM messages d WHERE d.conversation_id = $1 AND d.deleted_seq > $2 AND d.seq <= $2) changed
     CROSS JOIN LATERAL (SELECT * FROM messages WHERE conversation_id = $1 AND seq = changed.seq LIMIT 1) m
     ORDER BY GREATEST(m.edited_seq, m.deleted_seq) LIMIT $3";

pub(super) const UNREAD: &str = "
    SELECT p.user_id, p.conversation_id, counted.unread
      FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[])
           AS wanted (user_id, conversation_id, marker, floor, deleted)
      JOIN participants p ON p.user_id = wanted.user_id AND p.conversation_id = wanted.conversation_id
     CROSS JOIN LATERAL (
           SELECT count(*) AS unread FROM (
                  SELECT 1 FROM messages m
                   WHERE m.conversation_id = p.conversation_id AND m.seq > GREATEST(p.last_read_seq, wanted.marker)
                     AND m.seq <= wanted.floor AND m.sender_id <> p.user_id AND m.deleted_seq IS NULL
                     AND m.seq <> ALL (wanted.deleted::bigint[])
                   ORDER BY m.seq LIMIT $6) capped) counted";
