//! Reads the log ahead of the applier and reduces it to batches.
//!
//! Runs on a thread of its own, so that the next batch is being prepared while one commits; the
//! channel holds one batch, which bounds memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use repl_connectors::seam::CopiedTable;
use repl_core::batch::{Route, Step};
use repl_core::change::{Change, Changes};
use repl_core::codec::Malformed;
use repl_core::failpoint;
use repl_core::log::{Durable, EventLog, LogError, Reader};
use repl_core::net::{Reduced, Reducer};
use repl_core::record::{Body, Fragment, LogRecord, TxHeader};
use repl_core::schema::{SchemaId, TableName};
use repl_core::select::Routing;
use repl_core::{Epoch, Seq, SourcePosition};
use tokio::sync::{mpsc, watch};

/// Memory a change takes beside its encoded bytes while it is being reduced, bytes: two row
/// handles, a hash entry and their slack. Counted, because rows are often smaller than that.
const CHANGE_OVERHEAD: u64 = 192;

/// What the applier does next.
#[derive(Debug)]
pub enum Work {
    /// Whole transactions, or a part of one that is larger than a batch.
    Batch(Batch),
    /// The stream passed the cuts of these tables without a transaction.
    Joined(Vec<TableName>, SourcePosition),
    /// A new span of history begins: this replica cannot follow across it.
    Broken(Epoch, String),
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
    /// One by one, changes in the source's order, up to and including this transaction.
    OneByOne(Seq),
}

/// Everything a collector needs.
pub struct Plan {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Wakes it.
    pub durable: watch::Receiver<Durable>,
    /// Start behind this transaction.
    pub after: Seq,
    /// Epoch the replica is in.
    pub epoch: Epoch,
    /// Names at the replica.
    pub routing: Routing,
    /// Tables whose rows the replica holds, with what their copy already contains.
    pub tables: HashMap<TableName, CopiedTable>,
    /// Leave this transaction's changes out.
    pub skip: Option<Seq>,
    /// Mode.
    pub mode: Mode,
    /// Most bytes of memory per batch, approximately.
    pub batch_bytes: u64,
    /// Most transactions per batch.
    pub batch_transactions: u64,
}

