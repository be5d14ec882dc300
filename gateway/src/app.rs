//! The parts of a gateway, put together; what they hear from others is followed in [`follow`].

mod follow;

use std::sync::Arc;

use async_nats::Client;
use partyline_shared::{
    admin::{Latch, Readiness},
    ids::ConversationId,
    nats,
    start::{self, Servers},
    streams::PartitionsDiffer,
    subjects,
    trace::{self, Service},
    wire::Refusal,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::follow::Told;
use crate::{
    auth::Verifier, budget::Budget, command::sent::SentMessages, config::Config, inbox::Inbox, log::Log,
    members::Members, metrics, people::People, presence::Presence, relay, requests::Requests,
    room::directory::Directory, session::registry::Registry, store::Store,
};

/// What a gateway must have before it is ready.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    pub servers: Servers,
    /// There are keys to check tokens with.
    pub keys: Latch,
    /// Down once the gateway begins to leave.
    pub staying: Latch,
}

impl Conditions {
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let Self { servers, keys, staying } = self.clone();
        let mut conditions = servers.conditions();
        conditions.extend([("keys", keys), ("staying", staying)]);
        Readiness::new(conditions)
    }
}

/// Everything that a command may need. Nothing here outlives the process: another node can take over at any moment.
pub struct Chat {
    pub config: Config,
    /// This process's name in subjects and keys; new with every start.
    pub node: Arc<str>,
    pub client: Client,
    pub verifier: Arc<Verifier>,
    pub store: Arc<Store>,
    pub log: Arc<Log>,
    pub members: Arc<Members>,
    pub rooms: Arc<Directory>,
    pub registry: Arc<Registry>,
    pub presence: Arc<Presence>,
    pub budget: Arc<Budget>,
    pub requests: Requests,
    pub inbox: Arc<Inbox>,
    pub sent: SentMessages,
    pub people: People,
    /// Up while both connections to NATS stand and what was missed without them has been looked up.
    pub nats_up: Latch,
    /// Commands that must run to their end, and what follows from them: awaited before the process ends.
    pub commands: TaskTracker,
}

impl Chat {
    /// Connects, makes what is missing in NATS, and begins to listen. Waits for NATS and for Postgres's schema as long as it
    /// takes; `conditions` tell what for.
    ///
    /// # Errors
    /// If something is wrong that waiting won't mend.
    pub async fn start(config: Config, conditions: &Conditions, end: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let node: Arc<str> = uuid::Uuid::new_v4().simple().to_string()[..12].into();
        let service = Service { name: "partyline-gateway", version: env!("CARGO_PKG_VERSION"), instance: &node };
        trace::start(&config.telemetry, service, metrics::spans)?;
        let store = Arc::new(Store::connect_lazy(&config.database)?);
        let verifier = Verifier::start(&config.auth, conditions.keys.clone(), end.clone());
        let (servers, name) = (&conditions.servers, format!("partyline-gateway-{node}"));
        let schema = async {
            start::wait_for_schema(servers, || store.missing_migrations()).await;
            Ok(())
        };
        let connected = start::connect(&config.nats, &name, servers, schema);
        let (verifier, (client, link)) = tokio::try_join!(verifier, connected)?;
        let log = open_log(&client, &config, &node, &store, &end).await?;
        let fresh = std::time::Duration::from_secs(u64::from(config.membership_seconds));
        let members = Arc::new(Members::new(store.clone(), fresh));
        let rooms = Directory::start(client.clone(), log.clone(), members.clone(), end.clone());
        let registry = Arc::new(Registry::default());
        let (changes, to_tell) = mpsc::unbounded_channel();
        let grace = std::time::Duration::from_secs(u64::from(config.presence_grace_seconds));
        let presence =
            Presence::start(node.clone(), &config.nats, log.clone(), registry.clone(), changes, grace, end.clone())
                .await;
        let budget = Budget::start(node.clone(), client.clone(), presence.clone(), &config.limits, end.clone()).await?;
        let requests = Requests::start(config.limits.requests_per_second, end.clone());
        let stores = (store.clone(), log.clone());
        let inbox =
            Inbox::start(node.clone(), client.clone(), presence.clone(), registry.clone(), stores, end.clone()).await?;
        let window = std::time::Duration::from_secs(u64::from(config.nats.dedup_seconds));
        let sent = SentMessages::start(store.clone(), log.clone(), window);
        let people = People::start(store.clone(), client.clone());
        let told = Told {
            members_changed: client.subscribe(subjects::MEMBERS_CHANGED).await?,
            users_changed: client.subscribe(subjects::USERS_CHANGED).await?,
            log_restarted: client.subscribe(subjects::LOG_RESTARTED).await?,
            presence_tidied: client.subscribe(subjects::PRESENCE_TIDIED).await?,
        };
        let chat = Arc::new(Self {
            config,
            node,
            client,
            verifier,
            store,
            log,
            members,
            rooms,
            registry,
            presence,
            budget,
            requests,
            inbox,
            sent,
            people,
            nats_up: conditions.servers.nats.clone(),
            commands: TaskTracker::new(),
        });
        follow::all(&chat, link, told, to_tell, &end);
        relay::start(&chat, end);
        Ok(chat)
    }

    /// Has every node forget what it has cached of a conversation's participants, this one first.
    ///
    /// # Errors
    /// `unavailable`, if the other nodes could not be told.
    pub fn members_changed(&self, conversation: ConversationId) -> Result<(), Refusal> {
        self.rooms.members_changed(conversation);
        nats::try_publish(&self.client, subjects::MEMBERS_CHANGED, conversation.to_string().into()).map_err(|error| {
            tracing::warn!(%error, "change of participants not told yet");
            Refusal::unavailable("NATS")
        })
    }
}

async fn open_log(
    client: &Client,
    config: &Config,
    node: &str,
    store: &Arc<Store>,
    end: &CancellationToken,
) -> anyhow::Result<Arc<Log>> {
    loop {
        match Log::open(client.clone(), &config.nats, node, || highest_seq(store.clone()), end.clone()).await {
            Ok(log) => return Ok(log),
            Err(error) if error.is::<PartitionsDiffer>() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the log is not there yet");
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }
}

async fn highest_seq(store: Arc<Store>) -> anyhow::Result<u64> {
    Ok(store.highest_seq().await?)
}
