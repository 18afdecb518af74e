//! Notices that a table was out of the stream, and has the replicas compare it.
//!
//! What covers each table is remembered in `state.json`, with the epoch it was true in. A table that is
//! covered by something else now may have been out of the stream for any moment, while the daemon was
//! down as well: before that is shown to anybody, every replica's record says that it may lack changes of the
//! table. Its worker then forgets that it holds the table, and copies it by difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use repl_api::ErrorKind;
use repl_connectors::seam::{CaptureBoard, ConnectorError, SourceTable};
use repl_core::log::EventLog;
use repl_core::schema::TableName;
use repl_core::select::Routing;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::errors;
use crate::replica::Replica;
use crate::state::{ReplicaRecord, StateFile};

/// By what each table is covered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Epoch of the span of history. A further span begins with all its tables covered.
    pub epoch: u32,
    /// What covers each table, by its incarnation; empty when nothing does, which was told already.
    pub tables: BTreeMap<String, Covered>,
}

/// What covers one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// The table's name.
    pub table: TableName,
    /// What covers it.
    pub by: String,
    /// Transactions that wrote to it before had not ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

impl Coverage {
    /// What is known once `tables` were looked at, and the tables that were out of the stream since the
    /// time before.
    pub fn look(
        known: Option<&Coverage>,
        epoch: u32,
        tables: &[SourceTable],
    ) -> (Coverage, Vec<TableName>) {
        let same = known.filter(|known| known.epoch == epoch);
        let mut next = same.cloned().unwrap_or(Coverage {
            epoch,
            ..Coverage::default()
        });
        let mut lapsed = Vec::new();
        for table in tables.iter().filter(|table| !table.incarnation.is_empty()) {
            let now = Covered {
                table: table.name.clone(),
                by: table.coverage.clone(),
                waits: !table.waits.is_empty(),
            };
            match next.tables.get(&table.incarnation) {
                Some(before) if *before == now => continue,
                Some(before) if before.by != now.by && !before.by.is_empty() => {
                    lapsed.push(table.name.clone());
                }
                Some(_) => {}
                // Made anew under its name: the former one does not come back.
                None => next.tables.retain(|_, other| other.table != table.name),
            }
            next.tables.insert(table.incarnation.clone(), now);
        }
        (next, lapsed)
    }
}

/// A board on which nothing is seen before it was noted.
pub fn noting(
    board: CaptureBoard,
    log: Arc<dyn EventLog>,
    state: Arc<StateFile>,
    replicas: Vec<(Arc<Replica>, Routing)>,
) -> CaptureBoard {
    let known = state.coverage().unwrap_or_default().tables.into_iter();
    let settled = known.filter(|(_, covered)| !covered.waits);
    let settled = settled.map(|(incarnation, covered)| (incarnation, covered.by));
    let settled = settled.collect();
    let note = move |tables: &[SourceTable]| note(log.as_ref(), &state, &replicas, tables);
    board.noting(Box::new(note), settled)
}

fn note(
    log: &dyn EventLog,
    state: &StateFile,
    replicas: &[(Arc<Replica>, Routing)],
    tables: &[SourceTable],
) -> Result<(), ConnectorError> {
    let bounds = log.bounds();
    let epoch = bounds.history.map_or(bounds.durable.epoch, |one| one.epoch);
    let known = state.coverage();
    if known.is_none() && state.lost().is_none() && bounds.durable.seq.0 > 0 {
        warn!(
            "whether every table was in the stream all the time until now is not remembered; \
             replctl validate --deep tells whether the replicas are equal"
        );
    }
    let (next, lapsed) = Coverage::look(known.as_ref(), epoch.0, tables);
    if known.as_ref() == Some(&next) {
        return Ok(());
    }
    let reason = reason(&lapsed);
    let change = |name: &str, record: &mut ReplicaRecord| {
        lacks(record, &lapsed, &reason);
        let named = |(replica, _): &&(Arc<Replica>, Routing)| replica.node.name == name;
        if let Some((_, routing)) = replicas.iter().find(named)
            && is_explained(record, &lapsed, routing)
        {
            record.pause = None;
        }
    };
    state.set_coverage(next, change).map_err(errors::state)?;
    if lapsed.is_empty() {
        return Ok(());
    }
    info!(reason, "tables are compared with the primary");
    for (replica, _) in replicas {
        replica.order(|_| {});
    }
    Ok(())
}

