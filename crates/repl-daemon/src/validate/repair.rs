//! Brings differing rows into line, through the replica's own worker.
//!
//! A comparison tells of each row that differs what the replica should hold and what it holds, both
//! at one point `S` of the stream. The worker applies the difference between two batches, in a
//! target transaction with the checkpoint's compare-and-set, at a later point `T`: that is exact for
//! every row that no transaction between `S` and `T` has touched. Those that were touched are left
//! out and compared again; so the repair ends when a comparison finds nothing any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use repl_api::RepairReport;
use repl_connectors::seam::SourceTable;
use repl_core::batch::{NetTable, Route};
use repl_core::checkpoint::Checkpoint;
use repl_core::codec::Malformed;
use repl_core::cut::Cut;
use repl_core::log::EventLog;
use repl_core::schema::TableName;
use repl_core::validate::canon::applicable;
use repl_core::validate::changes::{Changes, Span};
use repl_core::validate::delta::Delta;
use repl_core::validate::narrow::Difference;
use tracing::info;

use super::Shared;
use super::jobs::Job;
use super::run::{self, Found, Outcome, Task};
use crate::replica::RepairOrder;

/// Comparisons without progress after which a repair is given up.
const IDLE_ROUNDS: u32 = 3;
/// How long a replica's worker may take to do its part.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most memory for the changes between comparison and repair, bytes.
const CHANGES_BYTES: u64 = 64 * 1024 * 1024;

/// What was done, by replica and table.
type Done = BTreeMap<(usize, TableName), RepairReport>;

/// Repairs the task's tables; the last comparison, and what was done.
pub async fn repair(shared: &Shared, task: &Task, job: &Job) -> (Outcome, Vec<RepairReport>) {
    let mut done = Done::new();
    let mut idle = 0;
    loop {
        let mut outcome = run::run(shared, task).await;
        let mut progress = false;
        let mut differing = false;
        for (at, cells) in &mut outcome.cells {
            for (name, cell) in cells.iter_mut() {
                let Some(found) = cell.found.take() else {
                    continue;
                };
                if found.narrowed.differences.is_empty() {
                    continue;
                }
                differing = true;
                job.phase("repairing");
                let report = done.entry((*at, name.clone())).or_default();
                report.replica = shared.members[*at].replica.node.name.clone();
                report.table = name.to_string();
                let source = task.tables.iter().find(|table| table.name == *name);
                let before = report.inserted + report.updated + report.deleted;
                report.error = match source {
                    Some(source) => apply(shared, *at, source, found, report).await.err(),
                    None => None,
                };
                progress |= report.inserted + report.updated + report.deleted > before;
            }
        }
        idle = if progress { 0 } else { idle + 1 };
        if !differing || idle >= IDLE_ROUNDS {
            if !differing {
                done.values_mut().for_each(|report| report.error = None);
            }
            let reports: Vec<RepairReport> = done.into_values().collect();
            for report in &reports {
                info!(
                    replica = %report.replica,
                    table = %report.table,
                    inserted = report.inserted,
                    updated = report.updated,
                    deleted = report.deleted,
                    error = report.error.as_deref().unwrap_or_default(),
                    "repaired"
                );
            }
            return (outcome, reports);
        }
    }
}

/// Has the replica's worker apply what was found.
async fn apply(
    shared: &Shared,
    at: usize,
    source: &SourceTable,
    found: Found,
    report: &mut RepairReport,
) -> Result<(), String> {
    let replica = &shared.members[at].replica;
    let (log, source) = (Arc::clone(&shared.log), source.clone());
    let prepare = move |checkpoint: &Checkpoint| {
        let net = steps(log.as_ref(), &source, &found, checkpoint)?;
        // Held until the log was read.
        drop(found);
        Ok(net)
    };
    let (order, applied) = RepairOrder::new(prepare);
    replica.repair(order);
    let answer = tokio::time::timeout(PATIENCE, applied).await;
    let net = match answer {
        Ok(Ok(outcome)) => outcome?,
        Ok(Err(_)) => return Err("the replica's worker gave the repair up".to_owned()),
        Err(_) => {
            replica.withdraw_repairs();
            return Err(format!(
                "the replica's worker did not come to it within {} s",
                PATIENCE.as_secs()
            ));
        }
    };
    report.inserted += net.inserted;
    report.updated += net.updated;
    report.deleted += net.deleted;
    Ok(())
}

