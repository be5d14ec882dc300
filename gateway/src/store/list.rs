//! A person's conversations, newest activity first.

use std::{collections::HashMap, fmt, str::FromStr};

use partyline_shared::{
    event::Participant,
    ids::{ConversationId, Seq, UserId},
    postgres::Statements,
    timestamp::Timestamp,
};
use sqlx::{FromRow, Row, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{COMMAND_TIMEOUT, Store, messages::UNREAD_MAX, people, row};
use crate::{authorise::Kind, history::HistoryMessage};

/// Participants of one conversation in a list; who reads the one conversation gets all.
const LISTED_PARTICIPANTS: i64 = 50;

/// Where a list goes on: opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Microseconds since 1970, as Postgres keeps time.
    micros: i64,
    id: Uuid,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.micros, self.id.simple())
    }
}

/// The text is no cursor that this server made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a cursor of this list")]
pub struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;
    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let (micros, id) = text.split_once('.').ok_or(BadCursor)?;
        // 14 digits reach the year 4253, which every type on the way can hold.
        if micros.len() > 14 || id.len() != 32 {
            return Err(BadCursor);
        }
        let micros = u64::from_str_radix(micros, 16).map_err(|_| BadCursor)?;
        let cursor = Self { micros: micros.cast_signed(), id: Uuid::try_parse(id).map_err(|_| BadCursor)? };
        cursor.at().is_ok().then_some(cursor).ok_or(BadCursor)
    }
}

impl Cursor {
    /// The place of a conversation that was active at `at`, if that is later.
    pub fn advance(&mut self, at: Timestamp) {
        self.micros = self.micros.max(at.unix_millis().saturating_mul(1_000));
    }

    fn at(self) -> Result<OffsetDateTime, BadCursor> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.micros) * 1_000).map_err(|_| BadCursor)
    }
}

/// A conversation in somebody's list.
#[derive(Clone, Debug)]
pub struct Listed {
    pub id: ConversationId,
    pub kind: Kind,
    pub title: Option<String>,
    pub created_at: Timestamp,
    /// The newest message that Postgres holds, else the creation.
    pub active_at: Timestamp,
    /// The place in the list, by `active_at`.
    pub place: Cursor,
    pub last_message: Option<HistoryMessage>,
    pub unread: u32,
    /// The reader's own marker; 0 for who takes no part.
    pub last_read_seq: Seq,
    pub participant_count: u32,
    /// With when they were last seen; in a list the first ones only.
    pub participants: Vec<(Participant, Option<Timestamp>)>,
}

/// A part of somebody's list.
#[derive(Clone, Debug)]
pub struct ListedPage {
    pub conversations: Vec<Listed>,
    pub next: Option<Cursor>,
}

impl FromRow<'_, PgRow> for Listed {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let id: Uuid = row.try_get("id")?;
        let active_at: OffsetDateTime = row.try_get("active_at")?;
        let has_message = row.try_get::<Option<i64>, _>("seq")?.is_some();
        let micros = i64::try_from(active_at.unix_timestamp_nanos() / 1_000).unwrap_or(0);
        Ok(Self {
            id: ConversationId(id),
            kind: people::kind(row.try_get("kind")?),
            title: row.try_get("title")?,
            created_at: row.try_get::<OffsetDateTime, _>("conversation_created_at")?.into(),
            active_at: active_at.into(),
            place: Cursor { micros, id },
            last_message: has_message.then(|| HistoryMessage::from_row(row)).transpose()?,
            unread: u32::try_from(row.try_get::<i64, _>("unread")?).unwrap_or(UNREAD_MAX),
            last_read_seq: row::seq(row.try_get("my_last_read_seq")?),
            participant_count: u32::try_from(row.try_get::<i64, _>("participant_count")?).unwrap_or(u32::MAX),
            participants: Vec::new(),
        })
    }
}

impl Store {
    /// A person's conversations, newest activity first.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn conversations(&self, user: &UserId, cursor: Option<Cursor>, limit: u32) -> sqlx::Result<ListedPage> {
        let query = sqlx::query_as(CONVERSATIONS)
            .bind(user.as_str())
            .bind(i64::from(UNREAD_MAX))
            .bind(cursor.and_then(|cursor| cursor.at().ok()))
            .bind(cursor.map(|cursor| cursor.id))
            .bind(i64::from(limit) + 1);
        let page = async {
            let mut connection = self.connection().await?;
            let mut statements = connection.statements().await?;
            let mut conversations: Vec<Listed> = query.fetch_all(&mut statements).await?;
            let more = conversations.len() > limit as usize;
            conversations.truncate(limit as usize);
            let next = if more { conversations.last().map(|listed| listed.place) } else { None };
            add_participants(&mut statements, &mut conversations, user, LISTED_PARTICIPANTS).await?;
            statements.commit().await?;
            Ok(ListedPage { conversations, next })
        };
        self.answered(COMMAND_TIMEOUT, page).await
    }

    /// The ids of all conversations of a person.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn conversation_ids(&self, user: &UserId) -> sqlx::Result<Vec<ConversationId>> {
        let query = sqlx::query(IDS).bind(user.as_str());
        let ids: Vec<(Uuid,)> = row::all(&self.fetch_all(COMMAND_TIMEOUT, query).await?)?;
        Ok(ids.into_iter().map(|(id,)| ConversationId(id)).collect())
    }

    /// Those of these conversations in which `user` takes part, as a list shows them.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn conversations_by_id(&self, ids: &[ConversationId], user: &UserId) -> sqlx::Result<Vec<Listed>> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let query = sqlx::query_as(CONVERSATIONS_BY_ID).bind(user.as_str()).bind(i64::from(UNREAD_MAX)).bind(ids);
        let listed = async {
            let mut connection = self.connection().await?;
            let mut statements = connection.statements().await?;
            let mut conversations: Vec<Listed> = query.fetch_all(&mut statements).await?;
            add_participants(&mut statements, &mut conversations, user, LISTED_PARTICIPANTS).await?;
            statements.commit().await?;
            Ok(conversations)
        };
        self.answered(COMMAND_TIMEOUT, listed).await
    }

    /// One conversation with all its participants, as `user` sees it.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn conversation(&self, id: ConversationId, user: &UserId) -> sqlx::Result<Option<Listed>> {
        let query = sqlx::query_as(CONVERSATION).bind(user.as_str()).bind(i64::from(UNREAD_MAX)).bind(id.0);
        let listed = async {
            let mut connection = self.connection().await?;
            let mut statements = connection.statements().await?;
            let found: Option<Listed> = query.fetch_optional(&mut statements).await?;
            let Some(found) = found else { return Ok(None) };
            let mut found = [found];
            add_participants(&mut statements, &mut found, user, i64::MAX).await?;
            statements.commit().await?;
            Ok(found.into_iter().next())
        };
        self.answered(COMMAND_TIMEOUT, listed).await
    }
}

