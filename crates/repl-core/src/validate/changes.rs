//! What a replica has applied beyond a snapshot of its primary, read from the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use thiserror::Error;

use crate::change::{Change, Changes as Decoded};
use crate::codec::Malformed;
use crate::cut::Cut;
use crate::log::{EventLog, LogError, Visibility};
use crate::position::{Epoch, Seq};
use crate::record::{Body, Fragment};
use crate::schema::{SchemaId, TableName, TableSchema};

/// Memory a change takes beside its encoded bytes, bytes.
const OVERHEAD: u64 = 128;

/// The stretch of the log to look at.
#[derive(Clone, Debug)]
pub struct Span {
    /// What the snapshot contains.
    pub cut: Cut,
    /// The log's end before the snapshot was taken: of what lies before it the snapshot lacks only
    /// transactions that it saw running.
    pub before: Seq,
    /// The last transaction of interest.
    pub through: Seq,
    /// Epoch of the snapshot.
    pub epoch: Epoch,
    /// Transactions known to be committed although the snapshot does not show them.
    pub withheld: Vec<u64>,
    /// Most bytes to keep.
    pub limit: u64,
}

/// Why the changes are not known.
#[derive(Debug, Error)]
pub enum Unknown {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A transaction is damaged.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There are more than memory was set aside for.
    #[error("too much was changed between the primary's snapshot and the replicas'")]
    TooMany,
    /// The log ends before the wanted transaction.
    #[error("the event log ends at transaction {1}, before transaction {0} of a replica")]
    Short(Seq, Seq),
    /// History began anew in between.
    #[error("history broke while it was compared: {0}")]
    History(String),
    /// A commit is withheld at the primary and was applied so long ago that the log has let it go.
    #[error(
        "transaction {0} is committed but withheld at the primary, and no longer in the event log"
    )]
    Withheld(u64),
}

/// A row change with where and in which shape it was made.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Its transaction.
    pub seq: Seq,
    /// Shape of its images.
    pub schema: Arc<TableSchema>,
    /// The change: of a row, or a truncation.
    pub change: Change,
}

/// The changes of all tables, in the log's order.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    tables: HashMap<TableName, Vec<Logged>>,
    bytes: u64,
}

impl Changes {
    /// Reads the log.
    ///
    /// # Errors
    /// When the changes cannot be known exactly.
    pub fn collect(log: &dyn EventLog, span: &Span) -> Result<Changes, Unknown> {
        let start = start(log, span)?;
        let mut changes = Changes::default();
        // Replicas may be ahead of the log's durable end.
        let mut reader = log.follow(start, Visibility::Appended)?;
        let (mut contained, mut last) = (true, start);
        while let Some(record) = reader.next()? {
            match &record.body {
                Body::History(history) if history.epoch > span.epoch => {
                    return Err(Unknown::History(history.reason.clone()));
                }
                Body::Fragment(fragment) => {
                    if record.seq > span.through {
                        break;
                    }
                    last = record.seq;
                    if let Some(header) = &fragment.header {
                        // Whatever another primary had committed is in this one.
                        contained = record.epoch < span.epoch
                            || span.cut.contains(record.seq, header.txid, "");
                    }
                    if !contained {
                        changes.take(log, record.seq, fragment, span.limit)?;
                    }
                }
                _ => {}
            }
        }
        if last < span.through {
            return Err(Unknown::Short(span.through, last));
        }
        Ok(changes)
    }

    fn take(
        &mut self,
        log: &dyn EventLog,
        seq: Seq,
        fragment: &Fragment,
        limit: u64,
    ) -> Result<(), Unknown> {
        for change in Decoded::new(fragment.changes.clone()) {
            let change = change?;
            let schemas: &[SchemaId] = match &change {
                Change::Insert { schema, .. }
                | Change::Update { schema, .. }
                | Change::Delete { schema, .. } => std::slice::from_ref(schema),
                Change::Truncate { schemas, .. } => schemas,
                Change::Message { .. } => &[],
            };
            for schema in schemas.iter().filter_map(|id| log.schema(*id)) {
                let logged = Logged {
                    seq,
                    schema: Arc::clone(&schema),
                    change: change.clone(),
                };
                self.tables
                    .entry(schema.table.clone())
                    .or_default()
                    .push(logged);
                self.bytes += OVERHEAD;
            }
        }
        // The chunk is shared by its rows and kept by any of them.
        self.bytes += fragment.changes.len() as u64;
        if self.bytes > limit {
            return Err(Unknown::TooMany);
        }
        Ok(())
    }

    /// The changes of one table's incarnation through `seq`. One that is not told (empty) matches
    /// every one.
    pub fn of<'a>(
        &'a self,
        table: &TableName,
        incarnation: &'a str,
        seq: Seq,
    ) -> impl Iterator<Item = &'a Logged> {
        let all = self.tables.get(table).map_or(&[][..], Vec::as_slice);
        all.iter()
            .take_while(move |logged| logged.seq <= seq)
            .filter(move |logged| {
                let own = logged.schema.incarnation.as_str();
                own.is_empty() || incarnation.is_empty() || own == incarnation
            })
    }
}

/// The transaction behind which to read.
fn start(log: &dyn EventLog, span: &Span) -> Result<Seq, Unknown> {
    if let Cut::Through(seq) = &span.cut {
        return Ok(*seq);
    }
    // A snapshot is never of several cuts.
    let Cut::Transactions(visible) = &span.cut else {
        return Ok(span.before);
    };
    let short = |id: &u64| u64::from(*id as u32);
    let running: HashSet<u64> = visible.running.iter().map(short).collect();
    let mut withheld: HashMap<u64, u64> = span.withheld.iter().map(|id| (short(id), *id)).collect();
    withheld.retain(|id, _| running.contains(id));
    let mut start = span.before;
    if !running.is_empty() {
        let first = log.bounds().first_seq;
        let all = Seq(first.0.saturating_sub(1));
        let mut reader = log.follow(all, Visibility::Appended)?;
        while let Some(record) = reader.next()? {
            if record.seq > span.through {
                break;
            }
            let Body::Fragment(fragment) = &record.body else {
                continue;
            };
            let Some(header) = &fragment.header else {
                continue;
            };
            if record.epoch == span.epoch && running.contains(&header.txid) {
                start = start.min(Seq(record.seq.0.saturating_sub(1)));
                withheld.remove(&header.txid);
            }
            if record.seq > span.before && withheld.is_empty() {
                break;
            }
        }
    }
    match withheld.into_values().next() {
        Some(id) => Err(Unknown::Withheld(id)),
        None => Ok(start),
    }
}
