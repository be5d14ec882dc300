//! Postgres as the persister uses it: all of its SQL stands here and in the modules below. The only writer of messages.

mod changes;
mod failure;
mod messages;
mod seen;
mod stats;
mod watermark;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use partyline_migrations::MigrateError;
use partyline_shared::{
    ids::{Seq, UserId},
    postgres::{Database, Statements},
    settings::DatabaseSettings,
    timestamp::Timestamp,
};
use sqlx::{Connection, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions};
use tokio::{
    sync::OnceCell,
    time::{error::Elapsed, sleep, timeout},
};

pub use self::{
    failure::Failure,
    stats::Stats,
    watermark::{Known, Watermark},
};
use crate::{
    batch::{Rows, Target},
    retry::Backoff,
};

/// How long a write waits for a free connection, or for Postgres to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a transaction may take: below JetStream's `ack_wait`, after which another persister gets the batch.
const PATIENCE: Duration = Duration::from_secs(20);

/// Postgres's settings in a session.
const PARAMETERS: &[(&str, &str)] = &[
    ("statement_timeout", "15000"),
    ("idle_in_transaction_session_timeout", "30000"),
    // Every statement here reaches its rows one by one through a key; without this, stale statistics may talk the
    // planner into reading a whole table to join it with a batch.
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// What a written batch left over.
#[derive(Debug, Default)]
pub struct Written {
    /// Messages whose sender had stored another under the same `client_id`: that one stands.
    pub duplicates: Vec<Seq>,
    /// Messages whose place another message has: the log was lost and begun again below it.
    pub displaced: Vec<Seq>,
    /// Messages that are not there yet: their edits and deletions are not written.
    pub absent: HashSet<Target>,
}

/// The persister's statements.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    database: Database,
    /// Whether Postgres tells its history.
    history: Arc<OnceCell<bool>>,
}

impl Store {
    /// Makes the pool; connects when first needed.
    ///
    /// # Errors
    /// If the URL is none.
    pub fn connect_lazy(settings: &DatabaseSettings) -> anyhow::Result<Self> {
        let database = Database::new(settings, "partyline-persister", PARAMETERS);
        database.log_what_is_not_protected();
        let pool = PgPoolOptions::new()
            .max_connections(settings.database_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(database.options().map_err(anyhow::Error::msg)?);
        database.follow_files(&pool);
        Ok(Self { pool, database, history: Arc::default() })
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Checks that Postgres can hold what gateways accept, waiting for it as long as it takes.
    ///
    /// # Errors
    /// If its encoding is not UTF8, or it is something else that waiting won't mend.
    pub async fn check_encoding(&self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            match self.encoding().await {
                Ok(encoding) if encoding == "UTF8" => return Ok(()),
                Ok(encoding) => anyhow::bail!(
                    "the encoding of the database is {encoding}, which can't hold every message; make one with CREATE \
                     DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
                ),
                Err(Failure::Away(error)) if !failure::is_passing(&error) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "Postgres is not there yet");
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    async fn encoding(&self) -> Result<String, Failure> {
        self.run(async |statements| sqlx::query_scalar("SHOW server_encoding").fetch_one(statements).await).await
    }

    /// Whether there is a pooler in transaction mode in between, through which nothing is migrated: the migrator's lock
    /// belongs to a session.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.database.session().is_pooled()
    }

    /// Brings the schema up to date. Tries again while Postgres is away, and when a lock was not free within
    /// `lock_timeout`, but not more than `attempts` times.
    ///
    /// # Returns
    /// The migrations that were applied.
    ///
    /// # Errors
    /// If no attempt was left, or if it is something that waiting won't mend.
    pub async fn migrate(&self, lock_timeout: Duration, attempts: u32) -> Result<Vec<i64>, MigrateError> {
        let mut backoff = Backoff::default();
        let mut left = attempts;
        loop {
            left = left.saturating_sub(1);
            match self.try_migrate(lock_timeout).await {
                Err(error) if failure::may_pass(&error) && left > 0 => {
                    tracing::warn!(%error, "not migrated yet; trying again");
                    sleep(backoff.pause()).await;
                }
                done => return done,
            }
        }
    }

    async fn try_migrate(&self, lock_timeout: Duration) -> Result<Vec<i64>, MigrateError> {
        // Dropped, it frees the migrator's lock.
        let mut connection = self.connect().await?;
        let applied = partyline_migrations::migrate(&mut connection, lock_timeout).await?;
        connection.close().await?;
        Ok(applied)
    }

    /// A connection for migrations, without the limits of a batch.
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        if self.database.session().is_pooled() {
            return Err(sqlx::Error::Configuration("migrations need a direct connection: there is a pooler".into()));
        }
        let options = self.database.plain_options().map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let connected = timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&options)).await;
        connected.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Makes indexes that are missing, and grants the roles of `deploy/postgres/roles.sql`, as far as there are any, what
    /// they need.
    ///
    /// # Errors
    /// If Postgres doesn't answer, or refuses.
    pub async fn finish_migration(&self) -> sqlx::Result<()> {
        let mut connection = self.connect().await?;
        partyline_migrations::finish(&mut connection).await?;
        connection.close().await
    }

