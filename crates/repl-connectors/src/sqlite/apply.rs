//! Applies transactions to a SQLite replica.
//!
//! All work on the connection happens in blocking tasks. Small steps are kept until the commit, so
//! that a short transaction costs one change of threads.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use repl_core::ErrorKind;
use repl_core::batch::{Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::failpoint::sabotage;
use repl_core::schema::{TableName, TableSchema};
use rusqlite::Connection;

use super::error::{During, failpoint, located};
use super::fit::{fit, target_table};
use super::rows::{Writer, truncate};
use super::{SqliteTarget, connect, registry};
use crate::seam::{
    Applier, Commit, ConnectorError, CopiedTable, Load, ReplicaState, Result, Style, TableDdl,
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

    async fn load_rows(&mut self, load: &mut Load<'_>) -> Result<u64> {
        let mut loaded = 0;
        loop {
            let rows = load.rows.next_rows().await?;
            if rows.is_empty() {
                return Ok(loaded);
            }
            loaded += rows.len() as u64;
            let route = load.route.clone();
            self.with(move |session| session.writer.insert(&session.db, &route, &rows))
                .await?;
            (load.progress)(loaded);
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

    async fn load(&mut self, mut load: Load<'_>) -> Result<u64> {
        let (route, ddl) = (load.route.clone(), load.ddl.clone());
        let (create, replace) = (load.create, load.replace);
        let made = self
            .with(move |session| session.begin_load(&route, &ddl, create, replace))
            .await?;
        let loaded = match self.load_rows(&mut load).await {
            Ok(loaded) => loaded,
            Err(error) => {
                self.close().await;
                return Err(error);
            }
        };
        let (schema, copied) = (Arc::clone(&load.route.schema), load.copied.clone());
        let after = if made {
            load.ddl.after.clone()
        } else {
            Vec::new()
        };
        self.with(move |session| session.end_load(&schema, &copied, &after))
            .await?;
        Ok(loaded)
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

/// One connection to the replica.
struct Session {
    db: Connection,
    group: String,
    writer: Writer,
    /// Checkpoint that the open target transaction builds on.
    expected: Option<Checkpoint>,
    /// That transaction has the write lock.
    started: bool,
}

impl Session {
    fn open(path: &Path, group: String, create: bool) -> Result<(Session, ReplicaState)> {
        let db = connect::replica(path, create)?;
        registry::create(&db)?;
        let state = registry::state(&db, &group)?;
        Ok((
            Session {
                db,
                group,
                writer: Writer::default(),
                expected: None,
                started: false,
            },
            state,
        ))
    }

    /// Begins a transaction. One that is still open belongs to a call that was given up.
    fn lock(&self) -> Result<()> {
        if !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK").during("roll back")?;
        }
        self.db
            .execute_batch("BEGIN IMMEDIATE")
            .during("begin a transaction")
    }

    fn in_transaction(&self, work: impl FnOnce(&Connection, &str) -> Result<()>) -> Result<()> {
        self.lock()?;
        work(&self.db, &self.group)?;
        self.db.execute_batch("COMMIT").during("commit")
    }

    fn expected(&self) -> Result<&Checkpoint> {
        self.expected
            .as_ref()
            .ok_or_else(|| ConnectorError::new(ErrorKind::Internal, "no transaction was begun"))
    }

    /// Takes the write lock and compares the checkpoint, unless that was done already.
    fn start(&mut self) -> Result<()> {
        if self.started {
            return Ok(());
        }
        failpoint("sqlite.apply.before_begin")?;
        self.lock()?;
        registry::compare(&self.db, &self.group, self.expected()?)?;
        self.started = true;
        failpoint("sqlite.apply.after_cas")
    }

    fn apply(&mut self, steps: &[(Step, Style)]) -> Result<()> {
        self.start()?;
        for (step, style) in steps {
            match step {
                Step::Net(tables) => {
                    for net in tables {
                        self.writer.net(&self.db, net, *style)?;
                    }
                }
                Step::Ordered(changes) => {
                    for (route, change) in changes {
                        self.writer.change(&self.db, route, change)?;
                    }
                }
                Step::Truncate {
                    tables,
                    restart_identity,
                } => {
                    for route in tables {
                        truncate(&self.db, &route.target, *restart_identity)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self, next: &Checkpoint, joined: &[TableName]) -> Result<()> {
        let outside = sabotage("checkpoint-outside-transaction");
        if !outside {
            registry::compare_and_set(&self.db, &self.group, Some(self.expected()?), next)?;
            registry::joined(&self.db, &self.group, joined)?;
        }
        failpoint("sqlite.apply.before_commit")?;
        self.db.execute_batch("COMMIT").during("commit")?;
        failpoint("sqlite.apply.after_commit")?;
        if outside {
            // Deliberately wrong, and compiled in for the fault tests only: a crash between the
            // two commits applies the changes twice.
            self.in_transaction(|db, group| {
                registry::compare_and_set(db, group, Some(self.expected()?), next)?;
                registry::joined(db, group, joined)
            })?;
        }
        self.expected = None;
        self.started = false;
        Ok(())
    }

    /// Adapts a table: within the open target transaction, after the steps that came before, or in
    /// a transaction of its own. The inner error is a refusal, after which the session goes on: the
    /// caller may come back with the statements that mend it.
    fn fit(
        &mut self,
        steps: &[(Step, Style)],
        route: &Route,
        ddl: Option<&TableDdl>,
    ) -> Result<Result<()>> {
        let within = self.expected.is_some();
        if within {
            self.apply(steps)?;
        } else {
            self.lock()?;
        }
        self.writer.forget_shapes();
        let doing = "adapt a table";
        self.db.execute_batch("SAVEPOINT fit").during(doing)?;
        let had = registry::columns(&self.db, &self.group, &route.schema.table)?;
        let outcome = fit(&self.db, route, ddl, &had)
            .and_then(|()| registry::fitted(&self.db, &self.group, &route.schema));
        let refused = match &outcome {
            Err(error) if error.kind != ErrorKind::Schema => return Err(error.clone()),
            outcome => outcome.is_err(),
        };
        if refused {
            self.db.execute_batch("ROLLBACK TO fit").during(doing)?;
        }
        self.db.execute_batch("RELEASE fit").during(doing)?;
        if !within {
            self.db.execute_batch("COMMIT").during("commit")?;
        }
        Ok(outcome)
    }

    /// Makes or empties the table, in a transaction that stays open; returns whether it was made.
    fn begin_load(
        &mut self,
        route: &Route,
        ddl: &TableDdl,
        create: bool,
        replace: bool,
    ) -> Result<bool> {
        let table = &route.target;
        self.writer.forget_shapes();
        self.lock()?;
        if target_table(&self.db, table)?.is_none() {
            if !create {
                return fit(&self.db, route, Some(ddl), &[]).map(|()| false);
            }
            return self.make_table(table, ddl);
        }
        match fit(&self.db, route, Some(ddl), &[]) {
            // Its rows go anyway, and so does a shape that cannot hold the new ones.
            Err(misfit) if misfit.kind == ErrorKind::Schema && create && replace => {
                self.db
                    .execute_batch(&format!("DROP TABLE {}", table.quoted()))
                    .during(format!("drop the table {table}, whose shape is another"))?;
                return self.make_table(table, ddl);
            }
            outcome => outcome?,
        }
        let filled: bool = self
            .db
            .query_row(
                &format!("SELECT EXISTS (SELECT 1 FROM {})", table.quoted()),
                [],
                |row| row.get(0),
            )
            .during(format!("look into the table {table}"))?;
        if filled && !replace {
            return Err(ConnectorError::new(
                ErrorKind::Conflict,
                format!("the replica's table {table} holds rows already"),
            )
            .advice(format!(
                "empty it (DELETE FROM {};), or let it be replaced: replctl resync",
                table.quoted()
            ))
            .table(table.to_string()));
        }
        if filled {
            truncate(&self.db, table, true)?;
        }
        Ok(false)
    }

    fn make_table(&self, table: &TableName, ddl: &TableDdl) -> Result<bool> {
        for sql in ddl.before.iter().chain(&ddl.create) {
            self.db
                .execute_batch(sql)
                .during(format!("make the table {table}"))?;
        }
        Ok(true)
    }

    fn end_load(
        &mut self,
        schema: &TableSchema,
        copied: &CopiedTable,
        after: &[String],
    ) -> Result<()> {
        for sql in after {
            self.db
                .execute_batch(sql)
                .during(format!("make an index of the table {}", schema.table))?;
        }
        registry::copied(&self.db, &self.group, schema, copied)?;
        failpoint("sqlite.load.before_commit")?;
        self.db.execute_batch("COMMIT").during("commit")?;
        failpoint("sqlite.load.after_commit")
    }
}
