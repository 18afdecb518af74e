//! What commits on the primary wait for: its state, and the orders that change it.

use serde::{Deserialize, Serialize};

use crate::Mode;

wire_enum! {
    /// Whether a mode is what it was asked to be.
    ModeState {
        /// Nothing waits: asynchronous.
        Off = "off",
        /// Nothing is to wait, but the primary still makes its commits wait for the daemon.
        Disabling = "disabling",
        /// Not in force yet: replicas are too far behind, or the primary is not set up.
        Enabling = "enabling",
        /// Every commit that returns fulfils the rule.
        InForce = "in_force",
        /// Commits had waited for too long, and wait for the event log only.
        Degraded = "degraded",
    }
}

/// What commits on the primary wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeStatus {
    /// The mode asked for.
    pub asked: Mode,
    /// The whole rule, for people.
    pub rule: String,
    /// Whether it is in force.
    pub state: ModeState,
    /// Why not; `null` when it is.
    #[serde(default)]
    pub reason: Option<String>,
    /// Since when it is degraded; `null` when it is not.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Replicas a commit waits for.
    #[serde(default)]
    pub needed: u32,
    /// How long the oldest captured commit has been waiting for replicas; `null` when none does.
    #[serde(default)]
    pub blocked_ms: Option<u64>,
    /// How long is too long.
    #[serde(default)]
    pub timeout_ms: u64,
    /// Log sequence through which commits are released.
    #[serde(default)]
    pub released_seq: u64,
    /// Commits that wait at the primary, of whatever database.
    #[serde(default)]
    pub waiting: u64,
    /// How long the oldest of them has waited.
    #[serde(default)]
    pub oldest_ms: Option<u64>,
    /// The replicas that may count.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
    /// What keeps the primary from waiting as it should.
    #[serde(default)]
    pub problems: Vec<ModeProblem>,
    /// Whose commits wait for less than the rule (`synchronous_commit` of databases and roles).
    #[serde(default)]
    pub weaker: Vec<String>,
}

impl ModeStatus {
    /// What needs a person's attention: less is promised than asked for, or commits wait for long.
    pub fn attention(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        match self.state {
            ModeState::Degraded => problems.push(format!(
                "{} is degraded, commits wait for the event log only: {reason}",
                self.asked
            )),
            ModeState::Enabling => {
                problems.push(format!("{} is not in force yet: {reason}", self.asked));
            }
            ModeState::Off | ModeState::Disabling | ModeState::InForce | ModeState::Unknown => {}
        }
        if self.blocked_ms.is_some_and(|ms| ms > self.timeout_ms) {
            let late: Vec<String> = self
                .members
                .iter()
                .filter(|member| member.counts)
                .filter(|member| {
                    member
                        .durable_seq
                        .is_none_or(|seq| seq <= self.released_seq)
                })
                .map(|member| member.name.clone())
                .collect();
            let whom = if late.is_empty() {
                "replicas that count".to_owned()
            } else {
                late.join(", ")
            };
            problems.push(format!(
                "commits on the primary are blocked, waiting for {whom}"
            ));
        }
        problems.extend(self.problems.iter().map(|problem| problem.what.clone()));
        problems
    }
}

/// A replica that may count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Whether it counts now.
    pub counts: bool,
    /// Why not; `null` when it does.
    #[serde(default)]
    pub why_not: Option<String>,
    /// What it cannot lose any more; `null` while that is not known.
    #[serde(default)]
    pub durable_seq: Option<u64>,
}

/// Something about the primary to be mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeProblem {
    /// What is wrong, and why it matters.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// How many replicas: a number, or `majority`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MinReplicas {
    /// So many.
    Number(u32),
    /// `majority`.
    Word(String),
}

/// Body of `POST /v1/mode`. What is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeRequest {
    /// The mode.
    pub mode: Mode,
    /// For semi-sync: how many replicas.
    #[serde(default)]
    pub min_replicas: Option<MinReplicas>,
    /// `any` or `first`.
    #[serde(default)]
    pub quorum: Option<String>,
    /// `applied` or `logged`.
    #[serde(default)]
    pub level: Option<String>,
    /// `block` or `degrade`; when left out with another mode, that mode's default.
    #[serde(default)]
    pub on_timeout: Option<String>,
    /// How long is too long.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Most transactions that counted replicas may be behind when the mode comes into force.
    #[serde(default)]
    pub max_queue: Option<u64>,
}

impl ModeRequest {
    /// The mode, everything else as it is.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        ModeRequest {
            mode,
            min_replicas: None,
            quorum: None,
            level: None,
            on_timeout: None,
            timeout_ms: None,
            max_queue: None,
        }
    }
}

/// Body of `POST /v1/wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitRequest {
    /// A position of the primary at or after the commit to wait for: PostgreSQL's
    /// `pg_current_wal_insert_lsn()` taken after the COMMIT. Without it the daemon asks the primary for
    /// its present end: everything committed before the request is waited for.
    #[serde(default)]
    pub token: Option<String>,
    /// On how many replicas; without it as many as the mode waits for, at least one.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// How long to wait at most, milliseconds; at most 50 s, after which it can be asked again.
    pub timeout_ms: u64,
}

/// Answer to `POST /v1/wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitDone {
    /// Whether the commit is on as many replicas as asked for.
    pub done: bool,
    /// The position waited for.
    pub position: String,
    /// The log sequence that holds everything up to it; `null` when the log is not so far.
    #[serde(default)]
    pub logged_seq: Option<u64>,
    /// Replicas asked for.
    pub wanted: u32,
    /// The replicas it is on.
    #[serde(default)]
    pub applied_on: Vec<String>,
}
