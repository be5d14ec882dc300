//! Who is connected where and which nodes live, as one node has heard it. Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use partyline_shared::{
    ids::UserId,
    streams::{LEASE, LEASE_RENEWAL},
    timestamp::Timestamp,
};

/// What was heard.
#[derive(Default)]
pub(super) struct State {
    /// The nodes on which a user is connected.
    pub(super) users: HashMap<UserId, Vec<Arc<str>>>,
    /// When each node's lease was last seen.
    pub(super) nodes: HashMap<Arc<str>, Instant>,
    /// How often `users` has changed.
    pub(super) version: u64,
    /// Users whose last connection has gone, and who count as online until their grace is over.
    leaving: HashMap<UserId, Leaving>,
    left: u64,
}

/// A user whose last connection has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// Tells one leaving from the next.
    number: u64,
    /// When the last connection went.
    pub(super) at: Timestamp,
}

impl State {
    /// Whether the user came online by this. A user who is back within the grace was never offline.
    pub(super) fn add(&mut self, user: &UserId, node: Arc<str>) -> bool {
        let nodes = self.users.entry(user.clone()).or_default();
        let first = nodes.is_empty() && self.leaving.remove(user).is_none();
        if !nodes.contains(&node) {
            nodes.push(node);
            self.version += 1;
        }
        first
    }

    /// Takes a user off a node.
    ///
    /// # Returns
    /// The leaving that begins, if the user is connected to no node now.
    pub(super) fn remove(&mut self, user: &UserId, node: &str) -> Option<Leaving> {
        let nodes = self.users.get_mut(user)?;
        let before = nodes.len();
        nodes.retain(|it| **it != *node);
        if nodes.len() == before {
            return None;
        }
        self.version += 1;
        if !nodes.is_empty() {
            return None;
        }
        self.users.remove(user);
        self.left += 1;
        let leaving = Leaving { number: self.left, at: Timestamp::now() };
        self.leaving.insert(user.clone(), leaving);
        Some(leaving)
    }

    /// The grace of a leaving is over.
    ///
    /// # Returns
    /// Whether the user is offline by this: false after a return, however short.
    pub(super) fn grace_ends(&mut self, user: &UserId, leaving: Leaving) -> bool {
        let over = self.leaving.get(user) == Some(&leaving);
        if over {
            self.leaving.remove(user);
        }
        over
    }

    /// Whether a user counts as online.
    pub(super) fn online(&self, user: &UserId) -> bool {
        self.users.contains_key(user) || self.leaving.contains_key(user)
    }

    /// Takes out every user and node that is not in `listed`, which is all that there is.
    ///
    /// # Returns
    /// The leavings that begin.
    pub(super) fn retain(&mut self, listed: &HashSet<(Arc<str>, UserId)>) -> Vec<(UserId, Leaving)> {
        let pairs = self.users.iter().flat_map(|(user, nodes)| nodes.iter().map(|node| (node.clone(), user.clone())));
        let missing: Vec<_> = pairs.filter(|pair| !listed.contains(pair)).collect();
        missing.into_iter().filter_map(|(node, user)| Some((user.clone(), self.remove(&user, &node)?))).collect()
    }

    /// A node's lease was seen. If `me`, this node's own, was not seen for as long as a lease lasts, because it was
    /// stopped or its watch broke, the others' were not seen either, which says nothing about them.
    ///
    /// # Returns
    /// Whether that is so: whatever else was to be heard meanwhile may be missing.
    pub(super) fn hear(&mut self, node: &str, me: &str, now: Instant) -> bool {
        let before = self.nodes.insert(node.into(), now);
        let deaf = node == me && before.is_some_and(|before| now.saturating_duration_since(before) > LEASE);
        if deaf {
            self.nodes.values_mut().for_each(|seen| *seen = now);
        }
        deaf
    }

    /// Who is connected to a node.
    pub(super) fn users_of(&self, node: &str) -> Vec<UserId> {
        let here = self.users.iter().filter(|(_, nodes)| nodes.iter().any(|it| **it == *node));
        here.map(|(user, _)| user.clone()).collect()
    }

