//! The first copy of a table.

use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::batch::Route;

use super::metadata::Target;
use super::queue::Label;
use super::session::{Session, missing_table};
use super::{failpoint, fit, meddling, store};
use crate::postgres::bulk;
use crate::seam::{BulkInto, Existing, Load, Loaded, Result, Snapshot, holds_rows};

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
    /// Everything in one transaction: a table is there with all its rows, or not at all.
    pub(super) async fn load(&mut self, mut load: Load<'_>) -> Result<Loaded> {
        self.forget_target(&load.route.target);
        self.client.simple("BEGIN").await?;
        self.remove_left_copy(load.route, load.existing).await?;
        let ready = self.make_or_empty(&mut load).await?;
        let target = self.target_of(load.route).await?;
        let loaded = match ready {
            Ready::Filled => self.compare(&target, "", load.rows, load.progress).await?,
            _ => {
                let rows = self.copy_from(&target, None, load.rows, load.progress);
                Loaded::all(rows.await?)
            }
        };
        if ready == Ready::Made {
            self.run_all(&load.ddl.key).await?;
            self.run_all(&load.ddl.after).await?;
        }
        self.register_table(&load.route.schema, load.copied)?;
        self.sync().await?;
        failpoint("pg.load.before_commit")?;
        self.client.simple("COMMIT").await?;
        failpoint("pg.load.after_commit")?;
        // Indexes made after the rows were not there when the catalog was read.
        self.forget_target(&load.route.target);
        Ok(loaded)
    }

    /// Makes the table, or verifies the one that is there and does with its rows what is asked.
    async fn make_or_empty(&mut self, load: &mut Load<'_>) -> Result<Ready> {
        let table = &load.route.target;
        let Some(catalog) = self.catalog(table).await? else {
            if !load.create {
                return Err(missing_table(table));
            }
            self.run_all(&load.ddl.before).await?;
            self.run_all(&load.ddl.create).await?;
            return Ok(Ready::Made);
        };
        let name = table.quoted();
        // Not a shape that a new table would mend: the trigger is somebody's.
        meddling::refuse(table, &catalog.meddling)?;
        if let Err(misfit) = fit::check(load.route, &catalog, &load.ddl.generated) {
            let other = misfit.kind != ErrorKind::Schema;
            if other || !load.create || load.existing == Existing::Refuse {
                return Err(misfit);
            }
            // Its rows go anyway, and so does a shape that cannot hold the new ones. Whatever
            // else depends on the table refuses this, and the error names it.
            self.client.simple(&format!("DROP TABLE {name}")).await?;
            self.run_all(&load.ddl.before).await?;
            self.run_all(&load.ddl.create).await?;
            return Ok(Ready::Made);
        }
        // Nobody else may write while the rows are compared, counted or removed.
        let rows = catalog.own_rows(table);
        self.client
            .simple(&format!("LOCK TABLE {rows} IN SHARE ROW EXCLUSIVE MODE"))
            .await?;
        let exists = format!("SELECT EXISTS (SELECT 1 FROM {rows})");
        let found = self.client.simple(&exists).await?;
        if store::text(&found, 0, 0) != "t" {
            return Ok(Ready::Empty);
        }
        let keyed = !load.route.schema.key_columns().is_empty();
        match load.existing {
            Existing::Refuse => {
                let feeding = self.other_groups(load.route).await?;
                return Err(holds_rows(load.route, &feeding));
            }
            Existing::Compare if keyed => return Ok(Ready::Filled),
            // Unlike TRUNCATE it lets readers see the old rows until the new ones are there.
            _ => {
                self.client.simple(&format!("DELETE FROM {rows}")).await?;
            }
        }
        Ok(Ready::Empty)
    }

    /// What an unfinished copy in parts left goes: the table, if the copy had made it, else its rows,
    /// unless they are compared.
    async fn remove_left_copy(&mut self, route: &Route, existing: Existing) -> Result<()> {
        let Some(made) = self.forget_copy(&route.schema.table).await? else {
            return Ok(());
        };
        let table = &route.target;
        if made {
            let drop = format!("DROP TABLE IF EXISTS {}", table.quoted());
            self.client.simple(&drop).await?;
        } else if existing != Existing::Compare
            && let Some(catalog) = self.catalog(table).await?
        {
            self.remove_rows(&catalog.own_rows(table), &catalog.oid)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn remove_rows(&mut self, rows: &str, oid: &str) -> Result<()> {
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
        self.client.simple(&format!("{remove} {rows}")).await?;
        Ok(())
    }

    pub(super) async fn run_all(&mut self, statements: &[String]) -> Result<()> {
        for statement in statements {
            self.client.simple(statement).await?;
        }
        Ok(())
    }

    /// Puts all rows of an opened table or range into the table, or where `into`, a COPY statement,
    /// says; those of the table are counted there.
    pub(super) async fn copy_from(
        &mut self,
        target: &Arc<Target>,
        into: Option<&str>,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        if into.is_none() && !self.can_copy(target) {
            // No COPY can tell of rows without columns, and nothing of how many it put there.
            let loaded = self.put_rows(target, false, source, progress).await?;
            self.sync().await?;
            return Ok(loaded);
        }
        let types: Vec<&str> = target.columns.iter().map(|c| &*c.declared).collect();
        let bulk = BulkInto {
            engine: "postgres",
            version: self.client.major_version(),
            types: &types,
        };
        let form = source.begin_bulk(&bulk).await?;
        let option = form.map_or("", bulk::option);
        match into {
            None => self.start_copy(target, option)?,
            Some(into) => {
                let label = Label::Rows("insert", Arc::clone(target), None);
                self.push_copy(&format!("{into}{option}"), label)?;
            }
        }
        // Under way before the source's first rows are waited for: a session in COPY is not
        // idle, however slow the source.
        self.write_now().await?;
        let loaded = match form {
            Some(_) => self.put_pieces(source, progress).await?,
            None => self.put_rows(target, true, source, progress).await?,
        };
        match into {
            None => self.end_copy(target, loaded)?,
            Some(_) => self.client.copy_done(),
        }
        self.sync().await?;
        Ok(loaded)
    }

    /// Passes the source's pieces on as they are, reading one while the one before is written.
    async fn put_pieces(
        &mut self,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        let mut loaded = 0;
        let mut next = source.next_bulk().await?;
        while let Some(piece) = next {
            self.client.copy_buffer().extend_from_slice(&piece.data);
            loaded += piece.rows;
            // Told when it is written: the next piece may be held back by the copy's pace.
            let write = async { self.write_now().await.map(|()| progress(loaded)) };
            let (written, read) = tokio::join!(write, source.next_bulk());
            written?;
            next = read?;
        }
        Ok(loaded)
    }

    /// Writes the source's rows one by one, as COPY's or by a statement each.
    async fn put_rows(
        &mut self,
        target: &Arc<Target>,
        copy: bool,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        let mut loaded = 0;
        loop {
            let rows = source.next_rows().await?;
            if rows.is_empty() {
                return Ok(loaded);
            }
            for row in &rows {
                if copy {
                    self.copy_row(target, row)?;
                } else {
                    self.insert_row(target, row)?;
                }
                self.relieve().await?;
            }
            loaded += rows.len() as u64;
            progress(loaded);
        }
    }
}
