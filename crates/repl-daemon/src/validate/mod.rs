//! Proves that replicas hold what the primary holds, while all of them go on, and repairs rows.
//!
//! [`cut`] takes one consistent cut of the primary and its replicas; [`run`] goes through the tables;
//! [`member`] says what a replica should hold of a table, [`scan`] compares it, [`report`] puts
//! the outcome into words; [`repair`] applies differing rows through the replica's own worker.
//! Each validation runs on threads of its own, away from those that replicate.

mod background;
mod cut;
mod jobs;
mod member;
mod progress;
mod record;
mod repair;
mod report;
mod run;
mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use repl_api::{
    ActionDone, ErrorCode, ReplicaValidation, Validation, ValidationRequest, ValidationState,
    Verdict,
};
use repl_connectors::seam::{CaptureBoard, SnapshotSource, SourceTable};
use repl_core::log::{Durable, EventLog};
use repl_core::membership::Membership;
use repl_core::schema::TableName;
use repl_core::select::{Selection, TablePattern};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin::ControlError;
use crate::capture_task::CaptureErrors;
use crate::clock::now_ms;
use crate::config::ValidateConfig;
use crate::pins::Pins;
use jobs::{Job, Jobs};
pub use member::Member;
pub use record::Record;
use run::{Outcome, Task};

/// What every validation works with.
pub struct Shared {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Its durable end.
    pub durable: watch::Receiver<Durable>,
    /// Takes snapshots of the primary.
    pub snapshots: Arc<dyn SnapshotSource>,
    /// Holds on the log.
    pub pins: Arc<Pins>,
    /// What the capture of the primary does.
    pub board: Arc<CaptureBoard>,
    /// What went wrong with it.
    pub capture_errors: Arc<CaptureErrors>,
    /// The replicas.
    pub members: Vec<Member>,
    /// The primary's selected tables.
    pub tables: watch::Receiver<Arc<Vec<SourceTable>>>,
    /// The schema of table names that name none.
    pub default_schema: String,
    /// What was found.
    pub verified: Arc<Record>,
    /// The daemon stops.
    pub stop: watch::Receiver<bool>,
}

/// Longest wait for the primary's tables.
const TABLES_WAIT: Duration = Duration::from_secs(5);

/// Starts validations and remembers the last ones.
pub struct Validator {
    shared: Arc<Shared>,
    jobs: Arc<Jobs>,
}

impl Validator {
    /// A validator that has done nothing yet.
    pub fn new(shared: Shared) -> Self {
        Validator {
            shared: Arc::new(shared),
            jobs: Arc::default(),
        }
    }

    /// Starts a validation.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica or a table nothing matches; `Conflict` while another one
    /// is under way.
    pub fn start(&self, request: &ValidationRequest) -> Result<Validation, ControlError> {
        let members = self.members(&request.replicas)?;
        let (tables, not_replicated) = self.tables(&request.tables)?;
        if tables.is_empty() && not_replicated.is_empty() {
            return Err(self.no_tables());
        }
        let standings = skipped(&self.shared);
        let job = self
            .jobs
            .begin(request.clone(), members, not_replicated, standings)?;
        let (shared, shown) = (Arc::clone(&self.shared), job.now());
        let task = job.task(tables);
        self.on_threads(Arc::clone(&job), async move {
            let outcome = run::run(&shared, &task).await;
            let before = job.standings();
            let reports = reports(&shared, &outcome);
            if task.deep {
                note(&shared, &reports);
            }
            if whole(&shared, &job, &task) {
                lift(&shared, &before, &reports);
                all_compared(&shared, &reports);
            }
            job.finish(reports);
        })?;
        Ok(shown)
    }

    /// One validation.
    ///
    /// # Errors
    /// `NotFound` when it is not known (any more).
    pub fn get(&self, id: &str) -> Result<Validation, ControlError> {
        self.jobs.find(id).map(|job| job.now())
    }

    /// Ends a validation.
    ///
    /// # Errors
    /// `NotFound` when it is not known (any more); `Conflict` when it has ended.
    pub fn cancel(&self, id: &str) -> Result<ActionDone, ControlError> {
        let job = self.jobs.find(id)?;
        if job.now().is_over() {
            let message = format!("validation {id} has ended already");
            return Err(ControlError::new(ErrorCode::Conflict, message, ""));
        }
        job.cancel();
        Ok(ActionDone {
            verb: "validation.cancel".to_owned(),
            target: id.to_owned(),
            message: format!("validation {id} is ended"),
        })
    }

