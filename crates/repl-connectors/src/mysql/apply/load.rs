//! The first copy of a table.
//!
//! Statements that make tables and indexes commit implicitly here. So the intent is recorded
//! before, and what is left to do after the rows were committed is recorded with them: a crash at
//! any point leaves either an empty table of ours, which the next load makes anew, or a complete
//! one whose indexes the next session finishes.

use std::sync::Arc;

use mysql_async::Value as Param;
use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::schema::TableName;

use super::bulk::Into;
use super::metadata::{Target, text};
use super::session::{Session, missing_table};
use super::sql::quote_table;
use super::store::TABLE;
use super::{failpoint, fit};
use crate::seam::{ConnectorError, Existing, Load, Loaded, Result, Snapshot, TableDdl, holds_rows};

/// Seconds a load may wait for the source's next rows.
pub(super) const LOAD_IDLE: u32 = 3_600;
/// Errors that say a statement of the interrupted kind had been carried out before.
const DONE_ALREADY: [&str; 7] = ["1050", "1060", "1061", "1068", "1826", "3822", "1022"];

/// What a load finds once it may put rows into its table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// A table it made.
    Made,
    /// A table without rows.
    Empty,
    /// Rows to compare.
    Filled,
}

impl Session {
    pub(super) async fn load(&mut self, mut load: Load<'_>) -> Result<Loaded> {
        self.forget_target(&load.route.target).await?;
        let source = load.route.schema.table.clone();
        let left = self.remove_left_copy(load.route).await?;
        if left && load.existing == Existing::Refuse {
            load.existing = Existing::Replace;
        }
        let ready = self.make_or_empty(&mut load).await?;
        let made = ready == Ready::Made;
        let after = [load.ddl.key.as_slice(), &load.ddl.after].concat();
        let target = self.target(&Arc::new(load.route.clone())).await?;
        // The source may be slow.
        self.allow_idle(LOAD_IDLE).await?;
        let loaded = match ready {
            Ready::Filled => self.compare(&target, "", load.rows, load.progress).await?,
            _ => {
                let into = Into::table(&target);
                let rows = self.copy_from(&target, &into, load.rows, load.progress);
                Loaded::all(rows.await?)
            }
        };
        self.allow_idle(super::session::IDLE).await?;
        self.register_table(&source, load.copied).await?;
        if made {
            self.record_statements(&source, &after).await?;
        }
        failpoint("mysql.load.before_commit")?;
        self.run("COMMIT").await?;
        failpoint("mysql.load.after_commit")?;
        if made {
            self.finish_load(&source, &after, 0).await?;
        }
        // Indexes made after the rows were not there when the catalog was read.
        self.forget_target(&load.route.target).await?;
        Ok(loaded)
    }

    /// Makes the table, or verifies the one that is there and does with its rows what is asked.
    async fn make_or_empty(&mut self, load: &mut Load<'_>) -> Result<Ready> {
        let table = &load.route.target;
        let mut present = self.catalog(table).await?;
        if present.is_some()
            && self
                .is_left_over(load.route, load.create, load.existing)
                .await?
        {
            self.run(&format!("DROP TABLE {}", quote_table(table)))
                .await?;
            present = None;
        }
        let Some(catalog) = present else {
            if !load.create {
                return Err(missing_table(table));
            }
            self.make_table(load.route, load.ddl).await?;
            return Ok(Ready::Made);
        };
        fit::check(load.route, &catalog)?;
        let name = quote_table(table);
        if !self.has_rows(&name).await? {
            return Ok(Ready::Empty);
        }
        let keyed = !load.route.schema.key_columns().is_empty();
        match load.existing {
            Existing::Refuse => {
                let feeding = self.other_groups(load.route).await?;
                return Err(holds_rows(load.route, &feeding));
            }
            Existing::Compare if keyed => return Ok(Ready::Filled),
            // TRUNCATE would commit, and readers find an empty table until the copy is there.
            _ => self.run(&format!("DELETE FROM {name}")).await?,
        }
        Ok(Ready::Empty)
    }

    /// Makes a table, with the intent recorded before.
    pub(super) async fn make_table(&mut self, route: &Route, ddl: &TableDdl) -> Result<()> {
        fit::check_names(route)?;
        self.record_intent(route).await?;
        failpoint("mysql.load.after_intent")?;
        for statement in ddl.before.iter().chain(&ddl.create) {
            self.run(statement).await?;
        }
        failpoint("mysql.load.after_create")
    }

    pub(super) async fn has_rows(&mut self, name: &str) -> Result<bool> {
        let sql = format!("SELECT 1 FROM {name} LIMIT 1");
        Ok(!self.rows(&sql, Vec::new()).await?.is_empty())
    }

