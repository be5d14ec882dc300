//! From rows to the program's types.

use partyline_shared::{
    claims::UserType,
    event::{Message, MessageType, Participant, Role},
    ids::{ClientId, ConversationId, MessageId, Seq, UserId},
};
use serde_json::value::RawValue;
use sqlx::{FromRow, Row, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::history::HistoryMessage;

/// A place in the log, as Postgres keeps it.
pub(super) fn seq(stored: i64) -> Seq {
    u64::try_from(stored).unwrap_or(0)
}

/// A place in the log, for Postgres. What no log can reach is as good as the end.
pub(super) fn bigint(seq: Seq) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Places as the text of a Postgres array, for a list of lists.
pub(super) fn array(seqs: &[Seq]) -> String {
    let seqs: Vec<String> = seqs.iter().map(|seq| bigint(*seq).to_string()).collect();
    format!("{{{}}}", seqs.join(","))
}

pub(super) fn user_id(stored: &str) -> sqlx::Result<UserId> {
    UserId::new(stored).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Each row as a value.
pub(super) fn all<T: for<'r> FromRow<'r, PgRow>>(rows: &[PgRow]) -> sqlx::Result<Vec<T>> {
    rows.iter().map(T::from_row).collect()
}

impl FromRow<'_, PgRow> for HistoryMessage {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let optional_seq = |name: &str| row.try_get::<Option<i64>, _>(name).map(|stored| stored.map(seq));
        let optional_time = |name: &str| row.try_get::<Option<OffsetDateTime>, _>(name).map(|at| at.map(Into::into));
        let Json(metadata): Json<Box<RawValue>> = row.try_get("metadata")?;
        let message_type: &str = row.try_get("message_type")?;
        let message = Message {
            conversation_id: ConversationId(row.try_get::<Uuid, _>("conversation_id")?),
            message_id: MessageId(row.try_get::<Uuid, _>("message_id")?),
            client_id: ClientId(row.try_get::<Uuid, _>("client_id")?),
            sender_id: user_id(row.try_get("sender_id")?)?,
            sender_username: row.try_get("sender_username")?,
            sender_type: UserType::from_stored(row.try_get("sender_type")?),
            content: row.try_get("content")?,
            message_type: MessageType::parse(message_type).unwrap_or_default(),
            metadata,
            reply_to: optional_seq("reply_to")?,
            created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
        };
        let mut found = Self {
            message,
            seq: seq(row.try_get("seq")?),
            prev_seq: seq(row.try_get("prev_seq")?),
            edited_at: optional_time("edited_at")?,
            edited_seq: optional_seq("edited_seq")?,
            deleted_at: optional_time("deleted_at")?,
            deleted_seq: optional_seq("deleted_seq")?,
        };
        found.hide_deleted();
        Ok(found)
    }
}

/// A participant with columns `user_id, username, user_type, role, last_read_seq`.
pub(super) fn participant(row: &PgRow) -> sqlx::Result<Participant> {
    Ok(Participant {
        user_id: user_id(row.try_get("user_id")?)?,
        username: row.try_get("username")?,
        user_type: UserType::from_stored(row.try_get("user_type")?),
        role: Role::from_stored(row.try_get("role")?),
        last_read_seq: seq(row.try_get("last_read_seq")?),
    })
}
