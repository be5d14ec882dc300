//! New messages, and what they move in their conversations.

use std::collections::{BTreeMap, HashSet};

use partyline_shared::{
    event::Message,
    ids::{ConversationId, Seq, UserId},
    postgres::Statements,
    timestamp::Timestamp,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Written, bigint};

/// Inserts messages, sorted by conversation and `seq`; tells which of them found another in their place.
pub(super) async fn insert(statements: &mut Statements<'_>, messages: &[(Seq, &Message)]) -> sqlx::Result<Written> {
    if messages.is_empty() {
        return Ok(Written::default());
    }
    let column = |of: fn(&Message) -> Uuid| messages.iter().map(|(_, it)| of(it)).collect::<Vec<_>>();
    let texts = |of: fn(&Message) -> &str| messages.iter().map(|(_, it)| of(it)).collect::<Vec<_>>();
    let seqs: Vec<i64> = messages.iter().map(|(seq, _)| bigint(*seq)).collect();
    let replies: Vec<Option<i64>> = messages.iter().map(|(_, it)| it.reply_to.map(bigint)).collect();
    let times: Vec<OffsetDateTime> = messages.iter().map(|(_, it)| it.created_at.to_datetime()).collect();
    let inserted = sqlx::query(INSERT)
        .bind(column(|it| it.conversation_id.0))
        .bind(seqs)
        .bind(column(|it| it.message_id.0))
        .bind(column(|it| it.client_id.0))
        .bind(texts(|it| it.sender_id.as_str()))
        .bind(texts(|it| &it.sender_username))
        .bind(texts(|it| it.sender_type.as_str()))
        .bind(texts(|it| &it.content))
        .bind(texts(|it| it.message_type.as_str()))
        .bind(texts(|it| it.metadata.get()))
        .bind(replies)
        .bind(times)
        .execute(&mut *statements)
        .await?
        .rows_affected();
    if inserted == messages.len() as u64 {
        return Ok(Written::default());
    }
    find_unwritten(statements, messages).await
}

/// Why some were not inserted: there already (written before, by us or another), or in conflict with another message.
async fn find_unwritten(statements: &mut Statements<'_>, messages: &[(Seq, &Message)]) -> sqlx::Result<Written> {
    let conversations: Vec<Uuid> = messages.iter().map(|(_, it)| it.conversation_id.0).collect();
    let seqs: Vec<i64> = messages.iter().map(|(seq, _)| bigint(*seq)).collect();
    let in_place: Vec<Option<Uuid>> =
        sqlx::query_scalar(IN_PLACE).bind(conversations).bind(seqs).fetch_all(statements).await?;
    let mut written = Written::default();
    for ((seq, message), found) in messages.iter().zip(in_place) {
        match found {
            Some(id) if id == message.message_id.0 => {}
            Some(_) => written.displaced.push(*seq),
            None => written.duplicates.push(*seq),
        }
    }
    Ok(written)
}

/// Moves conversations to their newest message; triggers move their participants' `active_at`. Locks the participants of
/// `reads`, too, which are written next.
pub(super) async fn touch_conversations(
    statements: &mut Statements<'_>,
    messages: &[(Seq, &Message)],
    reads: &BTreeMap<(ConversationId, &UserId), Seq>,
    written: &Written,
) -> sqlx::Result<()> {
    let unwritten: HashSet<Seq> = written.duplicates.iter().chain(&written.displaced).copied().collect();
    let mut newest: BTreeMap<ConversationId, (Seq, Timestamp)> = BTreeMap::new();
    for (seq, message) in messages.iter().filter(|(seq, _)| !unwritten.contains(seq)) {
        let newest = newest.entry(message.conversation_id).or_insert((*seq, message.created_at));
        *newest = ((*seq).max(newest.0), message.created_at.max(newest.1));
    }
    if newest.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = newest.keys().map(|id| id.0).collect();
    let seqs: Vec<i64> = newest.values().map(|(seq, _)| bigint(*seq)).collect();
    let times: Vec<OffsetDateTime> = newest.values().map(|(_, at)| at.to_datetime()).collect();
    let (chats, users): (Vec<Uuid>, Vec<&str>) = reads.keys().map(|(chat, user)| (chat.0, user.as_str())).unzip();
    sqlx::query(LOCK).bind(&ids).bind(chats).bind(users).execute(&mut *statements).await?;
    sqlx::query(TOUCH).bind(ids).bind(seqs).bind(times).execute(statements).await?;
    Ok(())
}

