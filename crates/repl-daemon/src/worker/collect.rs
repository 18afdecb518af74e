//! Reads the log and reduces it to batches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use repl_connectors::seam::{ConnectorError, CopiedTable};
use repl_core::batch::{Route, Step};
use repl_core::change::{Change, Changes};
use repl_core::codec::Malformed;
use repl_core::cut::Cut;
use repl_core::failpoint;
use repl_core::log::{EventLog, LogError, Reader};
use repl_core::net::{Reduced, Reducer};
use repl_core::record::{Body, Fragment, LogRecord, TxHeader};
use repl_core::schema::{SchemaId, TableName};
use repl_core::select::Routing;
use repl_core::{Epoch, Seq, SourcePosition};

use super::routes::{Routed, Routes, Unroutable};
use crate::conversion::{self, Conversion};
use crate::follow::Follow;

/// Memory a change takes beside its encoded bytes while it is being reduced, bytes: an entry of the
/// reduction with its place in the hash table, a row handle in the outcome, and their slack.
/// Counted, because rows are often smaller than that.
const CHANGE_OVERHEAD: u64 = 128;

/// What the applier does next.
#[derive(Debug)]
pub enum Work {
    /// Whole transactions, or a part of one that is larger than a batch.
    Batch(Batch),
    /// The stream passed the cuts of these tables without a transaction.
    Joined(Vec<TableName>, SourcePosition),
    /// A new span of history begins: this replica cannot follow across it.
    Broken(Epoch, String),
    /// Another primary's span begins, which goes on where the one before ended. The stream has
    /// passed the cuts of these tables, of the primary before; was all that it committed logged?
    Crossed(Vec<TableName>, Epoch, bool),
}

/// Changes to apply in one target transaction.
#[derive(Debug)]
pub struct Batch {
    /// First transaction.
    pub first: TxInfo,
    /// Where the batch ends; none for a part of a transaction that goes on.
    pub end: Option<BatchEnd>,
    /// This is a later part of a transaction: the target transaction is open already.
    pub continues: bool,
    /// Steps to apply.
    pub reduced: Reduced,
    /// Source transactions that end in it.
    pub transactions: u64,
    /// Memory it took, approximately.
    pub bytes: u64,
    /// Schema versions that occur here for the first time in this session.
    pub new_routes: Vec<Arc<Route>>,
}

/// A transaction, for messages.
#[derive(Clone, Debug, Default)]
pub struct TxInfo {
    /// Sequence.
    pub seq: Seq,
    /// The source's number.
    pub txid: u64,
    /// Position after it; empty while it is not known.
    pub position: SourcePosition,
}

/// State of the stream after a batch.
#[derive(Clone, Debug)]
pub struct BatchEnd {
    /// Epoch.
    pub epoch: Epoch,
    /// Last transaction.
    pub seq: Seq,
    /// Position after it.
    pub position: SourcePosition,
    /// Tables whose cut the stream has passed.
    pub joined: Vec<TableName>,
}

/// How far to combine transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As many as fit a batch, reduced to net changes.
    Combined,
    /// The same, up to and including this transaction.
    Rewritten(Seq),
    /// One by one, changes in the source's order, up to and including this transaction.
    OneByOne(Seq),
}

/// Everything a collector needs.
pub struct Plan {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// How much of it is seen.
    pub follow: Follow,
    /// Start behind this transaction.
    pub after: Seq,
    /// Epoch the replica is in.
    pub epoch: Epoch,
    /// Names at the replica.
    pub routing: Routing,
    /// How rows of other engines' tables are converted.
    pub conversion: Arc<Conversion>,
    /// Tables whose rows the replica holds, with what their copy already contains.
    pub tables: HashMap<TableName, CopiedTable>,
    /// Schema versions that the replica's tables were made to fit.
    pub fitted: HashSet<SchemaId>,
    /// Leave this transaction's changes out.
    pub skip: Option<Seq>,
    /// Mode.
    pub mode: Mode,
    /// Most bytes of memory per batch, approximately.
    pub batch_bytes: u64,
    /// Most transactions per batch.
    pub batch_transactions: u64,
}

/// Why a collector ends early.
#[derive(Debug)]
pub enum CollectError {
    /// The log cannot be read.
    Log(LogError),
    /// A transaction holds what the replica's engine cannot represent.
    Convert(TxInfo, Box<ConnectorError>),
    /// This table's copy cannot settle: it is to be copied anew.
    Unsettled(TableName),
    /// A table that the replica holds under the first name is written to under the second.
    Elsewhere(TableName, TableName),
}