    /// Drops a node and its people.
    ///
    /// # Returns
    /// The leavings that begin.
    pub(super) fn forget(&mut self, node: &str) -> Vec<(UserId, Leaving)> {
        self.nodes.remove(node);
        let users = self.users_of(node);
        users.into_iter().filter_map(|user| self.remove(&user, node).map(|leaving| (user, leaving))).collect()
    }

    /// Nodes whose lease had run out when `me`, this node's own, was last seen.
    pub(super) fn dead(&self, me: &str) -> Vec<Arc<str>> {
        let Some(now) = self.nodes.get(me) else { return Vec::new() };
        let late = |seen: &Instant| now.saturating_duration_since(*seen) > LEASE + LEASE_RENEWAL;
        self.nodes.iter().filter(|(_, seen)| late(seen)).map(|(node, _)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserId {
        UserId::new(id).unwrap()
    }

    #[test]
    fn whoever_is_on_another_node_as_well_stays_when_one_is_forgotten() {
        let mut state = State::default();
        assert!(state.add(&user("ann"), "one".into()));
        assert!(!state.add(&user("ann"), "two".into()));
        assert!(state.add(&user("bob"), "one".into()));
        let gone: Vec<_> = state.forget("one").into_iter().map(|(user, _)| user).collect();
        assert_eq!(gone, [user("bob")]);
        assert_eq!(state.users_of("two"), [user("ann")]);
        assert!(state.users_of("one").is_empty());
    }

    #[test]
    fn a_user_who_returns_within_the_grace_was_never_offline() {
        let (ann, mut state) = (user("ann"), State::default());
        assert!(state.add(&ann, "one".into()));
        let first = state.remove(&ann, "one").unwrap();
        assert!(state.online(&ann) && state.users_of("one").is_empty());
        // A reload that lands on another node, and a second one.
        assert!(!state.add(&ann, "two".into()));
        let second = state.remove(&ann, "two").unwrap();
        assert!(!state.grace_ends(&ann, first), "the first leaving is over");
        assert!(state.online(&ann));
        assert!(state.grace_ends(&ann, second));
        assert!(!state.online(&ann) && !state.grace_ends(&ann, second));
        assert!(state.add(&ann, "one".into()));
        assert_eq!(state.remove(&ann, "two"), None);
    }

    #[test]
    fn what_a_listing_lacks_is_taken_out() {
        let mut state = State::default();
        for (id, node) in [("ann", "one"), ("ann", "two"), ("bob", "one"), ("cat", "two")] {
            state.add(&user(id), node.into());
        }
        let listed =
            HashSet::from([("two".into(), user("ann")), ("two".into(), user("cat")), ("two".into(), user("dan"))]);
        let gone: Vec<_> = state.retain(&listed).into_iter().map(|(user, _)| user).collect();
        assert_eq!(gone, [user("bob")]);
        assert!(state.users_of("one").is_empty());
        assert_eq!(state.users[&user("ann")], ["two".into()]);
    }

    #[test]
    fn a_node_that_does_not_hear_itself_takes_nobody_for_dead() {
        let start = Instant::now();
        let mut state = State::default();
        state.hear("me", "me", start);
        state.hear("other", "me", start);
        // Its own lease is the first that it hears after a long time.
        let mut now = start + 2 * LEASE;
        state.hear("me", "me", now);
        assert!(state.dead("me").is_empty());
        for _ in 0..=LEASE.as_secs() / LEASE_RENEWAL.as_secs() {
            now += LEASE_RENEWAL;
            state.hear("me", "me", now);
            assert!(state.dead("me").is_empty());
        }
        now += LEASE_RENEWAL;
        state.hear("me", "me", now);
        assert_eq!(state.dead("me"), ["other".into()]);
        state.hear("other", "me", now);
        assert!(state.dead("me").is_empty());
    }
}