    /// Repairs the rows that a validation found to differ, and compares those tables again. Returns
    /// when that is done.
    ///
    /// # Errors
    /// `NotFound` when it is not known (any more); `Conflict` when it is under way, was not deep, or
    /// found nothing to repair.
    pub async fn repair(&self, id: &str) -> Result<ActionDone, ControlError> {
        let job = self.jobs.find(id)?;
        let names = job.begin_repair()?;
        let selected = self.shared.tables.borrow().clone();
        let wanted = |table: &&SourceTable| names.contains(&table.name.to_string());
        let tables = selected.iter().filter(wanted).cloned().collect();
        let (shared, task) = (Arc::clone(&self.shared), job.task(tables));
        let repaired = Arc::clone(&job);
        self.on_threads(Arc::clone(&job), async move {
            let (outcome, repairs) = repair::repair(&shared, &task, &repaired).await;
            let reports = reports(&shared, &outcome);
            note(&shared, &reports);
            repaired.repaired(repairs, reports);
        })?;
        job.ended().await;
        let now = job.now();
        let (mut rows, mut left) = (0, 0);
        for repair in &now.repairs {
            rows += repair.inserted + repair.updated + repair.deleted;
            left += u64::from(repair.error.is_some());
        }
        Ok(ActionDone {
            verb: "validation.repair".to_owned(),
            target: id.to_owned(),
            message: match left {
                0 => format!("{rows} rows repaired"),
                _ => format!("{rows} rows repaired; {left} tables could not be repaired entirely"),
            },
        })
    }

    /// Starts the comparisons in the background, if any are configured.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_background(&self, config: &ValidateConfig) -> std::io::Result<()> {
        if config.interval.is_none() {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (shared, config) = (Arc::clone(&self.shared), config.clone());
        let record = Arc::clone(&shared.verified);
        let mut stop = shared.stop.clone();
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = background::run(shared, record, config) => {}
                    // An error means the daemon is gone, which is a stop as well.
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("validate-all".to_owned());
        thread.spawn(work).map(drop)
    }

    fn members(&self, names: &[String]) -> Result<Vec<usize>, ControlError> {
        let all = &self.shared.members;
        let name = |at: &usize| all[*at].replica.node.name.as_str();
        if names.is_empty() {
            let enabled = |at: &usize| all[*at].replica.node.enabled;
            return Ok((0..all.len()).filter(enabled).collect());
        }
        let find = |wanted: &String| {
            let found = (0..all.len()).find(|at| name(at) == wanted);
            found.ok_or_else(|| {
                let known: Vec<&str> = (0..all.len()).map(|at| name(&at)).collect();
                ControlError::new(
                    ErrorCode::NotFound,
                    format!("there is no replica called {wanted:?}"),
                    format!("use one of: {}", known.join(", ")),
                )
            })
        };
        names.iter().map(find).collect()
    }

    /// Waits a moment for the primary's tables to become known: a daemon that has just started is
    /// still asking for them.
    pub async fn wait_for_tables(&self) {
        let mut tables = self.shared.tables.clone();
        let known = tables.wait_for(|tables| !tables.is_empty());
        // Whoever asked for tables is told when they are not known even then.
        let _ = tokio::time::timeout(TABLES_WAIT, known).await;
    }

    /// The replicated tables that match, and the others with why they are not replicated.
    ///
    /// # Errors
    /// `NotFound` for a pattern that matches none; `Unavailable` while no table is known.
    pub fn tables(&self, patterns: &[String]) -> Result<Tables, ControlError> {
        let bad =
            |text: String| ControlError::new(ErrorCode::BadRequest, text, "write schema.table");
        let parse = |text: &String| TablePattern::parse(text, &self.shared.default_schema);
        let include: Result<Vec<_>, _> = patterns.iter().map(parse).collect();
        let selection = Selection {
            include: include.map_err(bad)?,
            ..Selection::default()
        };
        let all = self.shared.tables.borrow().clone();
        if all.is_empty() && !patterns.is_empty() {
            return Err(self.no_tables());
        }
        for (text, pattern) in patterns.iter().zip(&selection.include) {
            if !all.iter().any(|table| pattern.matches(&table.name)) {
                return Err(ControlError::new(
                    ErrorCode::NotFound,
                    format!("no table of the primary's selection matches {text:?}"),
                    "replctl tables lists them",
                ));
            }
        }
        let matching = all.iter().filter(|table| selection.selects(&table.name));
        let (held, refused): (Vec<&SourceTable>, Vec<_>) =
            matching.partition(|table| table.schema.is_some());
        let why = |table: &&SourceTable| (table.name.to_string(), table.refusal.clone());
        Ok((
            held.into_iter().cloned().collect(),
            refused.iter().map(why).collect(),
        ))
    }

    fn no_tables(&self) -> ControlError {
        let (last, refusal) = self.shared.capture_errors.get();
        let present = refusal.or(last.filter(|error| !error.past));
        let (why, advice) = match present {
            Some(error) => (error.message, error.advice),
            None => (
                "it has none that is selected, or was not reached since the daemon started"
                    .to_owned(),
                "replctl status shows the primary's state".to_owned(),
            ),
        };
        let what = format!("which tables the primary has is not known: {why}");
        ControlError::new(ErrorCode::Unavailable, what, advice)
    }

