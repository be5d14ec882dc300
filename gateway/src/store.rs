//! Postgres as the gateway uses it: all of its SQL stands here and in the modules below. Messages are only read;
//! writing them is the persister's.

mod conversations;
mod list;
mod messages;
mod outbox;
mod people;
mod row;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use partyline_shared::settings::DatabaseSettings;
use sqlx::{
    PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use self::{
    conversations::{Added, Created, NewConversation},
    list::{Cursor, Listed, ListedPage},
    messages::{Sent, UNREAD_MAX, Unread, UnreadKey},
    outbox::{FIRST_LEASE, OutboxState, Outgoing},
};

/// How long a request waits for a free connection, or for Postgres to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A statement that takes longer is given up: every query here is answered by an index.
const STATEMENT_TIMEOUT_MS: &str = "10000";

/// How long Postgres may take to answer what a socket's command reads: the connection's other commands wait meanwhile.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// Between attempts to reach Postgres while it is away.
const PROBE_GAP: Duration = Duration::from_millis(200);

/// The gateway's queries.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    away: Arc<AtomicBool>,
    /// Counts the answers to what commands read.
    answers: Arc<AtomicU64>,
}

impl Store {
    /// Makes the pool; connects when first needed.
    ///
    /// # Errors
    /// If the URL is none.
    pub fn connect_lazy(settings: &DatabaseSettings) -> anyhow::Result<Self> {
        let options =
            settings.database_url.parse::<PgConnectOptions>()?.application_name("partyline-gateway").options([
                ("statement_timeout", STATEMENT_TIMEOUT_MS),
                // One plan serves all arguments here (a test looks at it); making it anew takes longer than the query.
                ("plan_cache_mode", "force_generic_plan"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(settings.database_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        Ok(Self::from_pool(pool))
    }

    #[must_use]
    pub fn from_pool(pool: PgPool) -> Self {
        Self { pool, away: Arc::default(), answers: Arc::default() }
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Whether Postgres did not answer lately. Who can do without it doesn't wait for it then.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// A connection, unless Postgres is away: then nobody waits for it but whoever finds out.
    async fn connection(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        if self.is_away() {
            return Err(sqlx::Error::PoolTimedOut);
        }
        self.pool.acquire().await.inspect_err(|_| self.missed())
    }

    /// Runs a query of a command, which doesn't wait for Postgres as long as other requests do.
    async fn in_time<T>(&self, query: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        let before = self.answers.load(Ordering::Relaxed);
        if let Ok(answer) = tokio::time::timeout(COMMAND_TIMEOUT, query).await {
            self.answers.fetch_add(u64::from(answer.is_ok()), Ordering::Relaxed);
            return answer;
        }
        // If others were answered meanwhile, Postgres is only busy.
        if self.answers.load(Ordering::Relaxed) == before {
            self.missed();
        }
        Err(sqlx::Error::PoolTimedOut)
    }

    /// Postgres did not answer: it counts as away until it does.
    pub fn missed(&self) {
        if self.away.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!("Postgres is away");
        let store = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PROBE_GAP).await;
                if sqlx::query("SELECT 1").execute(&store.pool).await.is_ok() {
                    store.away.store(false, Ordering::Release);
                    return tracing::info!("Postgres is back");
                }
            }
        });
    }

    /// The highest place in any log that Postgres knows of. Asked only if a log must be begun again.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn highest_seq(&self) -> sqlx::Result<u64> {
        let mut transaction = self.pool.begin().await?;
        // One index probe a conversation: long for many, and rare.
        sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *transaction).await?;
        let highest: i64 = sqlx::query_scalar(HIGHEST_SEQ).fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(row::seq(highest))
    }
}

/// Every query that touches messages, for the test that asks Postgres how it would answer them.
pub const MESSAGE_QUERIES: &[(&str, &str)] = &[
    ("highest seq", HIGHEST_SEQ),
    ("conversations", list::CONVERSATIONS),
    ("conversations by id", list::CONVERSATIONS_BY_ID),
    ("conversation", list::CONVERSATION),
    ("find sent", messages::FIND_SENT),
    ("message", messages::MESSAGE),
    ("messages before", messages::MESSAGES_BEFORE),
    ("messages after", messages::MESSAGES_AFTER),
    ("changes after", messages::CHANGES_AFTER),
    ("unread", messages::UNREAD),
];

const HIGHEST_SEQ: &str = "
    SELECT GREATEST(
        (SELECT COALESCE(max(GREATEST(c.last_message_seq, newest.seq, edited.seq, deleted.seq)), 0)
           FROM conversations c
           LEFT JOIN LATERAL (SELECT m.seq FROM messages m WHERE m.conversation_id = c.id
                               ORDER BY m.seq DESC LIMIT 1) newest ON true
           LEFT JOIN LATERAL (SELECT m.edited_seq AS seq FROM messages m
                               WHERE m.conversation_id = c.id AND m.edited_seq IS NOT NULL
                               ORDER BY m.edited_seq DESC LIMIT 1) edited ON true
           LEFT JOIN LATERAL (SELECT m.deleted_seq AS seq FROM messages m
                               WHERE m.conversation_id = c.id AND m.deleted_seq IS NOT NULL
                               ORDER BY m.deleted_seq DESC LIMIT 1) deleted ON true),
        (SELECT COALESCE(max(last_read_seq), 0) FROM participants))";
