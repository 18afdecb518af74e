//! Writes to a MariaDB or MySQL replica.
//!
//! A target transaction is: the checkpoint's compare-and-set, the changes, COMMIT. Unlike other
//! engines the server goes on after a failed statement, so each reply is awaited and verified
//! before the next statement leaves; what keeps round trips few is that there are few statements.
//! Many rows go through a temporary staging table, filled by one bulk statement, and are deleted
//! or updated by one join whose plan is fixed: no statistics can turn it into a scan.

mod bulk;
mod compare;
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
use crate::held::Held;
use crate::seam::{
    Applier, Commit, ConnectorError, CopiedTable, Load, LoadPart, Loaded, Making, ReplicaState,
    Result, Style, TableDdl,
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
    session: Held<Session>,
}

impl MySqlApplier {
    /// An applier without a session yet.
    pub fn new(config: MySqlApplierConfig) -> Self {
        MySqlApplier {
            config,
            session: Held::none(),
        }
    }
}

#[async_trait]
impl Applier for MySqlApplier {
    async fn open(&mut self) -> Result<ReplicaState> {
        self.close().await;
        let (session, state) = Session::open(&self.config).await?;
        self.session.put(session);
        Ok(state)
    }

    fn complete_conversion(&self, options: &mut ConvertOptions) {
        if let Some(session) = self.session.get() {
            options.mysql = session.flavor();
        }
    }

    async fn set_checkpoint(
        &mut self,
        expected: Option<&Checkpoint>,
        next: &Checkpoint,
    ) -> Result<()> {
        self.session
            .with(async |session| session.set_checkpoint(expected, next).await)
            .await
    }

    async fn begin(&mut self, expected: &Checkpoint) -> Result<()> {
        self.session
            .with(async |session| session.begin(expected))
            .await
    }

    async fn apply(&mut self, step: &Step, style: Style) -> Result<()> {
        self.session
            .with(async |session| session.apply(step, style).await)
            .await
    }

    async fn submit(
        &mut self,
        next: &Checkpoint,
        joined: &[TableName],
        _commit: Commit,
    ) -> Result<()> {
        self.session
            .with(async |session| session.commit(next, joined).await)
            .await
    }

    async fn fit(&mut self, route: &Route, ddl: Option<&TableDdl>) -> Result<()> {
        let mut session = self.session.take()?;
        let outcome = session.fit(route, ddl).await;
        // A refusal comes from comparing shapes, not from the server: nothing is under way, and
        // the caller may come back with the statements that mend it.
        let kept = outcome
            .as_ref()
            .err()
            .is_none_or(|error| error.kind == ErrorKind::Schema && error.code.is_none());
        if kept {
            self.session.put(session);
        }
        outcome
    }

    async fn load(&mut self, load: Load<'_>) -> Result<Loaded> {
        self.session
            .with(async |session| session.load(load).await)
            .await
    }

    fn loader(&self, number: usize) -> Option<Box<dyn Applier>> {
        let mut config = self.config.clone();
        config.replica = format!("{} load {number}", config.replica);
        Some(Box::new(MySqlApplier::new(config)))
    }

    async fn begin_parts(&mut self, making: Making<'_>, copy: &PartialCopy) -> Result<bool> {
        self.session
            .with(async |session| session.begin_parts(making, copy).await)
            .await
    }

    async fn resume_parts(&mut self, making: Making<'_>, copy: &PartialCopy) -> Result<bool> {
        self.session
            .with(async |session| session.resume_parts(making, copy).await)
            .await
    }

    async fn load_part(&mut self, part: LoadPart<'_>) -> Result<Loaded> {
        self.session
            .with(async |session| session.load_part(part).await)
            .await
    }

    async fn end_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
        copied: &CopiedTable,
    ) -> Result<()> {
        self.session
            .with(async |session| session.end_parts(making, copy, copied).await)
            .await
    }

    async fn finish_parts(&mut self, table: &TableName) -> Result<()> {
        self.session
            .with(async |session| session.finish_parts(table).await)
            .await
    }

    async fn add_foreign_keys(&mut self, statements: &[String]) -> Result<()> {
        self.session
            .with(async |session| session.add_foreign_keys(statements).await)
            .await
    }

    async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()> {
        self.session
            .with(async |session| session.forget_tables(tables).await)
            .await
    }

    async fn ping(&mut self) -> Result<()> {
        self.session
            .with(async |session| session.run("DO 1").await)
            .await
    }

    async fn close(&mut self) {
        if let Ok(session) = self.session.take() {
            session.close().await;
        }
    }
}

/// The error of a failpoint set to fail: as if the connection broke there.
fn failpoint(name: &str) -> Result<()> {
    repl_core::failpoint::hit(name)
        .map_err(|error| ConnectorError::new(ErrorKind::Connection, error.to_string()))
}