    /// Whether a table is one we made for a load that came to nothing, and that may go: it is
    /// empty, or all its rows are to be replaced.
    pub(super) async fn is_left_over(
        &mut self,
        route: &Route,
        create: bool,
        existing: Existing,
    ) -> Result<bool> {
        let sql = format!("SELECT target_name FROM {} WHERE {TABLE}", self.store.loads);
        let params = self.table_params(&route.schema.table);
        let rows = self.rows(&sql, params).await?;
        let name = quote_table(&route.target);
        if !create || rows.first().is_none_or(|row| text(row, 0) != name) {
            return Ok(false);
        }
        Ok(existing == Existing::Replace || !self.has_rows(&name).await?)
    }

    /// Records that a table is about to be made.
    async fn record_intent(&mut self, route: &Route) -> Result<()> {
        let params = self.table_params(&route.schema.table);
        let forget = format!("DELETE FROM {} WHERE {TABLE}", self.store.loads);
        self.exec(&forget, params.clone()).await?;
        let record = format!(
            "INSERT INTO {} (group_name, table_schema, table_name, target_name, done) \
             VALUES (?, ?, ?, ?, 0)",
            self.store.loads
        );
        let mut params = params;
        params.push(quote_table(&route.target).into());
        self.exec(&record, params).await?;
        self.run("COMMIT").await
    }

    /// Records the statements that are left once the rows are committed, in the same transaction.
    pub(super) async fn record_statements(
        &mut self,
        source: &TableName,
        after: &[String],
    ) -> Result<()> {
        let json = serde_json::to_string(after)
            .map_err(|error| ConnectorError::new(ErrorKind::Internal, error.to_string()))?;
        let sql = format!(
            "UPDATE {} SET statements = ?, done = 0 WHERE {TABLE}",
            self.store.loads
        );
        let mut params = vec![Param::from(json)];
        params.extend(self.table_params(source));
        self.exec(&sql, params).await.map(|_| ())
    }

    /// Finishes loads that a crash interrupted after their rows were committed.
    pub(super) async fn finish_loads(&mut self) -> Result<()> {
        let sql = format!(
            "SELECT table_schema, table_name, statements, done FROM {} \
             WHERE group_name = ? AND statements IS NOT NULL",
            self.store.loads
        );
        let group = vec![self.config.group.as_str().into()];
        for row in self.rows(&sql, group).await? {
            let table = TableName::new(text(&row, 0), text(&row, 1));
            let statements: Vec<String> = serde_json::from_str(&text(&row, 2)).map_err(|_| {
                ConnectorError::new(
                    ErrorKind::History,
                    format!("the record of the load of {table} was edited or is damaged"),
                )
                .advice("have the table copied again")
            })?;
            let done = text(&row, 3).parse().unwrap_or(0);
            self.finish_load(&table, &statements, done).await?;
        }
        Ok(())
    }

    pub(super) async fn finish_load(
        &mut self,
        table: &TableName,
        statements: &[String],
        done: usize,
    ) -> Result<()> {
        let progress = format!("UPDATE {} SET done = ? WHERE {TABLE}", self.store.loads);
        for (at, statement) in statements.iter().enumerate().skip(done) {
            failpoint("mysql.load.before_index")?;
            match self.run(statement).await {
                Err(error) if is_done_already(&error) => {}
                other => other.map_err(|error| error.table(table.to_string()))?,
            }
            failpoint("mysql.load.after_index")?;
            let mut params = vec![Param::from(at + 1)];
            params.extend(self.table_params(table));
            self.exec(&progress, params).await?;
            self.run("COMMIT").await?;
        }
        let forget = format!("DELETE FROM {} WHERE {TABLE}", self.store.loads);
        let params = self.table_params(table);
        self.exec(&forget, params).await?;
        self.run("COMMIT").await
    }

    /// While one batch of rows goes to the server, the next is read from the source.
    pub(super) async fn copy_from(
        &mut self,
        target: &Arc<Target>,
        into: &Into,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        let mut loaded = 0;
        let mut rows = source.next_rows().await?;
        while !rows.is_empty() {
            let sent: Vec<_> = rows.iter().collect();
            let (put, next) = tokio::join!(self.put_rows(target, into, &sent), source.next_rows());
            put?;
            loaded += rows.len() as u64;
            progress(loaded);
            rows = next?;
        }
        Ok(loaded)
    }

    pub(super) async fn add_foreign_keys(&mut self, statements: &[String]) -> Result<()> {
        for statement in statements {
            match self.run(statement).await {
                Err(error) if is_done_already(&error) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// MariaDB reports a constraint's name that is taken as a failure to make the table, with error 121
/// of its storage engine.
pub(super) fn is_done_already(error: &ConnectorError) -> bool {
    let code = error.code.as_deref().unwrap_or_default();
    DONE_ALREADY.contains(&code) || (code == "1005" && error.message.contains("errno: 121"))
}
