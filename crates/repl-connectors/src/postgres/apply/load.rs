//! The first copy of a table.

use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::schema::TableName;

use super::metadata::Target;
use super::session::{Session, missing_table};
use super::{failpoint, fit, store};
use crate::seam::{ConnectorError, Load, Result, Snapshot};

impl Session {
    /// Everything in one transaction: a table is there with all its rows, or not at all.
    pub(super) async fn load(&mut self, mut load: Load<'_>) -> Result<u64> {
        self.forget_targets();
        self.client.simple("BEGIN").await?;
        self.remove_left_copy(load.route).await?;
        let made = self.make_or_empty(&mut load).await?;
        let target = self.target_of(load.route).await?;
        let rows = self.copy_rows(&target, &mut load).await?;
        if made {
            self.run_all(&load.ddl.key).await?;
            self.run_all(&load.ddl.after).await?;
        }
        self.register_table(&load.route.schema, load.copied)?;
        self.sync().await?;
        failpoint("pg.load.before_commit")?;
        self.client.simple("COMMIT").await?;
        failpoint("pg.load.after_commit")?;
        // Indexes made after the rows were not there when the catalog was read.
        self.forget_targets();
        Ok(rows)
    }

    /// Makes the table (then true), or verifies and empties the one that is there.
    async fn make_or_empty(&mut self, load: &mut Load<'_>) -> Result<bool> {
        let table = &load.route.target;
        let Some(catalog) = self.catalog(table).await? else {
            if !load.create {
                return Err(missing_table(table));
            }
            self.run_all(&load.ddl.before).await?;
            self.run_all(&load.ddl.create).await?;
            return Ok(true);
        };
        let name = table.quoted();
        if let Err(misfit) = fit::check(load.route, &catalog) {
            if !(load.create && load.replace) {
                return Err(misfit);
            }
            // Its rows go anyway, and so does a shape that cannot hold the new ones. Whatever
            // else depends on the table refuses this, and the error names it.
            self.client.simple(&format!("DROP TABLE {name}")).await?;
            self.run_all(&load.ddl.before).await?;
            self.run_all(&load.ddl.create).await?;
            return Ok(true);
        }
        // Nobody else may write while the rows are compared, counted or removed.
        self.client
            .simple(&format!("LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))
            .await?;
        let exists = format!("SELECT EXISTS (SELECT 1 FROM {name})");
        let rows = self.client.simple(&exists).await?;
        if store::text(&rows, 0, 0) != "t" {
            return Ok(false);
        }
        if !load.replace {
            return Err(holds_rows(table));
        }
        self.remove_rows(&name, &catalog.oid).await?;
        Ok(false)
    }

    /// What an unfinished copy in parts left goes: the table, if the copy had made it, else its rows.
    async fn remove_left_copy(&mut self, route: &Route) -> Result<()> {
        let Some(made) = self.forget_copy(&route.schema.table).await? else {
            return Ok(());
        };
        let table = &route.target;
        if made {
            let drop = format!("DROP TABLE IF EXISTS {}", table.quoted());
            self.client.simple(&drop).await?;
        } else if let Some(catalog) = self.catalog(table).await? {
            self.remove_rows(&table.quoted(), &catalog.oid).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_rows(&mut self, name: &str, oid: &str) -> Result<()> {
        let referring = self
            .rows(
                "SELECT 1 FROM pg_catalog.pg_constraint WHERE contype = 'f' \
                 AND confrelid = $1::oid AND conrelid <> confrelid LIMIT 1",
                &[Some(oid)],
            )
            .await?;
        // TRUNCATE refuses referenced tables whatever the session's role; DELETE leaves the
        // referring rows, whose parents come back with the copy.
        let remove = if referring.is_empty() {
            "TRUNCATE"
        } else {
            "DELETE FROM"
        };
        self.client.simple(&format!("{remove} {name}")).await?;
        Ok(())
    }

    pub(super) async fn run_all(&mut self, statements: &[String]) -> Result<()> {
        for statement in statements {
            self.client.simple(statement).await?;
        }
        Ok(())
    }

    async fn copy_rows(&mut self, target: &Arc<Target>, load: &mut Load<'_>) -> Result<u64> {
        self.copy_from(target, load.rows, load.progress).await
    }

    /// Puts all rows of an opened table or range into the table.
    pub(super) async fn copy_from(
        &mut self,
        target: &Arc<Target>,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        let mut loaded = 0;
        let copying = !target.columns.is_empty();
        if copying {
            self.start_copy(target)?;
            // Under way before the source's first rows are waited for: a session in COPY is not
            // idle, however slow the source.
            self.write_now().await?;
        }
        loop {
            let rows = source.next_rows().await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                if copying {
                    self.copy_row(target, row)?;
                } else {
                    self.insert_row(target, row)?;
                }
                self.relieve().await?;
            }
            loaded += rows.len() as u64;
            progress(loaded);
        }
        if copying {
            self.client.copy_done();
        }
        self.sync().await?;
        Ok(loaded)
    }
}

fn holds_rows(table: &TableName) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Conflict,
        format!("the replica's table {table} already holds rows"),
    )
    .table(table.to_string())
    .advice(format!(
        "empty it (TRUNCATE {}) and `replctl retry`, or have it replaced by a new copy",
        table.quoted()
    ))
}
