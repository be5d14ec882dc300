//! What one test gets.

use std::{path::PathBuf, str::FromStr};

use anyhow::Context;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{
    account::{self, Lease},
    process::Launch,
    servers::{self, Addresses},
};
use crate::{services::connect::connect, store, token};
use partyline_shared::claims::UserType;

/// A NATS account, a migrated database and a secret, for one test alone. Declare it before everything that uses
/// it, so that it is dropped last.
#[derive(Debug)]
pub struct TestEnv {
    account: Lease,
    admin_url: String,
    database: String,
    database_url: String,
    secret: String,
    dir: PathBuf,
}

impl TestEnv {
    /// Starts the servers if this is the process's first test.
    ///
    /// # Errors
    /// If a server can't be had.
    pub async fn start() -> anyhow::Result<Self> {
        Self::on(servers::shared().await.context("servers for tests")?).await
    }

    /// The same on servers of one's own: for a test that stops them.
    ///
    /// # Errors
    /// If the servers don't answer.
    pub async fn on(shared: &Addresses) -> anyhow::Result<Self> {
        let database = format!("test_{}", uuid::Uuid::new_v4().simple());
        let url_of = |name: &str| with_database(&shared.database, name);
        store::create_migrated(url_of, &database).await.context("a database for a test")?;
        let account = account::take(&shared.dir, &shared.nats).await?;
        let dir = shared.dir.join(&database);
        std::fs::create_dir_all(&dir)?;
        Ok(Self {
            account,
            admin_url: shared.database.clone(),
            database_url: url_of(&database),
            database,
            secret: token::random_secret()?,
            dir,
        })
    }

    /// NATS, with the user of this test's account.
    #[must_use]
    pub fn nats_url(&self) -> &str {
        &self.account.url
    }

    /// This test's database.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The secret of its tokens.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// A folder for its files; goes with the test.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// A connection to NATS.
    ///
    /// # Errors
    /// If NATS is gone.
    pub async fn nats(&self) -> anyhow::Result<async_nats::Client> {
        connect(self.nats_url()).await
    }

    /// Connections to the database.
    ///
    /// # Errors
    /// If Postgres is gone.
    pub async fn pool(&self) -> anyhow::Result<PgPool> {
        let options = PgConnectOptions::from_str(&self.database_url)?;
        Ok(PgPoolOptions::new().max_connections(4).connect_with(options).await?)
    }

    /// A token that a gateway of this test takes for an hour.
    ///
    /// # Errors
    /// If signing fails.
    pub fn jwt(&self, user_id: &str, username: &str, user_type: UserType) -> anyhow::Result<String> {
        token::mint(&self.secret, user_id, username, user_type, None, 3_600)
    }

    /// A token with a scope (`service`), which ends in `seconds`.
    ///
    /// # Errors
    /// If signing fails.
    pub fn jwt_with(
        &self,
        user_id: &str,
        username: &str,
        user_type: UserType,
        scope: Option<&str>,
        seconds: i64,
    ) -> anyhow::Result<String> {
        token::mint(&self.secret, user_id, username, user_type, scope, seconds)
    }

    /// A gateway process on free ports, to be configured and started.
    ///
    /// # Errors
    /// If the program can't be built.
    pub fn gateway(&self) -> anyhow::Result<Launch> {
        Ok(Launch::new(self, "gateway")?.drains_at_once())
    }

    /// A persister process on a free port, to be configured and started.
    ///
    /// # Errors
    /// If the program can't be built.
    pub fn persister(&self) -> anyhow::Result<Launch> {
        Launch::new(self, "persister")
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        let (admin_url, database) = (self.admin_url.clone(), self.database.clone());
        // On a thread of its own, since a drop can't wait; if the process ends first, the server goes too.
        std::thread::spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                let _ = runtime.block_on(store::drop_database(&admin_url, &database));
            }
        });
    }
}

/// The URL with another database.
fn with_database(url: &str, name: &str) -> String {
    match url.rsplit_once('/') {
        Some((server, _)) => format!("{server}/{name}"),
        None => url.to_owned(),
    }
}
