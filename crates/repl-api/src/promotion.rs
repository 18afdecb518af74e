//! Changes of primary.

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/promotions` and `POST /v1/promotions/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// The replica that is to become the primary; empty for the most advanced one, with `force` only.
    #[serde(default)]
    pub replica: String,
    /// Without the present primary, which does not answer: what it has that the log has not is given
    /// up.
    #[serde(default)]
    pub force: bool,
    /// With `force`: even if it answers.
    #[serde(default)]
    pub overrule: bool,
}

/// Whether a replica could become the primary now, and what that would mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// The present primary.
    pub from: String,
    /// The replica.
    pub to: String,
    /// Nothing blocks it.
    pub ready: bool,
    /// What was found, blockers first.
    pub findings: Vec<ReadinessFinding>,
    /// Age of the oldest transaction the replica has not applied, in milliseconds.
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// Log sequence through which it holds everything; `null` while that is not known, or it is not
    /// what the log says (it is being copied, it has diverged).
    #[serde(default)]
    pub applied_seq: Option<u64>,
    /// Transactions it has not applied.
    pub queue_transactions: u64,
    /// How long nobody would take writes, in milliseconds: a rough estimate from the queue and from
    /// how fast both servers answer; it does not know how long transactions of clients last.
    #[serde(default)]
    pub estimated_gap_ms: Option<u64>,
    /// What may be lost; `null` for a planned promotion, which loses nothing.
    #[serde(default)]
    pub may_lose: Option<Loss>,
}

/// What the old primary may have committed that the event log does not hold, where it is not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Nothing that was acknowledged as far as the mode promises.
    pub nothing: bool,
    /// Bytes it had written beyond the log's end when it was last heard; `null` when not known.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// When it was last heard, milliseconds since the Unix epoch: what came since is not known.
    #[serde(default)]
    pub heard_ms: Option<u64>,
    /// The same in words.
    pub what: String,
}

/// Something that speaks against a promotion, or that it does not carry over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessFinding {
    /// Whether it makes the promotion impossible.
    pub blocks: bool,
    /// The node concerned.
    pub node: String,
    /// What was found.
    pub what: String,
    /// What to do; empty when there is nothing to do.
    #[serde(default)]
    pub remedy: String,
}

wire_enum! {
    /// How a promotion stands.
    PromotionState {
        /// On its way.
        Running = "running",
        /// Failed, and being taken back.
        RollingBack = "rolling_back",
        /// The primary has changed.
        Done = "done",
        /// The primary is the one it was.
        RolledBack = "rolled_back",
    }
}

/// One promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionInfo {
    /// Counts the promotions of the group.
    pub id: u64,
    /// The primary before.
    pub from: String,
    /// The primary after.
    pub to: String,
    /// The epoch that began with it, or was to.
    pub epoch: u64,
    /// When it was ordered.
    pub started_ms: u64,
    /// When it ended; `null` while it has not.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// How it stands.
    pub state: PromotionState,
    /// What is being done; `null` when it has ended.
    #[serde(default)]
    pub step: Option<String>,
    /// Why it was taken back; `null` when it was not.
    #[serde(default)]
    pub failure: Option<String>,
    /// For how long nobody took writes, in milliseconds; `null` where that is not known yet.
    #[serde(default)]
    pub gap_ms: Option<u64>,
    /// `planned`, `forced` or `automatic`.
    #[serde(default = "planned")]
    pub cause: String,
    /// Why the daemon did it by itself; `null` when it was told to.
    #[serde(default)]
    pub reason: Option<String>,
    /// What may be lost; `null` for a planned promotion, and until that is known.
    #[serde(default)]
    pub may_lose: Option<Loss>,
    /// What was done, oldest first.
    pub steps: Vec<PromotionStep>,
}

fn planned() -> String {
    "planned".to_owned()
}

/// One step of a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionStep {
    /// Its name.
    pub name: String,
    /// When it began.
    pub at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What came of it.
    pub result: String,
    /// Whether it was done; false for an attempt that failed.
    pub done: bool,
}

/// Answer of `GET /v1/promotions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotions {
    /// The one under way.
    #[serde(default)]
    pub current: Option<PromotionInfo>,
    /// Those that ended, newest first; a bounded number.
    pub history: Vec<PromotionInfo>,
}

/// What a former primary had committed that the event log never saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerInfo {
    /// Its name.
    pub id: String,
    /// The node.
    pub node: String,
    /// When the node's place was taken, milliseconds since the Unix epoch.
    pub deposed_ms: u64,
    /// The log holds everything up to this position of the node.
    pub log_end: String,
    /// Transactions.
    pub transactions: u64,
    /// Changes, a line each.
    pub changes: u64,
    /// The file, at the daemon's host.
    pub path: String,
}

/// Answer of `GET /v1/ledgers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledgers {
    /// All, newest first.
    pub ledgers: Vec<LedgerInfo>,
}

/// Answer of `GET /v1/ledgers/{id}`: some of its lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerPage {
    /// The lines, as they are in the file.
    pub lines: Vec<serde_json::Value>,
    /// `?from=` of the next page; `null` when this is the last.
    #[serde(default)]
    pub next: Option<u64>,
}

impl Promotions {
    /// The promotion with this number.
    pub fn find(&self, id: u64) -> Option<&PromotionInfo> {
        let all = self.current.iter().chain(&self.history);
        all.into_iter().find(|promotion| promotion.id == id)
    }
}
