//! Whom news is for, and where they are. In a large conversation that takes a look at every participant, for each
//! message; so it is remembered until somebody comes or goes, joins or leaves.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use partyline_shared::ids::{ConversationId, UserId};

use crate::authorise::Membership;

/// Participants from which on an audience is remembered.
const LARGE: usize = 32;
/// Audiences that are remembered; beyond, all are looked up anew.
const REMEMBERED: usize = 256;

/// Who is to hear of news.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Those who have a socket on this node to be told on.
    pub(super) here: Vec<UserId>,
    /// Those who are connected to other nodes, which know themselves who has joined.
    pub(super) elsewhere: HashMap<Arc<str>, Vec<UserId>>,
}

impl Audience {
    pub(super) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.elsewhere.is_empty()
    }

    pub(super) fn add_elsewhere(&mut self, user: &UserId, node: &Arc<str>) {
        match self.elsewhere.get_mut(node) {
            Some(users) => users.push(user.clone()),
            None => drop(self.elsewhere.insert(node.clone(), vec![user.clone()])),
        }
    }
}

/// How often anything has changed that an audience depends on: on this node, and in presence.
pub(super) type Version = (u64, u64);

struct Known {
    membership: Arc<Membership>,
    version: Version,
    audience: Arc<Audience>,
}

/// The audiences of large conversations.
#[derive(Default)]
pub(super) struct Audiences(Mutex<HashMap<ConversationId, Known>>);

impl Audiences {
    /// The audience of a conversation as it was at `version` or later; `look_up` looks at every participant.
    pub(super) fn of(
        &self,
        membership: &Arc<Membership>,
        version: Version,
        look_up: impl FnOnce() -> Audience,
    ) -> Arc<Audience> {
        if membership.participants.len() < LARGE {
            return Arc::new(look_up());
        }
        let conversation = membership.conversation_id;
        if let Some(known) = self.0.lock().get(&conversation)
            && known.version == version
            && Arc::ptr_eq(&known.membership, membership)
        {
            return known.audience.clone();
        }
        // What changes meanwhile has another version by the next time.
        let audience = Arc::new(look_up());
        let mut known = self.0.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let membership = membership.clone();
        known.insert(conversation, Known { membership, version, audience: audience.clone() });
        audience
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use partyline_shared::{
        claims::UserType,
        event::{Participant, Role},
    };

    use super::*;
    use crate::authorise::Kind;

    fn membership(people: usize) -> Arc<Membership> {
        let person = |number| Participant {
            user_id: UserId::new(&format!("user-{number}")).unwrap(),
            username: String::new(),
            user_type: UserType::Customer,
            role: Role::Member,
            last_read_seq: 0,
        };
        let participants = (0..people).map(person).collect();
        Arc::new(Membership { conversation_id: ConversationId::generate(), kind: Kind::Group, participants })
    }

    #[test]
    fn a_large_audience_is_looked_up_again_when_something_has_changed() {
        let audiences = Audiences::default();
        let looks = Cell::new(0);
        let ask = |membership: &Arc<Membership>, version| {
            let look_up = || {
                looks.set(looks.get() + 1);
                Audience::default()
            };
            audiences.of(membership, version, look_up);
            looks.get()
        };
        let room = membership(LARGE);
        assert_eq!((ask(&room, (1, 1)), ask(&room, (1, 1))), (1, 1));
        assert_eq!((ask(&room, (2, 1)), ask(&room, (2, 1))), (2, 2));
        assert_eq!((ask(&room, (2, 2)), ask(&room, (2, 2))), (3, 3));
        // Somebody was added or removed.
        let changed = Arc::new(Membership::clone(&room));
        assert_eq!((ask(&changed, (2, 2)), ask(&changed, (2, 2))), (4, 4));
        let pair = membership(2);
        assert_eq!((ask(&pair, (2, 2)), ask(&pair, (2, 2))), (5, 6));
    }

    #[test]
    fn not_every_conversation_is_remembered() {
        let audiences = Audiences::default();
        for _ in 0..=REMEMBERED {
            audiences.of(&membership(LARGE), (0, 0), Audience::default);
        }
        assert!(audiences.0.lock().len() <= REMEMBERED);
    }
}
