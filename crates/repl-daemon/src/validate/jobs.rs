//! Validations under way and the last ones that ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use repl_api::{
    ApiError, ErrorCode, RepairReport, ReplicaValidation, Validation, ValidationRequest,
    ValidationState, Verdict,
};
use repl_connectors::seam::SourceTable;
use tokio::sync::watch;

use super::progress::Progress;
use super::run::Task;
use crate::admin::ControlError;
use crate::clock::now_ms;

/// Validations remembered, the one under way included.
const KEPT: usize = 8;

/// All validations known.
#[derive(Default)]
pub struct Jobs {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    last: u64,
    jobs: VecDeque<Arc<Job>>,
}

/// One validation.
pub struct Job {
    request: ValidationRequest,
    members: Vec<usize>,
    standings: BTreeMap<String, u64>,
    progress: Arc<Progress>,
    shown: Mutex<Validation>,
    over: watch::Sender<bool>,
    cancel: watch::Sender<bool>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new validation, unless one is under way.
    pub fn begin(
        &self,
        request: ValidationRequest,
        members: Vec<usize>,
        not_replicated: BTreeMap<String, String>,
        standings: BTreeMap<String, u64>,
    ) -> Result<Arc<Job>, ControlError> {
        let mut held = self.lock();
        if let Some(busy) = held
            .jobs
            .iter()
            .map(|job| job.now())
            .find(|job| !job.is_over())
        {
            return Err(ControlError::new(
                ErrorCode::Conflict,
                format!("validation {} is under way", busy.id),
                "wait for it, or end it with: replctl validate --cancel",
            ));
        }
        held.last += 1;
        let started_ms = now_ms();
        let shown = Validation {
            id: format!("{started_ms}-{}", held.last),
            state: ValidationState::Running,
            deep: request.deep,
            started_ms,
            finished_ms: None,
            progress: None,
            verdict: None,
            replicas: Vec::new(),
            not_replicated,
            repairs: Vec::new(),
            error: None,
        };
        let job = Arc::new(Job {
            request,
            members,
            standings,
            progress: Arc::new(Progress::new(None)),
            shown: Mutex::new(shown),
            over: watch::Sender::new(false),
            cancel: watch::Sender::new(false),
        });
        held.jobs.push_back(Arc::clone(&job));
        if held.jobs.len() > KEPT {
            held.jobs.pop_front();
        }
        Ok(job)
    }

    /// The validation of this number; `latest` is the last one begun.
    pub fn find(&self, id: &str) -> Result<Arc<Job>, ControlError> {
        let held = self.lock();
        let found = match id {
            "latest" => held.jobs.back(),
            _ => held.jobs.iter().find(|job| job.lock().id == id),
        };
        found.cloned().ok_or_else(|| {
            ControlError::new(
                ErrorCode::NotFound,
                format!("there is no validation {id:?} (any more)"),
                "start one with: replctl validate",
            )
        })
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Validation> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked for.
    pub fn request(&self) -> &ValidationRequest {
        &self.request
    }

    /// Skips of the diverged replicas when it began.
    pub fn standings(&self) -> BTreeMap<String, u64> {
        self.standings.clone()
    }

    /// The work on these tables.
    pub fn task(&self, tables: Vec<SourceTable>) -> Task {
        Task {
            tables,
            members: self.members.clone(),
            deep: self.request.deep,
            lists_own: self.request.tables.is_empty(),
            show_values: self.request.show_values,
            progress: Arc::clone(&self.progress),
        }
    }

    /// How it stands.
    pub fn now(&self) -> Validation {
        let shown = self.lock().clone();
        let progress = (!shown.is_over()).then(|| self.progress.now());
        Validation { progress, ..shown }
    }

    /// Names what it does.
    pub fn phase(&self, phase: &str) {
        self.progress.phase(phase);
    }

    /// Takes the outcome.
    pub fn finish(&self, replicas: Vec<ReplicaValidation>) {
        self.lock().replicas = replicas;
        self.end(ValidationState::Done);
    }

    /// Takes the outcome of a repair: the tables compared again replace what was known of them.
    pub fn repaired(&self, repairs: Vec<RepairReport>, replicas: Vec<ReplicaValidation>) {
        {
            let mut shown = self.lock();
            shown.repairs.extend(repairs);
            for new in replicas {
                let Some(old) = shown.replicas.iter_mut().find(|o| o.replica == new.replica) else {
                    continue;
                };
                for table in new.tables {
                    match old.tables.iter_mut().find(|old| old.table == table.table) {
                        Some(old) => *old = table,
                        None => old.tables.push(table),
                    }
                }
                old.verdict = super::run::verdict(old.tables.iter());
            }
        }
        self.end(ValidationState::Done);
    }

    /// It cannot go on.
    pub fn fail(&self, reason: &str) {
        self.lock().error = Some(ApiError::new(ErrorCode::Internal, reason, ""));
        self.end(ValidationState::Failed);
    }

    /// Ends it in this state, unless it has ended.
    pub fn end(&self, state: ValidationState) {
        {
            let mut shown = self.lock();
            if shown.is_over() {
                return;
            }
            shown.state = state;
            shown.finished_ms = Some(now_ms());
            let verdicts = shown.replicas.iter().map(|replica| replica.verdict);
            let verdict = verdicts.reduce(Verdict::and);
            shown.verdict = Some(match state {
                ValidationState::Done => verdict.unwrap_or(Verdict::Undetermined),
                _ => Verdict::Undetermined,
            });
        }
        self.over.send_replace(true);
    }

    /// Goes on from a deep outcome to the repair; the names of the tables that differ.
    pub fn begin_repair(&self) -> Result<Vec<String>, ControlError> {
        let conflict = |message: String, advice: &str| {
            Err(ControlError::new(ErrorCode::Conflict, message, advice))
        };
        let mut shown = self.lock();
        let id = shown.id.clone();
        if shown.state != ValidationState::Done {
            return conflict(format!("validation {id} is {}", shown.state), "wait for it");
        }
        if !self.request.deep {
            return conflict(
                format!("validation {id} only counted rows"),
                "compare every value first: replctl validate --deep --repair",
            );
        }
        let tables = shown.replicas.iter().flat_map(|replica| &replica.tables);
        let differing = tables.filter(|table| table.verdict == Verdict::Different);
        let names: Vec<String> = differing.map(|table| table.table.clone()).collect();
        if names.is_empty() {
            return conflict(format!("validation {id} found nothing to repair"), "");
        }
        shown.state = ValidationState::Repairing;
        shown.finished_ms = None;
        self.over.send_replace(false);
        Ok(names)
    }

    /// Completes when it has ended.
    pub async fn ended(&self) {
        let mut over = self.over.subscribe();
        // An error means that nobody works on it any more.
        let _ = over.wait_for(|over| *over).await;
    }

    /// Orders its end.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// Completes when its end was ordered.
    pub async fn cancelled(&self) {
        let mut cancel = self.cancel.subscribe();
        if cancel.wait_for(|cancel| *cancel).await.is_err() {
            std::future::pending().await
        }
    }
}
