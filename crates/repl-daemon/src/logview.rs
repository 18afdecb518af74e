//! What `replctl log` shows: range, segments and recent transactions.

use std::collections::BTreeMap;

use repl_api::{
    ApiError, ErrorCode, LogInfo, LogQuery, SegmentInfo, TableChanges, TransactionInfo,
};
use repl_core::Seq;
use repl_core::change::{Change, Changes};
use repl_core::log::{Bounds, EventLog, LogError};
use repl_core::record::{Body, Fragment};
use repl_core::schema::{SchemaId, TableName};
use repl_core::select::TablePattern;

use crate::config::nearest;

/// Most transactions read for one request.
const MAX_SCANNED: u64 = 100_000;

/// The table that is asked for: as the status writes it, or by patterns, or by its name alone.
pub struct Wanted {
    text: String,
    pattern: Option<TablePattern>,
}

impl Wanted {
    /// Reads what was asked for.
    pub fn parse(text: &str) -> Wanted {
        // Without a schema it is the table of whatever schema.
        Wanted {
            text: text.to_owned(),
            pattern: TablePattern::parse(text, "*").ok(),
        }
    }

    /// Whether this is the table.
    pub fn matches(&self, table: &TableName) -> bool {
        let matches = |pattern: &TablePattern| pattern.matches(table);
        table.to_string() == self.text || self.pattern.as_ref().is_some_and(matches)
    }

    /// Why nothing can be told of it, if it is none of the tables that are known.
    pub fn unknown(&self, known: &[TableName]) -> Option<ApiError> {
        if known.iter().any(|table| self.matches(table)) {
            return None;
        }
        let names: Vec<String> = known.iter().map(TableName::to_string).collect();
        let bare: Vec<&str> = known.iter().map(|table| table.name.as_str()).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let near = nearest(&self.text, &all).map(str::to_owned).or_else(|| {
            let near = nearest(&self.text, &bare)?;
            let at = bare.iter().position(|name| *name == near)?;
            names.get(at).cloned()
        });
        let what = format!(
            "{:?} is none of the primary's selected tables, and nothing in the log is of it",
            self.text
        );
        let list = "replctl tables lists them";
        let advice = match near {
            Some(near) => format!("did you mean {near}? {list}"),
            None => list.to_owned(),
        };
        Some(ApiError::new(ErrorCode::NotFound, what, advice))
    }
}

/// Reads the log for one request.
///
/// # Errors
/// When reading fails.
pub fn read(log: &dyn EventLog, query: &LogQuery) -> Result<LogInfo, LogError> {
    let bounds = log.bounds();
    let wanted = query.table.as_deref().map(Wanted::parse);
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
        truncated |= scan(log, &wanted, start, limit, newest, &mut transactions)?;
    }
    Ok(info(log, &bounds, transactions, truncated))
}

/// Collects matching transactions; true when it stopped before the end.
fn scan(
    log: &dyn EventLog,
    wanted: &Option<Wanted>,
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
        summary.add(log, wanted, fragment, record.size)?;
        if let Some(position) = &fragment.position {
            let Some(done) = current.take() else { continue };
            if wanted.is_some() && !done.wanted {
                continue;
            }
            let done = done.finish(
                record.seq.0,
                u64::from(record.epoch.0),
                position.to_string(),
            );
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
    /// It changed the table that is asked for.
    wanted: bool,
}

impl Summary {
    fn add(
        &mut self,
        log: &dyn EventLog,
        wanted: &Option<Wanted>,
        fragment: &Fragment,
        bytes: u64,
    ) -> Result<(), LogError> {
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
                Change::Insert { schema, .. } => self.table(log, wanted, schema).inserts += 1,
                Change::Update { schema, .. } => self.table(log, wanted, schema).updates += 1,
                Change::Delete { schema, .. } => self.table(log, wanted, schema).deletes += 1,
                Change::Truncate { schemas, .. } => {
                    for schema in schemas {
                        self.table(log, wanted, schema).truncates += 1;
                    }
                }
                Change::Message { .. } => {}
            }
        }
        Ok(())
    }

    fn table(
        &mut self,
        log: &dyn EventLog,
        wanted: &Option<Wanted>,
        schema: SchemaId,
    ) -> &mut TableChanges {
        let known = log.schema(schema);
        self.wanted |= match (wanted, &known) {
            (Some(wanted), Some(known)) => wanted.matches(&known.table),
            _ => false,
        };
        let name = known.map_or_else(
            || format!("schema #{}", schema.0),
            |known| known.table.to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table(schema: &str, name: &str) -> TableName {
        TableName {
            schema: schema.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn tables_are_found_by_what_people_write() {
        let known = [
            table("public", "orders"),
            table("app", "Order Lines"),
            table("app", "v1.x"),
        ];
        for (text, found) in [
            ("orders", "public.orders"),
            ("public.orders", "public.orders"),
            ("*.ord*", "public.orders"),
            ("Order Lines", "app.Order Lines"),
            ("app.\"Order Lines\"", "app.Order Lines"),
            ("app.v1.x", "app.v1.x"),
        ] {
            let wanted = Wanted::parse(text);
            let first = known.iter().find(|table| wanted.matches(table));
            assert_eq!(
                first.map(TableName::to_string).as_deref(),
                Some(found),
                "{text}"
            );
            assert!(wanted.unknown(&known).is_none());
        }
        for (text, near) in [
            ("public.ordres", Some("public.orders")),
            ("ordesr", Some("public.orders")),
            ("order lines", Some("app.Order Lines")),
            ("zzz", None),
            ("\"", None),
            ("", None),
            ("a\0b", None),
        ] {
            let unknown = Wanted::parse(text).unknown(&known).unwrap();
            assert_eq!(unknown.code, ErrorCode::NotFound);
            let named = near.is_none_or(|near| unknown.advice.contains(near));
            assert!(
                named && !unknown.advice.is_empty(),
                "{text}: {}",
                unknown.advice
            );
        }
    }
}
