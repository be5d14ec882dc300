//! `conversation_updated`, for people who have not joined: told to the nodes where they are, which tell their sockets.
//! Presence knows the nodes, so nobody subscribes per user, and people who are offline cost nothing.

mod audience;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::Client;
use futures_util::StreamExt;
use partyline_shared::{
    ids::{ConversationId, Seq, UserId},
    nats::{self, NotPublished},
    subjects,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::audience::{Audience, Audiences};
use crate::{
    authorise::Membership,
    encode::{Class, Frame},
    history::{Range, tail::Tail},
    log::Log,
    presence::Presence,
    session::registry::Registry,
    store::{BACKGROUND_TIMEOUT, Store, UNREAD_MAX, Unread, UnreadKey},
    tasks,
};

/// How long news of a conversation is gathered, so that a burst counts unread messages once.
const GATHER: Duration = Duration::from_millis(60);

/// Why a conversation is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Message,
    /// A message was edited that is the conversation's newest.
    Edited,
    /// A message was deleted.
    Deleted,
    Read,
    Added,
    Removed,
}

/// News of a conversation, for people who have not joined it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct News {
    pub conversation_id: ConversationId,
    pub reason: Reason,
    pub seq: Seq,
    /// The conversation's newest message, if that is what is new or has changed.
    pub last_message: Option<Box<RawValue>>,
    pub users: Vec<UserId>,
}

impl News {
    /// Whether it is about taking part itself.
    fn moves(&self) -> bool {
        matches!(self.reason, Reason::Added | Reason::Removed)
    }

    /// Of several at once the last one is told; but none without a message hides one with it. Unread messages are counted
    /// anew in any case.
    fn rank(&self) -> (bool, Seq) {
        (self.last_message.is_some(), self.seq)
    }
}

/// Whom news is for, and of what.
type Key = (UserId, ConversationId);

/// Tells, and listens.
pub struct Inbox {
    node: Arc<str>,
    client: Client,
    presence: Arc<Presence>,
    registry: Arc<Registry>,
    store: Arc<Store>,
    log: Arc<Log>,
    arrived: mpsc::UnboundedSender<News>,
    audiences: Audiences,
}

impl Inbox {
    /// Begins to listen.
    ///
    /// # Errors
    /// If NATS takes no subscription.
    pub async fn start(
        node: Arc<str>,
        client: Client,
        presence: Arc<Presence>,
        registry: Arc<Registry>,
        (store, log): (Arc<Store>, Arc<Log>),
        end: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let (arrived, to_tell) = mpsc::unbounded_channel();
        let inbox =
            Arc::new(Self { node, client, presence, registry, store, log, arrived, audiences: Audiences::default() });
        let news = inbox.client.subscribe(subjects::node_inbox(&inbox.node)).await?;
        tasks::until(
            end,
            [
                tokio::spawn(tasks::essential("inbox_listen", inbox.clone().listen(news))),
                tokio::spawn(tasks::essential("inbox_deliver", inbox.clone().deliver(to_tell))),
            ],
        );
        Ok(inbox)
    }

    /// Tells a conversation's participants of a message or a change of one, the sender's other devices too.
    /// `last_message` is made only if somebody is to hear of it.
    pub fn tell_all(
        &self,
        membership: &Arc<Membership>,
        reason: Reason,
        seq: Seq,
        last_message: impl FnOnce() -> Option<Box<RawValue>>,
    ) {
        let conversation_id = membership.conversation_id;
        let version = (self.registry.changes(), self.presence.version());
        let audience = self.audiences.of(membership, version, || {
            self.look_up(conversation_id, false, membership.participants.iter().map(|it| &it.user_id))
        });
        if audience.is_empty() {
            return;
        }
        let last_message = last_message();
        let news = News { conversation_id, reason, seq, last_message, users: Vec::new() };
        if let Err(error) = self.send(&audience, &news) {
            tracing::debug!(%error, "news not told");
        }
    }

    /// Tells `news.users`, wherever they are.
    ///
    /// # Errors
    /// If a node could not be told.
    pub fn tell(&self, news: News) -> Result<(), NotPublished> {
        let audience = self.look_up(news.conversation_id, news.moves(), news.users.iter());
        self.send(&audience, &news)
    }

    fn send(&self, audience: &Audience, news: &News) -> Result<(), NotPublished> {
        if !audience.here.is_empty() {
            let _ = self.arrived.send(News { users: audience.here.clone(), ..news.clone() });
        }
        for (node, users) in &audience.elsewhere {
            let news = News { users: users.clone(), ..news.clone() };
            let payload = serde_json::to_vec(&news).map_err(|_| NotPublished::Invalid)?;
            nats::try_publish(&self.client, subjects::node_inbox(node), payload.into())?;
        }
        Ok(())
    }

