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

use partyline_migrations::MIGRATOR;
use partyline_shared::{
    ids::{Seq, UserId},
    postgres::{Database, Session, Statements},
    settings::DatabaseSettings,
    tasks,
    timestamp::Timestamp,
};
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions};
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
    session: Session,
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
        if settings.has_files() {
            let (followed, pool) = (database.clone(), pool.clone());
            let follow = move || followed.clone().follow_files(pool.clone());
            tokio::spawn(tasks::restarting("database_files", follow));
        }
        Ok(Self { pool, session: database.session(), database, history: Arc::default() })
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
        let mut connection = self.pool.acquire().await?;
        let encoding = timeout(PATIENCE, async {
            let mut statements = self.session.statements(&mut connection).await?;
            let encoding = sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut statements).await?;
            statements.commit().await?;
            Ok(encoding)
        })
        .await;
        answer(connection, encoding)
    }

    /// Brings the schema up to date, waiting for Postgres as long as it takes. Behind a pooler in transaction mode nothing
    /// is migrated, since the migrator's lock belongs to a session: it waits for the schema.
    ///
    /// # Errors
    /// If it is something that waiting won't mend.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        if self.session.is_pooled() {
            self.wait_for_schema().await;
            return Ok(());
        }
        let mut backoff = Backoff::default();
        loop {
            // A pool of its own: a migration may take longer than a batch.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .connect_lazy_with(self.database.plain_options().map_err(anyhow::Error::msg)?);
            let migrated = partyline_migrations::migrate(&pool).await;
            pool.close().await;
            match migrated {
                Err(error) if failure::may_pass(&error) => {
                    tracing::warn!(%error, "Postgres is not there yet");
                    sleep(backoff.pause()).await;
                }
                done => return done,
            }
        }
    }

    async fn wait_for_schema(&self) {
        let mut backoff = Backoff::default();
        loop {
            match self.applied_migrations().await {
                Ok(applied) if MIGRATOR.iter().all(|wanted| applied.contains(&wanted.version)) => return,
                Ok(_) => tracing::warn!(
                    "the schema is older than this program, and nothing is migrated through a pooler in transaction mode: \
                     run a persister on a direct connection once"
                ),
                Err(error) => tracing::warn!(%error, "Postgres is not there yet"),
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn applied_migrations(&self) -> Result<Vec<i64>, Failure> {
        let mut connection = self.pool.acquire().await?;
        let applied = timeout(PATIENCE, async {
            let mut statements = self.session.statements(&mut connection).await?;
            let is_there: bool = sqlx::query_scalar(HAS_MIGRATIONS).fetch_one(&mut statements).await?;
            let applied =
                if is_there { sqlx::query_scalar(MIGRATIONS).fetch_all(&mut statements).await? } else { vec![] };
            statements.commit().await?;
            Ok(applied)
        });
        let applied = applied.await;
        answer(connection, applied)
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
            let mut transaction = self.session.transaction(&mut connection).await?;
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
            let mut transaction = self.session.transaction(&mut connection).await?;
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
            let mut statements = self.session.statements(&mut connection).await?;
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
            let mut transaction = self.session.transaction(&mut connection).await?;
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
            let mut statements = self.session.statements(connection).await?;
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
        let mut connection = self.pool.acquire().await?;
        let absent = timeout(PATIENCE, async {
            let mut statements = self.session.statements(&mut connection).await?;
            let answer = changes::absent(&mut statements, targets).await?;
            statements.commit().await?;
            Ok(answer)
        })
        .await;
        answer(connection, absent)
    }

    /// Notes when people were last seen; it never moves back.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn write_seen(&self, seen: &BTreeMap<UserId, Timestamp>) -> Result<(), Failure> {
        let mut connection = self.pool.acquire().await?;
        let written = timeout(PATIENCE, async {
            let mut statements = self.session.statements(&mut connection).await?;
            seen::write(&mut statements, seen).await?;
            statements.commit().await
        })
        .await;
        answer(connection, written)
    }

    /// The highest place of each partition of the log that Postgres holds.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn watermarks(&self) -> Result<BTreeMap<u16, Seq>, Failure> {
        let mut connection = self.pool.acquire().await?;
        let watermarks = timeout(PATIENCE, async {
            let mut statements = self.session.statements(&mut connection).await?;
            let answer = watermark::read(&mut statements).await?;
            statements.commit().await?;
            Ok(answer)
        })
        .await;
        answer(connection, watermarks)
    }

    /// What Postgres tells of this database.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn stats(&self) -> Result<Stats, Failure> {
        let mut connection = self.pool.acquire().await?;
        let stats = timeout(PATIENCE, async {
            let mut statements = self.session.statements(&mut connection).await?;
            let answer = stats::read(&mut statements).await?;
            statements.commit().await?;
            Ok(answer)
        })
        .await;
        answer(connection, stats)
    }

    /// The highest place in any log that Postgres knows of. Asked only if a log must be begun again.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn highest_seq(&self) -> sqlx::Result<Seq> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.session.transaction(&mut connection).await?;
        messages::highest_seq(&mut transaction).await
    }
}

async fn write(transaction: &mut Statements<'_>, rows: &Rows<'_>) -> sqlx::Result<Written> {
    // Always in this order, so that two persisters can't wait for each other; the rows that many want come last.
    let mut written = messages::insert(transaction, &rows.messages).await?;
    written.absent = changes::absent(transaction, &rows.targets()).await?;
    changes::edit(transaction, &rows.edits, &written.absent).await?;
    changes::delete(transaction, &rows.deletions, &written.absent).await?;
    messages::touch_conversations(transaction, &rows.messages, &written).await?;
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

const HAS_MIGRATIONS: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";

const MIGRATIONS: &str = "SELECT version FROM _sqlx_migrations WHERE success";

/// A place as Postgres keeps it; beyond its range is refused when an event is read.
fn bigint(seq: Seq) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
