//! A former primary committed what the log never saw: the rows under the keys it touched are removed, and
//! put in place from the new primary once the stream has come to where they were read
//! ([`repl_core::reselect`]).
//!
//! Both are transactions at one place of the stream, with nothing else on its way. Whatever comes in
//! between, the next session begins with the first again.

use std::sync::Arc;

use repl_connectors::seam::{ConnectorError, Style};
use repl_core::batch::{NetTable, Step};
use repl_core::change::Change;
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema};
use repl_core::validate::changes::{Changes, Span};
use repl_core::{Epoch, ErrorKind, Seq};
use serde_json::json;
use tracing::{info, warn};

use super::touched::{self, Touched};
use super::{Failure, Worker, pass};
use crate::errors;
use crate::state::Mend;

/// Most memory for the rows, bytes.
const ROWS_BYTES: usize = 64 * 1024 * 1024;
/// Most memory for what changed since they were read, bytes.
const CHANGES_BYTES: u64 = 64 * 1024 * 1024;

/// Rows that were removed, as a snapshot of the primary shows them.
pub(super) struct Mending {
    tables: Vec<(Touched, Vec<Row>)>,
    cut: Cut,
    /// The log's end before the snapshot was taken, and its epoch.
    before: Seq,
    epoch: Epoch,
    /// Transactions that are committed and that the snapshot does not show.
    withheld: Vec<u64>,
}

impl Worker {
    /// Removes the rows that are to be put in place, and reads what the primary holds instead. Tables of
    /// which the keys cannot be told, or where they are too many, are compared as a whole.
    pub(super) async fn begin_mend(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        self.mending = None;
        let Some(mend) = self.replica().record().and_then(|record| record.mend) else {
            return Ok(());
        };
        self.wait_for_selected_tables().await;
        if self.interrupted().is_some() {
            return Ok(());
        }
        let touched = self.touched_tables(&mend, checkpoint).await?;
        if touched.is_empty() {
            return self.compare_others(&mend, &[]);
        }
        let bounds = self.parts.log.bounds();
        let (before, epoch) = (bounds.durable.seq, bounds.durable.epoch);
        let Some(mut snapshot) = self.joinable_snapshot(checkpoint).await? else {
            return Ok(());
        };
        let withheld = snapshot.withheld().await?;
        let mut tables = Vec::new();
        let mut room = ROWS_BYTES;
        for table in touched {
            if let Some(rows) = table.rows(snapshot.as_mut(), &mut room).await? {
                tables.push((table, rows));
            }
        }
        let cut = snapshot.cut();
        snapshot.end().await;
        self.compare_others(&mend, &tables)?;
        if tables.is_empty() {
            return Ok(());
        }
        self.remove(checkpoint, &tables, &cut, mend.removed).await?;
        pass("worker.mend.removed")?;
        self.replica()
            .change(|record| {
                if let Some(mend) = &mut record.mend {
                    mend.removed = true;
                }
            })
            .map_err(errors::state)?;
        self.mending = Some(Mending {
            tables,
            cut,
            before,
            epoch,
            withheld,
        });
        Ok(pass("worker.mend.noted")?)
    }