/// Starts a collector; it ends when the receiver is dropped, at its end (one by one), or with an
/// error.
pub fn start(plan: Plan) -> mpsc::Receiver<Result<Work, LogError>> {
    let (sender, receiver) = mpsc::channel(1);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut durable = plan.durable.clone();
        let mut collector = match Collector::new(plan) {
            Ok(collector) => collector,
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        loop {
            // Marked as seen before reading, so that an advance during the read is not missed.
            durable.borrow_and_update();
            match collector.next() {
                Ok(Some(work)) => {
                    if sender.blocking_send(Ok(work)).is_err() {
                        return;
                    }
                }
                Ok(None) if collector.finished => return,
                Ok(None) => {
                    let open = runtime.block_on(async {
                        tokio::select! {
                            changed = durable.changed() => changed.is_ok(),
                            () = sender.closed() => false,
                        }
                    });
                    if !open {
                        return;
                    }
                }
                Err(error) => {
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
        }
    });
    receiver
}

struct Collector {
    plan: Plan,
    reader: Box<dyn Reader>,
    routes: HashMap<SchemaId, Option<Arc<Route>>>,
    new_routes: Vec<Arc<Route>>,
    building: Building,
    /// A record that was read but belongs to the next batch.
    held: Option<LogRecord>,
    /// A record that was read ahead; by the deliberately broken build only.
    swapped: Option<LogRecord>,
    transaction: TxInfo,
    /// Tables whose copy contains the current transaction.
    contained: HashSet<TableName>,
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
    fn new(plan: Plan) -> Result<Collector, LogError> {
        let reader = plan.log.reader(plan.after)?;
        Ok(Collector {
            plan,
            reader,
            routes: HashMap::new(),
            new_routes: Vec::new(),
            building: Building::default(),
            held: None,
            swapped: None,
            transaction: TxInfo::default(),
            contained: HashSet::new(),
            skipping: false,
            finished: false,
        })
    }

    /// The next work, or none at the log's durable end.
    fn next(&mut self) -> Result<Option<Work>, LogError> {
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

    fn fragment(&mut self, record: LogRecord) -> Result<Option<Work>, LogError> {
        let LogRecord {
            epoch, seq, size, ..
        } = record;
        let Body::Fragment(fragment) = &record.body else {
            return Ok(None);
        };
        let alone = fragment.header.is_none() || fragment.position.is_none();
        if fragment.header.is_some() && self.building.transactions > 0 {
            // A transaction of several fragments, and one with a new schema version, start a
            // batch of their own.
            if alone || self.brings_new_schema(fragment)? {
                self.held = Some(record);
                return Ok(self.take_batch().map(Work::Batch));
            }
        }
        if let Some(header) = &fragment.header {
            self.begin(seq, header);
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
        self.contained.clear();
        for (name, table) in &self.plan.tables {
            if table
                .cut
                .as_ref()
                .is_some_and(|cut| cut.contains(seq, header.txid, ""))
            {
                self.contained.insert(name.clone());
            }
        }
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
            Mode::Combined if full || building.continues => self.take_batch().map(Work::Batch),
            Mode::Combined => None,
        }
    }

    fn changes(&mut self, fragment: &Fragment) -> Result<(), LogError> {
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
                    self.truncate(schemas, *restart_identity);
                    continue;
                }
                Change::Message { .. } => continue,
            };
            let Some(route) = self.route(schema) else {
                continue;
            };
            self.building.rows += 1;
            self.building.bytes += CHANGE_OVERHEAD;
            if let Mode::OneByOne(_) = self.plan.mode {
                self.building.ordered.push((route, change));
            } else {
                self.building.net.add(&route, &change).map_err(damaged)?;
            }
        }
        Ok(())
    }

    fn truncate(&mut self, schemas: &[SchemaId], restart_identity: bool) {
        let tables: Vec<Arc<Route>> = schemas
            .iter()
            .filter_map(|schema| self.route(*schema))
            .collect();
        if tables.is_empty() {
            return;
        }
        if let Mode::OneByOne(_) = self.plan.mode {
            self.building.close_ordered();
            self.building.ordered_steps.push(Step::Truncate {
                tables,
                restart_identity,
            });
        } else {
            self.building.net.truncate(tables, restart_identity);
        }
    }

    /// The route of a schema version in the current transaction; none when the replica does not
    /// receive the table, has not copied it yet, or its copy contains the transaction.
    fn route(&mut self, schema: SchemaId) -> Option<Arc<Route>> {
        if !self.routes.contains_key(&schema) {
            let route = self.plan.log.schema(schema).and_then(|schema| {
                let held = self.plan.tables.get(&schema.table)?;
                // A table that was dropped and made again is another one: its rows are copied
                // anew, and until then its changes are not for the table that is here.
                let same = schema.incarnation.is_empty() || schema.incarnation == held.incarnation;
                same.then_some(())?;
                let target = self.plan.routing.target(&schema.table)?;
                Some(Arc::new(Route { schema, target }))
            });
            self.new_routes.extend(route.clone());
            self.routes.insert(schema, route);
        }
        let route = self.routes.get(&schema)?.as_ref()?;
        (self.contained.is_empty() || !self.contained.contains(&route.schema.table))
            .then(|| Arc::clone(route))
    }

    fn brings_new_schema(&self, fragment: &Fragment) -> Result<bool, LogError> {
        for change in Changes::new(fragment.changes.clone()) {
            let known = match change.map_err(damaged)? {
                Change::Insert { schema, .. }
                | Change::Update { schema, .. }
                | Change::Delete { schema, .. } => self.routes.contains_key(&schema),
                Change::Truncate { schemas, .. } => schemas
                    .iter()
                    .all(|schema| self.routes.contains_key(schema)),
                Change::Message { .. } => true,
            };
            if !known {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take_joined(&mut self, seq: Seq, position: &SourcePosition) -> Vec<TableName> {
        let mut joined = Vec::new();
        for (name, table) in &mut self.plan.tables {
            if table
                .cut
                .as_ref()
                .is_some_and(|cut| cut.passed(seq, position.as_str()))
            {
                table.cut = None;
                joined.push(name.clone());
            }
        }
        joined
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
        let mut building = std::mem::take(&mut self.building);
        let reduced = match self.plan.mode {
            Mode::Combined => building.net.finish(),
            Mode::OneByOne(_) => {
                building.close_ordered();
                let (steps, rows) = (building.ordered_steps, building.rows);
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
            new_routes: std::mem::take(&mut self.new_routes),
        }
    }
}

impl Building {
    fn close_ordered(&mut self) {
        if !self.ordered.is_empty() {
            self.ordered_steps
                .push(Step::Ordered(std::mem::take(&mut self.ordered)));
        }
    }
}

fn damaged(error: Malformed) -> LogError {
    LogError::Damaged {
        place: "a transaction's changes".into(),
        what: error.to_string(),
    }
}
