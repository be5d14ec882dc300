//! What a plan runs on: real gateways in this process, the NATS server in memory, the real Postgres behind a proxy, and
//! time that passes only when the plan says so.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use partyline_gateway::{
    app::{Chat, Conditions},
    config::Config,
    session::sweep,
};
use partyline_persister::{
    batch,
    store::{Known, Store},
};
use partyline_shared::{
    claims::{Identity, UserType},
    ids::UserId,
    settings::DatabaseSettings,
};
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    gate::{Gate, SharedGate},
    nats::Nats,
    postgres,
};

/// JetStream's window for repeats, short enough for plans to leave it.
const DEDUP_SECONDS: &str = "4";

/// How long a lost notice of a change of participants may matter; shorter than a plan's rest.
const MEMBERSHIP_SECONDS: &str = "40";

/// A gateway.
pub(crate) struct Gateway {
    pub(crate) chat: Arc<Chat>,
    end: CancellationToken,
    sweep: JoinHandle<()>,
}

impl Gateway {
    /// Its name as a client of NATS.
    pub(crate) fn client_name(&self) -> String {
        format!("partyline-gateway-{}", self.chat.node)
    }
}

/// The servers of one plan.
pub(crate) struct World {
    pub(crate) gate: SharedGate,
    pub(crate) nats: Arc<Nats>,
    pub(crate) gateways: Vec<Gateway>,
    persister: Store,
    persisting: Arc<Semaphore>,
    config: Config,
}

impl World {
    /// Starts them; `database_url` is a migrated database, which plans share.
    pub(crate) async fn start(database_url: &str, gateways: u8) -> Self {
        let gate: SharedGate = Arc::new(Gate::default());
        let nats = Nats::start(gate.clone()).await;
        let (user, rest) = database_url.split_once('@').unwrap();
        let (host, database) = rest.split_once('/').unwrap();
        let port = postgres::start(host.to_owned(), gate.clone()).await;
        let config = Config::parse_from([
            "gateway",
            "--nats-url",
            &format!("nats://127.0.0.1:{}", nats.port),
            "--database-url",
            &format!("{user}@127.0.0.1:{port}/{database}?sslmode=disable"),
            "--database-connections",
            "6",
            "--jwt-secret",
            "a secret that no plan signs with",
            "--messages-per-minute",
            "0",
            "--dedup-seconds",
            DEDUP_SECONDS,
            "--membership-seconds",
            MEMBERSHIP_SECONDS,
        ]);
        let settings = DatabaseSettings {
            database_url: database_url.to_owned(),
            database_connections: 1,
            ..config.database.clone()
        };
        let mut world = Self {
            gate,
            nats,
            gateways: Vec::new(),
            persister: Store::connect_lazy(&settings).unwrap(),
            persisting: Arc::new(Semaphore::new(1)),
            config,
        };
        for _ in 0..gateways {
            let starting = tokio::spawn(start_gateway(world.config.clone()));
            let began = Instant::now();
            while !starting.is_finished() {
                let is_stuck = began.elapsed() > Duration::from_secs(20) || !crate::PANICS.lock().is_empty();
                assert!(!is_stuck, "a gateway can't start");
                world.gate.settle().await;
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            world.gateways.push(starting.await.unwrap());
        }
        world
    }

    /// Kills a gateway: nothing that it still does reaches anything. `restarted` takes its place.
    pub(crate) fn kill(&mut self, gateway: usize) -> JoinHandle<Gateway> {
        let killed = &self.gateways[gateway];
        self.nats.cut(&killed.client_name(), true);
        self.nats.expire(&killed.chat.node);
        killed.sweep.abort();
        killed.end.cancel();
        tokio::spawn(start_gateway(self.config.clone()))
    }

    /// Writes the next `count` events into Postgres, as the persister does.
    pub(crate) fn persist(&self, count: usize, acknowledge: bool) -> JoinHandle<()> {
        let (nats, store, persisting) = (self.nats.clone(), self.persister.clone(), self.persisting.clone());
        // Its statements don't pass the proxy.
        let counted = Counted::new(self.gate.clone());
        tokio::spawn(async move {
            let _counted = counted;
            let _one_at_a_time = persisting.acquire().await.unwrap();
            let (_, _, floor) = nats.ends();
            let log = nats.log();
            let events: Vec<_> = log.iter().filter(|it| it.seq > floor).take(count).collect();
            let Some(last) = events.last().map(|it| it.seq) else { return };
            let entries: Vec<_> = events
                .iter()
                .map(|it| batch::Entry { seq: it.seq, event: batch::read(&it.subject, &it.payload).unwrap() })
                .collect();
            let Ok(written) = store.write(&batch::Rows::of(&entries), 0, last, Known::default()).await else { return };
            assert!(written.absent.is_empty() && written.displaced.is_empty(), "{written:?}");
            if acknowledge {
                nats.acknowledge(last);
            }
        })
    }
}

/// A statement under way, until it is dropped.
struct Counted(SharedGate);

impl Counted {
    fn new(gate: SharedGate) -> Self {
        gate.asked(1);
        Self(gate)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.asked(-1);
    }
}

async fn start_gateway(config: Config) -> Gateway {
    let end = CancellationToken::new();
    let chat = Chat::start(config, &Conditions::default(), end.clone()).await.unwrap();
    let sweep = tokio::spawn(sweep::run(chat.clone()));
    Gateway { chat, end, sweep }
}

/// A person of a plan.
pub(crate) fn identity(user: &str, service: bool) -> Identity {
    Identity {
        user_id: UserId::new(user).unwrap(),
        username: user.to_owned(),
        user_type: UserType::Customer,
        service,
        expires_at: i64::MAX / 2_000,
    }
}
