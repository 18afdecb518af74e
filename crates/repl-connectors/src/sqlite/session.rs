//! One connection to a SQLite replica, and what is done on it. All of it blocks.

use std::path::Path;

use repl_core::ErrorKind;
use repl_core::batch::{Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::copy::PartialCopy;
use repl_core::failpoint::sabotage;
use repl_core::promotion::Handover;
use repl_core::schema::{TableName, TableSchema};
use rusqlite::Connection;

use super::error::{During, failpoint};
use super::fit::{fit, target_table};
use super::rows::{Writer, truncate};
use super::{connect, parts, registry};
use crate::seam::{
    ConnectorError, CopiedTable, Existing, ReplicaState, Result, Style, TableDdl, holds_rows,
};

/// What a load finds once it may put rows into its table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// A table it made.
    Made,
    /// A table without rows.
    Empty,
    /// Rows to compare.
    Filled,
}

/// One connection to the replica.
pub(super) struct Session {
    pub(super) db: Connection,
    pub(super) group: String,
    pub(super) writer: Writer,
    /// Checkpoint that the open target transaction builds on.
    pub(super) expected: Option<Checkpoint>,
    /// That transaction has the write lock.
    pub(super) started: bool,
}

impl Session {
    pub(super) fn open(
        path: &Path,
        group: String,
        create: bool,
    ) -> Result<(Session, ReplicaState)> {
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
    pub(super) fn lock(&self) -> Result<()> {
        if !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK").during("roll back")?;
        }
        self.db
            .execute_batch("BEGIN IMMEDIATE")
            .during("begin a transaction")
    }

    pub(super) fn in_transaction(
        &self,
        work: impl FnOnce(&Connection, &str) -> Result<()>,
    ) -> Result<()> {
        self.lock()?;
        work(&self.db, &self.group)?;
        self.db.execute_batch("COMMIT").during("commit")
    }

    pub(super) fn expected(&self) -> Result<&Checkpoint> {
        self.expected
            .as_ref()
            .ok_or_else(|| ConnectorError::new(ErrorKind::Internal, "no transaction was begun"))
    }