    /// The migrations that this version needs and Postgres does not have.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn missing_migrations(&self) -> Result<Vec<i64>, Failure> {
        self.run(async |statements| partyline_migrations::missing(statements).await).await
    }

    /// Runs statements that need no transaction of their own.
    async fn run<T>(&self, run: impl AsyncFnOnce(&mut Statements<'_>) -> sqlx::Result<T>) -> Result<T, Failure> {
        let mut connection = self.pool.acquire().await?;
        let answered = timeout(PATIENCE, async {
            let mut statements = self.database.session().statements(&mut connection).await?;
            let answer = run(&mut statements).await?;
            statements.commit().await?;
            Ok(answer)
        })
        .await;
        answer(connection, answered)
    }

    /// Writes a batch, all of it or nothing, and that its partition has been written up to `last`. Writing it again
    /// changes nothing.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn write(&self, rows: &Rows<'_>, partition: u16, last: Seq, known: Known) -> Result<Written, Failure> {
        let mut connection = self.pool.acquire().await?;
        let written = timeout(PATIENCE, async {
            let has_history = self.has_history(&mut connection).await?;
            let mut transaction = self.database.session().transaction(&mut connection).await?;
            let written = write(&mut transaction, rows).await?;
            let before = watermark::raise(&mut transaction, has_history, partition, last, known).await?;
            if before.is_behind(known) {
                return Ok(None);
            }
            transaction.commit().await?;
            Ok(Some(written))
        })
        .await;
        answer(connection, written)?.ok_or(Failure::Behind)
    }

    /// Writes the events of dead letters, after the rest of their partition.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn write_late(&self, rows: &Rows<'_>) -> Result<Written, Failure> {
        let mut connection = self.pool.acquire().await?;
        let written = timeout(PATIENCE, async {
            let mut transaction = self.database.session().transaction(&mut connection).await?;
            let written = write(&mut transaction, rows).await?;
            transaction.commit().await?;
            Ok(written)
        })
        .await;
        answer(connection, written)
    }

    /// Writes that a partition has been settled up to a place, without any row.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn settle(&self, partition: u16, seq: Seq, known: Known) -> Result<(), Failure> {
        self.write(&Rows::default(), partition, seq, known).await.map(|_| ())
    }

    /// What Postgres tells of a partition.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn watermark(&self, partition: u16) -> Result<Watermark, Failure> {
        let mut connection = self.pool.acquire().await?;
        let found = timeout(PATIENCE, async {
            let has_history = self.has_history(&mut connection).await?;
            let mut statements = self.database.session().statements(&mut connection).await?;
            let found = watermark::find(&mut statements, has_history, partition).await?;
            statements.commit().await?;
            Ok(found)
        })
        .await;
        answer(connection, found)
    }

    /// Changes what Postgres tells of a partition, while no batch of it can be committed. `change` is given what is there,
    /// and returns what shall be, if that is something else.
    ///
    /// # Errors
    /// If Postgres doesn't answer, or `change` fails: then nothing has changed.
    pub async fn change_watermark<F>(&self, partition: u16, change: impl FnOnce(Watermark) -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<Option<Watermark>>>,
    {
        let mut connection = self.pool.acquire().await?;
        let changed = timeout(PATIENCE, async {
            let has_history = self.has_history(&mut connection).await?;
            let mut transaction = self.database.session().transaction(&mut connection).await?;
            let found = watermark::lock(&mut transaction, has_history, partition).await?;
            if let Some(renewed) = change(found).await? {
                watermark::renew(&mut transaction, has_history, partition, renewed).await?;
            }
            Ok(transaction.commit().await?)
        })
        .await;
        changed.unwrap_or_else(|_| {
            drop(connection.detach());
            Err(Failure::Silent.into())
        })
    }

    async fn has_history(&self, connection: &mut PgConnection) -> sqlx::Result<bool> {
        let ask = async || {
            let mut statements = self.database.session().statements(connection).await?;
            let has_history = watermark::has_history(&mut statements).await?;
            if has_history {
                statements.commit().await?;
            }
            Ok(has_history)
        };
        self.history.get_or_try_init(ask).await.copied()
    }

    /// Those of these messages that are not there.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn absent(&self, targets: &[Target]) -> Result<HashSet<Target>, Failure> {
        self.run(async |statements| changes::absent(statements, targets).await).await
    }

    /// Notes when people were last seen; it never moves back.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn write_seen(&self, seen: &BTreeMap<UserId, Timestamp>) -> Result<(), Failure> {
        self.run(async |statements| seen::write(statements, seen).await).await
    }

    /// The highest place of each partition of the log that Postgres holds.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn watermarks(&self) -> Result<BTreeMap<u16, Seq>, Failure> {
        self.run(async |statements| watermark::read(statements).await).await
    }

    /// What Postgres tells of this database.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn stats(&self) -> Result<Stats, Failure> {
        self.run(async |statements| stats::read(statements).await).await
    }

    /// The highest place in any log that Postgres knows of. Asked only if a log must be begun again.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn highest_seq(&self) -> sqlx::Result<Seq> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.session().transaction(&mut connection).await?;
        messages::highest_seq(&mut transaction).await
    }
}

