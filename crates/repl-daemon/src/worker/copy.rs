//! Copies the existing rows of tables the replica does not hold yet.
//!
//! Each table is loaded in one target transaction together with its registry entry, which says
//! what of the stream the copy already contains; so a crash repeats at most one table, and the
//! stream joins exactly.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use repl_api::{Activity, CopyProgress};
use repl_connectors::seam::{CopiedTable, ForeignKeyDdl, Load, Snapshot, SourceTable};
use repl_core::Seq;
use repl_core::batch::Route;
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::log::{EventLog, LogError, Visibility};
use repl_core::membership::Membership;
use repl_core::record::Body;
use tokio::time::Instant;
use tracing::info;

use super::{Failure, Worker};
use crate::conversion::Converted;
use crate::errors;

/// Wait before another snapshot when one lacked a transaction that the log already holds.
const SNAPSHOT_RETRY: Duration = Duration::from_millis(50);

impl Worker {
    /// Selected tables whose present incarnation was not copied.
    pub(super) fn missing_tables(&self) -> Vec<SourceTable> {
        self.parts
            .tables
            .borrow()
            .iter()
            .filter(|table| table.schema.is_some())
            .filter(|table| self.parts.routing.target(&table.name).is_some())
            .filter(|table| {
                self.state
                    .tables
                    .get(&table.name)
                    .is_none_or(|copied| copied.incarnation != table.incarnation)
            })
            .cloned()
            .collect()
    }

