//! Writes to a MariaDB or MySQL replica.
//!
//! A target transaction is: the checkpoint's compare-and-set, the changes, COMMIT. Unlike other
//! engines the server goes on after a failed statement, so each reply is awaited and verified
//! before the next statement leaves; what keeps round trips few is that there are few statements.
//! Many rows go through a temporary staging table, filled by one bulk statement, and are deleted
//! or updated by one join whose plan is fixed: no statistics can turn it into a scan.

mod bulk;
mod content;
mod fit;
mod load;
mod metadata;
mod ordered;
mod parts;
mod rewrite;
mod session;
mod settle;
mod setwise;
mod sql;
mod stage;
mod store;
mod types;

use async_trait::async_trait;
use repl_core::ErrorKind;
use repl_core::batch::{Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::convert::ConvertOptions;
use repl_core::copy::PartialCopy;
use repl_core::schema::TableName;

pub use self::content::MySqlContents;
use self::session::Session;
use super::target::MySqlTarget;
use crate::seam::{
    Applier, Commit, ConnectorError, CopiedTable, Load, LoadPart, Making, ReplicaState, Result,
    Style, TableDdl,
};

/// Which replica is written, and on whose behalf.
#[derive(Clone, Debug)]
pub struct MySqlApplierConfig {
    /// The replica's server.
    pub target: MySqlTarget,
    /// Name of the replication group; checkpoints and copied tables are kept per group.
    pub group: String,
    /// Name of the replica.
    pub replica: String,
    /// Name of the stream that is applied; a replica keeps one checkpoint per origin.
    pub origin: String,
}

/// Applies to one MariaDB or MySQL replica.
pub struct MySqlApplier {
    config: MySqlApplierConfig,
    session: Option<Session>,
}

impl MySqlApplier {
    /// An applier without a session yet.
    pub fn new(config: MySqlApplierConfig) -> Self {
        MySqlApplier {
            config,
            session: None,
        }
    }

    /// Takes the session out for one call. It comes back only when the call succeeds: after an
    /// error, or when the caller gave up waiting, what it was doing is not known any more.
    fn take(&mut self) -> Result<Session> {
        self.session.take().ok_or_else(|| {
            ConnectorError::new(
                ErrorKind::Connection,
                "the session to the replica is closed",
            )
        })
    }
}

#[async_trait]
impl Applier for MySqlApplier {
    async fn open(&mut self) -> Result<ReplicaState> {
        self.close().await;
        let (session, state) = Session::open(&self.config).await?;
        self.session = Some(session);
        Ok(state)
    }

    fn complete_conversion(&self, options: &mut ConvertOptions) {
        if let Some(session) = &self.session {
            options.mysql = session.flavor();
        }
    }

    async fn set_checkpoint(
        &mut self,
        expected: Option<&Checkpoint>,
        next: &Checkpoint,
    ) -> Result<()> {
        let mut session = self.take()?;
        session.set_checkpoint(expected, next).await?;
        self.session = Some(session);
        Ok(())
    }

    async fn begin(&mut self, expected: &Checkpoint) -> Result<()> {
        let mut session = self.take()?;
        session.begin(expected)?;
        self.session = Some(session);
        Ok(())
    }

    async fn apply(&mut self, step: &Step, style: Style) -> Result<()> {
        let mut session = self.take()?;
        session.apply(step, style).await?;
        self.session = Some(session);
        Ok(())
    }

    async fn submit(
        &mut self,
        next: &Checkpoint,
        joined: &[TableName],
        _commit: Commit,
    ) -> Result<()> {
        let mut session = self.take()?;
        session.commit(next, joined).await?;
        self.session = Some(session);
        Ok(())
    }

    async fn fit(&mut self, route: &Route, ddl: Option<&TableDdl>) -> Result<()> {
        let mut session = self.take()?;
        let outcome = session.fit(route, ddl).await;
        // A refusal comes from comparing shapes, not from the server: nothing is under way, and
        // the caller may come back with the statements that mend it.
        let kept = outcome
            .as_ref()
            .err()
            .is_none_or(|error| error.kind == ErrorKind::Schema && error.code.is_none());
        self.session = kept.then_some(session);
        outcome
    }

    async fn load(&mut self, load: Load<'_>) -> Result<u64> {
        let mut session = self.take()?;
        let rows = session.load(load).await?;
        self.session = Some(session);
        Ok(rows)
    }

    fn loader(&self, number: usize) -> Option<Box<dyn Applier>> {
        let mut config = self.config.clone();
        config.replica = format!("{} load {number}", config.replica);
        Some(Box::new(MySqlApplier::new(config)))
    }

    async fn begin_parts(&mut self, making: Making<'_>, copy: &PartialCopy) -> Result<bool> {
        let mut session = self.take()?;
        let done = session.begin_parts(making, copy).await?;
        self.session = Some(session);
        Ok(done)
    }

    async fn resume_parts(&mut self, making: Making<'_>, copy: &PartialCopy) -> Result<bool> {
        let mut session = self.take()?;
        let done = session.resume_parts(making, copy).await?;
        self.session = Some(session);
        Ok(done)
    }

    async fn load_part(&mut self, part: LoadPart<'_>) -> Result<u64> {
        let mut session = self.take()?;
        let done = session.load_part(part).await?;
        self.session = Some(session);
        Ok(done)
    }

    async fn end_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
        copied: &CopiedTable,
    ) -> Result<()> {
        let mut session = self.take()?;
        session.end_parts(making, copy, copied).await?;
        self.session = Some(session);
        Ok(())
    }

    async fn finish_parts(&mut self, table: &TableName) -> Result<()> {
        let mut session = self.take()?;
        session.finish_parts(table).await?;
        self.session = Some(session);
        Ok(())
    }

    async fn add_foreign_keys(&mut self, statements: &[String]) -> Result<()> {
        let mut session = self.take()?;
        session.add_foreign_keys(statements).await?;
        self.session = Some(session);
        Ok(())
    }

    async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()> {
        let mut session = self.take()?;
        session.forget_tables(tables).await?;
        self.session = Some(session);
        Ok(())
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