    /// The tables, with the keys that were touched, of which single rows can be put in place.
    async fn touched_tables(
        &mut self,
        mend: &Mend,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<Touched>, Failure> {
        let tables = self.tables_to_mend(mend, checkpoint);
        let (log_dir, id) = (self.parts.log_dir.clone(), mend.ledger.clone());
        let read = tokio::task::spawn_blocking(move || touched::told_by(&log_dir, &id, tables));
        let read = read.await.map_err(anyhow::Error::from);
        let told = read.and_then(|told| told).map_err(errors::state)?;
        let mut fitting = Vec::new();
        for table in told {
            match self.parts.applier.fit(table.route(), None).await {
                Ok(()) => fitting.push(table),
                // It was altered as well.
                Err(error) if error.kind == ErrorKind::Schema => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(fitting)
    }

    /// The tables as the primary has them, where single rows of them can be put in place.
    fn tables_to_mend(&self, mend: &Mend, checkpoint: &Checkpoint) -> Vec<Touched> {
        // What the primary's snapshot shows is told by its own transactions.
        let there = checkpoint.epoch == self.parts.log.bounds().durable.epoch;
        let able = self.parts.applier.can_recut();
        if !there || !able {
            return Vec::new();
        }
        let sources = self.parts.tables.borrow().clone();
        let of = |shape: &TableSchema| {
            let source = sources.iter().find(|source| source.name == shape.table)?;
            let schema = source.schema.as_ref()?;
            let held = self.state.tables.get(&source.name)?;
            let same = schema.columns == shape.columns && schema.identity == shape.identity;
            let same = same && held.incarnation == source.incarnation;
            let readable = self.parts.snapshots.reads_keys(&source.name);
            let target = self.parts.routing.target(&source.name)?;
            (same && readable)
                .then(|| Touched::new(source.clone(), target, &self.parts.conversion))?
        };
        mend.tables.iter().filter_map(of).collect()
    }

    /// Remembers that the other tables are to be compared as a whole.
    fn compare_others(&self, mend: &Mend, tables: &[(Touched, Vec<Row>)]) -> Result<(), Failure> {
        let by_key = |name: &TableName| tables.iter().any(|(table, _)| table.name() == name);
        let names = mend.tables.iter().map(|shape| &shape.table);
        let others: Vec<TableName> = names.filter(|name| !by_key(name)).cloned().collect();
        if others.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = others.iter().map(TableName::to_string).collect();
        warn!(
            tables = list.join(", "),
            "the keys that the former primary touched in these tables cannot be told, or are too many: \
             they are compared as a whole"
        );
        self.replica()
            .change(|record| {
                record.replace = true;
                record.resync.extend(others);
                if let Some(mend) = &mut record.mend {
                    mend.tables.retain(|shape| by_key(&shape.table));
                }
                record.mend.take_if(|mend| mend.tables.is_empty());
            })
            .map(drop)
            .map_err(|error| errors::state(error).into())
    }

    /// From here on the tables settle. Rows that were `removed` before are not removed again: what is under
    /// their keys now, or under others that the replica takes for the same, the stream has brought.
    async fn remove(
        &mut self,
        checkpoint: &Checkpoint,
        tables: &[(Touched, Vec<Row>)],
        cut: &Cut,
        removed: bool,
    ) -> Result<(), Failure> {
        let names: Vec<TableName> = tables
            .iter()
            .map(|(table, _)| table.name().clone())
            .collect();
        let cut = Cut::Through(checkpoint.seq).and_later(cut.clone());
        let applier = &mut self.parts.applier;
        applier.begin(checkpoint).await?;
        applier.recut(&names, &cut).await?;
        if !removed {
            let removals = tables.iter().map(|(table, _)| table.removal()).collect();
            let step = Step::Net(removals);
            applier.apply(&step, Style::SetWise).await?;
        }
        applier.commit(checkpoint, &[]).await?;
        for name in &names {
            if let Some(held) = self.state.tables.get_mut(name) {
                held.cut = Some(cut.clone());
            }
        }
        Ok(())
    }

    /// Whether the stream has come to where the rows can be put in place.
    pub(super) fn may_mend(&self) -> bool {
        let joined = |name: &TableName| {
            let held = self.state.tables.get(name);
            held.is_none_or(|held| held.cut.is_none())
        };
        let mending = self.mending.as_ref();
        mending.is_some_and(|mending| mending.tables.iter().all(|(table, _)| joined(table.name())))
    }

    /// Puts the rows in place.
    pub(super) async fn finish_mend(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        if !self.may_mend() {
            return Ok(());
        }
        let Some(mut mending) = self.mending.take() else {
            return Ok(());
        };
        // One that cannot settle is copied anew.
        mending
            .tables
            .retain(|(table, _)| self.state.tables.contains_key(table.name()));
        let (log, at) = (Arc::clone(&self.parts.log), checkpoint.clone());
        let span = mending.span(&at);
        let prepared = tokio::task::spawn_blocking(move || {
            let changes = Changes::collect(log.as_ref(), &span).map_err(|e| e.to_string())?;
            mending.replacements(&changes, at.seq)
        });
        let prepared = prepared.await.map_err(|error| again(error.to_string()))?;
        let (nets, keys) = prepared.map_err(again)?;
        self.write_step(checkpoint, &Step::Net(nets)).await?;
        pass("worker.mend.written")?;
        self.replica()
            .change(|record| record.mend = None)
            .map_err(errors::state)?;
        info!(
            keys,
            "rows that the log never saw were replaced by the primary's"
        );
        let replica = &self.replica().node.name;
        let arguments = json!({"replica": replica, "keys": keys});
        if let Err(error) = self.parts.audit.report("replica.mend", &arguments).await {
            warn!(%error, "that rows were replaced cannot be recorded in the audit log");
        }
        Ok(())
    }
}

impl Mending {
    /// The stretch of the log between the snapshot and `checkpoint`.
    fn span(&self, checkpoint: &Checkpoint) -> Span {
        Span {
            cut: self.cut.clone(),
            before: self.before,
            through: checkpoint.seq,
            epoch: self.epoch,
            withheld: self.withheld.clone(),
            limit: CHANGES_BYTES,
        }
    }

    /// The rows as they are after the transaction `seq`, and how many keys they are of.
    fn replacements(self, changes: &Changes, seq: Seq) -> Result<(Vec<NetTable>, usize), String> {
        let mut nets = Vec::new();
        let mut count = 0;
        for (table, rows) in self.tables {
            let name = table.name();
            let mut behind = Vec::new();
            for logged in changes.of(name, &table.source.incarnation, seq) {
                let emptied = matches!(logged.change, Change::Truncate { .. });
                if emptied || !table.has_shape(&logged.schema) {
                    return Err(format!("table {name} was emptied or altered meanwhile"));
                }
                behind.push(logged.change.clone());
            }
            nets.push(table.replacement(rows, behind)?);
            count += table.count();
        }
        Ok((nets, count))
    }
}

fn again(why: String) -> ConnectorError {
    let what = format!("rows that the log never saw could not be replaced yet: {why}");
    ConnectorError::new(ErrorKind::Transient, what)
}
