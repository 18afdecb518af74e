//! What is to be copied, and how.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use repl_connectors::seam::{
    CopiedTable, Division, Existing, Making, PartSize, Snapshot, SourceTable, TableDdl,
};
use repl_core::batch::Route;
use repl_core::checkpoint::Checkpoint;
use repl_core::convert::TablePlan;
use repl_core::copy::{PartialCopy, StoredCopy};
use repl_core::schema::{TableName, TableSchema};
use tracing::info;

use crate::conversion::Converted;
use crate::worker::{Failure, Worker};

/// One table of a round of copying.
pub(super) struct TableCopy {
    pub(super) name: TableName,
    /// Shape of the source's rows.
    pub(super) source: TableSchema,
    /// Shape at the replica, and the name there.
    pub(super) route: Arc<Route>,
    pub(super) ddl: TableDdl,
    /// How rows are converted; none when they pass untouched.
    pub(super) plan: Option<TablePlan>,
    pub(super) create: bool,
    /// What is done with rows that are there.
    pub(super) existing: Existing,
    /// The registry entry.
    pub(super) copied: CopiedTable,
    /// Rows in it, as far as known.
    pub(super) estimate: Option<u64>,
    pub(super) parts: Option<Parts>,
}

/// The parts of a divided table.
pub(super) struct Parts {
    pub(super) copy: PartialCopy,
    /// Those still to be loaded when the round began.
    pub(super) open: BTreeSet<u32>,
    /// How many of them are still to be loaded.
    pub(super) left: AtomicU32,
    /// Rows loaded before the round.
    pub(super) rows_before: u64,
}

impl TableCopy {
    pub(super) fn making(&self) -> Making<'_> {
        Making {
            route: &self.route,
            ddl: &self.ddl,
            create: self.create,
            existing: self.existing,
        }
    }
}

impl Worker {
    /// Decides how a table is copied, and begins it or goes on with it where it is in parts.
    pub(super) async fn plan_table(
        &mut self,
        table: &SourceTable,
        snapshot: &mut dyn Snapshot,
        checkpoint: &Checkpoint,
    ) -> Result<Option<TableCopy>, Failure> {
        let Some(target) = self.parts.routing.target(&table.name) else {
            return Ok(None);
        };
        let size = PartSize {
            rows: self.parts.copy.part_rows,
            bytes: self.parts.copy.part_size,
        };
        let division = snapshot.divide(&table.name, size).await?;
        let (ddl, plan) = self.describe(table, &division, &target, snapshot).await?;
        let shape = plan
            .as_ref()
            .map_or_else(|| division.schema.clone(), |plan| plan.schema().clone());
        let existing = self.existing(&table.name, &target);
        let mut copy = TableCopy {
            name: table.name.clone(),
            route: Arc::new(Route {
                schema: Arc::new(shape),
                target,
            }),
            source: division.schema,
            ddl,
            plan,
            create: self.parts.replica.node.tables.create_tables,
            existing,
            copied: CopiedTable {
                incarnation: table.incarnation.clone(),
                cut: Some(snapshot.cut()),
            },
            estimate: division.estimate,
            parts: None,
        };
        if !self.resume(&mut copy, checkpoint).await? && !division.bounds.is_empty() {
            self.begin(&mut copy, division.bounds, checkpoint).await?;
        }
        Ok(Some(copy))
    }

    /// What may be done with rows that the replica's table holds.
    fn existing(&self, table: &TableName, target: &TableName) -> Existing {
        let place = (table.clone(), target.clone());
        match self.replica().record() {
            Some(record) if record.replace && record.full => Existing::Replace,
            Some(record) if record.replace => Existing::Compare,
            Some(record) if record.lacking.contains(&place) => Existing::Compare,
            // It was copied once, and made anew at the primary since.
            _ if self.state.tables.contains_key(table) => Existing::Compare,
            _ => Existing::Refuse,
        }
    }

