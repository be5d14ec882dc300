//! Postgres as the gateway uses it: all of its SQL stands here and in the modules below. Messages are only read;
//! writing them is the persister's.

mod breaker;
mod connection;
mod conversations;
mod list;
mod messages;
mod outbox;
mod people;
mod row;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use partyline_shared::{
    postgres::{Database, Session},
    settings::DatabaseSettings,
};
use sqlx::{
    ConnectOptions, Connection, Execute, Executor, PgPool, Postgres,
    postgres::{PgPoolOptions, PgRow},
};
use tokio::time::{sleep, timeout};

use self::{breaker::CircuitBreaker, connection::StoreConnection};
pub use self::{
    conversations::{Added, Created, NewConversation},
    list::{Cursor, Listed, ListedPage},
    messages::{Sent, UNREAD_MAX, Unread, UnreadKey},
    outbox::{FIRST_LEASE, OutboxState, Outgoing},
};
use crate::tasks;

/// How long a request waits for a free connection, or for Postgres to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Postgres's settings in a session.
const PARAMETERS: &[(&str, &str)] = &[
    // A statement that takes longer is given up: every query here is answered by an index.
    ("statement_timeout", "10000"),
    // One plan serves all arguments here (a test looks at it); making it anew takes longer than the query.
    ("plan_cache_mode", "force_generic_plan"),
];

/// How long Postgres may take for a command: its client waits, and so do the other commands of a socket.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long Postgres may take for work in the background, for which no client waits.
pub const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that waits for a connection this long makes the breaker look whether Postgres is there.
const SUSPICIOUS_WAIT: Duration = Duration::from_secs(1);
/// Between attempts to reach Postgres while it is away.
const PROBE_GAP: Duration = Duration::from_millis(200);
/// How long Postgres may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Postgres's `too_many_connections`: it is there.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// The gateway's queries.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    session: Session,
    breaker: Arc<CircuitBreaker>,
}

/// Runs one query on a connection, within `limit`.
macro_rules! answer {
    ($store:expr, $limit:expr, $fetch:ident($query:expr)) => {
        $store.answered($limit, async {
            let mut connection = $store.connection().await?;
            let mut statements = connection.statements().await?;
            let answer = (&mut statements).$fetch($query).await?;
            statements.commit().await?;
            Ok(answer)
        })
    };
}

impl Store {
    /// Makes the pool; connects when first needed.
    ///
    /// # Errors
    /// If the URL is none.
    pub fn connect_lazy(settings: &DatabaseSettings) -> anyhow::Result<Self> {
        let database = Database::new(settings, "partyline-gateway", PARAMETERS);
        database.log_what_is_not_protected();
        let pool = PgPoolOptions::new()
            .max_connections(settings.database_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // sqlx's own test has no limit but that of the whole acquisition.
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| Box::pin(connection::is_alive(connection, metadata.idle_for)))
            .connect_lazy_with(database.options().map_err(anyhow::Error::msg)?);
        database.follow_files(&pool);
        Ok(Self { session: database.session().clone(), ..Self::from_pool(pool) })
    }

    #[must_use]
    pub fn from_pool(pool: PgPool) -> Self {
        Self { pool, session: Session::default(), breaker: Arc::default() }
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Whether Postgres did not answer lately. Who can do without it doesn't wait for it then.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.breaker.is_open()
    }

    /// A connection. Fails at once if Postgres is away, and as soon as it turns out to be.
    async fn connection(&self) -> sqlx::Result<StoreConnection> {
        if self.is_away() {
            return Err(sqlx::Error::PoolTimedOut);
        }
        let mut acquired = std::pin::pin!(self.pool.acquire());
        let mut suspicious = std::pin::pin!(sleep(SUSPICIOUS_WAIT));
        let mut waited = false;
        loop {
            tokio::select! {
                acquired = &mut acquired => {
                    let connection = acquired.inspect_err(|error| self.failed(error))?;
                    return Ok(StoreConnection::new(connection, self.session.clone()));
                }
                () = self.breaker.opened() => return Err(sqlx::Error::PoolTimedOut),
                () = &mut suspicious, if !waited => {
                    waited = true;
                    self.suspect();
                }
            }
        }
    }

    /// A request failed: Postgres counts as away if that says so.
    pub fn failed(&self, error: &sqlx::Error) {
        match error {
            // The queue for the pool's own connections, or a statement's fault.
            sqlx::Error::PoolTimedOut | sqlx::Error::Database(_) => self.suspect(),
            _ => self.missed(),
        }
    }

    /// Runs a query, which fails when `limit` has passed or Postgres turns out to be away. Every query goes through here:
    /// a peer that died without a word would hold it for as long as TCP keeps trying.
    async fn answered<T>(&self, limit: Duration, query: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        if self.is_away() {
            return Err(sqlx::Error::PoolTimedOut);
        }
        let mut query = std::pin::pin!(query);
        let mut limited = std::pin::pin!(sleep(limit));
        let mut suspicious = std::pin::pin!(sleep(limit.min(COMMAND_TIMEOUT)));
        let mut suspected = false;
        loop {
            tokio::select! {
                biased;
                answer = &mut query => return answer,
                () = self.breaker.opened() => return Err(sqlx::Error::PoolTimedOut),
                // Postgres may only be busy.
                () = &mut suspicious, if !suspected => {
                    suspected = true;
                    self.suspect();
                }
                () = &mut limited => return Err(sqlx::Error::PoolTimedOut),
            }
        }
    }

