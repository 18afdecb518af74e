//! Could this replica become the primary now, and what would that mean?

use std::sync::Arc;
use std::time::{Duration, Instant};

use repl_api::{Activity, ErrorCode, Readiness, ReadinessFinding};
use repl_connectors::seam::{CaptureState, ConnectorError, Finding, Part, SourceTable};
use repl_core::membership::Membership;
use repl_core::mode::Mode;
use repl_core::promotion::Cause;
use repl_core::schema::TableSchema;
use tokio::time::timeout;
use tokio::{join, try_join};

use super::Parties;
use super::forced::loss;
use super::record::wire;
use crate::admin::ControlError;
use crate::config::{Engine, impossible};
use crate::replica::Replica;
use crate::status::Group;

/// What the steps take beside the servers' answers, milliseconds: state files, the end of sessions.
const STEPS_MS: u64 = 150;
/// Answers of servers that the steps wait for one after the other.
const ANSWERS: u64 = 30;
/// How long a primary that is to be replaced by force is given to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// Looks at everything.
///
/// # Errors
/// When a node that takes part cannot be asked.
pub async fn report(
    group: &Group,
    parties: &Parties,
    cause: Cause,
) -> Result<Readiness, ControlError> {
    let mut report = match cause.is_forced() {
        true => without_primary(group, parties, cause).await?,
        false => with_primary(group, parties).await?,
    };
    report.findings.sort_by_key(|finding| !finding.blocks);
    report.ready = report.findings.iter().all(|finding| !finding.blocks);
    Ok(report)
}

async fn with_primary(group: &Group, parties: &Parties) -> Result<Readiness, ControlError> {
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
    let (handing, taking, there, here) = asked.map_err(unavailable)?;
    let answer_ms = started.elapsed().as_millis() as u64 / 4;
    let mut report = begin(group, parties)?;
    let replica = replica(group, &to.name)?;
    let streams = group.board.status().state == CaptureState::Streaming;
    if !streams {
        let remedy = "wait until it streams (replctl status)";
        let what = "the primary is not being captured";
        add(
            &mut report,
            &from.name,
            vec![Finding::blocker(what, remedy)],
        );
    }
    add(&mut report, &from.name, of_the_group(group, &tables));
    add(&mut report, &from.name, handing);
    add(&mut report, &to.name, of_the_replica(group, replica));
    add(&mut report, &to.name, of_the_mode(group, replica));
    add(&mut report, &to.name, late(group, replica));
    add(&mut report, &to.name, taking);
    let missing: Vec<_> = there.difference(&here).collect();
    add(&mut report, &to.name, not_carried(&missing));
    for other in group.replicas.iter().filter(|one| one.node.name != to.name) {
        add(&mut report, &other.node.name, of_another(other));
    }
    let drain = report.estimated_gap_ms.unwrap_or_default();
    report.estimated_gap_ms = Some(STEPS_MS + answer_ms * ANSWERS / 10 + drain);
    Ok(report)
}

/// The primary is not asked for anything but whether it answers.
async fn without_primary(
    group: &Group,
    parties: &Parties,
    cause: Cause,
) -> Result<Readiness, ControlError> {
    let (from, to) = (&parties.from, &parties.to);
    let seen = group.primary_seen();
    let known: Vec<SourceTable> = seen.tables.iter().map(source).collect();
    let mut report = begin(group, parties)?;
    let replica = replica(group, &to.name)?;
    let answers = timeout(ANSWER_WAIT, from.role.answer());
    let (answers, taking) = join!(answers, to.role.findings(Part::TakesOver, &known));
    let taking = taking.map_err(unavailable)?;
    if matches!(answers, Ok(Ok(()))) {
        let what = "it answers: a planned promotion loses nothing";
        let remedy = format!(
            "replctl promote {}; to give up what it has that the log has not, and to fence it, add \
             --overrule",
            to.name
        );
        let finding = match cause {
            Cause::Overruled => Finding::note(what, ""),
            _ => Finding::blocker(what, remedy),
        };
        add(&mut report, &from.name, vec![finding]);
    }
    if known.is_empty() {
        let what = "which tables it has was never learnt: there is nothing to take over";
        let finding = Finding::blocker(what, "open the replica by hand: docs/PROMOTION.md");
        add(&mut report, &from.name, vec![finding]);
    }
    add(&mut report, &from.name, of_the_group(group, &[]));
    add(&mut report, &to.name, of_the_replica(group, replica));
    add(&mut report, &to.name, of_the_mode(group, replica));
    add(&mut report, &to.name, taking);
    for other in group.replicas.iter().filter(|one| one.node.name != to.name) {
        let found = of_another(other)
            .into_iter()
            .map(|found| match found.blocks {
                true => Finding::note("it was being copied, and is copied anew", ""),
                false => found,
            });
        add(&mut report, &other.node.name, found.collect());
    }
    let loss = loss(group, from.role.as_ref());
    report.may_lose = Some(wire(&loss, &from.name));
    Ok(report)
}

