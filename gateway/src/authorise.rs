//! Who may do what: pure rules over a conversation's membership. A [`Permit`] is made nowhere else,
//! and nothing is appended to the log without one.

use partyline_shared::{
    claims::Identity,
    event::{Message, Participant, Role},
    ids::{ConversationId, UserId},
    wire::{ErrorCode, Refusal},
};

/// A conversation and who takes part, as Postgres holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub conversation_id: ConversationId,
    pub kind: Kind,
    pub participants: Vec<Participant>,
}

/// Two people, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Direct,
    Group,
}

impl Membership {
    #[must_use]
    pub fn participant(&self, user: &UserId) -> Option<&Participant> {
        self.participants.iter().find(|participant| participant.user_id == *user)
    }
}

/// The right to append to one conversation's log, given by the rules below.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    conversation_id: ConversationId,
}

impl Permit {
    #[must_use]
    pub fn conversation_id(self) -> ConversationId {
        self.conversation_id
    }
}

fn refuse(message: &str) -> Refusal {
    Refusal::new(ErrorCode::Forbidden, message)
}

/// The refusal for everybody who takes no part.
#[must_use]
pub fn not_a_participant() -> Refusal {
    refuse("not a participant of this conversation")
}

/// Reading, sending, typing, marking read: participants only.
///
/// # Errors
/// `forbidden`.
pub fn take_part(identity: &Identity, membership: &Membership) -> Result<Permit, Refusal> {
    if membership.participant(&identity.user_id).is_none() {
        return Err(not_a_participant());
    }
    Ok(Permit { conversation_id: membership.conversation_id })
}

/// Sending: participants; a service may send to any conversation.
///
/// # Errors
/// `forbidden`.
pub fn send(identity: &Identity, membership: &Membership) -> Result<Permit, Refusal> {
    if identity.service {
        return Ok(Permit { conversation_id: membership.conversation_id });
    }
    take_part(identity, membership)
}

/// Editing: the sender, while a participant.
///
/// # Errors
/// `forbidden`.
pub fn edit(identity: &Identity, membership: &Membership, message: &Message) -> Result<Permit, Refusal> {
    if message.sender_id != identity.user_id {
        return Err(refuse("only its sender may edit a message"));
    }
    send(identity, membership)
}

/// Deleting: the sender while a participant, or a service.
///
/// # Errors
/// `forbidden`.
pub fn delete(identity: &Identity, membership: &Membership, message: &Message) -> Result<Permit, Refusal> {
    if message.sender_id != identity.user_id && !identity.service {
        return Err(refuse("only its sender may delete a message"));
    }
    send(identity, membership)
}

/// Adding people: a group's owner, or a service.
///
/// # Errors
/// `forbidden`; `conflict` for a direct conversation.
pub fn add(identity: &Identity, membership: &Membership) -> Result<Permit, Refusal> {
    manage(identity, membership, None)
}

/// Removing somebody: oneself, or by a group's owner or a service.
///
/// # Errors
/// `forbidden`; `conflict` for a direct conversation.
pub fn remove(identity: &Identity, membership: &Membership, user: &UserId) -> Result<Permit, Refusal> {
    manage(identity, membership, Some(user))
}

/// Telling a change that was permitted when it was made, and is committed since.
#[must_use]
pub fn committed(conversation_id: ConversationId) -> Permit {
    Permit { conversation_id }
}

fn manage(identity: &Identity, membership: &Membership, leaving: Option<&UserId>) -> Result<Permit, Refusal> {
    let me = membership.participant(&identity.user_id);
    if me.is_none() && !identity.service {
        return Err(not_a_participant());
    }
    if membership.kind == Kind::Direct && !identity.service {
        return Err(Refusal::new(ErrorCode::Conflict, "the two people of a direct conversation stay the same"));
    }
    let oneself = leaving == Some(&identity.user_id);
    if !oneself && !identity.service && me.is_none_or(|me| me.role != Role::Owner) {
        return Err(refuse("only the group's owner may add or remove others"));
    }
    Ok(Permit { conversation_id: membership.conversation_id })
}

#[cfg(test)]
pub(crate) mod tests {
    use partyline_shared::claims::UserType;

    use super::*;

    pub(crate) fn identity(user: &str, service: bool) -> Identity {
        Identity {
            user_id: UserId::new(user).unwrap(),
            username: user.into(),
            user_type: UserType::Customer,
            service,
            expires_at: i64::MAX,
        }
    }

    fn group(kind: Kind) -> Membership {
        let person = |user: &str, role| Participant {
            user_id: UserId::new(user).unwrap(),
            username: user.into(),
            user_type: UserType::Customer,
            role,
            last_read_seq: 0,
        };
        Membership {
            conversation_id: ConversationId::generate(),
            kind,
            participants: vec![person("owner", Role::Owner), person("member", Role::Member)],
        }
    }

    #[test]
    fn strangers_get_nothing_and_services_what_they_need() {
        let it = group(Kind::Group);
        assert_eq!(take_part(&identity("x", false), &it).unwrap_err().code, ErrorCode::Forbidden);
        assert_eq!(take_part(&identity("x", true), &it).unwrap_err().code, ErrorCode::Forbidden);
        assert!(send(&identity("x", true), &it).is_ok());
        assert!(take_part(&identity("member", false), &it).is_ok());
    }

    #[test]
    fn owners_manage_and_members_may_leave() {
        let it = group(Kind::Group);
        let member = UserId::new("member").unwrap();
        let owner = UserId::new("owner").unwrap();
        assert!(add(&identity("owner", false), &it).is_ok());
        assert!(add(&identity("member", false), &it).is_err());
        assert!(remove(&identity("member", false), &it, &member).is_ok());
        assert!(remove(&identity("member", false), &it, &owner).is_err());
        let direct = group(Kind::Direct);
        assert_eq!(remove(&identity("member", false), &direct, &member).unwrap_err().code, ErrorCode::Conflict);
    }
}
