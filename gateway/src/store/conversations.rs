//! Conversations and who takes part: the rows that the gateway writes.

use partyline_shared::{
    claims::Identity,
    event::{Event, Participant, ParticipantAdded, ParticipantRemoved, Role},
    ids::{ConversationId, UserId},
    postgres::Statements,
};
use uuid::Uuid;

use super::{COMMAND_TIMEOUT, Outgoing, Store, outbox, row};
use crate::authorise::Kind;

/// A conversation to be made.
#[derive(Clone, Debug)]
pub struct NewConversation {
    pub kind: Kind,
    pub title: Option<String>,
    /// Everybody who takes part; exactly two for a direct one.
    pub participants: Vec<UserId>,
    /// A group's owner.
    pub owner: Option<UserId>,
}

/// The conversation that was asked for.
#[derive(Clone, Debug)]
pub struct Created {
    pub id: ConversationId,
    /// To be told, if it was made now; else these two people had one already.
    pub new: Option<Outgoing>,
}

/// What became of adding somebody.
#[derive(Clone, Debug)]
pub enum Added {
    New(Participant, Box<Outgoing>),
    /// Took part already.
    Already(Participant),
    /// The group has as many as it may have.
    Full,
    NoSuchConversation,
}

/// Ids have no control characters, so a line break can't be part of one.
fn direct_key(participants: &[UserId]) -> String {
    let mut pair: Vec<&str> = participants.iter().map(UserId::as_str).collect();
    pair.sort_unstable();
    pair.join("\n")
}

impl Store {
    /// Makes a conversation with this id and all its participants; a direct one is found if it is there. People that
    /// nobody has seen yet are remembered by their ids.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn create_conversation(
        &self,
        id: ConversationId,
        creator: &Identity,
        new: &NewConversation,
    ) -> sqlx::Result<Created> {
        self.answered(COMMAND_TIMEOUT, self.create(id, creator, new)).await
    }

    async fn create(&self, id: ConversationId, creator: &Identity, new: &NewConversation) -> sqlx::Result<Created> {
        let mut connection = self.connection().await?;
        let mut transaction = connection.transaction().await?;
        let everybody = new.participants.iter().chain([&creator.user_id]);
        add_stubs(&mut transaction, everybody).await?;
        let (kind, key) = match new.kind {
            Kind::Direct => ("direct", Some(direct_key(&new.participants))),
            Kind::Group => ("group", None),
        };
        let made: Option<Uuid> = sqlx::query_scalar(CREATE)
            .bind(id.0)
            .bind(kind)
            .bind(new.title.as_deref())
            .bind(key.as_deref())
            .bind(creator.user_id.as_str())
            .fetch_optional(&mut transaction)
            .await?;
        let Some(id) = made else {
            let id = sqlx::query_scalar(FIND_DIRECT).bind(key).fetch_one(&mut transaction).await?;
            transaction.commit().await?;
            return Ok(Created { id: ConversationId(id), new: None });
        };
        let ids: Vec<&str> = new.participants.iter().map(UserId::as_str).collect();
        let roles: Vec<&str> = new
            .participants
            .iter()
            .map(|user| if new.owner.as_ref() == Some(user) { Role::Owner } else { Role::Member }.as_str())
            .collect();
        sqlx::query(ADD_ALL).bind(id).bind(ids).bind(roles).execute(&mut transaction).await?;
        let id = ConversationId(id);
        let told = outbox::write(&mut transaction, id, 0, None, new.participants.clone()).await?;
        transaction.commit().await?;
        Ok(Created { id, new: Some(told) })
    }

    /// Adds somebody as a member who has read everything so far; `max` participants at most.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn add_participant(
        &self,
        conversation: ConversationId,
        user: &UserId,
        added_by: &UserId,
        max: u32,
    ) -> sqlx::Result<Added> {
        self.answered(COMMAND_TIMEOUT, self.add(conversation, user, added_by, max)).await
    }

    async fn add(
        &self,
        conversation: ConversationId,
        user: &UserId,
        added_by: &UserId,
        max: u32,
    ) -> sqlx::Result<Added> {
        let mut connection = self.connection().await?;
        let mut transaction = connection.transaction().await?;
        add_stubs(&mut transaction, [user]).await?;
        // The lock makes the count hold until the row is in.
        let last_message_seq: Option<i64> =
            sqlx::query_scalar(LOCK).bind(conversation.0).fetch_optional(&mut transaction).await?;
        let Some(last_message_seq) = last_message_seq else { return Ok(Added::NoSuchConversation) };
        let there =
            sqlx::query(PARTICIPANT).bind(conversation.0).bind(user.as_str()).fetch_optional(&mut transaction).await?;
        if let Some(there) = there {
            return Ok(Added::Already(row::participant(&there)?));
        }
        let count: i64 = sqlx::query_scalar(COUNT).bind(conversation.0).fetch_one(&mut transaction).await?;
        if count >= i64::from(max) {
            return Ok(Added::Full);
        }
        sqlx::query(ADD)
            .bind(conversation.0)
            .bind(user.as_str())
            .bind(last_message_seq)
            .execute(&mut transaction)
            .await?;
        let added =
            sqlx::query(PARTICIPANT).bind(conversation.0).bind(user.as_str()).fetch_one(&mut transaction).await?;
        let added = row::participant(&added)?;
        let event = Event::ParticipantAdded(ParticipantAdded {
            conversation_id: conversation,
            participant: added.clone(),
            added_by: added_by.clone(),
        });
        let after = row::seq(last_message_seq);
        let told = outbox::write(&mut transaction, conversation, after, Some(event), vec![user.clone()]).await?;
        transaction.commit().await?;
        Ok(Added::New(added, Box::new(told)))
    }

    /// Removes somebody; if that was a group's last owner, the oldest member takes over.
    ///
    /// # Returns
    /// What is to be told; nothing if the person took no part.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn remove_participant(
        &self,
        conversation: ConversationId,
        user: &UserId,
        removed_by: &UserId,
    ) -> sqlx::Result<Option<Outgoing>> {
        self.answered(COMMAND_TIMEOUT, self.remove(conversation, user, removed_by)).await
    }

    async fn remove(
        &self,
        conversation: ConversationId,
        user: &UserId,
        removed_by: &UserId,
    ) -> sqlx::Result<Option<Outgoing>> {
        let mut connection = self.connection().await?;
        let mut transaction = connection.transaction().await?;
        let last_message_seq: Option<i64> =
            sqlx::query_scalar(LOCK).bind(conversation.0).fetch_optional(&mut transaction).await?;
        let role: Option<String> = sqlx::query_scalar(REMOVE)
            .bind(conversation.0)
            .bind(user.as_str())
            .fetch_optional(&mut transaction)
            .await?;
        let Some(role) = role else { return Ok(None) };
        if Role::from_stored(&role) == Role::Owner {
            sqlx::query(TAKE_OVER).bind(conversation.0).execute(&mut transaction).await?;
        }
        let event = Event::ParticipantRemoved(ParticipantRemoved {
            conversation_id: conversation,
            user_id: user.clone(),
            removed_by: removed_by.clone(),
        });
        let after = row::seq(last_message_seq.unwrap_or(0));
        let told = outbox::write(&mut transaction, conversation, after, Some(event), vec![user.clone()]).await?;
        transaction.commit().await?;
        Ok(Some(told))
    }
}