    /// Runs the work on threads of its own until it ends, is cancelled, or the daemon stops.
    fn on_threads(
        &self,
        job: Arc<Job>,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ControlError> {
        let failed = |job: &Job, error: std::io::Error| {
            job.fail(&format!("no thread can be started: {error}"));
            ControlError::new(ErrorCode::Unavailable, error.to_string(), "")
        };
        let mut stop = self.shared.stop.clone();
        let worked = Arc::clone(&job);
        let started = std::thread::Builder::new()
            .name("validate".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(THREADS)
                    .thread_name("validate")
                    .enable_all()
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(failed(&worked, error)),
                };
                runtime.block_on(async {
                    tokio::select! {
                        ended = tokio::spawn(work) => if let Err(error) = ended {
                            worked.fail(&format!("it ended in a defect of the daemon: {error}"));
                        },
                        () = worked.cancelled() => worked.end(ValidationState::Cancelled),
                        // An error means the daemon is gone, which is a stop as well.
                        _ = stop.wait_for(|stop| *stop) => worked.end(ValidationState::Cancelled),
                    }
                });
                runtime.shutdown_background();
            });
        started.map(drop).map_err(|error| failed(&job, error))
    }
}

/// Both sides are read at the same time; what is more waits for the servers.
const THREADS: usize = 2;

/// Tables, and names of others with a reason.
pub type Tables = (Vec<SourceTable>, BTreeMap<String, String>);

/// The outcomes in the API's words.
fn reports(shared: &Shared, outcome: &Outcome) -> Vec<ReplicaValidation> {
    let all = shared.tables.borrow().clone();
    let report = |(at, cells): (&usize, &BTreeMap<TableName, run::Cell>)| {
        let member = &shared.members[*at];
        let tables: Vec<_> = cells.values().map(|cell| cell.report.clone()).collect();
        let excluded = all.iter().filter(|table| table.schema.is_some());
        let excluded = excluded.filter(|table| member.routing.target(&table.name).is_none());
        ReplicaValidation {
            replica: member.replica.node.name.clone(),
            verdict: run::verdict(tables.iter()),
            excluded: excluded.map(|table| table.name.to_string()).collect(),
            only_here: outcome.only_here.get(at).cloned().unwrap_or_default(),
            tables,
        }
    };
    outcome.cells.iter().map(report).collect()
}

/// Everything a replica receives was compared value by value.
fn whole(shared: &Shared, job: &Job, task: &Task) -> bool {
    let all = shared.tables.borrow().clone();
    let held = all.iter().filter(|table| table.schema.is_some()).count();
    job.request().deep && task.tables.len() == held
}

/// Notes outcomes of a comparison of every value, and in `state.json` that there are any: their absence
/// then tells that they were lost.
fn note(shared: &Shared, reports: &[ReplicaValidation]) {
    if let Some(member) = shared.members.first()
        && let Err(error) = member.replica.state.set_validated()
    {
        let error = format!("{error:#}");
        warn!(error, "cannot remember that replicas were compared");
    }
    shared.verified.note(reports, now_ms());
}

/// Of a comparison of everything: whether it told of every replica.
fn all_compared(shared: &Shared, reports: &[ReplicaValidation]) {
    let told = |member: &&Member| {
        let name = &member.replica.node.name;
        let own = reports.iter().find(|report| report.replica == *name);
        own.is_some_and(|report| report.verdict != Verdict::Undetermined)
    };
    let mut enabled = shared
        .members
        .iter()
        .filter(|member| member.replica.node.enabled);
    if enabled.all(|member| told(&member)) {
        shared.verified.all_compared();
    }
}

/// A replica that skipped transactions and yet holds everything the primary holds differs no more.
fn lift(shared: &Shared, before: &BTreeMap<String, u64>, reports: &[ReplicaValidation]) {
    for report in reports
        .iter()
        .filter(|report| report.verdict == Verdict::Equal)
    {
        let member = shared
            .members
            .iter()
            .find(|m| m.replica.node.name == report.replica);
        let Some(replica) = member.map(|member| &member.replica) else {
            continue;
        };
        let record = replica.record();
        let still = record.is_some_and(|record| {
            record.standing == Membership::Diverged
                && before.get(&report.replica) == Some(&record.skipped)
        });
        if !still {
            continue;
        }
        let changed = replica.change(|record| {
            record.standing = Membership::Streaming;
            record.reason.clear();
            record.skipped = 0;
        });
        match changed {
            Ok(_) => info!(replica = %report.replica, "found equal: it is no longer diverged"),
            Err(error) => {
                let error = format!("{error:#}");
                warn!(replica = %report.replica, error, "cannot remember that it is equal");
            }
        }
    }
}

/// How many transactions each diverged replica has skipped.
fn skipped(shared: &Shared) -> BTreeMap<String, u64> {
    let skips = |member: &Member| {
        let record = member.replica.record()?;
        let diverged = record.standing == Membership::Diverged;
        diverged.then(|| (member.replica.node.name.clone(), record.skipped))
    };
    shared.members.iter().filter_map(skips).collect()
}