impl From<LogError> for CollectError {
    fn from(error: LogError) -> Self {
        CollectError::Log(error)
    }
}

/// Turns the log into work for one replica.
pub(super) struct Collector {
    plan: Plan,
    reader: Box<dyn Reader>,
    routes: Routes,
    /// Tables whose cut the stream has not passed.
    open_cuts: usize,
    building: Building,
    /// A record that was read but belongs to the next batch.
    held: Option<LogRecord>,
    /// A record that was read ahead; by the deliberately broken build only.
    swapped: Option<LogRecord>,
    transaction: TxInfo,
    skipping: bool,
    finished: bool,
}

#[derive(Default)]
struct Building {
    net: Reducer,
    ordered: Vec<(Arc<Route>, Change)>,
    ordered_steps: Vec<Step>,
    first: Option<TxInfo>,
    /// Last whole transaction.
    end: Option<(Epoch, Seq, SourcePosition)>,
    joined: Vec<TableName>,
    bytes: u64,
    transactions: u64,
    rows: u64,
    /// Inside a transaction of several fragments.
    open: bool,
    /// Parts of the open transaction were handed out.
    continues: bool,
}

impl Collector {
    pub(super) fn new(plan: Plan) -> Result<Collector, LogError> {
        let reader = plan.log.follow(plan.after, plan.follow.visibility())?;
        let building = Building::new(settling(&plan.tables));
        let open = plan.tables.values().filter(|table| table.cut.is_some());
        Ok(Collector {
            open_cuts: open.count(),
            plan,
            reader,
            routes: Routes::default(),
            building,
            held: None,
            swapped: None,
            transaction: TxInfo::default(),
            skipping: false,
            finished: false,
        })
    }

    /// Bytes of the log that were not read yet.
    pub(super) fn behind(&self) -> u64 {
        self.reader.behind()
    }

    /// The last work there is was handed out.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The next work, or none at the log's end.
    pub(super) fn next(&mut self) -> Result<Option<Work>, CollectError> {
        if self.finished {
            return Ok(None);
        }
        loop {
            let Some(record) = self.read()? else {
                return Ok(self.take_batch().map(Work::Batch));
            };
            let work = match &record.body {
                Body::Fragment(_) => self.fragment(record)?,
                // Behind the last transaction of the span before, what is left of that span says
                // nothing: its positions are not comparable.
                Body::Mark(_) if record.epoch < self.plan.epoch => None,
                Body::Mark(position) => self.mark(position.clone(), record),
                Body::History(history) if record.epoch > self.plan.epoch => {
                    if let Some(batch) = self.take_batch() {
                        self.held = Some(record);
                        return Ok(Some(Work::Batch(batch)));
                    }
                    if history.since() <= self.plan.epoch {
                        self.plan.epoch = record.epoch;
                        let tables = self.take_all_cuts();
                        let logged = history.succession.as_ref().is_none_or(|one| !one.forced);
                        return Ok(Some(Work::Crossed(tables, record.epoch, logged)));
                    }
                    self.finished = true;
                    Some(Work::Broken(record.epoch, history.reason.clone()))
                }
                Body::History(_) | Body::Schema(_) => None,
            };
            if work.is_some() || self.finished {
                return Ok(work);
            }
        }
    }

    fn read(&mut self) -> Result<Option<LogRecord>, LogError> {
        if let Some(record) = self.held.take().or_else(|| self.swapped.take()) {
            return Ok(Some(record));
        }
        let record = self.reader.next()?;
        if !failpoint::sabotage("reorder") {
            return Ok(record);
        }
        // The deliberately broken build applies neighbouring transactions in the wrong order.
        let Some(mut first) = record else {
            return Ok(None);
        };
        let mut second = self.reader.next()?;
        if let (Body::Fragment(one), Some(Body::Fragment(two))) = (
            &mut first.body,
            second.as_mut().map(|record| &mut record.body),
        ) && [&*one, &*two]
            .iter()
            .all(|part| part.header.is_some() && part.position.is_some())
        {
            std::mem::swap(&mut one.changes, &mut two.changes);
        }
        self.swapped = second;
        Ok(Some(first))
    }

    fn mark(&mut self, position: SourcePosition, record: LogRecord) -> Option<Work> {
        let passed = self
            .plan
            .tables
            .values()
            .filter_map(|table| table.cut.as_ref())
            .any(|cut| cut.passed(record.seq, position.as_str()));
        if !passed {
            return None;
        }
        if let Some(batch) = self.take_batch() {
            self.held = Some(record);
            return Some(Work::Batch(batch));
        }
        Some(Work::Joined(
            self.take_joined(record.seq, &position),
            position,
        ))
    }