    /// Runs a query, and returns its rows.
    async fn fetch_all<'q>(&self, limit: Duration, query: impl Execute<'q, Postgres> + 'q) -> sqlx::Result<Vec<PgRow>> {
        answer!(self, limit, fetch_all(query)).await
    }

    /// Runs a query, and returns its first row, if there is one.
    async fn fetch_optional<'q>(
        &self,
        limit: Duration,
        query: impl Execute<'q, Postgres> + 'q,
    ) -> sqlx::Result<Option<PgRow>> {
        answer!(self, limit, fetch_optional(query)).await
    }

    /// Runs a query that always has a row, and returns it.
    async fn fetch_one<'q>(&self, limit: Duration, query: impl Execute<'q, Postgres> + 'q) -> sqlx::Result<PgRow> {
        answer!(self, limit, fetch_one(query)).await
    }

    /// Runs a statement.
    async fn execute<'q>(&self, limit: Duration, query: impl Execute<'q, Postgres> + 'q) -> sqlx::Result<()> {
        answer!(self, limit, execute(query)).await.map(drop)
    }

    /// Postgres did not answer: it counts as away until it does.
    pub fn missed(&self) {
        if self.breaker.trip() {
            tracing::warn!("Postgres is away");
            self.keep_probing();
        }
    }

    /// Something took too long: a probe finds out whether Postgres is away.
    pub fn suspect(&self) {
        if self.breaker.suspect() {
            self.keep_probing();
        }
    }

    fn keep_probing(&self) {
        let store = self.clone();
        tokio::spawn(async move {
            // Without a probe Postgres would count as away for ever.
            while tasks::caught("postgres_probe", store.probe_until_closed()).await.is_err() {
                sleep(PROBE_GAP).await;
            }
        });
    }

    async fn probe_until_closed(&self) {
        let mut reason = String::new();
        loop {
            self.breaker.probe();
            let was_away = self.is_away();
            let answered = self.answers().await;
            if let Err(error) = &answered
                && *error != reason
            {
                // Once: it may be a certificate or a password, which nothing else names.
                tracing::warn!(error, "Postgres does not answer");
                reason.clone_from(error);
            }
            if self.breaker.probed(answered.is_ok()) {
                if was_away {
                    tracing::info!("Postgres is back");
                }
                return;
            }
            if !was_away {
                tracing::warn!("Postgres is away");
            }
            sleep(PROBE_GAP).await;
        }
    }

    /// Returns why Postgres does not answer, if so, on a connection that waits for no other.
    async fn answers(&self) -> Result<(), String> {
        let answered = async {
            let mut connection = self.pool.connect_options().connect().await?;
            connection.ping().await?;
            connection.close().await
        };
        match timeout(PROBE_TIMEOUT, answered).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(sqlx::Error::Database(error))) if error.code().as_deref() == Some(TOO_MANY_CONNECTIONS) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// The migrations that this version needs and Postgres does not have.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn missing_migrations(&self) -> sqlx::Result<Vec<i64>> {
        let query = async {
            let mut connection = self.connection().await?;
            let mut statements = connection.statements().await?;
            let missing = partyline_migrations::missing(&mut statements).await?;
            statements.commit().await?;
            Ok(missing)
        };
        self.answered(COMMAND_TIMEOUT, query).await
    }

    /// The highest place of each partition of the log that Postgres holds.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn watermarks(&self) -> sqlx::Result<BTreeMap<u16, u64>> {
        let rows: Vec<(i32, i64)> = row::all(&self.fetch_all(COMMAND_TIMEOUT, sqlx::query(WATERMARKS)).await?)?;
        let partition = |(number, seq): (i32, i64)| Some((u16::try_from(number).ok()?, row::seq(seq)));
        Ok(rows.into_iter().filter_map(partition).collect())
    }

    /// The highest place in any log that Postgres knows of. Asked only if a log must be begun again.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn highest_seq(&self) -> sqlx::Result<u64> {
        let query = async {
            let mut connection = self.connection().await?;
            let mut transaction = connection.transaction().await?;
            // One index probe a conversation: long for many, and rare.
            sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut transaction).await?;
            let highest: i64 = sqlx::query_scalar(HIGHEST_SEQ).fetch_one(&mut transaction).await?;
            transaction.commit().await?;
            Ok(highest)
        };
        let highest = self.answered(Duration::MAX, query).await?;
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

const WATERMARKS: &str = "SELECT partition, seq FROM log_watermarks";

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
        (SELECT COALESCE(max(last_read_seq), 0) FROM participants),
        (SELECT COALESCE(max(seq), 0) FROM log_watermarks))";