    /// Takes the write lock and compares the checkpoint, unless that was done already.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.started {
            return Ok(());
        }
        failpoint("sqlite.apply.before_begin")?;
        self.lock()?;
        registry::compare(&self.db, &self.group, self.expected()?)?;
        self.started = true;
        failpoint("sqlite.apply.after_cas")
    }

    pub(super) fn apply(&mut self, steps: &[(Step, Style)]) -> Result<()> {
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

    pub(super) fn commit(&mut self, next: &Checkpoint, joined: &[TableName]) -> Result<()> {
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
    pub(super) fn fit(
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

    /// Makes the table, or verifies the one that is there and does with its rows what is asked, in a
    /// transaction that stays open.
    pub(super) fn begin_load(
        &mut self,
        route: &Route,
        ddl: &TableDdl,
        create: bool,
        mut existing: Existing,
    ) -> Result<Ready> {
        let table = &route.target;
        if self.remove_left_copy(route)? && existing == Existing::Refuse {
            existing = Existing::Replace;
        }
        if target_table(&self.db, table)?.is_none() {
            if !create {
                return fit(&self.db, route, Some(ddl), &[]).map(|()| Ready::Empty);
            }
            return self.make_table(table, ddl).map(|()| Ready::Made);
        }
        match fit(&self.db, route, Some(ddl), &[]) {
            // Its rows go anyway, and so does a shape that cannot hold the new ones.
            Err(misfit)
                if misfit.kind == ErrorKind::Schema && create && existing != Existing::Refuse =>
            {
                self.db
                    .execute_batch(&format!("DROP TABLE {}", table.quoted()))
                    .during(format!("drop the table {table}, whose shape is another"))?;
                return self.make_table(table, ddl).map(|()| Ready::Made);
            }
            outcome => outcome?,
        }
        if !self.has_rows(table)? {
            return Ok(Ready::Empty);
        }
        let keyed = !route.schema.key_columns().is_empty();
        match existing {
            Existing::Refuse => {
                let feeding = registry::other_groups(&self.db, &self.group, route)?;
                Err(holds_rows(route, &feeding))
            }
            Existing::Compare if keyed => Ok(Ready::Filled),
            _ => truncate(&self.db, table, true).map(|()| Ready::Empty),
        }
    }

    /// Begins a transaction in which what an unfinished copy in parts left goes: the table, if the
    /// copy had made it. True when rows of one are still there.
    pub(super) fn remove_left_copy(&mut self, route: &Route) -> Result<bool> {
        self.writer.forget_shapes();
        self.lock()?;
        let source = &route.schema.table;
        let Some(made) = parts::made(&self.db, &self.group, source)? else {
            return Ok(false);
        };
        parts::forget(&self.db, &self.group, source)?;
        if made {
            let table = &route.target;
            self.db
                .execute_batch(&format!("DROP TABLE IF EXISTS {}", table.quoted()))
                .during(format!("drop the unfinished table {table}"))?;
        }
        Ok(!made)
    }

    pub(super) fn begin_parts(
        &mut self,
        route: &Route,
        ddl: &TableDdl,
        (create, existing): (bool, Existing),
        copy: &PartialCopy,
    ) -> Result<bool> {
        let table = &route.target;
        if copy.compare {
            return self.begin_compare(route, copy);
        }
        // Rows that are compared stay, whoever put them there.
        let ours = self.remove_left_copy(route)? && existing != Existing::Compare;
        let made = if target_table(&self.db, table)?.is_some() {
            let fits = fit(&self.db, route, Some(ddl), &[]).is_ok();
            if !fits || (!ours && self.has_rows(table)?) {
                self.db.execute_batch("ROLLBACK").during("roll back")?;
                return Ok(false);
            }
            truncate(&self.db, table, true)?;
            false
        } else {
            if !create {
                return fit(&self.db, route, Some(ddl), &[]).map(|()| false);
            }
            self.make_table(table, ddl)?;
            true
        };
        parts::store(&self.db, &self.group, &route.schema.table, made, copy)?;
        failpoint("sqlite.parts.before_begin")?;
        self.db.execute_batch("COMMIT").during("commit")?;
        failpoint("sqlite.parts.begun")?;
        Ok(true)
    }

    /// Begins to compare part by part, if the table's key orders rows as integers and no other row
    /// can stand in the way of one of a later part.
    fn begin_compare(&mut self, route: &Route, copy: &PartialCopy) -> Result<bool> {
        self.writer.forget_shapes();
        self.lock()?;
        let (source, table) = (&route.schema.table, &route.target);
        let ready = parts::made(&self.db, &self.group, source)? != Some(true)
            && target_table(&self.db, table)?.is_some_and(|found| found.has_integers(route))
            && fit(&self.db, route, None, &[]).is_ok()
            && parts::can_settle(&self.db, table, &route.schema)?
            && self.has_rows(table)?;
        if !ready {
            self.db.execute_batch("ROLLBACK").during("roll back")?;
            return Ok(false);
        }
        parts::store(&self.db, &self.group, source, false, copy)?;
        failpoint("sqlite.parts.before_begin")?;
        self.db.execute_batch("COMMIT").during("commit")?;
        failpoint("sqlite.parts.begun")?;
        Ok(true)
    }

    pub(super) fn resume_parts(&mut self, route: &Route, copy: &PartialCopy) -> Result<bool> {
        self.writer.forget_shapes();
        self.lock()?;
        let source = &route.schema.table;
        let fits = target_table(&self.db, &route.target)?.is_some()
            && fit(&self.db, route, None, &[]).is_ok()
            && parts::can_settle(&self.db, &route.target, &route.schema)?;
        let goes_on = fits && parts::update(&self.db, &self.group, source, copy)?;
        self.db.execute_batch("COMMIT").during("commit")?;
        failpoint("sqlite.parts.resumed")?;
        Ok(goes_on)
    }

    pub(super) fn end_parts(
        &mut self,
        route: &Route,
        ddl: &TableDdl,
        copy: &PartialCopy,
        copied: &CopiedTable,
    ) -> Result<()> {
        self.writer.forget_shapes();
        self.lock()?;
        let source = &route.schema.table;
        let made = parts::made(&self.db, &self.group, source)?.unwrap_or(false);
        if made {
            self.run_all(source, &ddl.key)?;
        }
        if copy.cut.settles() {
            let mut left = copy.clone();
            if made {
                left.finish.clone_from(&ddl.after);
            }
            parts::store(&self.db, &self.group, source, made, &left)?;
        } else {
            if made {
                self.run_all(source, &ddl.after)?;
            }
            parts::forget(&self.db, &self.group, source)?;
        }
        registry::copied(&self.db, &self.group, &route.schema, copied)?;
        failpoint("sqlite.parts.before_end")?;
        self.db.execute_batch("COMMIT").during("commit")?;
        failpoint("sqlite.parts.ended")
    }

    pub(super) fn finish_parts(&mut self, table: &TableName) -> Result<()> {
        self.writer.forget_shapes();
        self.lock()?;
        let statements = parts::finish(&self.db, &self.group, table)?;
        self.run_all(table, &statements)?;
        parts::forget(&self.db, &self.group, table)?;
        failpoint("sqlite.parts.before_finish")?;
        self.db.execute_batch("COMMIT").during("commit")?;
        failpoint("sqlite.parts.finished")
    }

    pub(super) fn run_all(&self, table: &TableName, statements: &[String]) -> Result<()> {
        for sql in statements {
            self.db
                .execute_batch(sql)
                .during(format!("make an index of the table {table}"))?;
        }
        Ok(())
    }

    pub(super) fn has_rows(&self, table: &TableName) -> Result<bool> {
        self.db
            .query_row(
                &format!("SELECT EXISTS (SELECT 1 FROM {})", table.quoted()),
                [],
                |row| row.get(0),
            )
            .during(format!("look into the table {table}"))
    }

    fn make_table(&self, table: &TableName, ddl: &TableDdl) -> Result<()> {
        for sql in ddl.before.iter().chain(&ddl.create) {
            self.db
                .execute_batch(sql)
                .during(format!("make the table {table}"))?;
        }
        Ok(())
    }

    pub(super) fn end_load(
        &mut self,
        schema: &TableSchema,
        copied: &CopiedTable,
        after: &[String],
    ) -> Result<()> {
        self.run_all(&schema.table, after)?;
        registry::copied(&self.db, &self.group, schema, copied)?;
        failpoint("sqlite.load.before_commit")?;
        self.db.execute_batch("COMMIT").during("commit")?;
        failpoint("sqlite.load.after_commit")
    }

    /// See [`crate::seam::Applier::adopt`].
    pub(super) fn adopt(&mut self, handover: &Handover) -> Result<()> {
        let before = registry::state(&self.db, &self.group)?.checkpoint;
        if before.as_ref() == Some(&handover.checkpoint) {
            return Ok(());
        }
        self.writer.forget_shapes();
        self.in_transaction(|db, group| {
            registry::clear(db, group)?;
            for schema in &handover.tables {
                let copied = CopiedTable {
                    incarnation: schema.incarnation.clone(),
                    cut: None,
                };
                registry::copied(db, group, schema, &copied)?;
            }
            registry::compare_and_set(db, group, before.as_ref(), &handover.checkpoint)
        })
    }
}
