//! What the unit tests of several modules need.

use std::sync::Arc;

use partyline_shared::{
    claims::UserType,
    event::{Participant, Role},
    ids::{ConversationId, UserId},
};

use crate::{
    authorise::{Kind, Membership},
    members::Snapshot,
    store::Store,
};

/// Returns a store without a server behind it, for tests that never ask it.
pub(crate) fn unreachable_store() -> Arc<Store> {
    thread_local! {
        static STORE: Arc<Store> = {
            let options = "postgres://nobody@127.0.0.1:1/nothing".parse().unwrap();
            let connect = || Arc::new(Store::from_pool(sqlx::postgres::PgPoolOptions::new().connect_lazy_with(options)));
            // A pool wants a runtime, which tests under random schedules have not.
            match tokio::runtime::Handle::try_current() {
                Ok(_) => connect(),
                Err(_) => {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    let _entered = runtime.enter();
                    connect()
                }
            }
        };
    }
    STORE.with(Arc::clone)
}

/// Returns a participant who has read nothing.
pub(crate) fn participant(user: &str) -> Participant {
    Participant {
        user_id: UserId::new(user).unwrap(),
        username: user.into(),
        user_type: UserType::Customer,
        role: Role::Member,
        last_read_seq: 0,
    }
}

/// Returns the membership of a group, as the read with this number found it.
pub(crate) fn snapshot<U: AsRef<str>>(conversation_id: ConversationId, number: u64, users: &[U]) -> Snapshot {
    let participants = users.iter().map(|user| participant(user.as_ref())).collect();
    Snapshot { membership: Arc::new(Membership { conversation_id, kind: Kind::Group, participants }), number }
}
