//! Who is connected where and which nodes live, as one node has heard it. Pure.

use std::{collections::HashMap, sync::Arc, time::Instant};

use partyline_shared::{
    ids::UserId,
    streams::{LEASE, LEASE_RENEWAL},
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
}

impl State {
    /// Whether the user came online by this.
    pub(super) fn add(&mut self, user: &UserId, node: Arc<str>) -> bool {
        let nodes = self.users.entry(user.clone()).or_default();
        let first = nodes.is_empty();
        if !nodes.contains(&node) {
            nodes.push(node);
            self.version += 1;
        }
        first
    }

    /// Whether the user went offline by this.
    pub(super) fn remove(&mut self, user: &UserId, node: &str) -> bool {
        let Some(nodes) = self.users.get_mut(user) else { return false };
        nodes.retain(|it| **it != *node);
        self.version += 1;
        let last = nodes.is_empty();
        if last {
            self.users.remove(user);
        }
        last
    }

    /// A node's lease was seen. If `me`, this node's own, was not seen for as long as a lease lasts, because it was
    /// stopped or its watch broke, the others' were not seen either, which says nothing about them.
    pub(super) fn hear(&mut self, node: &str, me: &str, now: Instant) {
        let before = self.nodes.insert(node.into(), now);
        if node == me && before.is_some_and(|before| now.saturating_duration_since(before) > LEASE) {
            self.nodes.values_mut().for_each(|seen| *seen = now);
        }
    }

    /// Who is connected to a node.
    pub(super) fn users_of(&self, node: &str) -> Vec<UserId> {
        let here = self.users.iter().filter(|(_, nodes)| nodes.iter().any(|it| **it == *node));
        here.map(|(user, _)| user.clone()).collect()
    }

    /// Drops a node and its people.
    ///
    /// # Returns
    /// Those who are online nowhere now.
    pub(super) fn forget(&mut self, node: &str) -> Vec<UserId> {
        self.nodes.remove(node);
        self.users_of(node).into_iter().filter(|user| self.remove(user, node)).collect()
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
        assert_eq!(state.forget("one"), [user("bob")]);
        assert_eq!(state.users_of("two"), [user("ann")]);
        assert!(state.users_of("one").is_empty());
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
