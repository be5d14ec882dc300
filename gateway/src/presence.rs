//! Who is connected where, over all nodes: a key a user and node in a bucket, written only when somebody comes or goes;
//! a lease a node, so that the people of a dead node are dropped. Every node holds the whole map.

mod state;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    Client,
    jetstream::kv::{Operation, Store as Bucket},
};
use futures_util::{StreamExt, TryStreamExt, future::join_all};
use parking_lot::{Mutex, RwLock};
use partyline_shared::{
    ids::UserId,
    nats,
    settings::NatsSettings,
    streams::{self, LEASE, LEASE_RENEWAL, PRESENCE_MARKER_TTL},
    subjects,
    timestamp::Timestamp,
};
use tokio::{
    sync::{Notify, mpsc},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::state::{Leaving, State};
use crate::{log::Log, session::registry::Registry, tasks};

/// Keys written at once.
const WRITES: usize = 256;

/// Between two looks for the buckets.
const BUCKETS_RETRY: Duration = Duration::from_millis(250);

/// Between two watches of a bucket.
const WATCH_RETRY: Duration = Duration::from_secs(1);

/// Before a key is written again that JetStream did not take: a leader may have to be found.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// How long the writer may take to finish when the node leaves.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// A user came online, or has been offline for longer than the grace.
#[derive(Clone, Debug)]
pub struct Change {
    pub user_id: UserId,
    pub online: bool,
    /// When the last connection went, of a user who is offline.
    pub last_seen: Option<Timestamp>,
}

/// A leaving that begins, and when.
type Departure = (UserId, Leaving, tokio::time::Instant);

/// Presence, as this node sees it.
pub struct Presence {
    node: Arc<str>,
    settings: NatsSettings,
    client: Client,
    log: Arc<Log>,
    registry: Arc<Registry>,
    state: RwLock<State>,
    buckets: Mutex<(Bucket, Bucket)>,
    /// Users whose key may have to change.
    dirty: mpsc::UnboundedSender<UserId>,
    /// Leavings, in order, for the task that ends their grace.
    departures: mpsc::UnboundedSender<Departure>,
    changes: mpsc::UnboundedSender<Change>,
    /// Asks the watch of users to begin again with a listing: removals may have gone by.
    resync: Notify,
    /// The node leaves: its keys and its lease are written no more.
    leaving: CancellationToken,
    /// What writes keys or the lease.
    writers: TaskTracker,
}

impl Presence {
    /// Opens the buckets, waiting for them as long as it takes; begins to watch, to write and to renew the lease.
    pub async fn start(
        node: Arc<str>,
        settings: &NatsSettings,
        log: Arc<Log>,
        registry: Arc<Registry>,
        changes: mpsc::UnboundedSender<Change>,
        grace: Duration,
        end: CancellationToken,
    ) -> Arc<Self> {
        // In a cluster there may be no leader yet; and its servers learn of a stream that was made one after the other.
        let buckets = loop {
            match streams::ensure_presence(log.jetstream(), settings).await {
                Ok(buckets) => break buckets,
                Err(error) => not_there(&error).await,
            }
        };
        let (dirty, to_write) = mpsc::unbounded_channel();
        let (departures, departing) = mpsc::unbounded_channel();
        let presence = Arc::new(Self {
            node,
            settings: settings.clone(),
            client: log.jetstream().client(),
            log,
            registry,
            state: RwLock::default(),
            buckets: Mutex::new(buckets),
            dirty,
            departures,
            changes,
            resync: Notify::new(),
            leaving: CancellationToken::new(),
            writers: TaskTracker::new(),
        });
        while let Err(error) = presence.renew_lease().await {
            not_there(&error).await;
        }
        presence.see_node(&presence.node.clone());
        tasks::until(
            end,
            [
                tokio::spawn(tasks::essential("presence_users", presence.clone().watch(false))),
                tokio::spawn(tasks::essential("presence_leases", presence.clone().watch(true))),
                tokio::spawn(tasks::essential("presence_graces", presence.clone().end_graces(departing, grace))),
                // These two end when the node leaves, before everything else.
                presence.writers.spawn(tasks::essential_until(
                    "presence_write",
                    presence.clone().write(to_write),
                    presence.leaving.clone(),
                )),
                presence.writers.spawn(tasks::essential_until(
                    "presence_lease",
                    presence.clone().keep_lease(),
                    presence.leaving.clone(),
                )),
            ],
        );
        presence
    }

    /// Whether a user is connected anywhere, or was within the grace.
    #[must_use]
    pub fn online(&self, user: &UserId) -> bool {
        self.registry.has(user) || self.state.read().online(user)
    }

    /// The nodes on which a user is connected.
    #[must_use]
    pub fn nodes_of(&self, user: &UserId) -> Vec<Arc<str>> {
        self.state.read().users.get(user).cloned().unwrap_or_default()
    }

    /// Every node of every one of these users, as `look(user, node)`, in one look: rooms have many.
    pub fn each_node_of<'a>(&self, users: impl Iterator<Item = &'a UserId>, mut look: impl FnMut(&UserId, &Arc<str>)) {
        let state = self.state.read();
        for user in users {
            state.users.get(user).into_iter().flatten().for_each(|node| look(user, node));
        }
    }

    /// How often anybody has come to a node or gone.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.read().version
    }

    /// All live nodes, this one included.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<str>> {
        self.state.read().nodes.keys().cloned().collect()
    }

    /// A user's first connection here came or the last one went.
    pub fn touch(&self, user: &UserId) {
        // The receiver lives as long as the process.
        let _ = self.dirty.send(user.clone());
    }

    /// The buckets, which live in memory, may be empty, or have been tidied up: write everybody again, and who has gone.
    pub async fn announce_all(&self) {
        if self.leaving.is_cancelled() {
            return;
        }
        match streams::ensure_presence(self.log.jetstream(), &self.settings).await {
            Ok(buckets) => *self.buckets.lock() = buckets,
            Err(error) => tracing::warn!(%error, "presence buckets not found"),
        }
        if let Err(error) = self.renew_lease().await {
            tracing::warn!(%error, "lease not renewed");
        }
        let known = self.state.read().users_of(&self.node);
        known.iter().chain(&self.registry.users()).for_each(|user| self.touch(user));
        self.resync.notify_one();
    }

    /// This node leaves: its people are gone from here, its lease ends. Nothing is written after the purge: a key or a
    /// marker of a node that never comes back would stay.
    pub async fn withdraw(&self) {
        self.leaving.cancel();
        self.writers.close();
        if tokio::time::timeout(LAST_WRITES, self.writers.wait()).await.is_err() {
            tracing::warn!("presence keys still being written when the node left");
        }
        self.purge(&self.node).await;
        let nodes = self.buckets.lock().1.clone();
        if let Err(error) = nodes.delete(&*self.node).await {
            tracing::debug!(%error, "lease not given up");
        }
    }

    async fn renew_lease(&self) -> anyhow::Result<()> {
        let nodes = self.buckets.lock().1.clone();
        nodes.put(&*self.node, "1".into()).await?;
        Ok(())
    }

    /// Renews the lease.
    async fn keep_lease(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LEASE_RENEWAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        loop {
            if self.leaving.run_until_cancelled(tick.tick()).await.is_none() {
                return;
            }
            match self.renew_lease().await {
                // While NATS is away nobody's lease is heard, which says nothing about them.
                Err(error) => {
                    tracing::warn!(%error, "lease not renewed");
                    self.state.write().nodes.values_mut().for_each(|seen| *seen = Instant::now());
                }
                Ok(()) => {
                    // Stopped, or not heard, for so long: the others have dropped this node's people.
                    if renewed.elapsed() > LEASE {
                        tracing::warn!("this node's own lease had run out");
                        self.announce_all().await;
                    }
                    renewed = Instant::now();
                }
            }
        }
    }

    /// Drops the people of nodes whose lease ran out.
    async fn drop_dead_nodes(&self) {
        let dead = self.state.read().dead(&self.node);
        for node in dead {
            tracing::warn!(%node, "a node's lease ran out");
            let gone = self.forget_node(&node);
            // One of the living tidies up, the others need not.
            if self.nodes().iter().min() == Some(&self.node) {
                self.purge(&node).await;
                self.announce_tidied(&node);
                gone.iter().for_each(|(user, at)| self.note_seen(user, *at));
            }
        }
    }

    async fn purge(&self, node: &str) {
        let stream = self.buckets.lock().0.stream.clone();
        if let Err(error) = stream.purge().filter(subjects::presence_of_node(node)).await {
            tracing::debug!(%error, node, "presence keys not purged");
        }
    }

    /// Tells all nodes that the keys of a node were removed from the bucket. If that node lives, it writes them again.
    fn announce_tidied(&self, node: &str) {
        if let Err(error) = nats::try_publish(&self.client, subjects::PRESENCE_TIDIED, node.to_owned().into()) {
            tracing::debug!(%error, "tidying not announced");
        }
    }

    /// Publishes when a user was last seen, for the persister. It is dropped while NATS is away: losing one is no harm.
    fn note_seen(&self, user: &UserId, at: Timestamp) {
        let note = serde_json::json!({ "at": at }).to_string();
        // Not on the connection for appending, whose unanswered messages are limited.
        if let Err(error) = nats::try_publish(&self.client, subjects::seen(user), note.into()) {
            tracing::debug!(%error, "last seen not noted");
        }
    }

    /// Writes keys, many at once, each user's in order.
    async fn write(self: Arc<Self>, mut dirty: mpsc::UnboundedReceiver<UserId>) {
        let mut announced: HashSet<UserId> = HashSet::new();
        let mut batch = Vec::new();
        while self.leaving.run_until_cancelled(dirty.recv_many(&mut batch, WRITES)).await.is_some_and(|count| count > 0)
        {
            let users: HashSet<UserId> = batch.drain(..).collect();
            let bucket = self.buckets.lock().0.clone();
            let written = join_all(users.into_iter().map(|user| {
                let (bucket, here) = (bucket.clone(), self.registry.has(&user));
                let key = subjects::presence_key(&self.node, &user);
                async move {
                    let done = if here {
                        bucket.put(&key, "1".into()).await.map(|_| ()).map_err(|error| error.to_string())
                    } else {
                        // The marker that is left tells the watchers, and ends by itself.
                        bucket.purge_with_ttl(&key, PRESENCE_MARKER_TTL).await.map_err(|error| error.to_string())
                    };
                    (user, here, done)
                }
            }))
            .await;
            let mut failed = Vec::new();
            for (user, here, done) in written {
                if let Err(error) = done {
                    tracing::debug!(error, "presence not written");
                    failed.push(user);
                } else if here {
                    announced.insert(user);
                } else if announced.remove(&user) {
                    self.note_seen(&user, Timestamp::now());
                }
            }
            if !failed.is_empty() {
                let presence = self.clone();
                let retry = async move {
                    tokio::time::sleep(WRITE_RETRY).await;
                    failed.iter().for_each(|user| presence.touch(user));
                };
                tokio::spawn(tasks::caught("presence_retry", retry));
            }
        }
        // The node leaves, and with it all who were here.
        let now = Timestamp::now();
        announced.iter().for_each(|user| self.note_seen(user, now));
    }

    /// Follows a bucket, from its present content on, for ever.
    async fn watch(self: Arc<Self>, leases: bool) {
        let mut followed = None;
        'watches: loop {
            let bucket = {
                let buckets = self.buckets.lock();
                if leases { buckets.1.clone() } else { buckets.0.clone() }
            };
            let made = bucket.stream.cached_info().created;
            // A bucket that was lost says nothing about nodes that have not written theirs again.
            if !leases && followed == Some(made) {
                self.take_out_missing(&bucket).await;
            }
            match bucket.watch_with_history(">").await {
                Ok(mut entries) => {
                    followed = Some(made);
                    loop {
                        let entry = tokio::select! {
                            entry = entries.next() => entry,
                            () = self.resync.notified(), if !leases => continue 'watches,
                        };
                        let Some(entry) = entry else { break };
                        match entry {
                            Ok(entry) if leases && entry.operation == Operation::Put => {
                                self.see_node(&entry.key);
                                // Who is heard by itself hears the others.
                                if *entry.key == *self.node {
                                    self.drop_dead_nodes().await;
                                }
                            }
                            Ok(entry) if leases => {
                                self.forget_node(&entry.key);
                            }
                            Ok(entry) => self.see_user(&entry.key, entry.operation == Operation::Put),
                            Err(error) => {
                                tracing::debug!(%error, "presence watch broke");
                                break;
                            }
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "presence not watched"),
            }
            tokio::time::sleep(WATCH_RETRY).await;
        }
    }

    /// Takes out of the state what is no longer in the bucket: markers of removals end by themselves, so a watch that
    /// was interrupted for long does not see them.
    async fn take_out_missing(&self, bucket: &Bucket) {
        let listed = async { anyhow::Ok(bucket.keys().await?.try_collect::<Vec<_>>().await?) };
        match listed.await {
            Ok(keys) => {
                let parsed = keys.iter().filter_map(|key| subjects::parse_presence_key(key));
                let listed = parsed.map(|(node, user)| (node.into(), user)).collect();
                let mut state = self.state.write();
                for (user, leaving) in state.retain(&listed) {
                    self.departs(user, leaving);
                }
            }
            Err(error) => tracing::debug!(%error, "presence keys not listed"),
        }
    }

    fn see_node(&self, node: &str) {
        if self.state.write().hear(node, &self.node, Instant::now()) {
            self.resync.notify_one();
        }
    }

    fn see_user(&self, key: &str, here: bool) {
        let Some((node, user)) = subjects::parse_presence_key(key) else { return };
        let mut state = self.state.write();
        let node = match state.nodes.get_key_value(node) {
            Some((known, _)) => known.clone(),
            None => {
                // Its lease comes, or it is dead and will be dropped.
                let node: Arc<str> = node.into();
                state.nodes.insert(node.clone(), Instant::now());
                node
            }
        };
        // Told while the state is held, so that what is told last is what holds.
        if !here {
            if let Some(leaving) = state.remove(&user, &node) {
                self.departs(user, leaving);
            }
        } else if state.add(&user, node) {
            self.tell(Change { user_id: user, online: true, last_seen: None });
        }
    }

    fn tell(&self, change: Change) {
        let _ = self.changes.send(change);
    }

    fn departs(&self, user: UserId, leaving: Leaving) {
        let _ = self.departures.send((user, leaving, tokio::time::Instant::now()));
    }

    /// Tells of users who have not come back within the grace: a reload, or a move to another node, is no leaving.
    async fn end_graces(self: Arc<Self>, mut departures: mpsc::UnboundedReceiver<Departure>, grace: Duration) {
        // The grace is the same for all, so they end in the order in which they began.
        while let Some((user_id, leaving, began)) = departures.recv().await {
            tokio::time::sleep_until(began + grace).await;
            if self.registry.has(&user_id) {
                // Connected here, whatever the bucket holds at this moment.
                continue;
            }
            let mut state = self.state.write();
            if state.grace_ends(&user_id, leaving) {
                self.tell(Change { user_id, online: false, last_seen: Some(leaving.at) });
            }
        }
    }

    /// Drops a node and its people.
    ///
    /// # Returns
    /// Those who are connected to no node now, and since when.
    fn forget_node(&self, node: &str) -> Vec<(UserId, Timestamp)> {
        let mut state = self.state.write();
        let gone = state.forget(node);
        gone.into_iter()
            .map(|(user, leaving)| {
                self.departs(user.clone(), leaving);
                (user, leaving.at)
            })
            .collect()
    }
}

async fn not_there(error: &anyhow::Error) {
    tracing::warn!(%error, "the presence buckets are not there yet");
    tokio::time::sleep(BUCKETS_RETRY).await;
}