    async fn describe(
        &mut self,
        table: &SourceTable,
        division: &Division,
        target: &TableName,
        snapshot: &mut dyn Snapshot,
    ) -> Result<(TableDdl, Option<TablePlan>), Failure> {
        let conversion = self.parts.conversion.as_ref();
        let schema = table.schema.clone();
        let Some(schema) = schema.filter(|schema| conversion.converts(schema)) else {
            return Ok((snapshot.ddl(&table.name, target).await?, None));
        };
        let mut converted = Converted::new(snapshot, conversion, &self.parts.routing, schema);
        let ddl = converted.ddl(&table.name, target).await?;
        let plan = converted.plan(&division.schema)?;
        Ok((ddl, Some(plan)))
    }

    /// Goes on with an interrupted copy of the table, if there is one that can.
    async fn resume(
        &mut self,
        table: &mut TableCopy,
        checkpoint: &Checkpoint,
    ) -> Result<bool, Failure> {
        let Some(StoredCopy {
            copy: Some(stored),
            done,
        }) = self.state.copies.get(&table.name)
        else {
            return Ok(false);
        };
        let incarnation = &table.copied.incarnation;
        let primary = self.parts.log.bounds().durable.epoch == checkpoint.epoch;
        if !primary || !stored.continues(incarnation, &table.source, checkpoint) {
            info!(table = %table.name, "an interrupted copy does not fit any more; it begins anew");
            return Ok(false);
        }
        let mut copy = stored.clone();
        let open: BTreeSet<u32> = (0..copy.parts())
            .filter(|part| !done.contains_key(part))
            .collect();
        let (parts_done, rows_before) = (done.len(), done.values().sum());
        if parts_done == 0 {
            return Ok(false);
        }
        // With nothing left to read, all its rows are of the cuts they were.
        if !open.is_empty() {
            if let Some(later) = table.copied.cut.clone() {
                copy.cut = copy.cut.and_later(later);
            }
            let settles = self.parts.applier.resume_parts(table.making(), &copy);
            if !settles.await? {
                info!(
                    table = %table.name,
                    "an interrupted copy cannot be completed with rows of a later snapshot: the \
                     table has unique constraints beside its key; it begins anew"
                );
                return Ok(false);
            }
        }
        info!(
            table = %table.name,
            parts_done,
            parts_left = open.len(),
            "an interrupted copy goes on"
        );
        table.use_parts(copy, open, rows_before);
        Ok(true)
    }

    async fn begin(
        &mut self,
        table: &mut TableCopy,
        bounds: Vec<repl_core::copy::KeyBound>,
        checkpoint: &Checkpoint,
    ) -> Result<(), Failure> {
        let Some(cut) = table.copied.cut.clone() else {
            return Ok(());
        };
        let mut copy = PartialCopy::new(
            uuid::Uuid::new_v4(),
            table.copied.incarnation.clone(),
            table.source.clone(),
            checkpoint.clone(),
            cut,
            bounds,
        );
        // Rows that are there can be compared part by part where every engine orders the key alike.
        let numbers = copy.range(0).integers(&copy.schema).is_some();
        copy.compare = table.existing == Existing::Compare && numbers;
        let applier = &mut self.parts.applier;
        let mut begun = applier.begin_parts(table.making(), &copy).await?;
        if !begun && copy.compare {
            copy.compare = false;
            begun = applier.begin_parts(table.making(), &copy).await?;
        }
        if begun {
            let open = (0..copy.parts()).collect();
            table.use_parts(copy, open, 0);
        }
        Ok(())
    }
}

impl TableCopy {
    fn use_parts(&mut self, copy: PartialCopy, open: BTreeSet<u32>, rows_before: u64) {
        self.copied.cut = Some(copy.cut.clone());
        self.parts = Some(Parts {
            left: AtomicU32::new(open.len() as u32),
            copy,
            open,
            rows_before,
        });
    }
}
