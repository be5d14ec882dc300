//! Connections of the pool that don't outlive a dead peer.

use std::time::Duration;

use partyline_shared::postgres::{Session, Statements};
use sqlx::{Connection, PgConnection, Postgres, pool::PoolConnection};
use tokio::time::timeout;

use crate::tasks;

/// How long an idle connection may take to answer before another takes its place; a command waits meanwhile.
const IDLE_PING_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection that was idle for less is not pinged. It answered when it was given back.
const PING_AFTER: Duration = Duration::from_secs(1);
/// How long a connection may take to end a query that was given up, and to answer, before it is closed.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether an idle connection still answers. An error makes the pool open another at once. One that answered a moment ago
/// is not asked: that would cost every query a round trip.
pub(super) async fn is_alive(connection: &mut PgConnection, idle_for: Duration) -> sqlx::Result<bool> {
    if idle_for < PING_AFTER {
        return Ok(true);
    }
    match timeout(IDLE_PING_TIMEOUT, connection.ping()).await {
        Ok(answered) => answered.map(|()| true),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// A connection of the pool. The pool takes back only one that answers, and without this limit it would wait for the
/// answer of a dead peer until TCP gives up, and count the connection as in use all the while.
#[derive(Debug)]
pub struct StoreConnection {
    connection: PoolConnection<Postgres>,
    session: Session,
}

impl StoreConnection {
    pub(super) fn new(connection: PoolConnection<Postgres>, session: Session) -> Self {
        Self { connection, session }
    }

    /// Runs statements that need no transaction of their own; they end with `commit`.
    pub(super) async fn statements(&mut self) -> sqlx::Result<Statements<'_>> {
        self.session.statements(&mut self.connection).await
    }

    /// Runs statements in a transaction.
    pub(super) async fn transaction(&mut self) -> sqlx::Result<Statements<'_>> {
        self.session.transaction(&mut self.connection).await
    }
}

impl Drop for StoreConnection {
    fn drop(&mut self) {
        // What sqlx's own drop does, without a limit there. Dropped, it closes the socket and frees the pool's permit.
        let returned = self.connection.return_to_pool();
        tokio::spawn(async move {
            if timeout(RELEASE_TIMEOUT, tasks::caught("postgres_release", returned)).await.is_err() {
                tracing::warn!("a connection to Postgres did not answer and was closed");
            }
        });
    }
}
