//! What the API shows.

use partyline_shared::{
    claims::UserType,
    event::{MessageType, Participant, Role},
    ids::{ClientId, ConversationId, MessageId, Seq, UserId},
    timestamp::Timestamp,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{authorise::Kind, history::HistoryMessage, presence::Presence, store::Listed};

/// A participant of a conversation.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ListedParticipant)]
pub(super) struct ParticipantView {
    pub(super) user_id: UserId,
    pub(super) username: String,
    pub(super) user_type: UserType,
    pub(super) role: Role,
    /// The last `seq` that this participant has read; 0 before the first.
    pub(super) last_read_seq: Seq,
    pub(super) online: bool,
    /// When the last connection ended; null if that was never seen.
    pub(super) last_seen: Option<Timestamp>,
}

impl ParticipantView {
    pub(super) fn new(participant: Participant, last_seen: Option<Timestamp>, presence: &Presence) -> Self {
        let online = presence.online(&participant.user_id);
        let Participant { user_id, username, user_type, role, last_read_seq } = participant;
        Self { user_id, username, user_type, role, last_read_seq, online, last_seen }
    }
}

/// A conversation as its participants see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Conversation)]
pub(super) struct ConversationView {
    pub(super) id: ConversationId,
    pub(super) kind: Kind,
    pub(super) title: Option<String>,
    pub(super) created_at: Timestamp,
    /// The newest message's time, else the creation's: the order of the list.
    pub(super) updated_at: Timestamp,
    /// In a list, the first 50.
    pub(super) participants: Vec<ParticipantView>,
    pub(super) participant_count: u32,
    #[schema(value_type = Option<MessageView>)]
    pub(super) last_message: Option<HistoryMessage>,
    /// Others' messages after my read marker; counted up to 1,000.
    pub(super) unread_count: u32,
    /// My read marker.
    pub(super) last_read_seq: Seq,
}

impl ConversationView {
    pub(super) fn new(listed: Listed, presence: &Presence) -> Self {
        Self {
            id: listed.id,
            kind: listed.kind,
            title: listed.title,
            created_at: listed.created_at,
            updated_at: listed.active_at,
            participants: listed
                .participants
                .into_iter()
                .map(|(participant, last_seen)| ParticipantView::new(participant, last_seen, presence))
                .collect(),
            participant_count: listed.participant_count,
            last_message: listed.last_message,
            unread_count: listed.unread,
            last_read_seq: listed.last_read_seq,
        }
    }
}

/// A part of my conversations.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConversationPage {
    pub(super) results: Vec<ConversationView>,
    /// The `cursor` of the next part; null if this is the last.
    pub(super) next: Option<String>,
}

/// A message in its current state. [`HistoryMessage`] writes itself; this tells its shape.
#[derive(ToSchema)]
#[schema(as = Message)]
#[allow(dead_code, reason = "describes, is never made")]
pub(super) struct MessageView {
    conversation_id: ConversationId,
    seq: Seq,
    /// The message before it; 0 for the first.
    prev_seq: Seq,
    message_id: MessageId,
    client_id: ClientId,
    sender_id: UserId,
    sender_username: String,
    sender_type: UserType,
    /// Empty once deleted.
    content: String,
    message_type: MessageType,
    #[schema(value_type = Object)]
    metadata: serde_json::Value,
    /// The `seq` of the message that this one answers.
    reply_to: Option<Seq>,
    created_at: Timestamp,
    #[schema(required)]
    edited_at: Option<Timestamp>,
    #[schema(required)]
    deleted_at: Option<Timestamp>,
}

/// Messages, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessagePage {
    #[schema(value_type = Vec<MessageView>)]
    pub(super) results: Vec<HistoryMessage>,
    /// The `before` of the page of older messages; null if there are none.
    pub(super) next_before: Option<Seq>,
    /// The `after` of the page of newer messages; null if there are none yet.
    pub(super) next_after: Option<Seq>,
}
