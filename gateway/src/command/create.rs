//! Creating a conversation.

use std::sync::Arc;

use partyline_shared::{
    claims::Identity,
    ids::UserId,
    wire::{ErrorCode, Refusal},
};

use crate::{
    app::Chat,
    authorise::Kind,
    relay,
    store::{self, Created},
    text,
};

/// The longest title, in code points.
const MAX_TITLE_CHARS: usize = 200;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct NewConversation {
    pub kind: Kind,
    pub title: Option<String>,
    /// Besides the one who asks; a service names everybody.
    pub participants: Vec<UserId>,
}

/// Creates a conversation, or finds the direct one of these two.
///
/// # Errors
/// `bad_request` (title), `conflict` (number of people), `unavailable`.
pub async fn create(chat: &Arc<Chat>, who: &Identity, asked: NewConversation) -> Result<Created, Refusal> {
    let new = check(who, asked, chat.config.group_max as usize)?;
    let created = chat.store.create_conversation(chat.log.new_conversation(), who, &new).await.map_err(|error| {
        tracing::warn!(%error, "conversation not created");
        Refusal::unavailable("the database")
    })?;
    if let Some(told) = &created.new {
        relay::after_commit(chat, told.clone()).await;
    }
    Ok(created)
}

fn check(who: &Identity, asked: NewConversation, group_max: usize) -> Result<store::NewConversation, Refusal> {
    let refuse = |why: String| Refusal::new(ErrorCode::BadRequest, why);
    let title = match asked.title.as_deref().map(str::trim).filter(|it| !it.is_empty()) {
        None => None,
        Some(title) if title.chars().count() > MAX_TITLE_CHARS => {
            return Err(refuse(format!("a title has {MAX_TITLE_CHARS} characters at most")));
        }
        Some(title) if title.chars().any(char::is_control) => {
            return Err(refuse("a title has no control characters".into()));
        }
        Some(title) => text::display_name(title).map(|it| it.trim().to_owned()),
    };
    let mut participants = asked.participants;
    if !who.service {
        participants.push(who.user_id.clone());
    }
    participants.sort_unstable();
    participants.dedup();
    match asked.kind {
        Kind::Direct if participants.len() != 2 => {
            let why = "a direct conversation has two people: for anybody but a service, oneself and one other";
            Err(Refusal::new(ErrorCode::Conflict, why))
        }
        Kind::Group if participants.is_empty() => Err(refuse("a group has somebody in it".into())),
        Kind::Group if participants.len() > group_max => {
            Err(Refusal::new(ErrorCode::Conflict, format!("a group has {group_max} participants at most")))
        }
        kind => {
            let owner = (kind == Kind::Group && participants.contains(&who.user_id)).then(|| who.user_id.clone());
            Ok(store::NewConversation { kind, title, participants, owner })
        }
    }
}

#[cfg(test)]
mod tests {
    use partyline_shared::claims::UserType;

    use super::*;

    fn checked(service: bool, kind: Kind, people: &[&str], title: Option<&str>) -> Option<store::NewConversation> {
        let who = Identity {
            user_id: UserId::new("me").unwrap(),
            username: "Me".into(),
            user_type: UserType::Customer,
            service,
            expires_at: i64::MAX,
        };
        let participants = people.iter().map(|id| UserId::new(id).unwrap()).collect();
        check(&who, NewConversation { kind, title: title.map(Into::into), participants }, 4).ok()
    }

    #[test]
    fn a_direct_conversation_has_two_people() {
        assert_eq!(checked(false, Kind::Direct, &["you"], None).unwrap().participants.len(), 2);
        assert_eq!(checked(false, Kind::Direct, &["you", "me", "you"], None).unwrap().participants.len(), 2);
        assert!(checked(false, Kind::Direct, &["me"], None).is_none());
        assert!(checked(false, Kind::Direct, &["you", "she"], None).is_none());
        assert!(checked(true, Kind::Direct, &["you", "she"], None).is_some());
        assert!(checked(true, Kind::Direct, &["you"], None).is_none());
    }

    #[test]
    fn a_group_has_an_owner_if_a_person_makes_it() {
        let group = checked(false, Kind::Group, &["a", "b", "c"], Some(" Fair ")).unwrap();
        assert_eq!(group.owner.unwrap().as_str(), "me");
        assert_eq!(group.title.as_deref(), Some("Fair"));
        assert!(checked(true, Kind::Group, &["a"], None).unwrap().owner.is_none());
        assert!(checked(false, Kind::Group, &["a", "b", "c", "d"], None).is_none());
        assert!(checked(false, Kind::Group, &["a"], Some(&"x".repeat(201))).is_none());
        assert!(checked(false, Kind::Group, &["a"], Some("a\0b")).is_none());
    }

    #[test]
    fn a_title_can_be_seen_and_does_not_rearrange_what_is_next_to_it() {
        let title = |title: &str| checked(false, Kind::Group, &["a"], Some(title)).unwrap().title;
        assert_eq!(title("\u{3164}\u{200B}"), None);
        assert_eq!(title("\u{202E}riaF\u{2066} "), Some("riaF".into()));
        assert_eq!(title("\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}").unwrap().chars().count(), 5);
    }
}