/// The rows to write at `checkpoint`: the differences that nothing has touched since they were
/// found.
fn steps(
    log: &dyn EventLog,
    source: &SourceTable,
    found: &Found,
    checkpoint: &Checkpoint,
) -> Result<NetTable, String> {
    let touched = touched(log, source, found, checkpoint)?;
    let form = &found.subject.form;
    let mut net = NetTable::new(Arc::new(Route {
        schema: Arc::clone(&form.schema),
        target: found.subject.target.clone(),
    }));
    let mut last = None;
    for difference in &found.narrowed.differences {
        let twice = form.canon.is_keyed()
            && (difference.copies != 1 || last.replace(&difference.key) == Some(&difference.key));
        if twice {
            return Err(format!(
                "the replica holds several rows under one key of {}: it has no unique index over \
                 the key; which of them are whose is not known, so none is removed: see to it there",
                source.name
            ));
        }
        if !touched(difference) {
            write(&mut net, difference, form.canon.is_keyed()).map_err(|e| e.to_string())?;
        }
    }
    Ok(net)
}

fn write(net: &mut NetTable, difference: &Difference, keyed: bool) -> Result<(), Malformed> {
    let engine = net.route.schema.engine.clone();
    let row = |row| applicable(row, &engine);
    let copies = i64::try_from(difference.copies).unwrap_or(i64::MAX);
    match (&difference.expected, &difference.actual) {
        (Some(expected), Some(_)) if keyed => net.updates.push(row(expected)?),
        (Some(expected), None) if keyed => net.inserts.push(row(expected)?),
        (None, Some(actual)) if keyed => net.deletes.push(row(actual)?),
        (expected, actual) => {
            if let Some(expected) = expected {
                net.multiset.push((row(expected)?, copies));
            }
            if let Some(actual) = actual {
                net.multiset.push((row(actual)?, -copies));
            }
        }
    }
    Ok(())
}

/// Whether a row was touched between its comparison and `checkpoint`.
fn touched(
    log: &dyn EventLog,
    source: &SourceTable,
    found: &Found,
    checkpoint: &Checkpoint,
) -> Result<impl Fn(&Difference) -> bool, String> {
    if checkpoint.seq < found.seq {
        return Err("the replica went back behind the comparison".to_owned());
    }
    let span = Span {
        cut: Cut::Through(found.seq),
        before: found.seq,
        through: checkpoint.seq,
        epoch: checkpoint.epoch,
        withheld: Vec::new(),
        limit: CHANGES_BYTES,
    };
    let changes = Changes::collect(log, &span).map_err(|error| error.to_string())?;
    let form = &found.subject.form;
    let mut delta = Delta::default();
    for logged in changes.of(&source.name, &source.incarnation, checkpoint.seq) {
        let added = delta.add(&form.canon, &form.change(&logged.change)?);
        added.map_err(|error| error.to_string())?;
        let changed = matches!(logged.change, repl_core::change::Change::Truncate { .. });
        if changed || Some(&logged.schema.columns) != source.schema.as_ref().map(|s| &s.columns) {
            return Err("the table was truncated or altered meanwhile".to_owned());
        }
    }
    let copies: std::collections::HashSet<_> = delta
        .copies()
        .map(|(row, _)| row.encoded().clone())
        .collect();
    Ok(move |difference: &Difference| {
        delta.touches(&difference.key) || copies.contains(&difference.key)
    })
}