fn source(schema: &TableSchema) -> SourceTable {
    SourceTable {
        name: schema.table.clone(),
        incarnation: schema.incarnation.clone(),
        schema: Some(Arc::new(schema.clone())),
        refusal: String::new(),
        remedy: String::new(),
        coverage: String::new(),
        waits: String::new(),
        parents: Vec::new(),
    }
}

fn unavailable(error: ConnectorError) -> ControlError {
    ControlError::new(ErrorCode::Unavailable, error.message, error.advice)
}

fn replica<'a>(group: &'a Group, name: &str) -> Result<&'a Replica, ControlError> {
    let found = group.replicas.iter().find(|one| one.node.name == name);
    found
        .map(|found| found.as_ref())
        .ok_or_else(|| super::no_replica(group, name))
}

fn add(report: &mut Readiness, node: &str, found: Vec<Finding>) {
    let found = found.into_iter().map(|finding| ReadinessFinding {
        blocks: finding.blocks,
        node: node.to_owned(),
        what: finding.what,
        remedy: finding.remedy,
    });
    report.findings.extend(found);
}

/// A report without findings; its gap is the time for what the replica has not applied.
fn begin(group: &Group, parties: &Parties) -> Result<Readiness, ControlError> {
    let (from, to) = (&parties.from, &parties.to);
    let replica = replica(group, &to.name)?;
    let durable = group.log.bounds().durable.seq.0;
    let streams = replica
        .record()
        .is_some_and(|record| record.standing == Membership::Streaming);
    let known = replica.applied().map(|(seq, _)| seq.0);
    let applied = known.unwrap_or_default();
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
        ready: false,
        findings: Vec::new(),
        lag_ms: match queue {
            0 => known.filter(|_| streams).map(|_| 0),
            _ => lag_ms,
        },
        applied_seq: known.filter(|_| streams),
        queue_transactions: queue,
        estimated_gap_ms: Some(drain),
        may_lose: None,
    })
}

fn of_the_group(group: &Group, tables: &[SourceTable]) -> Vec<Finding> {
    let mut findings = Vec::new();
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
    if replica.view().activity == Some(Activity::AwaitingLog) {
        let what = "it holds transactions that the event log lost in a crash of the daemon's host";
        let remedy = "promote another one; or start the old primary, which sends them again";
        findings.push(Finding::blocker(what, remedy));
    }
    if let Some(why) = replica.view().forgetful.clone() {
        let what = "a crash would take back what it calls durable";
        findings.push(Finding::note(what, why));
    }
    findings
}

/// Whether what commits are promised can be promised there, and what it means there.
fn of_the_mode(group: &Group, replica: &Replica) -> Vec<Finding> {
    let config = &group.config;
    let engine = replica.node.endpoint.engine();
    let asked = group.modes.settings();
    let stays = config.nodes().filter(|node| node.name != replica.node.name);
    let counting = stays.filter(|node| node.enabled && node.counts).count();
    if let Some(found) = impossible(&config.replication, &asked, counting, engine) {
        let what = format!("{} is not possible: {}", found.what, found.why);
        return vec![Finding::blocker(what, found.fix)];
    }
    if asked.mode == Mode::Async || engine != Engine::Sqlite || config.engine() == engine {
        return Vec::new();
    }
    let what = format!(
        "its commits wait for nothing by themselves: {} is promised to a client once replctl wait, or \
         POST /v1/wait, has returned",
        asked.mode.name()
    );
    vec![Finding::note(what, "")]
}

/// What a planned promotion is not begun for: writes would be refused for as long.
fn late(group: &Group, replica: &Replica) -> Vec<Finding> {
    let max = group.config.promotion.max_lag.as_millis() as u64;
    let lag = replica.view().lag_ms.filter(|lag| *lag > max);
    let finding = |lag| {
        let what = format!("it lags by {lag} ms, more than promotion.max_lag");
        Finding::blocker(what, "wait until it has caught up")
    };
    lag.map(finding).into_iter().collect()
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
