//! Applies transactions to a SQLite replica.
//!
//! All work on the connection happens in blocking tasks. Small steps are kept until the commit, so
//! that a short transaction costs one change of threads.

use std::sync::Arc;

use async_trait::async_trait;
use repl_core::ErrorKind;
use repl_core::batch::{Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::copy::PartialCopy;
use repl_core::cut::Cut;
use repl_core::promotion::Handover;
use repl_core::schema::TableName;

use super::compare::{Compare, key_names};
use super::error::{During, failpoint, located};
use super::session::{Ready, Session};
use super::{SqliteTarget, parts, registry};
use crate::copies::not_in_numbers;
use crate::seam::{
    Applier, Commit, ConnectorError, CopiedTable, Load, LoadPart, Loaded, Making, ReplicaState,
    Result, Snapshot, Style, TableDdl,
};

/// Row changes kept before they are sent to the database ahead of the commit.
const KEPT_ROWS: usize = 2_000;

/// Writes to one SQLite replica.
pub struct SqliteApplier {
    target: SqliteTarget,
    create: bool,
    session: Option<Box<Session>>,
    /// Steps of the open transaction that were not sent yet.
    kept: Vec<(Step, Style)>,
    kept_rows: usize,
}

impl SqliteApplier {
    /// An applier for this database; nothing is opened yet. With `create` an absent file is made.
    pub fn new(target: SqliteTarget, create: bool) -> Self {
        SqliteApplier {
            target,
            create,
            session: None,
            kept: Vec::new(),
            kept_rows: 0,
        }
    }

    /// Runs work on the session. After an error the session is closed, which rolls back.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(mut session) = self.session.take() else {
            return Err(ConnectorError::new(
                ErrorKind::Connection,
                "the replica is not open",
            ));
        };
        let ended = tokio::task::spawn_blocking(move || {
            let outcome = work(&mut session);
            let kept = outcome.is_ok().then_some(session);
            (kept, outcome)
        })
        .await;
        let (session, outcome) = ended.map_err(|error| {
            let what = format!("a worker thread ended early: {error}");
            ConnectorError::new(ErrorKind::Internal, what)
        })?;
        self.session = session;
        located(outcome, &self.target)
    }

    fn take_kept(&mut self) -> Vec<(Step, Style)> {
        self.kept_rows = 0;
        std::mem::take(&mut self.kept)
    }

    /// Inserts all rows of an opened table or range in the open transaction, or with `within`, a
    /// condition on `t`, makes those in the range equal to them. It is rolled back if that fails.
    async fn load_rows(
        &mut self,
        route: &Route,
        within: Option<String>,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Loaded> {
        let loaded = match within {
            None => self.insert_rows(route, source, progress).await,
            Some(within) => self.compare_rows(route, within, source, progress).await,
        };
        if loaded.is_err() {
            self.close().await;
        }
        loaded
    }

    async fn insert_rows(
        &mut self,
        route: &Route,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Loaded> {
        let mut loaded = 0;
        loop {
            let rows = source.next_rows().await?;
            if rows.is_empty() {
                return Ok(Loaded::all(loaded));
            }
            loaded += rows.len() as u64;
            let route = route.clone();
            self.with(move |session| session.writer.insert(&session.db, &route, &rows))
                .await?;
            progress(loaded);
        }
    }

    async fn compare_rows(
        &mut self,
        route: &Route,
        within: String,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Loaded> {
        let shape = route.clone();
        let compare = self.with(move |session| Compare::begin(&session.db, shape, within));
        let compare = Arc::new(compare.await?);
        let mut loaded = 0;
        loop {
            let rows = source.next_rows().await?;
            let compare = Arc::clone(&compare);
            if rows.is_empty() {
                let written = self.with(move |session| compare.end(&session.db)).await?;
                return Ok(Loaded {
                    rows: loaded,
                    written: Some(written),
                });
            }
            loaded += rows.len() as u64;
            self.with(move |session| compare.add(&session.db, &rows))
                .await?;
            progress(loaded);
        }
    }
}

#[async_trait]
impl Applier for SqliteApplier {
    async fn open(&mut self) -> Result<ReplicaState> {
        self.close().await;
        let (path, group, create) = (
            self.target.path.clone(),
            self.target.group.clone(),
            self.create,
        );
        let opened = super::capture::blocking(move || Session::open(&path, group, create)).await;
        let (session, state) = located(opened, &self.target)?;
        self.session = Some(Box::new(session));
        Ok(state)
    }

    async fn set_checkpoint(
        &mut self,
        expected: Option<&Checkpoint>,
        next: &Checkpoint,
    ) -> Result<()> {
        let (expected, next) = (expected.cloned(), next.clone());
        self.with(move |session| {
            session.in_transaction(|db, group| {
                registry::compare_and_set(db, group, expected.as_ref(), &next)
            })
        })
        .await
    }

    async fn begin(&mut self, expected: &Checkpoint) -> Result<()> {
        self.take_kept();
        let Some(session) = &mut self.session else {
            return Err(ConnectorError::new(
                ErrorKind::Connection,
                "the replica is not open",
            ));
        };
        session.expected = Some(expected.clone());
        session.started = false;
        Ok(())
    }

    async fn apply(&mut self, step: &Step, style: Style) -> Result<()> {
        self.kept_rows += rows_of(step);
        self.kept.push((step.clone(), style));
        if self.kept_rows < KEPT_ROWS {
            return Ok(());
        }
        let steps = self.take_kept();
        self.with(move |session| session.apply(&steps)).await
    }

    async fn submit(
        &mut self,
        next: &Checkpoint,
        joined: &[TableName],
        _commit: Commit,
    ) -> Result<()> {
        let steps = self.take_kept();
        let (next, joined) = (next.clone(), joined.to_vec());
        self.with(move |session| {
            session.apply(&steps)?;
            session.commit(&next, &joined)
        })
        .await
    }

    async fn fit(&mut self, route: &Route, ddl: Option<&TableDdl>) -> Result<()> {
        let steps = self.take_kept();
        let (route, ddl) = (route.clone(), ddl.cloned());
        let fitted = self
            .with(move |session| session.fit(&steps, &route, ddl.as_ref()))
            .await?;
        located(fitted, &self.target)
    }

    async fn load(&mut self, load: Load<'_>) -> Result<Loaded> {
        let (route, ddl) = (load.route.clone(), load.ddl.clone());
        let (create, existing) = (load.create, load.existing);
        let ready = self
            .with(move |session| session.begin_load(&route, &ddl, create, existing))
            .await?;
        let within = (ready == Ready::Filled).then(String::new);
        let loaded = self
            .load_rows(load.route, within, load.rows, load.progress)
            .await?;
        let (schema, copied) = (Arc::clone(&load.route.schema), load.copied.clone());
        let after = if ready == Ready::Made {
            [load.ddl.key.as_slice(), &load.ddl.after].concat()
        } else {
            Vec::new()
        };
        self.with(move |session| session.end_load(&schema, &copied, &after))
            .await?;
        Ok(loaded)
    }

    async fn begin_parts(&mut self, making: Making<'_>, copy: &PartialCopy) -> Result<bool> {
        let (route, ddl, copy) = (making.route.clone(), making.ddl.clone(), copy.clone());
        let how = (making.create, making.existing);
        self.with(move |session| session.begin_parts(&route, &ddl, how, &copy))
            .await
    }

    async fn resume_parts(&mut self, making: Making<'_>, copy: &PartialCopy) -> Result<bool> {
        let (route, copy) = (making.route.clone(), copy.clone());
        self.with(move |session| session.resume_parts(&route, &copy))
            .await
    }

    async fn load_part(&mut self, part: LoadPart<'_>) -> Result<Loaded> {
        let within = match part.copy.compare {
            false => None,
            true => {
                let range = part.copy.range(part.part).integers(&part.copy.schema);
                let range = range.ok_or_else(|| not_in_numbers(&part.copy.schema.table))?;
                Some(range.condition(&key_names(part.route, "t.")))
            }
        };
        let (table, id, number) = (part.copy.schema.table.clone(), part.copy.id, part.part);
        let claimed = table.clone();
        self.with(move |session| {
            session.lock()?;
            parts::claim(&session.db, &session.group, &claimed, id, number)
        })
        .await?;
        let loaded = self
            .load_rows(part.route, within, part.rows, part.progress)
            .await?;
        self.with(move |session| {
            parts::loaded(&session.db, &session.group, &table, number, loaded.rows)?;
            failpoint("sqlite.part.before_commit")?;
            session.db.execute_batch("COMMIT").during("commit")?;
            failpoint("sqlite.part.after_commit")
        })
        .await?;
        Ok(loaded)
    }

    async fn end_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
        copied: &CopiedTable,
    ) -> Result<()> {
        let (route, ddl) = (making.route.clone(), making.ddl.clone());
        let (copy, copied) = (copy.clone(), copied.clone());
        self.with(move |session| session.end_parts(&route, &ddl, &copy, &copied))
            .await
    }

    async fn finish_parts(&mut self, table: &TableName) -> Result<()> {
        let table = table.clone();
        self.with(move |session| session.finish_parts(&table)).await
    }

    async fn add_foreign_keys(&mut self, _statements: &[String]) -> Result<()> {
        // In SQLite they are part of the table's definition.
        Ok(())
    }

    async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()> {
        let tables = tables.to_vec();
        self.with(move |session| {
            session.in_transaction(|db, group| registry::forget(db, group, &tables))
        })
        .await
    }

    async fn adopt(&mut self, handover: &Handover) -> Result<()> {
        let handover = handover.clone();
        self.with(move |session| session.adopt(&handover)).await
    }

    fn can_recut(&self) -> bool {
        true
    }

    async fn recut(&mut self, tables: &[TableName], cut: &Cut) -> Result<()> {
        let steps = self.take_kept();
        let (tables, cut) = (tables.to_vec(), cut.clone());
        self.with(move |session| {
            session.apply(&steps)?;
            registry::recut(&session.db, &session.group, &tables, &cut)
        })
        .await
    }

    async fn close(&mut self) {
        self.take_kept();
        if let Some(session) = self.session.take() {
            // Closing may write a checkpoint of the WAL file.
            let _ = tokio::task::spawn_blocking(move || drop(session)).await;
        }
    }
}

fn rows_of(step: &Step) -> usize {
    match step {
        Step::Net(tables) => tables
            .iter()
            .map(|net| {
                let copies: u64 = net.multiset.iter().map(|(_, n)| n.unsigned_abs()).sum();
                net.deletes.len() + net.updates.len() + net.inserts.len() + copies as usize
            })
            .sum(),
        Step::Ordered(changes) => changes.len(),
        Step::Truncate { .. } => KEPT_ROWS,
    }
}