async fn write(transaction: &mut Statements<'_>, rows: &Rows<'_>) -> sqlx::Result<Written> {
    // Always in this order, so that two persisters can't wait for each other; the rows that many want come last.
    let mut written = messages::insert(transaction, &rows.messages).await?;
    written.absent = changes::absent(transaction, &rows.targets()).await?;
    changes::edit(transaction, &rows.edits, &written.absent).await?;
    changes::delete(transaction, &rows.deletions, &written.absent).await?;
    messages::touch_conversations(transaction, &rows.messages, &rows.reads, &written).await?;
    changes::read(transaction, &rows.reads).await?;
    Ok(written)
}

/// A connection that gave no answer is not used again: who knows what it is doing.
fn answer<T>(connection: PoolConnection<Postgres>, result: Result<sqlx::Result<T>, Elapsed>) -> Result<T, Failure> {
    match result {
        Ok(done) => Ok(done?),
        Err(_) => {
            drop(connection.detach());
            Err(Failure::Silent)
        }
    }
}

/// Every statement that touches messages, for the test that asks Postgres how it would run them.
pub const MESSAGE_STATEMENTS: &[(&str, &str)] = &[
    ("insert", messages::INSERT),
    ("in place", messages::IN_PLACE),
    ("highest seq", messages::HIGHEST_SEQ),
    ("absent", changes::ABSENT),
    ("edit", changes::EDIT),
    ("delete", changes::DELETE),
];

/// A place as Postgres keeps it; beyond its range is refused when an event is read.
fn bigint(seq: Seq) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
