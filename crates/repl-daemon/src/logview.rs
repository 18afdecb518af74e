//! What `replctl log` shows: range, segments and recent transactions.

use std::collections::BTreeMap;

use repl_api::{LogInfo, LogQuery, SegmentInfo, TableChanges, TransactionInfo};
use repl_core::Seq;
use repl_core::change::{Change, Changes};
use repl_core::log::{Bounds, EventLog, LogError};
use repl_core::record::{Body, Fragment};
use repl_core::schema::SchemaId;

/// Most transactions read for one request.
const MAX_SCANNED: u64 = 100_000;

/// Reads the log for one request.
///
/// # Errors
/// When reading fails.
pub fn read(log: &dyn EventLog, query: &LogQuery) -> Result<LogInfo, LogError> {
    let bounds = log.bounds();
    let limit = query.effective_limit();
    let first = bounds.first_seq.0;
    let start = match query.from_seq {
        Some(from) => from.max(first),
        None if query.table.is_some() => bounds
            .durable
            .seq
            .0
            .saturating_sub(MAX_SCANNED - 1)
            .max(first),
        None => bounds
            .durable
            .seq
            .0
            .saturating_sub(limit as u64 - 1)
            .max(first),
    };
    let mut transactions: Vec<TransactionInfo> = Vec::new();
    let mut truncated = query.from_seq.is_none() && start > first && query.table.is_some();
    if start <= bounds.durable.seq.0 {
        let newest = query.from_seq.is_none();
        truncated |= scan(log, query, start, limit, newest, &mut transactions)?;
    }
    Ok(info(log, &bounds, transactions, truncated))
}

/// Collects matching transactions; true when it stopped before the end.
fn scan(
    log: &dyn EventLog,
    query: &LogQuery,
    start: u64,
    limit: usize,
    newest: bool,
    found: &mut Vec<TransactionInfo>,
) -> Result<bool, LogError> {
    let mut reader = log.reader(Seq(start - 1))?;
    let mut current: Option<Summary> = None;
    while let Some(record) = reader.next()? {
        let Body::Fragment(fragment) = &record.body else {
            continue;
        };
        if record.seq.0 >= start + MAX_SCANNED {
            return Ok(true);
        }
        let summary = current.get_or_insert_with(Summary::default);
        summary.add(log, fragment, record.size)?;
        if let Some(position) = &fragment.position {
            let Some(done) = current.take() else { continue };
            let done = done.finish(
                record.seq.0,
                u64::from(record.epoch.0),
                position.to_string(),
            );
            let wanted = query
                .table
                .as_ref()
                .is_none_or(|table| done.tables.iter().any(|changes| changes.table == *table));
            if !wanted {
                continue;
            }
            if found.len() == limit {
                if !newest {
                    return Ok(true);
                }
                found.remove(0);
            }
            found.push(done);
        }
    }
    Ok(false)
}

#[derive(Default)]
struct Summary {
    txid: u64,
    commit_ms: u64,
    bytes: u64,
    tables: BTreeMap<String, TableChanges>,
}

impl Summary {
    fn add(&mut self, log: &dyn EventLog, fragment: &Fragment, bytes: u64) -> Result<(), LogError> {
        self.bytes += bytes;
        if let Some(header) = &fragment.header {
            self.txid = header.txid;
            self.commit_ms = (header.commit_time_us / 1000).max(0) as u64;
        }
        for change in Changes::new(fragment.changes.clone()) {
            let change = change.map_err(|error| LogError::Damaged {
                place: "a transaction's changes".into(),
                what: error.to_string(),
            })?;
            match change {
                Change::Insert { schema, .. } => self.table(log, schema).inserts += 1,
                Change::Update { schema, .. } => self.table(log, schema).updates += 1,
                Change::Delete { schema, .. } => self.table(log, schema).deletes += 1,
                Change::Truncate { schemas, .. } => {
                    for schema in schemas {
                        self.table(log, schema).truncates += 1;
                    }
                }
                Change::Message { .. } => {}
            }
        }
        Ok(())
    }

    fn table(&mut self, log: &dyn EventLog, schema: SchemaId) -> &mut TableChanges {
        let name = log.schema(schema).map_or_else(
            || format!("schema #{}", schema.0),
            |schema| schema.table.to_string(),
        );
        self.tables
            .entry(name.clone())
            .or_insert_with(|| TableChanges {
                table: name,
                ..TableChanges::default()
            })
    }

    fn finish(self, seq: u64, epoch: u64, position: String) -> TransactionInfo {
        TransactionInfo {
            seq,
            epoch,
            source_txid: self.txid.to_string(),
            position,
            commit_ms: self.commit_ms,
            bytes: self.bytes,
            tables: self.tables.into_values().collect(),
        }
    }
}

fn info(
    log: &dyn EventLog,
    bounds: &Bounds,
    transactions: Vec<TransactionInfo>,
    truncated: bool,
) -> LogInfo {
    LogInfo {
        log_id: log.id().to_string(),
        epoch: u64::from(bounds.durable.epoch.0),
        first_seq: bounds.first_seq.0,
        durable_seq: bounds.durable.seq.0,
        size_bytes: bounds.bytes,
        segments: log
            .segments()
            .into_iter()
            .map(|segment| SegmentInfo {
                file: segment.name,
                first_seq: segment.first_seq.map(|seq| seq.0),
                last_seq: segment.last_seq.map(|seq| seq.0),
                bytes: segment.bytes,
                sealed: segment.sealed,
            })
            .collect(),
        transactions,
        truncated,
    }
}