async fn add_participants(
    statements: &mut Statements<'_>,
    listed: &mut [Listed],
    user: &UserId,
    limit: i64,
) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = listed.iter().map(|conversation| conversation.id.0).collect();
    let rows = sqlx::query(PARTICIPANTS).bind(ids).bind(user.as_str()).bind(limit).fetch_all(statements).await?;
    let mut by_id: HashMap<ConversationId, Vec<(Participant, Option<Timestamp>)>> = HashMap::new();
    for row in &rows {
        let seen = row.try_get::<Option<OffsetDateTime>, _>("last_seen")?.map(Into::into);
        let id = ConversationId(row.try_get("conversation_id")?);
        by_id.entry(id).or_default().push((row::participant(row)?, seen));
    }
    for conversation in listed {
        conversation.participants = by_id.remove(&conversation.id).unwrap_or_default();
    }
    Ok(())
}

/// The conversations of the sub-query `page`, with what a list shows. `$1` is the reader, `$2` how far unread
/// messages are counted.
macro_rules! listed {
    ($page:literal) => {
        concat!(
            "WITH page AS (",
            $page,
            ")
    SELECT c.id, c.kind, c.title, c.created_at AS conversation_created_at, c.active_at,
           c.last_read_seq AS my_last_read_seq, last.*, counted.unread,
           (SELECT count(*) FROM participants p WHERE p.conversation_id = c.id) AS participant_count
      FROM page c
      LEFT JOIN LATERAL (
           SELECT m.*, COALESCE((SELECT p.seq FROM messages p WHERE p.conversation_id = c.id AND p.seq < m.seq
                                  ORDER BY p.seq DESC LIMIT 1), 0) AS prev_seq
             FROM messages m WHERE m.conversation_id = c.id ORDER BY m.seq DESC LIMIT 1) last ON true
     CROSS JOIN LATERAL (
           SELECT count(*) AS unread FROM (
                  SELECT 1 FROM messages m
                   WHERE c.takes_part AND m.conversation_id = c.id AND m.seq > c.last_read_seq
                     AND m.sender_id <> $1 AND m.deleted_seq IS NULL
                   ORDER BY m.seq LIMIT $2) capped) counted
     ORDER BY c.active_at DESC, c.id DESC"
        )
    };
}

pub(super) const CONVERSATIONS: &str = listed!(
    "SELECT c.id, c.kind, c.title, c.created_at, me.active_at, me.last_read_seq, true AS takes_part
       FROM (SELECT * FROM participants
              WHERE user_id = $1
                AND (active_at, conversation_id) < (COALESCE($3::timestamptz, 'infinity'),
                                                    COALESCE($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
              ORDER BY active_at DESC, conversation_id DESC LIMIT $5) me
      CROSS JOIN LATERAL (SELECT * FROM conversations WHERE id = me.conversation_id LIMIT 1) c"
);

const IDS: &str = "SELECT conversation_id FROM participants WHERE user_id = $1";

pub(super) const CONVERSATIONS_BY_ID: &str = listed!(
    "SELECT c.*, me.last_read_seq, true AS takes_part
       FROM participants me JOIN conversations c ON c.id = me.conversation_id
      WHERE me.user_id = $1 AND me.conversation_id = ANY($3::uuid[])"
);

pub(super) const CONVERSATION: &str = listed!(
    "SELECT c.*, COALESCE(me.last_read_seq, 0) AS last_read_seq, me.user_id IS NOT NULL AS takes_part
       FROM conversations c
       LEFT JOIN participants me ON me.conversation_id = c.id AND me.user_id = $1
      WHERE c.id = $3"
);

/// Each conversation's first participants; the reader always among them.
const PARTICIPANTS: &str = "
    SELECT listed.conversation_id, listed.user_id, COALESCE(NULLIF(u.username, ''), u.id) AS username, u.user_type,
           u.last_seen, listed.role, listed.last_read_seq
      FROM unnest($1::uuid[]) AS wanted (id)
     CROSS JOIN LATERAL (
           SELECT * FROM participants p WHERE p.conversation_id = wanted.id
            ORDER BY (p.user_id = $2) DESC, p.joined_at, p.user_id LIMIT $3) listed
      JOIN users u ON u.id = listed.user_id
     ORDER BY listed.conversation_id, listed.joined_at, listed.user_id";
