//! What later events do to rows that are there: edits, deletions, read markers.

use std::collections::{BTreeMap, HashSet};

use partyline_shared::{
    event::{MessageDeleted, MessageEdited},
    ids::{ConversationId, Seq, UserId},
    postgres::Statements,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::bigint;
use crate::batch::Target;

/// Those of these messages that are not there.
pub(super) async fn absent(statements: &mut Statements<'_>, targets: &[Target]) -> sqlx::Result<HashSet<Target>> {
    if targets.is_empty() {
        return Ok(HashSet::new());
    }
    let (conversations, seqs, ids) = columns(targets.iter());
    let found: Vec<bool> =
        sqlx::query_scalar(ABSENT).bind(conversations).bind(seqs).bind(ids).fetch_all(statements).await?;
    Ok(targets.iter().zip(found).filter(|(_, absent)| *absent).map(|(target, _)| *target).collect())
}

/// Replaces contents. Who asks `absent` first loses no edit to a message that appears meanwhile.
pub(super) async fn edit(
    statements: &mut Statements<'_>,
    edits: &BTreeMap<Target, (Seq, &MessageEdited)>,
    absent: &HashSet<Target>,
) -> sqlx::Result<()> {
    let edits: Vec<_> = edits.iter().filter(|(target, _)| !absent.contains(target)).collect();
    if edits.is_empty() {
        return Ok(());
    }
    let (conversations, seqs, ids) = columns(edits.iter().map(|(target, _)| *target));
    let contents: Vec<&str> = edits.iter().map(|(_, (_, edit))| edit.content.as_str()).collect();
    let times: Vec<OffsetDateTime> = edits.iter().map(|(_, (_, edit))| edit.edited_at.to_datetime()).collect();
    let places: Vec<i64> = edits.iter().map(|(_, (seq, _))| bigint(*seq)).collect();
    sqlx::query(EDIT)
        .bind(conversations)
        .bind(seqs)
        .bind(ids)
        .bind(contents)
        .bind(times)
        .bind(places)
        .execute(statements)
        .await?;
    Ok(())
}

/// Takes messages back: the row keeps its place and loses what it said.
pub(super) async fn delete(
    statements: &mut Statements<'_>,
    deletions: &BTreeMap<Target, (Seq, &MessageDeleted)>,
    absent: &HashSet<Target>,
) -> sqlx::Result<()> {
    let deletions: Vec<_> = deletions.iter().filter(|(target, _)| !absent.contains(target)).collect();
    if deletions.is_empty() {
        return Ok(());
    }
    let (conversations, seqs, ids) = columns(deletions.iter().map(|(target, _)| *target));
    let times: Vec<OffsetDateTime> = deletions.iter().map(|(_, (_, it))| it.deleted_at.to_datetime()).collect();
    let places: Vec<i64> = deletions.iter().map(|(_, (seq, _))| bigint(*seq)).collect();
    sqlx::query(DELETE).bind(conversations).bind(seqs).bind(ids).bind(times).bind(places).execute(statements).await?;
    Ok(())
}

/// Moves read markers forward; whoever takes no part has none.
pub(super) async fn read(
    statements: &mut Statements<'_>,
    reads: &BTreeMap<(ConversationId, &UserId), Seq>,
) -> sqlx::Result<()> {
    if reads.is_empty() {
        return Ok(());
    }
    let conversations: Vec<Uuid> = reads.keys().map(|(conversation, _)| conversation.0).collect();
    let users: Vec<&str> = reads.keys().map(|(_, user)| user.as_str()).collect();
    let seqs: Vec<i64> = reads.values().map(|seq| bigint(*seq)).collect();
    sqlx::query(READ).bind(conversations).bind(users).bind(seqs).execute(statements).await?;
    Ok(())
}

fn columns<'a>(targets: impl Iterator<Item = &'a Target>) -> (Vec<Uuid>, Vec<i64>, Vec<Uuid>) {
    let (mut conversations, mut seqs, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for target in targets {
        conversations.push(target.conversation_id.0);
        seqs.push(bigint(target.seq));
        ids.push(target.message_id.0);
    }
    (conversations, seqs, ids)
}

pub(super) const ABSENT: &str = "
    SELECT found.message_id IS DISTINCT FROM wanted.message_id
      FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) WITH ORDINALITY AS wanted (conversation_id, seq, message_id, nth)
      LEFT JOIN LATERAL (
           SELECT m.message_id FROM messages m
            WHERE m.conversation_id = wanted.conversation_id AND m.seq = wanted.seq
            LIMIT 1) found ON true
     ORDER BY wanted.nth";

/// The later edit wins, however late an earlier one is written; nothing comes back that was deleted.
pub(super) const EDIT: &str = "
    UPDATE messages m
       SET content = edit.content, edited_at = edit.at, edited_seq = edit.place
      FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bigint[])
           AS edit (conversation_id, seq, message_id, content, at, place)
     WHERE m.conversation_id = edit.conversation_id AND m.seq = edit.seq AND m.message_id = edit.message_id
       AND m.deleted_seq IS NULL
       AND (m.edited_seq IS NULL OR m.edited_seq < edit.place)";

pub(super) const DELETE: &str = "
    UPDATE messages m
       SET content = '', metadata = '{}', deleted_at = deletion.at, deleted_seq = deletion.place
      FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::bigint[])
           AS deletion (conversation_id, seq, message_id, at, place)
     WHERE m.conversation_id = deletion.conversation_id AND m.seq = deletion.seq
       AND m.message_id = deletion.message_id
       AND (m.deleted_seq IS NULL OR m.deleted_seq < deletion.place)";

/// Locked in the order of their keys before the first one is written.
const READ: &str = "
    WITH wanted AS MATERIALIZED (
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS marker (conversation_id, user_id, seq)),
    locked AS MATERIALIZED (
         SELECT 1 FROM wanted JOIN participants p USING (conversation_id, user_id)
          ORDER BY p.conversation_id, p.user_id FOR NO KEY UPDATE OF p)
    UPDATE participants p SET last_read_seq = wanted.seq
      FROM wanted
     WHERE p.conversation_id = wanted.conversation_id AND p.user_id = wanted.user_id
       AND (SELECT count(*) FROM locked) > 0 AND p.last_read_seq < wanted.seq";
