//! Copies the existing rows of tables the replica does not hold yet.
//!
//! A table is loaded in one target transaction together with its registry entry, which says what
//! of the stream the copy already contains. A large one is divided into ranges of its key, each
//! loaded in a transaction of its own that records it as done ([`repl_core::copy`]). So a crash
//! repeats at most what was being loaded, and the stream joins exactly. Several lanes load at once
//! ([`lanes`]), from readers of one snapshot.

mod indexing;
mod keys;
mod lanes;
pub mod pace;
mod plan;
mod progress;
mod rate;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use repl_api::Activity;
use repl_connectors::seam::{ConnectorError, Snapshot, SourceTable, Written};
use repl_core::checkpoint::Checkpoint;
use repl_core::copy::StoredCopy;
use repl_core::cut::{Cut, VisibleTransactions};
use repl_core::log::{EventLog, LogError, Visibility};
use repl_core::membership::Membership;
use repl_core::record::Body;
use repl_core::schema::TableName;
use repl_core::{ErrorKind, Seq};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use self::lanes::Round;
use self::pace::Pace;
use self::progress::Shown;
use super::{Failure, Worker, pass};
use crate::coverage::lacks;
use crate::errors;

/// Wait before another snapshot when one lacked a transaction that the log already holds.
const SNAPSHOT_RETRY: Duration = Duration::from_millis(50);

impl Worker {
    /// Selected tables whose present incarnation was not copied, and can be.
    pub(super) fn missing_tables(&self) -> Vec<SourceTable> {
        self.parts
            .tables
            .borrow()
            .iter()
            .filter(|table| table.schema.is_some() && table.waits.is_empty())
            .filter(|table| self.parts.routing.target(&table.name).is_some())
            .filter(|table| self.is_readable(table))
            .filter(|table| {
                self.state
                    .tables
                    .get(&table.name)
                    .is_none_or(|copied| copied.incarnation != table.incarnation)
            })
            .cloned()
            .collect()
    }

    /// Whether a table's rows can be read. A table that was not copied before waits until they can, and is
    /// shown as refused; what is copied anew is not left out in silence: the attempt tells why.
    fn is_readable(&self, table: &SourceTable) -> bool {
        let replaced = || self.replica().record().is_some_and(|record| record.replace);
        table.refusal.is_empty() || self.state.tables.contains_key(&table.name) || replaced()
    }

