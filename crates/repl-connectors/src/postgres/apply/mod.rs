//! Writes to a PostgreSQL replica.
//!
//! A target transaction is one pipeline: BEGIN, the lock on the checkpoint, the changes, the new
//! checkpoint, COMMIT, Sync; where the end is known at the start, only the move of the checkpoint, the
//! changes and Sync. A small batch is one write and one round trip; after any failure the
//! server skips the rest, COMMIT included. Whatever must hold (the checkpoint's value, the number
//! of rows touched, deferrable constraints) is verified by the statements themselves.
//!
//! The next transaction is sent before the reply to the one before it, so that distance does not
//! cost throughput. When transaction n fails, n+1 begins and does not find the checkpoint that n was
//! to leave, or finds the server in a failed transaction, and so do all that are on the wire: nothing
//! behind a failure is ever applied.

// Errors are rare, and made for people: their size does not matter.
#![allow(clippy::result_large_err)]

mod adopt;
mod compare;
mod content;
mod counts;
mod enums;
mod fit;
mod inherit;
mod load;
mod meddling;
mod metadata;
mod ordered;
mod parts;
mod queue;
mod rewrite;
mod session;
mod settle;
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
use repl_core::copy::PartialCopy;
use repl_core::cut::Cut;
use repl_core::promotion::Handover;
use repl_core::schema::TableName;

pub use self::content::PgContents;
use self::session::Session;
use super::target::PgTarget;
use crate::held::Held;
use crate::seam::{
    Applier, Commit, ConnectorError, CopiedTable, EnumType, FollowedEnums, Inherits, Load,
    LoadPart, Loaded, Making, ReplicaState, Result, Style, TableDdl,
};

/// Most transactions on the wire at once. A full batch takes some 50 ms, so this covers round trips
/// beyond 200 ms; small ones beyond it are better grouped than sent one by one.
const DEPTH: usize = 8;

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
    session: Held<Session>,
}

impl PgApplier {
    /// An applier without a session yet.
    pub fn new(config: PgApplierConfig) -> Self {
        PgApplier {
            config,
            session: Held::none(),
        }
    }
}

#[async_trait]
impl Applier for PgApplier {
    async fn open(&mut self) -> Result<ReplicaState> {
        self.close().await;
        let (session, state) = Session::open(&self.config).await?;
        self.session.put(session);
        Ok(state)
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

    async fn begin_whole(
        &mut self,
        expected: &Checkpoint,
        next: &Checkpoint,
        commit: Commit,
    ) -> Result<()> {
        self.session
            .with(async |session| session.begin_whole(expected, next, commit))
            .await
    }

    async fn apply(&mut self, step: &Step, style: Style) -> Result<()> {
        self.session
            .with(async |session| session.apply(step, style).await)
            .await
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    async fn submit(
        &mut self,
        next: &Checkpoint,
        joined: &[TableName],
        commit: Commit,
    ) -> Result<()> {
        self.session
            .with(async |session| session.submit(next, joined, commit).await)
            .await
    }

    async fn settle(&mut self) -> Result<()> {
        // Left in place meanwhile: giving up waiting changes nothing.
        let outcome = self.session.in_place()?.settle().await;
        if outcome.is_err() {
            self.session = Held::none();
        }
        outcome
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
        Some(Box::new(PgApplier::new(config)))
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

    async fn inherit(&mut self, tables: &[Inherits], held: &[TableName], make: bool) -> Result<()> {
        self.session
            .with(async |session| session.inherit(tables, held, make).await)
            .await
    }

    async fn follow_enums(&mut self, enums: &[EnumType]) -> Result<FollowedEnums> {
        self.session
            .with(async |session| session.follow_enums(enums).await)
            .await
    }

    async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()> {
        self.session
            .with(async |session| session.forget_tables(tables).await)
            .await
    }

    async fn adopt(&mut self, handover: &Handover) -> Result<()> {
        self.session
            .with(async |session| session.adopt(handover).await)
            .await
    }

    fn can_recut(&self) -> bool {
        true
    }

    async fn recut(&mut self, tables: &[TableName], cut: &Cut) -> Result<()> {
        self.session
            .with(async |session| session.recut(tables, cut))
            .await
    }

    async fn ping(&mut self) -> Result<()> {
        self.session
            .with(async |session| session.client.simple("SELECT 1").await.map(drop))
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