    fn fragment(&mut self, record: LogRecord) -> Result<Option<Work>, CollectError> {
        let LogRecord {
            epoch, seq, size, ..
        } = record;
        let Body::Fragment(fragment) = &record.body else {
            return Ok(None);
        };
        let alone = fragment.header.is_none() || fragment.position.is_none();
        if let Some(header) = &fragment.header {
            self.routes
                .begin(&self.plan, self.open_cuts, seq, header.txid);
        }
        if fragment.header.is_some() && self.building.transactions > 0 {
            // A transaction of several fragments, and one with a new schema version, start a
            // batch of their own.
            let known = self.routes.know_all(&self.plan, &fragment.changes);
            if alone || !known.map_err(damaged)? {
                self.held = Some(record);
                return Ok(self.take_batch().map(Work::Batch));
            }
        }
        if let Some(header) = &fragment.header {
            self.begin(seq, header);
        }
        if let Some(position) = &fragment.position {
            self.transaction.position = position.clone();
        }
        self.changes(fragment)?;
        self.building.bytes += size;
        if let Some(position) = &fragment.position {
            return Ok(self.end(epoch, seq, position.clone()));
        }
        if self.building.bytes >= self.plan.batch_bytes {
            let part = self.take_part(None);
            self.building.open = true;
            self.building.continues = true;
            return Ok(Some(Work::Batch(part)));
        }
        Ok(None)
    }

    fn begin(&mut self, seq: Seq, header: &TxHeader) {
        self.transaction = TxInfo {
            seq,
            txid: header.txid,
            position: SourcePosition::default(),
        };
        self.skipping = self.plan.skip == Some(seq);
        self.building.open = true;
        if self.building.first.is_none() {
            self.building.first = Some(self.transaction.clone());
        }
    }

    fn end(&mut self, epoch: Epoch, seq: Seq, position: SourcePosition) -> Option<Work> {
        let joined = self.take_joined(seq, &position);
        let building = &mut self.building;
        building.joined.extend(joined);
        building.open = false;
        building.transactions += 1;
        if let (1, Some(first)) = (building.transactions, &mut building.first) {
            first.position = position.clone();
        }
        building.end = Some((epoch, seq, position));
        let full = building.bytes >= self.plan.batch_bytes
            || building.transactions >= self.plan.batch_transactions;
        match self.plan.mode {
            Mode::OneByOne(last) => {
                self.finished = seq >= last;
                self.take_batch().map(Work::Batch)
            }
            Mode::Rewritten(last) if seq >= last => {
                self.finished = true;
                self.take_batch().map(Work::Batch)
            }
            _ if full || building.continues => self.take_batch().map(Work::Batch),
            _ => None,
        }
    }

    fn changes(&mut self, fragment: &Fragment) -> Result<(), CollectError> {
        if self.skipping {
            return Ok(());
        }
        for change in Changes::new(fragment.changes.clone()) {
            let change = change.map_err(damaged)?;
            let schema = match &change {
                Change::Insert { schema, .. }
                | Change::Update { schema, .. }
                | Change::Delete { schema, .. } => *schema,
                Change::Truncate {
                    schemas,
                    restart_identity,
                } => {
                    self.truncate(schemas, *restart_identity)?;
                    continue;
                }
                Change::Message { .. } => continue,
            };
            let routed = self.routes.of(&self.plan, schema);
            let routed = routed.map_err(|error| unroutable(&self.transaction, error))?;
            let Some(Routed { route, plan }) = routed else {
                continue;
            };
            let change = match plan {
                Some(plan) => conversion::change(plan, change).map_err(|error| {
                    let failed = conversion::failed(&plan.schema().table, &error);
                    unfit(&self.transaction, failed)
                })?,
                None => change,
            };
            let building = &mut self.building;
            building.rows += 1;
            building.bytes += CHANGE_OVERHEAD;
            let one_by_one = matches!(self.plan.mode, Mode::OneByOne(_));
            // What a change finds in a settling table says nothing, so there is no other way.
            let settles = building.net.settles(&route.schema.table);
            if one_by_one && !settles {
                building.ordered.push((Arc::clone(route), change));
                continue;
            }
            building.net.add(route, change).map_err(damaged)?;
            if one_by_one && building.net.needs_order() {
                return Err(CollectError::Unsettled(route.schema.table.clone()));
            }
        }
        Ok(())
    }

