//! A former primary committed what the log never saw: the rows under the keys it touched are removed, and
//! put in place from the new primary once the stream has come to where they were read
//! ([`repl_core::reselect`]).
//!
//! Both are transactions at one place of the stream, with nothing else on its way. Whatever comes in
//! between, the next session begins with the first again.

use std::collections::HashMap;
use std::sync::Arc;

use repl_connectors::seam::{ConnectorError, Snapshot, SourceTable, Stray, StrayOp, Style};
use repl_core::batch::{NetTable, Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::reselect::Keys;
use repl_core::row::{Row, Value};
use repl_core::schema::{TableName, TableSchema};
use repl_core::validate::changes::{Changes, Span};
use repl_core::{Epoch, ErrorKind, Seq, change::Change};
use serde_json::{Map, json};
use tracing::{info, warn};

use super::{Failure, Worker, pass};
use crate::errors;
use crate::ledger;
use crate::state::Mend;

/// Most keys of one table: where more were touched it is compared as a whole.
const MOST_KEYS: usize = 100_000;
/// Keys that one query asks for.
const KEYS_PER_QUERY: usize = 500;
/// Most memory for the rows, bytes.
const ROWS_BYTES: usize = 64 * 1024 * 1024;
/// Most memory for what changed since they were read, bytes.
const CHANGES_BYTES: u64 = 64 * 1024 * 1024;

/// Rows that were removed, as a snapshot of the primary shows them.
pub(super) struct Mending {
    tables: Vec<(SourceTable, Keys, Vec<Row>)>,
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
        let sources = self.tables_to_mend(&mend, checkpoint);
        let log_dir = self.parts.log_dir.clone();
        let id = mend.ledger.clone();
        let read = tokio::task::spawn_blocking(move || keys(&log_dir, &id, sources)).await;
        let read = read.map_err(anyhow::Error::from).and_then(|read| read);
        let keys = read.map_err(errors::state)?;
        if keys.iter().all(|(_, keys)| keys.is_none()) {
            return self.compare_others(&mend, &[]);
        }
        let bounds = self.parts.log.bounds();
        let (before, epoch) = (bounds.durable.seq, bounds.durable.epoch);
        let mut snapshot = self.joinable_snapshot(checkpoint).await?;
        let withheld = snapshot.withheld().await?;
        let mut tables = Vec::new();
        let mut room = ROWS_BYTES;
        for (source, keys) in keys {
            let Some(keys) = keys else { continue };
            if let Some(rows) = rows_under(snapshot.as_mut(), &keys, &mut room).await? {
                tables.push((source, keys, rows));
            }
        }
        let cut = snapshot.cut();
        snapshot.end().await;
        self.compare_others(&mend, &tables)?;
        if tables.is_empty() {
            return Ok(());
        }
        self.remove(checkpoint, &tables, &cut).await?;
        self.mending = Some(Mending {
            tables,
            cut,
            before,
            epoch,
            withheld,
        });
        Ok(pass("worker.mend.removed")?)
    }

    /// The tables as the primary has them, where single rows of them can be put in place.
    fn tables_to_mend(&self, mend: &Mend, checkpoint: &Checkpoint) -> Vec<(SourceTable, Route)> {
        // What the primary's snapshot shows is told by its own transactions.
        let there = checkpoint.epoch == self.parts.log.bounds().durable.epoch;
        let able = self.parts.applier.can_recut();
        if !there || !able {
            return Vec::new();
        }
        let sources = self.parts.tables.borrow().clone();
        let of = |shape: &TableSchema| {
            let source = sources.iter().find(|source| source.name == shape.table)?;
            let schema = source.schema.clone()?;
            let held = self.state.tables.get(&source.name)?;
            let same = schema.columns == shape.columns && schema.identity == shape.identity;
            let same = same && held.incarnation == source.incarnation;
            let target = self.parts.routing.target(&source.name)?;
            let keyed = !schema.key_columns().is_empty();
            let conversion = &self.parts.conversion;
            let readable = self.parts.snapshots.reads_keys(&source.name);
            let same = same && readable && !conversion.converts(&schema);
            (same && keyed).then(|| (source.clone(), Route { schema, target }))
        };
        mend.tables.iter().filter_map(of).collect()
    }

    /// Remembers that the other tables are to be compared as a whole.
    fn compare_others(
        &self,
        mend: &Mend,
        tables: &[(SourceTable, Keys, Vec<Row>)],
    ) -> Result<(), Failure> {
        let by_key = |table: &TableName| tables.iter().any(|(source, ..)| source.name == *table);
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

    async fn remove(
        &mut self,
        checkpoint: &Checkpoint,
        tables: &[(SourceTable, Keys, Vec<Row>)],
        cut: &Cut,
    ) -> Result<(), Failure> {
        let names: Vec<TableName> = tables
            .iter()
            .map(|(source, ..)| source.name.clone())
            .collect();
        let removals = tables.iter().map(|(_, keys, _)| keys.removal()).collect();
        let cut = Cut::Through(checkpoint.seq).and_later(cut.clone());
        let applier = &mut self.parts.applier;
        applier.begin(checkpoint).await?;
        applier.recut(&names, &cut).await?;
        applier.apply(&Step::Net(removals), Style::SetWise).await?;
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
        mending.is_some_and(|mending| {
            mending
                .tables
                .iter()
                .all(|(source, ..)| joined(&source.name))
        })
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
            .retain(|(source, ..)| self.state.tables.contains_key(&source.name));
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
        for (source, keys, rows) in self.tables {
            let table = &source.name;
            let shape = &keys.route().schema;
            let mut behind = Vec::new();
            for logged in changes.of(table, &source.incarnation, seq) {
                let emptied = matches!(logged.change, Change::Truncate { .. });
                if emptied || logged.schema.columns != shape.columns {
                    return Err(format!("table {table} was emptied or altered meanwhile"));
                }
                behind.push(logged.change.clone());
            }
            let net = keys.replacement(rows, behind.into_iter());
            let net = net.map_err(|error| error.to_string())?;
            nets.push(net.ok_or_else(|| format!("rows of table {table} were moved meanwhile"))?);
            count += keys.images().len();
        }
        Ok((nets, count))
    }
}

/// The keys that the ledger's changes touched, by table; none where that cannot be told.
fn keys(
    log_dir: &std::path::Path,
    id: &str,
    sources: Vec<(SourceTable, Route)>,
) -> anyhow::Result<Vec<(SourceTable, Option<Keys>)>> {
    let mut tables: HashMap<TableName, (SourceTable, Option<Keys>)> = HashMap::new();
    for (source, route) in sources {
        let keys = Keys::new(Arc::new(route));
        tables.insert(source.name.clone(), (source, Some(keys)));
    }
    ledger::changes(log_dir, id, |stray| {
        if let Some((_, keys)) = tables.get_mut(&stray.table) {
            keys.take_if(|keys| !touch(keys, &stray));
        }
        Ok(())
    })?;
    Ok(tables.into_values().collect())
}

/// Notes the keys of a change; false where it does not tell them, or they are too many.
fn touch(keys: &mut Keys, stray: &Stray) -> bool {
    let images = [&stray.old, &stray.new];
    let told = images
        .into_iter()
        .flatten()
        .all(|image| touch_row(keys, image));
    told && stray.op != StrayOp::Truncate && keys.images().len() <= MOST_KEYS
}

fn touch_row(keys: &mut Keys, image: &Map<String, serde_json::Value>) -> bool {
    let route = Arc::clone(keys.route());
    let value = |name| match image.get(name) {
        // What is no UTF-8 has lost its form.
        Some(serde_json::Value::String(text)) if !text.contains(char::REPLACEMENT_CHARACTER) => {
            Some(Value::Text(text.as_bytes()))
        }
        _ => None,
    };
    let values: Option<Vec<Value<'_>>> = route.schema.key_names().map(value).collect();
    values.is_some_and(|values| keys.add(&values).is_ok())
}

/// The rows under the keys; none when they are more than there is `room` for, in bytes.
async fn rows_under(
    snapshot: &mut dyn Snapshot,
    keys: &Keys,
    room: &mut usize,
) -> Result<Option<Vec<Row>>, ConnectorError> {
    let mut found = Vec::new();
    for some in keys.images().chunks(KEYS_PER_QUERY) {
        snapshot.open_keys(&keys.route().schema, some).await?;
        loop {
            let rows = snapshot.next_rows().await?;
            if rows.is_empty() {
                break;
            }
            let bytes = rows.iter().map(|row| row.encoded().len()).sum();
            *room = room.saturating_sub(bytes);
            found.extend(rows);
        }
        if *room == 0 {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

fn again(why: String) -> ConnectorError {
    let what = format!("rows that the log never saw could not be replaced yet: {why}");
    ConnectorError::new(ErrorKind::Transient, what)
}