/// One index probe a conversation: long for many, and rare.
pub(super) async fn highest_seq(statements: &mut Statements<'_>) -> sqlx::Result<Seq> {
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *statements).await?;
    let highest: i64 = sqlx::query_scalar(HIGHEST_SEQ).fetch_one(statements).await?;
    Ok(u64::try_from(highest).unwrap_or(0))
}

pub(super) const INSERT: &str = "
    INSERT INTO messages (conversation_id, seq, message_id, client_id, sender_id, sender_username, sender_type,
                          content, message_type, metadata, reply_to, created_at)
    SELECT m.conversation_id, m.seq, m.message_id, m.client_id, m.sender_id, m.sender_username, m.sender_type,
           m.content, m.message_type, m.metadata::jsonb, m.reply_to, m.created_at
      FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                  $8::text[], $9::text[], $10::text[], $11::bigint[], $12::timestamptz[])
           AS m (conversation_id, seq, message_id, client_id, sender_id, sender_username, sender_type,
                 content, message_type, metadata, reply_to, created_at)
        ON CONFLICT DO NOTHING";

pub(super) const IN_PLACE: &str = "
    SELECT found.message_id
      FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS wanted (conversation_id, seq, nth)
      LEFT JOIN LATERAL (
           SELECT m.message_id FROM messages m
            WHERE m.conversation_id = wanted.conversation_id AND m.seq = wanted.seq
            LIMIT 1) found ON true
     ORDER BY wanted.nth";

/// Locks conversations, then all of their participants and some others, in the order of their keys, before the first row is
/// written.
const LOCK: &str = "
    WITH chats AS MATERIALIZED (
         SELECT id FROM conversations WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE),
    wanted AS MATERIALIZED (
         SELECT p.conversation_id, p.user_id FROM chats JOIN participants p ON p.conversation_id = chats.id
          UNION
         SELECT * FROM unnest($2::uuid[], $3::text[]))
    SELECT 1 FROM wanted JOIN participants p USING (conversation_id, user_id)
     ORDER BY p.conversation_id, p.user_id FOR NO KEY UPDATE OF p";

const TOUCH: &str = "
    UPDATE conversations c
       SET last_message_seq = GREATEST(c.last_message_seq, newest.seq),
           active_at = GREATEST(c.active_at, newest.at)
      FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS newest (id, seq, at)
     WHERE c.id = newest.id
       AND (c.last_message_seq < newest.seq OR c.active_at < newest.at)";

pub(super) const HIGHEST_SEQ: &str = "
    SELECT GREATEST(
        (SELECT COALESCE(max(GREATEST(c.last_message_seq, newest.seq, edited.seq, deleted.seq)), 0)
           FROM conversations c
           LEFT JOIN LATERAL (SELECT m.seq FROM messages m WHERE m.conversation_id = c.id
                               ORDER BY m.seq DESC LIMIT 1) newest ON true
           LEFT JOIN LATERAL (SELECT m.edited_seq AS seq FROM messages m
                               WHERE m.conversation_id = c.id AND m.edited_seq IS NOT NULL
                               ORDER BY m.edited_seq DESC LIMIT 1) edited ON true
           LEFT JOIN LATERAL (SELECT m.deleted_seq AS seq FROM messages m
                               WHERE m.conversation_id = c.id AND m.deleted_seq IS NOT NULL
                               ORDER BY m.deleted_seq DESC LIMIT 1) deleted ON true),
        (SELECT COALESCE(max(last_read_seq), 0) FROM participants),
        (SELECT COALESCE(max(seq), 0) FROM log_watermarks))";
