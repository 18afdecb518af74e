//! What binds tables together, and what waits until a table has settled.

use std::collections::BTreeSet;

use repl_connectors::seam::{CopiedTable, ForeignKeyDdl, Inherits, Snapshot};
use repl_core::copy::StoredCopy;
use repl_core::schema::TableName;
use tracing::{info, warn};

use crate::conversion::Converted;
use crate::errors;
use crate::worker::{Failure, Worker};

impl Worker {
    /// Whether tables were copied whose foreign keys are still to be added, and it can be done now:
    /// all have joined the stream, and the capture has told of the primary's tables.
    pub(in crate::worker) fn foreign_keys_due(&self) -> bool {
        let due = |record: crate::state::ReplicaRecord| record.foreign_keys_due;
        self.replica().record().is_some_and(due)
            && !self.parts.tables.borrow().is_empty()
            && self.state.tables.values().all(|table| table.cut.is_none())
    }

    /// Adds the foreign keys of the tables that were copied, and those that refer to them; of all tables
    /// that the replica holds where it is not known which those are. Those that are there are passed over.
    async fn add_foreign_keys(&mut self) -> Result<(), Failure> {
        let mut keys = Vec::new();
        if self.parts.replica.node.tables.create_foreign_keys {
            let mut snapshot = match self.parts.snapshots.snapshot().await {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    // Not worth holding up the stream: they stay due.
                    info!(%error, "foreign keys are added later: the primary cannot be asked");
                    return Ok(());
                }
            };
            for table in self.with_keys_due(snapshot.as_mut()).await? {
                keys.extend(self.foreign_keys_of(&table, snapshot.as_mut()).await?);
            }
            snapshot.end().await;
        }
        let statements: Vec<String> = keys
            .iter()
            .filter(|key| self.state.tables.contains_key(&key.refers))
            .filter_map(|key| Some(key.statement(&self.parts.routing.target(&key.refers)?)))
            .collect();
        if !statements.is_empty() {
            self.parts.applier.add_foreign_keys(&statements).await?;
        }
        self.replica()
            .change(|record| record.foreign_keys_due = false)
            .map_err(errors::state)?;
        self.without_keys = None;
        Ok(())
    }

    /// The tables whose foreign keys may be missing.
    async fn with_keys_due(
        &mut self,
        snapshot: &mut dyn Snapshot,
    ) -> Result<Vec<TableName>, Failure> {
        let held = |table: &TableName| self.state.tables.contains_key(table);
        let Some(references) = snapshot.references().await? else {
            return Ok(self.state.tables.keys().cloned().collect());
        };
        let copied = |table: &TableName| {
            let copied = self.without_keys.as_ref();
            copied.is_none_or(|copied| copied.contains(table))
        };
        let due: BTreeSet<TableName> = references
            .into_iter()
            .filter(|(from, to)| held(from) && held(to) && (copied(from) || copied(to)))
            .map(|(from, _)| from)
            .collect();
        Ok(due.into_iter().collect())
    }

    async fn foreign_keys_of(
        &mut self,
        table: &TableName,
        snapshot: &mut dyn Snapshot,
    ) -> Result<Vec<ForeignKeyDdl>, Failure> {
        let source = self.parts.tables.borrow().clone();
        let Some(target) = self.parts.routing.target(table) else {
            return Ok(Vec::new());
        };
        let selected = source.iter().find(|selected| selected.name == *table);
        let Some(schema) = selected.and_then(|selected| selected.schema.clone()) else {
            // Not selected any more, or refused.
            return Ok(Vec::new());
        };
        let conversion = self.parts.conversion.as_ref();
        let ddl = match conversion.converts(&schema) {
            true => {
                Converted::new(snapshot, conversion, &self.parts.routing, schema)
                    .ddl(table, &target)
                    .await?
            }
            false => snapshot.ddl(table, &target).await?,
        };
        Ok(ddl.foreign_keys)
    }

    /// Gives up a copy that cannot settle; the table is then copied anew.
    pub(in crate::worker) async fn copy_anew(&mut self, table: &TableName) -> Result<(), Failure> {
        warn!(
            %table,
            "a key was changed and columns of the row were not sent, while the table held rows of \
             several snapshots: it is copied anew"
        );
        let tables = std::slice::from_ref(table);
        self.parts.applier.forget_tables(tables).await?;
        self.fitted.retain(|_, fitted| fitted != table);
        self.state.tables.remove(table);
        self.state
            .copies
            .insert(table.clone(), StoredCopy::default());
        Ok(())
    }

    /// Makes the indexes of tables that have settled, and the foreign keys once all have joined.
    pub(in crate::worker) async fn finish_copies(&mut self) -> Result<(), Failure> {
        let settled = |table: &&TableName| {
            let held = self.state.tables.get(*table);
            held.is_some_and(|held| held.cut.is_none())
        };
        let tables: Vec<TableName> = self.state.copies.keys().filter(settled).cloned().collect();
        for table in tables {
            info!(%table, "the table has settled; its indexes are being made");
            let made = self.parts.applier.finish_parts(&table).await;
            made.map_err(|error| error.table(table.to_string()))?;
            self.state.copies.remove(&table);
        }
        if self.foreign_keys_due() {
            self.add_foreign_keys().await?;
            self.inherited = None;
        }
        if self.inheritance_due() {
            self.see_to_inheritance().await?;
        }
        Ok(())
    }

    /// Whether tables inherit from others at the primary than when it was last seen to that they do so
    /// here, and all have joined the stream.
    pub(in crate::worker) fn inheritance_due(&self) -> bool {
        self.state.tables.values().all(|table| table.cut.is_none())
            && self.inherited.as_ref() != Some(&self.inheritance())
    }

    /// The tables that the replica holds, each with those it inherits from at the primary.
    fn inheritance(&self) -> Vec<Inherits> {
        let tables = self.parts.tables.borrow();
        let routing = &self.parts.routing;
        let held = tables.iter().filter(|table| {
            let same = |held: &CopiedTable| held.incarnation == table.incarnation;
            self.state.tables.get(&table.name).is_some_and(same)
        });
        let inherits = held.filter_map(|table| {
            let parents = table.parents.iter();
            Some(Inherits {
                table: routing.target(&table.name)?,
                parents: parents.filter_map(|one| routing.target(one)).collect(),
            })
        });
        inherits.collect()
    }

    async fn see_to_inheritance(&mut self) -> Result<(), Failure> {
        let wanted = self.inheritance();
        let held: Vec<TableName> = wanted.iter().map(|one| one.table.clone()).collect();
        let make = self.parts.replica.node.tables.create_tables;
        self.parts.applier.inherit(&wanted, &held, make).await?;
        self.inherited = Some(wanted);
        Ok(())
    }
}