    /// Copies what is missing; returns early (with nothing half-done) on an order or shutdown.
    pub(super) async fn copy_missing_tables(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> Result<(), Failure> {
        // What the primary's snapshot shows is told by its own transactions: before the stream has come
        // to them, nothing that is copied could be joined to it.
        let bounds = self.parts.log.bounds();
        if checkpoint.seq < super::attach::epoch_start(self.parts.log.as_ref(), &bounds)? {
            return Ok(());
        }
        self.wait_for_tables(checkpoint).await;
        self.parts.tables.borrow_and_update();
        let missing = self.missing_tables();
        if missing.is_empty() {
            return Ok(());
        }
        // Who tells of its tables has told which database it is; it may not have been known when the
        // session was opened.
        self.check_distinct()?;
        self.wait_for_release(checkpoint).await;
        self.enter_copying()?;
        self.note_received(&missing)?;
        self.replica().show(Activity::Copying);
        let started = Instant::now();
        let Some(mut snapshot) = self.joinable_snapshot(checkpoint).await? else {
            return Ok(());
        };
        let mut tables = Vec::new();
        for table in &missing {
            if self.interrupted().is_some() {
                return Ok(());
            }
            let planned = self.plan_table(table, snapshot.as_mut(), checkpoint).await;
            tables.extend(planned.map_err(|failure| failure.at(&table.name))?);
        }
        // Large tables are there by now, and nothing is being loaded yet.
        self.protect().await?;
        let shown = Shown::new(Arc::clone(self.replica()), &tables);
        let pace = Pace::new(self.parts.copy.clone(), self.parts.others.clone());
        let round = Arc::new(Round::new(tables, pace, shown));
        let complete = self.load_round(&round, snapshot.as_mut()).await?;
        if !complete {
            return Ok(());
        }
        self.take_in(&round);
        snapshot.end().await;
        self.protect().await?;
        self.report(&round).await;
        info!(
            tables = missing.len(),
            rows = round.shown.rows(),
            seconds = started.elapsed().as_secs_f64(),
            "existing rows copied"
        );
        Ok(())
    }

    /// While tables are to be copied nothing is streamed before the capture has told which there are:
    /// once the stream has moved, a copy to go on with would have to begin anew, and a new one to wait
    /// for a snapshot that shows what was passed, which may be long.
    async fn wait_for_tables(&mut self, checkpoint: &Checkpoint) {
        let unfinished = |(name, stored): (&TableName, &StoredCopy)| {
            stored.copy.is_some() && !self.state.tables.contains_key(name)
        };
        let standing = self.replica().record().map(|record| record.standing);
        let copying = matches!(
            standing,
            None | Some(Membership::Copying | Membership::Resyncing)
        );
        let begins = copying && self.parts.log.appended().seq > checkpoint.seq;
        let goes_on = self.state.copies.iter().any(unfinished);
        if begins || goes_on {
            self.wait_for_selected_tables().await;
        }
    }

    /// Waits until the capture has told which tables there are, or something else is to be done.
    pub(super) async fn wait_for_selected_tables(&mut self) {
        let board = Arc::clone(&self.parts.others.board);
        while !board.listed() && self.interrupted().is_none() {
            tokio::select! {
                _ = self.parts.tables.changed() => {}
                _ = self.parts.shutdown.changed() => {}
                _ = self.orders.changed() => self.orders.mark_changed(),
            }
        }
        self.parts.tables.borrow_and_update();
    }

    /// Whether tables that lack changes cannot be copied yet.
    pub(super) fn awaits_tables(&self) -> bool {
        let record = self.replica().record();
        let lacking = record.map(|record| record.lacking).unwrap_or_default();
        let awaited = |table: &SourceTable| {
            let held = self.state.tables.contains_key(&table.name);
            let lacks = lacking.iter().any(|(name, _)| *name == table.name);
            lacks && !held && table.is_awaited()
        };
        !lacking.is_empty() && self.parts.tables.borrow().iter().any(awaited)
    }

    /// Begins the resync of single tables, ordered or because they lack changes: the replica ceases to
    /// count, forgets that it holds them, and they are copied like new ones, compared where they were held.
    /// Where an order comes first, the next session begins it.
    pub(super) async fn begin_resync(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let Some(record) = self.replica().record() else {
            return Ok(());
        };
        let tables = record.resync;
        if tables.is_empty() {
            return Ok(());
        }
        if record.standing == Membership::Streaming {
            self.wait_for_release(checkpoint).await;
            if self.interrupted().is_some() {
                return Ok(());
            }
            self.replica()
                .change(|record| record.standing = Membership::Resyncing)
                .map_err(errors::state)?;
        }
        let held = |table: &&TableName| {
            self.state.tables.contains_key(*table) || self.state.copies.contains_key(*table)
        };
        let place = |table: &TableName| Some((table.clone(), self.parts.routing.target(table)?));
        let held: Vec<_> = tables.iter().filter(held).filter_map(place).collect();
        // First: whose rows they are is not known once they are forgotten.
        self.replica()
            .change(|record| record.lacking.extend(held))
            .map_err(errors::state)?;
        self.forget(&tables).await?;
        pass("worker.resync.begun")?;
        // Those that came meanwhile are begun by the next session.
        self.replica()
            .change(|record| record.resync.retain(|table| !tables.contains(table)))
            .map_err(errors::state)?;
        info!(tables = tables.len(), "resync of single tables begins");
        Ok(())
    }

    /// Begins a resync of the whole replica that is under way anew with the next session; false when
    /// there is none.
    pub(super) fn begin_anew(&self) -> Result<bool, Failure> {
        let mut begins = false;
        self.replica()
            .change(|record| {
                begins = record.replace && record.standing == Membership::Resyncing;
                record.restart |= begins;
            })
            .map_err(errors::state)?;
        Ok(begins)
    }

    /// Whether everything is copied and has joined, and the standing does not say so yet: a crash
    /// came in between.
    pub(super) fn is_copied(&self) -> bool {
        let standing = self.replica().record().map(|record| record.standing);
        matches!(standing, Some(Membership::Copying | Membership::Resyncing))
            && self.state.tables.values().all(|table| table.cut.is_none())
    }

    /// The replica does not know any more that it holds these tables, or parts of them.
    pub(super) async fn forget(&mut self, tables: &[TableName]) -> Result<(), Failure> {
        self.parts.applier.forget_tables(tables).await?;
        for table in tables {
            self.fitted.retain(|_, fitted| fitted != table);
            self.state.tables.remove(table);
            if let Some(stored) = self.state.copies.get_mut(table) {
                stored.copy = None;
            }
        }
        Ok(())
    }

    /// A table is written to under another name, which the replica does not follow, or follows as
    /// another table: it lacks what is written, and is compared when it comes back to its name.
    pub(super) async fn written_elsewhere(
        &mut self,
        checkpoint: &Checkpoint,
        table: TableName,
        name: &TableName,
    ) -> Result<(), Failure> {
        let reason =
            format!("{table} was written to as {name} for a time: it is compared with the primary");
        info!(%table, %name, "a table is written to under another name");
        self.replica()
            .change(|record| lacks(record, &[table], &reason))
            .map_err(errors::state)?;
        self.begin_resync(checkpoint).await
    }

    /// Notes what was copied.
    fn take_in(&mut self, round: &Round) {
        for table in &round.tables {
            self.fitted.retain(|_, fitted| *fitted != table.name);
            if let Some(copied) = &mut self.without_keys {
                copied.insert(table.name.clone());
            }
            self.state
                .tables
                .insert(table.name.clone(), table.copied.clone());
            match &table.parts {
                Some(parts) if parts.copy.cut.settles() => {
                    self.state
                        .copies
                        .insert(table.name.clone(), StoredCopy::default());
                }
                _ => drop(self.state.copies.remove(&table.name)),
            }
        }
    }

    /// Tells what was written where rows were compared, in the audit log as well.
    async fn report(&mut self, round: &Round) {
        let compared = round.shown.written();
        if compared.is_empty() {
            return;
        }
        let mut tables = serde_json::Map::new();
        for (table, written) in compared {
            let Written {
                inserted,
                updated,
                deleted,
            } = written;
            info!(
                table,
                inserted, updated, deleted, "compared with the primary"
            );
            let counts = json!({"inserted": inserted, "updated": updated, "deleted": deleted});
            tables.insert(table, counts);
        }
        let replica = &self.parts.replica.node.name;
        let arguments = json!({"replica": replica, "tables": tables});
        if let Err(error) = self.parts.audit.report("replica.resync", &arguments).await {
            warn!(%error, "what a resync wrote cannot be recorded in the audit log");
        }
    }

    /// While it still counts, what the replica has applied is let go. A commit that went on waiting when
    /// this replica does not count any more would be in no snapshot, and the copy needs one that holds all
    /// that was applied: each would wait for the other.
    async fn wait_for_release(&mut self, checkpoint: &Checkpoint) {
        let waited = |worker: &Worker| {
            let replica = worker.replica();
            replica.counted() && replica.waited.load(Ordering::Relaxed)
        };
        while waited(self)
            && self.parts.released.borrow_and_update().seq < checkpoint.seq
            && self.interrupted().is_none()
        {
            tokio::select! {
                changed = self.parts.released.changed() => if changed.is_err() { return },
                _ = self.parts.shutdown.changed() => {}
                _ = self.orders.changed() => self.orders.mark_changed(),
            }
        }
    }

    /// Durably: the standing, and that foreign keys will have to be added.
    fn enter_copying(&mut self) -> Result<(), Failure> {
        let record = self.replica().record();
        let due = record
            .as_ref()
            .is_some_and(|record| record.foreign_keys_due);
        if due && record.is_some_and(|record| record.standing != Membership::Streaming) {
            return Ok(());
        }
        if !due {
            self.without_keys = Some(BTreeSet::new());
        }
        self.replica()
            .change(|record| {
                record.foreign_keys_due = true;
                if record.standing == Membership::Streaming {
                    record.standing = Membership::Copying;
                }
            })
            .map_err(errors::state)?;
        Ok(())
    }

    /// A snapshot that the stream after `checkpoint` completes exactly: no transaction the replica
    /// has already passed may be missing from it. None on an order or shutdown meanwhile: what is
    /// missing may be withheld for long.
    pub(super) async fn joinable_snapshot(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> Result<Option<Box<dyn Snapshot>>, Failure> {
        // What one snapshot shows, all later ones do.
        let mut shown = Seq(0);
        while self.interrupted().is_none() {
            let snapshot = self.parts.snapshots.snapshot().await;
            let snapshot = snapshot.map_err(refused_by_the_primary)?;
            match snapshot.cut() {
                Cut::Through(seq) => {
                    self.wait_durable(seq).await?;
                    return Ok(Some(snapshot));
                }
                // No snapshot has rows of several.
                Cut::Several { .. } => return Ok(Some(snapshot)),
                Cut::Transactions(visible) => {
                    match self.first_lacking(shown, checkpoint, visible).await? {
                        None => return Ok(Some(snapshot)),
                        Some(seq) => shown = Seq(seq.0 - 1),
                    }
                }
            }
            tokio::time::sleep(SNAPSHOT_RETRY).await;
        }
        Ok(None)
    }

    async fn first_lacking(
        &mut self,
        after: Seq,
        checkpoint: &Checkpoint,
        visible: VisibleTransactions,
    ) -> Result<Option<Seq>, Failure> {
        let (log, checkpoint) = (Arc::clone(&self.parts.log), checkpoint.clone());
        // It may read all of the log, which is not for a thread that serves connections.
        let read = tokio::task::spawn_blocking(move || {
            first_lacking(log.as_ref(), after, &checkpoint, &visible)
        });
        let read = read.await.map_err(|_| {
            ConnectorError::new(ErrorKind::Internal, "reading the event log panicked")
        })?;
        Ok(read?)
    }

    /// A cut by sequence counts only once the log is durable up to it: a lost tail would be
    /// numbered anew.
    async fn wait_durable(&mut self, seq: Seq) -> Result<(), Failure> {
        while self.parts.durable.borrow_and_update().seq < seq {
            if self.parts.durable.changed().await.is_err() {
                return Err(ConnectorError::new(
                    ErrorKind::Transient,
                    "the event log's writer has stopped",
                )
                .into());
            }
        }
        Ok(())
    }
}

/// The first transaction behind `after`, at or before `checkpoint`, that the snapshot lacks: one that is
/// running for it, or that has begun since.
fn first_lacking(
    log: &dyn EventLog,
    after: Seq,
    checkpoint: &Checkpoint,
    visible: &VisibleTransactions,
) -> Result<Option<Seq>, LogError> {
    let bounds = log.bounds();
    if checkpoint.seq < bounds.first_seq {
        return Ok(None);
    }
    let before_all = Seq(bounds.first_seq.0.saturating_sub(1));
    let mut reader = log.follow(before_all.max(after), Visibility::Appended)?;
    while let Some(record) = reader.next()? {
        if record.seq > checkpoint.seq {
            break;
        }
        if let Body::Fragment(fragment) = record.body
            && record.epoch == bounds.durable.epoch
            && fragment
                .header
                .is_some_and(|header| !visible.contains(header.txid as u32))
        {
            return Ok(Some(record.seq));
        }
    }
    Ok(None)
}

/// A primary that refuses the daemon (a password that was changed, a setting) is tried again, as the
/// capture does: nothing of the replica has to be mended, so it is not held until somebody says so.
pub(in crate::worker) fn refused_by_the_primary(mut error: ConnectorError) -> ConnectorError {
    if matches!(error.kind, ErrorKind::Privilege | ErrorKind::Configuration) {
        error.kind = ErrorKind::Transient;
    }
    error
}