async fn add_stubs(statements: &mut Statements<'_>, users: impl IntoIterator<Item = &UserId>) -> sqlx::Result<()> {
    let mut ids: Vec<&str> = users.into_iter().map(UserId::as_str).collect();
    // One order on every node: two transactions can't wait for each other.
    ids.sort_unstable();
    sqlx::query(ADD_STUBS).bind(ids).execute(statements).await?;
    Ok(())
}

const ADD_STUBS: &str = "INSERT INTO users (id) SELECT * FROM unnest($1::text[]) ON CONFLICT (id) DO NOTHING";

const CREATE: &str = "
    INSERT INTO conversations (id, kind, title, direct_key, created_by) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (direct_key) DO NOTHING
    RETURNING id";

const FIND_DIRECT: &str = "SELECT id FROM conversations WHERE direct_key = $1";

const ADD_ALL: &str = "
    INSERT INTO participants (conversation_id, user_id, role)
    SELECT $1, listed.user_id, listed.role FROM unnest($2::text[], $3::text[]) AS listed (user_id, role)";

const LOCK: &str = "SELECT last_message_seq FROM conversations WHERE id = $1 FOR NO KEY UPDATE";

const COUNT: &str = "SELECT count(*) FROM participants WHERE conversation_id = $1";

const ADD: &str = "INSERT INTO participants (conversation_id, user_id, last_read_seq) VALUES ($1, $2, $3)";

const PARTICIPANT: &str = "
    SELECT p.user_id, COALESCE(NULLIF(u.username, ''), u.id) AS username, u.user_type, p.role, p.last_read_seq
      FROM participants p JOIN users u ON u.id = p.user_id
     WHERE p.conversation_id = $1 AND p.user_id = $2";

const REMOVE: &str = "DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2 RETURNING role";

const TAKE_OVER: &str = "
    UPDATE participants SET role = 'owner'
     WHERE (conversation_id, user_id) = (
           SELECT conversation_id, user_id FROM participants WHERE conversation_id = $1
            ORDER BY joined_at, user_id LIMIT 1)
       AND NOT EXISTS (SELECT 1 FROM participants WHERE conversation_id = $1 AND role = 'owner')";