    fn truncate(
        &mut self,
        schemas: &[SchemaId],
        restart_identity: bool,
    ) -> Result<(), CollectError> {
        let mut tables = Vec::new();
        for schema in schemas {
            let routed = self.routes.of(&self.plan, *schema);
            let routed = routed.map_err(|error| unroutable(&self.transaction, error))?;
            tables.extend(routed.map(|routed| Arc::clone(&routed.route)));
        }
        if tables.is_empty() {
            return Ok(());
        }
        if let Mode::OneByOne(_) = self.plan.mode {
            self.building.close_ordered();
            let settling = settling(&self.plan.tables);
            let before =
                std::mem::replace(&mut self.building.net, Reducer::with_settling(settling));
            let steps = &mut self.building.ordered_steps;
            steps.extend(before.finish().steps);
            steps.push(Step::Truncate {
                tables,
                restart_identity,
            });
        } else {
            self.building.net.truncate(tables, restart_identity);
        }
        Ok(())
    }

    fn take_joined(&mut self, seq: Seq, position: &SourcePosition) -> Vec<TableName> {
        let mut joined = Vec::new();
        if self.open_cuts == 0 {
            return joined;
        }
        for (name, table) in &mut self.plan.tables {
            if table
                .cut
                .as_ref()
                .is_some_and(|cut| cut.passed(seq, position.as_str()))
            {
                table.cut = None;
                self.open_cuts -= 1;
                joined.push(name.clone());
            }
        }
        joined
    }

    /// The tables that had a cut; none has any more.
    fn take_all_cuts(&mut self) -> Vec<TableName> {
        self.open_cuts = 0;
        let tables = self.plan.tables.iter_mut();
        let open = tables.filter_map(|(name, table)| table.cut.take().map(|_| name.clone()));
        open.collect()
    }

    /// The whole transactions collected so far, if any.
    fn take_batch(&mut self) -> Option<Batch> {
        let (epoch, seq, position) = self.building.end.clone()?;
        let joined = std::mem::take(&mut self.building.joined);
        Some(self.take_part(Some(BatchEnd {
            epoch,
            seq,
            position,
            joined,
        })))
    }

    fn take_part(&mut self, end: Option<BatchEnd>) -> Batch {
        let fresh = Building::new(settling(&self.plan.tables));
        let mut building = std::mem::replace(&mut self.building, fresh);
        let reduced = match self.plan.mode {
            Mode::Combined | Mode::Rewritten(_) => building.net.finish(),
            Mode::OneByOne(_) => {
                building.close_ordered();
                let (mut steps, rows) = (building.ordered_steps, building.rows);
                steps.extend(building.net.finish().steps);
                Reduced {
                    steps,
                    rows,
                    needs_order: false,
                }
            }
        };
        Batch {
            first: building.first.unwrap_or_else(|| self.transaction.clone()),
            end,
            continues: building.continues,
            reduced,
            transactions: building.transactions,
            bytes: building.bytes,
            new_routes: self.routes.take_fresh(),
        }
    }
}

/// The tables that are settling.
fn settling(tables: &HashMap<TableName, CopiedTable>) -> HashSet<TableName> {
    let settles = |table: &CopiedTable| table.cut.as_ref().is_some_and(Cut::settles);
    let tables = tables.iter().filter(|(_, table)| settles(table));
    tables.map(|(name, _)| name.clone()).collect()
}

impl Building {
    fn new(settling: HashSet<TableName>) -> Self {
        Building {
            net: Reducer::with_settling(settling),
            ..Building::default()
        }
    }

    fn close_ordered(&mut self) {
        if !self.ordered.is_empty() {
            self.ordered_steps
                .push(Step::Ordered(std::mem::take(&mut self.ordered)));
        }
    }
}

fn unroutable(transaction: &TxInfo, error: Unroutable) -> CollectError {
    match error {
        Unroutable::Unfit(error) => unfit(transaction, error),
        Unroutable::Elsewhere(held, name) => CollectError::Elsewhere(held, name),
    }
}

/// The replica's engine cannot represent what `transaction` holds.
fn unfit(transaction: &TxInfo, error: ConnectorError) -> CollectError {
    CollectError::Convert(transaction.clone(), Box::new(error))
}

fn damaged(error: Malformed) -> LogError {
    LogError::Damaged {
        place: "a transaction's changes".into(),
        what: error.to_string(),
    }
}