    fn look_up<'a>(
        &self,
        conversation: ConversationId,
        moves: bool,
        users: impl Iterator<Item = &'a UserId> + Clone,
    ) -> Audience {
        let mut audience = Audience::default();
        // This node knows its own sockets better than presence, which may not have come round yet.
        audience.here.extend(users.clone().filter(|user| self.wants(user, conversation, moves)).cloned());
        self.presence.each_node_of(users, |user, node| {
            if *node != self.node {
                audience.add_elsewhere(user, node);
            }
        });
        audience
    }

    /// Whether somebody has a socket here to be told on. Whoever has joined on every one gets the event itself, unless it
    /// `moves` people.
    fn wants(&self, user: &UserId, conversation: ConversationId, moves: bool) -> bool {
        self.registry.any(user, |conn| moves || !conn.has_joined(conversation))
    }

    async fn listen(self: Arc<Self>, mut news: async_nats::Subscriber) {
        while let Some(message) = news.next().await {
            match serde_json::from_slice::<News>(&message.payload) {
                Ok(news) => {
                    let _ = self.arrived.send(news);
                }
                // The error may quote it.
                Err(_) => tracing::warn!("news that is none"),
            }
        }
    }

    /// Unread messages: those in Postgres, and those in the log's tail; `None` where it can't be told now: the badge
    /// waits, the news doesn't. Whoever no longer takes part is not among them.
    async fn count(&self, keys: impl Iterator<Item = &Key>) -> HashMap<Key, Option<u32>> {
        // The tails are read before Postgres, which therefore holds all that they lack.
        let mut tails: HashMap<ConversationId, Option<Tail>> = HashMap::new();
        let mut wanted = Vec::new();
        for (user, conversation) in keys {
            if !tails.contains_key(conversation) {
                let tail = Tail::read(&self.log, *conversation, Range::Last, UNREAD_MAX as usize).await.ok();
                tails.insert(*conversation, tail);
            }
            let tail = tails.get(conversation).and_then(Option::as_ref);
            let (marker, floor) = tail.map_or((0, 0), |tail| (tail.marker(user), tail.floor));
            let deleted = tail.map(Tail::deleted).unwrap_or_default();
            wanted.push(UnreadKey { user: user.clone(), conversation: *conversation, marker, floor, deleted });
        }
        let counted =
            if self.store.is_away() { None } else { Some(self.store.unread(BACKGROUND_TIMEOUT, &wanted).await) };
        let counted = match counted {
            Some(Ok(counted)) => counted,
            failed => {
                if let Some(Err(error)) = failed {
                    tracing::warn!(%error, "unread messages not counted");
                    self.store.failed(&error);
                }
                return wanted.into_iter().map(|key| ((key.user, key.conversation), None)).collect();
            }
        };
        let whole = |it: &Unread| {
            let tail = tails.get(&it.conversation).and_then(Option::as_ref)?;
            Some(it.count.saturating_add(tail.unread(&it.user, tail.floor)).min(UNREAD_MAX))
        };
        counted.into_iter().map(|it| ((it.user.clone(), it.conversation), whole(&it))).collect()
    }

    /// Gathers news for a moment, counts what is unread in one query, and tells the sockets.
    async fn deliver(self: Arc<Self>, mut arrived: mpsc::UnboundedReceiver<News>) {
        while let Some(first) = arrived.recv().await {
            let mut latest: HashMap<(Key, bool), News> = HashMap::new();
            self.gather(first, &mut latest);
            let until = tokio::time::Instant::now() + GATHER;
            while let Ok(Some(news)) = tokio::time::timeout_at(until, arrived.recv()).await {
                self.gather(news, &mut latest);
            }
            if !latest.is_empty() {
                self.tell_sockets(latest).await;
            }
        }
    }

    fn gather(&self, news: News, latest: &mut HashMap<(Key, bool), News>) {
        let News { users, .. } = &news;
        let bare = News { users: Vec::new(), ..news.clone() };
        // Coming and going is told by itself, whatever is said meanwhile.
        let moves = news.moves();
        for user in users {
            if !self.wants(user, news.conversation_id, moves) {
                continue;
            }
            let key = (user.clone(), news.conversation_id);
            let held = latest.entry((key, moves)).or_insert_with(|| bare.clone());
            if held.rank() <= bare.rank() {
                *held = bare.clone();
            }
        }
    }

    async fn tell_sockets(&self, latest: HashMap<(Key, bool), News>) {
        let counts = self.count(latest.keys().map(|(key, _)| key)).await;
        let mut latest: Vec<_> = latest.into_iter().collect();
        latest.sort_by_key(|(_, news)| news.seq);
        for ((key, moves), news) in latest {
            let unread_count = match counts.get(&key) {
                Some(count) => *count,
                // Its sender did not know yet that this one has left.
                None if !moves => continue,
                None => None,
            };
            let frame = frame(news.conversation_id, news.reason, news.last_message.as_deref(), unread_count);
            for conn in self.registry.of(&key.0) {
                if moves || !conn.has_joined(news.conversation_id) {
                    conn.send(&frame);
                }
            }
        }
    }
}

/// Tells somebody of having been removed.
#[must_use]
pub fn removed(conversation: ConversationId) -> Frame {
    frame(conversation, Reason::Removed, None, None)
}

fn frame(
    conversation_id: ConversationId,
    reason: Reason,
    last_message: Option<&RawValue>,
    unread_count: Option<u32>,
) -> Frame {
    #[derive(Serialize)]
    struct ConversationUpdated<'a> {
        r#type: &'static str,
        conversation_id: ConversationId,
        reason: Reason,
        last_message: Option<&'a RawValue>,
        unread_count: Option<u32>,
    }
    let news =
        ConversationUpdated { r#type: "conversation_updated", conversation_id, reason, last_message, unread_count };
    Frame::of(&news, Class::Durable)
}
