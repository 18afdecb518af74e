//! Could this replica become the primary now, and what would that mean?

use std::time::Instant;

use repl_api::{ErrorCode, Readiness, ReadinessFinding};
use repl_connectors::seam::{CaptureState, Finding, Part, SourceTable};
use repl_core::membership::Membership;
use tokio::try_join;

use super::Parties;
use crate::admin::ControlError;
use crate::replica::Replica;
use crate::status::Group;

/// What the steps take beside the servers' answers, milliseconds: state files, the end of sessions.
const STEPS_MS: u64 = 150;
/// Answers of servers that the steps wait for one after the other.
const ANSWERS: u64 = 30;

/// Looks at everything.
///
/// # Errors
/// When a node cannot be asked.
pub async fn report(group: &Group, parties: &Parties) -> Result<Readiness, ControlError> {
    let started = Instant::now();
    let tables = group.board.tables().borrow().clone();
    let replicated: Vec<SourceTable> = tables
        .iter()
        .filter(|table| table.schema.is_some())
        .cloned()
        .collect();
    let (from, to) = (&parties.from, &parties.to);
    let asked = try_join!(
        from.role.findings(Part::HandsOver, &replicated),
        to.role.findings(Part::TakesOver, &replicated),
        from.role.beside(),
        to.role.beside(),
    );
    let (handing, taking, there, here) = asked
        .map_err(|error| ControlError::new(ErrorCode::Unavailable, error.message, error.advice))?;
    let answer_ms = started.elapsed().as_millis() as u64 / 4;
    let mut findings = Vec::new();
    let mut add = |node: &str, found: Vec<Finding>| {
        findings.extend(found.into_iter().map(|finding| ReadinessFinding {
            blocks: finding.blocks,
            node: node.to_owned(),
            what: finding.what,
            remedy: finding.remedy,
        }));
    };
    add(&from.name, of_the_group(group, &tables));
    add(&from.name, handing);
    let replica = group.replicas.iter().find(|one| one.node.name == to.name);
    let replica = replica.ok_or_else(|| super::no_replica(group, &to.name))?;
    add(&to.name, of_the_replica(group, replica));
    add(&to.name, taking);
    let missing: Vec<_> = there.difference(&here).collect();
    add(&to.name, not_carried(&missing));
    for other in group.replicas.iter().filter(|one| one.node.name != to.name) {
        add(&other.node.name, of_another(other));
    }
    findings.sort_by_key(|finding| !finding.blocks);
    let durable = group.log.bounds().durable.seq.0;
    let applied = replica.applied().map_or(0, |(seq, _)| seq.0);
    let (lag_ms, queue) = (replica.view().lag_ms, durable.saturating_sub(applied));
    let rate = {
        let meter = replica.meter.lock();
        let meter = meter.unwrap_or_else(std::sync::PoisonError::into_inner);
        meter.rates().0
    };
    // What a replica that keeps up applied lately is less than it could.
    let drain = (queue as f64 / rate.max(1000.0) * 1000.0) as u64;
    Ok(Readiness {
        from: from.name.clone(),
        to: to.name.clone(),
        ready: findings.iter().all(|finding| !finding.blocks),
        findings,
        lag_ms: if queue == 0 { Some(0) } else { lag_ms },
        queue_transactions: queue,
        estimated_gap_ms: Some(STEPS_MS + answer_ms * ANSWERS / 10 + drain),
    })
}

fn of_the_group(group: &Group, tables: &[SourceTable]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if group.board.status().state != CaptureState::Streaming {
        let remedy = "wait until it streams (replctl status)";
        findings.push(Finding::blocker(
            "the primary is not being captured",
            remedy,
        ));
    }
    if let Some(reason) = group.ingest.reason() {
        let what = format!("the event log takes in nothing: {reason}");
        findings.push(Finding::blocker(what, "mend that first"));
    }
    if !group.config.tables.rename.is_empty() {
        let what = "tables have other names at the replicas ([tables] rename), which would be renamed \
                    once more in a replica of one";
        findings.push(Finding::blocker(what, "use the same names everywhere"));
    }
    for table in tables.iter().filter(|table| table.schema.is_none()) {
        let what = format!(
            "table {} is not replicated, and stays behind: {}",
            table.name, table.refusal
        );
        findings.push(Finding::note(what, table.remedy.clone()));
    }
    findings
}

fn of_the_replica(group: &Group, replica: &Replica) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &replica.node.name;
    let membership = replica.record().map(|record| record.membership());
    if membership != Some(Membership::Streaming) {
        let is = membership.map_or("not there yet", Membership::name);
        let remedy = "only a replica that streams holds what the primary holds";
        findings.push(Finding::blocker(format!("it is {is}"), remedy));
    }
    let differing = group.verified.of(name).map(|found| found.different);
    if let Some(tables) = differing.filter(|tables| !tables.is_empty()) {
        let what = format!(
            "it was found to differ from the primary in {}",
            tables.join(", ")
        );
        let remedy =
            format!("compare and repair: replctl validate --deep --repair --replica {name}");
        findings.push(Finding::blocker(what, remedy));
    }
    let own = &replica.node.tables.selection;
    let whole = own.exclude.is_empty() && own.rename.is_empty();
    if !(whole && own.include.iter().all(|pattern| pattern == "*.*")) {
        let what = "it receives a part of the tables, or under other names ([node.tables])";
        findings.push(Finding::blocker(
            what,
            "promote one that receives all as they are",
        ));
    }
    let max = group.config.promotion.max_lag.as_millis() as u64;
    let lag = replica.view().lag_ms;
    if let Some(lag) = lag.filter(|lag| *lag > max) {
        let what = format!("it lags by {lag} ms, more than promotion.max_lag");
        findings.push(Finding::blocker(what, "wait until it has caught up"));
    }
    if let Some(why) = replica.view().forgetful.clone() {
        let what = "a crash would take back what it calls durable";
        findings.push(Finding::note(what, why));
    }
    findings
}

/// Other replicas follow the log; those that do not are named.
fn of_another(replica: &Replica) -> Vec<Finding> {
    if !replica.node.enabled {
        return Vec::new();
    }
    match replica.record().map(|record| record.membership()) {
        Some(Membership::Streaming) => Vec::new(),
        Some(Membership::Copying | Membership::Resyncing) | None => {
            let what = "it is being copied from the primary";
            vec![Finding::blocker(
                what,
                "wait until it streams (replctl copy)",
            )]
        }
        Some(other) => {
            let what = format!("it is {}, and stays so", other.name());
            vec![Finding::note(what, "")]
        }
    }
}

/// What the old primary's database has beside rows and tables, and the new one's has not, by kind.
fn not_carried(missing: &[&(String, String)]) -> Vec<Finding> {
    /// Most names listed of a kind.
    const LISTED: usize = 6;
    let mut kinds: Vec<&str> = missing.iter().map(|(kind, _)| kind.as_str()).collect();
    kinds.dedup();
    let finding = |kind: &str| {
        let of = missing.iter().filter(|(one, _)| one == kind);
        let names: Vec<&str> = of.map(|(_, name)| name.as_str()).collect();
        let shown = names.iter().take(LISTED).copied().collect::<Vec<_>>();
        let more = match names.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let what = format!("not carried over, {kind}: {}{more}", shown.join(", "));
        Finding::note(what, "make it there if the application needs it")
    };
    kinds.into_iter().map(finding).collect()
}