    /// Copies what is missing; returns early (with nothing half-done) on an order or shutdown.
    pub(super) async fn copy_missing_tables(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> Result<(), Failure> {
        self.parts.tables.borrow_and_update();
        let missing = self.missing_tables();
        if missing.is_empty() {
            return Ok(());
        }
        self.enter_copying()?;
        self.replica().show(Activity::Copying);
        let mut snapshot = self.joinable_snapshot(checkpoint).await?;
        let mut progress = CopyProgress {
            table: None,
            tables_done: 0,
            tables_total: missing.len() as u64,
            rows_done: 0,
            rows_estimate: None,
            rows_per_s: 0.0,
        };
        let started = Instant::now();
        let mut foreign_keys = Vec::new();
        for table in &missing {
            if self.interrupted().is_some() {
                return Ok(());
            }
            progress.table = Some(table.name.to_string());
            let loaded = self
                .copy_table(table, snapshot.as_mut(), &mut progress, started)
                .await?;
            let Some(keys) = loaded else { return Ok(()) };
            foreign_keys.extend(keys);
            progress.tables_done += 1;
        }
        snapshot.end().await;
        self.replica().view().copy = None;
        self.add_foreign_keys(foreign_keys).await?;
        info!(
            tables = missing.len(),
            rows = progress.rows_done,
            seconds = started.elapsed().as_secs_f64(),
            "existing rows copied"
        );
        Ok(())
    }

    fn enter_copying(&self) -> Result<(), Failure> {
        let streaming = self
            .replica()
            .record()
            .is_some_and(|record| record.standing == Membership::Streaming);
        if streaming {
            self.replica()
                .change(|record| record.standing = Membership::Copying)
                .map_err(errors::state)?;
        }
        Ok(())
    }

    /// Copies one table; none when an order or shutdown came in between.
    async fn copy_table(
        &mut self,
        table: &SourceTable,
        snapshot: &mut dyn Snapshot,
        progress: &mut CopyProgress,
        started: Instant,
    ) -> Result<Option<Vec<ForeignKeyDdl>>, Failure> {
        let Some(target) = self.parts.routing.target(&table.name) else {
            return Ok(Some(Vec::new()));
        };
        let (conversion, routing) = (self.parts.conversion.clone(), self.parts.routing.clone());
        let mut converted = match (conversion.as_deref(), table.schema.clone()) {
            (Some(conversion), Some(schema)) => {
                Some(Converted::new(&mut *snapshot, conversion, &routing, schema))
            }
            _ => None,
        };
        let snapshot: &mut dyn Snapshot = match &mut converted {
            Some(converted) => converted,
            None => snapshot,
        };
        let ddl = snapshot.ddl(&table.name, &target).await?;
        let (schema, estimate) = snapshot.open(&table.name).await?;
        progress.rows_estimate = estimate.map(|rows| progress.rows_done + rows);
        let copied = CopiedTable {
            incarnation: table.incarnation.clone(),
            cut: Some(snapshot.cut()),
        };
        let route = Route {
            schema: Arc::new(schema),
            target,
        };
        let replace = self.replica().record().is_some_and(|record| record.replace)
            || self.state.tables.contains_key(&table.name);
        let replica = Arc::clone(self.replica());
        let shown = progress.clone();
        let show = move |rows: u64| {
            let mut now = shown.clone();
            now.rows_done += rows;
            now.rows_per_s = now.rows_done as f64 / started.elapsed().as_secs_f64().max(0.001);
            replica.view().copy = Some(now);
        };
        show(0);
        let load = Load {
            route: &route,
            ddl: &ddl,
            create: self.parts.replica.node.tables.create_tables,
            replace,
            copied: &copied,
            rows: snapshot,
            progress: &show,
        };
        let mut shutdown = self.parts.shutdown.clone();
        let rows = tokio::select! {
            rows = self.parts.applier.load(load) => rows.map_err(|error| match error.table {
                Some(_) => error,
                None => error.table(table.name.to_string()),
            })?,
            _ = self.orders.changed() => {
                // Seen again by whoever decides what the order means.
                self.orders.mark_changed();
                return Ok(None);
            }
            _ = shutdown.changed() => return Ok(None),
        };
        progress.rows_done += rows;
        self.state.tables.insert(table.name.clone(), copied);
        Ok(Some(ddl.foreign_keys))
    }

    async fn add_foreign_keys(&mut self, keys: Vec<ForeignKeyDdl>) -> Result<(), Failure> {
        if !self.parts.replica.node.tables.create_foreign_keys {
            return Ok(());
        }
        let statements: Vec<String> = keys
            .iter()
            .filter(|key| self.state.tables.contains_key(&key.refers))
            .filter_map(|key| Some(key.statement(&self.parts.routing.target(&key.refers)?)))
            .collect();
        if !statements.is_empty() {
            self.parts.applier.add_foreign_keys(&statements).await?;
        }
        Ok(())
    }

    /// A snapshot that the stream after `checkpoint` completes exactly: no transaction the replica
    /// has already passed may be missing from it.
    async fn joinable_snapshot(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> Result<Box<dyn Snapshot>, Failure> {
        loop {
            let snapshot = self.parts.snapshots.snapshot().await?;
            match snapshot.cut() {
                Cut::Through(seq) => {
                    self.wait_durable(seq).await?;
                    return Ok(snapshot);
                }
                Cut::Transactions(visible) => {
                    let running = visible
                        .running
                        .iter()
                        .map(|id| u64::from(*id as u32))
                        .collect();
                    if !passed_any(self.parts.log.as_ref(), checkpoint.seq, &running)? {
                        return Ok(snapshot);
                    }
                }
            }
            tokio::time::sleep(SNAPSHOT_RETRY).await;
        }
    }

    /// A cut by sequence counts only once the log is durable up to it: a lost tail would be
    /// numbered anew.
    async fn wait_durable(&mut self, seq: Seq) -> Result<(), Failure> {
        while self.parts.durable.borrow_and_update().seq < seq {
            if self.parts.durable.changed().await.is_err() {
                return Err(repl_connectors::seam::ConnectorError::new(
                    repl_core::ErrorKind::Transient,
                    "the event log's writer has stopped",
                )
                .into());
            }
        }
        Ok(())
    }
}

/// Whether the log holds one of these transactions at or before `through`.
fn passed_any(log: &dyn EventLog, through: Seq, running: &HashSet<u64>) -> Result<bool, LogError> {
    let bounds = log.bounds();
    if running.is_empty() || through < bounds.first_seq {
        return Ok(false);
    }
    let before_all = Seq(bounds.first_seq.0.saturating_sub(1));
    let mut reader = log.follow(before_all, Visibility::Appended)?;
    while let Some(record) = reader.next()? {
        if record.seq > through {
            break;
        }
        if let Body::Fragment(fragment) = record.body
            && fragment
                .header
                .is_some_and(|header| running.contains(&header.txid))
        {
            return Ok(true);
        }
    }
    Ok(false)
}
