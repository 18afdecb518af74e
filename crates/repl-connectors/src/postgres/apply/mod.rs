//! Writes to a PostgreSQL replica.
//!
//! A target transaction is one pipeline: BEGIN, the lock on the checkpoint, the changes, the new
//! checkpoint, COMMIT, Sync. A small batch is one write and one round trip; after any failure the
//! server skips the rest, COMMIT included. Whatever must hold (the checkpoint's value, the number
//! of rows touched, deferrable constraints) is verified by the statements themselves.

mod fit;
mod load;
mod metadata;
mod ordered;
mod queue;
mod rewrite;
mod session;
mod setwise;
mod sql;
mod store;
mod text;
mod truncate;
mod unique;

use async_trait::async_trait;
use repl_core::ErrorKind;
use repl_core::batch::{Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::schema::TableName;

use self::session::Session;
use super::target::PgTarget;
use crate::seam::{Applier, ConnectorError, Load, ReplicaState, Result, Style, TableDdl};

/// Which replica is written, and on whose behalf.
#[derive(Clone, Debug)]
pub struct PgApplierConfig {
    /// The replica's database. Its `application_name` is replaced by one that names group and
    /// replica.
    pub target: PgTarget,
    /// Name of the replication group; checkpoints and copied tables are kept per group.
    pub group: String,
    /// Name of the replica.
    pub replica: String,
    /// Name of the stream that is applied; a replica keeps one checkpoint per origin.
    pub origin: String,
}

/// Applies to one PostgreSQL replica.
pub struct PgApplier {
    config: PgApplierConfig,
    session: Option<Session>,
}

impl PgApplier {
    /// An applier without a session yet.
    pub fn new(config: PgApplierConfig) -> Self {
        PgApplier {
            config,
            session: None,
        }
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| {
            ConnectorError::new(
                ErrorKind::Connection,
                "the session to the replica is closed",
            )
        })
    }

    /// After any error the session is given up: what it was doing is not known any more.
    fn settle<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            self.session = None;
        }
        outcome
    }
}

#[async_trait]
impl Applier for PgApplier {
    async fn open(&mut self) -> Result<ReplicaState> {
        self.close().await;
        let (session, state) = Session::open(&self.config).await?;
        self.session = Some(session);
        Ok(state)
    }

    async fn set_checkpoint(
        &mut self,
        expected: Option<&Checkpoint>,
        next: &Checkpoint,
    ) -> Result<()> {
        let outcome = self.session()?.set_checkpoint(expected, next).await;
        self.settle(outcome)
    }

    async fn begin(&mut self, expected: &Checkpoint) -> Result<()> {
        let outcome = self.session()?.begin(expected);
        self.settle(outcome)
    }

    async fn apply(&mut self, step: &Step, style: Style) -> Result<()> {
        let outcome = self.session()?.apply(step, style).await;
        self.settle(outcome)
    }

    async fn commit(&mut self, next: &Checkpoint, joined: &[TableName]) -> Result<()> {
        let outcome = self.session()?.commit(next, joined).await;
        self.settle(outcome)
    }

    async fn fit(&mut self, route: &Route, ddl: Option<&TableDdl>) -> Result<()> {
        let outcome = self.session()?.fit(route, ddl).await;
        self.settle(outcome)
    }

    async fn load(&mut self, load: Load<'_>) -> Result<u64> {
        let outcome = self.session()?.load(load).await;
        self.settle(outcome)
    }

    async fn add_foreign_keys(&mut self, statements: &[String]) -> Result<()> {
        let outcome = self.session()?.add_foreign_keys(statements).await;
        self.settle(outcome)
    }

    async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()> {
        let outcome = self.session()?.forget_tables(tables).await;
        self.settle(outcome)
    }

    async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }
}

/// The error of a failpoint set to fail: as if the connection broke there.
fn failpoint(name: &str) -> Result<()> {
    repl_core::failpoint::hit(name)
        .map_err(|error| ConnectorError::new(ErrorKind::Connection, error.to_string()))
}