/// Whether a replica is held by what it found in one of these tables, of which it lacks changes.
fn is_explained(record: &ReplicaRecord, tables: &[TableName], routing: &Routing) -> bool {
    let error = record.pause.as_ref().and_then(|pause| pause.error.as_ref());
    let found = error.filter(|error| {
        let at_odds = [ErrorKind::Conflict, ErrorKind::Constraint];
        at_odds.contains(&error.kind)
    });
    let Some(at) = found.and_then(|error| error.table.as_ref()) else {
        return false;
    };
    let mut targets = tables.iter().filter_map(|table| routing.target(table));
    targets.any(|target| target.to_string() == *at)
}

/// Why these tables are compared, for people.
fn reason(tables: &[TableName]) -> String {
    const NAMED: usize = 5;
    let names: Vec<String> = tables
        .iter()
        .take(NAMED)
        .map(TableName::to_string)
        .collect();
    let (is, it) = match tables.len() {
        1 => ("was", "it is"),
        _ => ("were", "they are"),
    };
    let more = match tables.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more tables"),
    };
    format!(
        "{}{more} {is} out of the stream for a time (the publication was changed): {it} compared with \
         the primary",
        names.join(", ")
    )
}

/// Remembers that a replica may lack changes of these tables.
pub fn lacks(record: &mut ReplicaRecord, tables: &[TableName], reason: &str) {
    for table in tables {
        if !record.resync.contains(table) {
            record.resync.push(table.clone());
        }
    }
    if record.reason.is_empty() && !tables.is_empty() {
        reason.clone_into(&mut record.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, incarnation: &str, coverage: &str) -> SourceTable {
        SourceTable {
            name: TableName::new("public", name),
            incarnation: incarnation.into(),
            schema: None,
            refusal: String::new(),
            remedy: String::new(),
            coverage: coverage.into(),
            waits: String::new(),
            parents: Vec::new(),
        }
    }

    fn look(known: &Coverage, epoch: u32, tables: &[SourceTable]) -> (Coverage, Vec<String>) {
        let (next, lapsed) = Coverage::look(Some(known), epoch, tables);
        (next, lapsed.into_iter().map(|table| table.name).collect())
    }

    #[test]
    fn a_table_that_is_covered_by_something_else_has_lapsed_once() {
        let (first, lapsed) =
            Coverage::look(None, 1, &[table("a", "1", "x"), table("b", "2", "x")]);
        assert!(lapsed.is_empty());
        let (same, lapsed) = look(&first, 1, &[table("a", "1", "x")]);
        assert_eq!((&same, lapsed), (&first, vec![]));
        // Out and in again, unseen.
        let (next, lapsed) = look(&first, 1, &[table("a", "1", "y"), table("b", "2", "x")]);
        assert_eq!(lapsed, ["a"]);
        assert_eq!(
            look(&next, 1, &[table("a", "1", "y")]).1,
            Vec::<String>::new()
        );
        // Out, and in again later: told when it is out.
        let (out, lapsed) = look(&next, 1, &[table("a", "1", "")]);
        assert_eq!(lapsed, ["a"]);
        assert!(look(&out, 1, &[table("a", "1", "z")]).1.is_empty());
        // Not selected for a while, during which its coverage changed.
        let (away, _) = look(&next, 1, &[table("b", "2", "x")]);
        assert_eq!(look(&away, 1, &[table("a", "1", "z")]).1, ["a"]);
    }

    #[test]
    fn another_table_of_the_name_and_another_span_begin_anew() {
        let (first, _) = Coverage::look(None, 1, &[table("a", "1", "x")]);
        let (next, lapsed) = look(&first, 1, &[table("a", "9", "y")]);
        assert!(lapsed.is_empty());
        assert_eq!(next.tables.len(), 1);
        let (next, lapsed) = look(&first, 2, &[table("a", "1", "y")]);
        assert!(lapsed.is_empty());
        assert_eq!(next.epoch, 2);
    }
}
