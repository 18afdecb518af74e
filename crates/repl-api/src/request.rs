//! Bodies of the mutating requests, their answer, and the small read-only documents.

use serde::{Deserialize, Serialize};

/// A verb on one replica: `POST /v1/replicas/{name}/{verb}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaVerb {
    /// Stop applying; the backlog waits in the log.
    Pause,
    /// Continue a paused replica.
    Resume,
    /// Try the failed transaction again, now.
    Retry,
    /// Leave the failed transaction out; the replica becomes `diverged`.
    Skip,
    /// Bring the replica's tables to what the primary holds.
    Resync,
    /// Have a former primary, whose place was taken by force, join as a replica.
    Rejoin,
}

impl ReplicaVerb {
    /// All verbs.
    pub const ALL: [Self; 6] = [
        Self::Pause,
        Self::Resume,
        Self::Retry,
        Self::Skip,
        Self::Resync,
        Self::Rejoin,
    ];

    /// The verb as it stands in the path and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Resync => "resync",
            Self::Rejoin => "rejoin",
        }
    }
}

/// Body of `POST /v1/replicas/{name}/skip`.
///
/// Names the failed transaction, so that a request that comes late (or twice) cannot skip another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkipRequest {
    /// Log sequence of the transaction the replica has failed on.
    pub seq: u64,
    /// Why it may be left out; recorded in the audit log. Must not be blank.
    pub reason: String,
}

/// Body of `POST /v1/replicas/{name}/resync`; every field may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResyncRequest {
    /// Patterns of tables, `schema.table`; empty for the whole replica.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Replace all rows, each table in one transaction, rather than write what differs.
    #[serde(default)]
    pub full: bool,
}

/// Body of `POST /v1/slot/drop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotDropRequest {
    /// The group's name, repeated: dropping the slot ends the history this daemon can follow, so all
    /// replicas need a resync afterwards.
    pub confirm: String,
}

/// Answer to a mutating request that was carried out (or durably accepted).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionDone {
    /// The verb, e.g. `pause` or `slot.drop`.
    pub verb: String,
    /// What it acted on: the replica's name, or the slot's.
    pub target: String,
    /// What was done, as a sentence.
    pub message: String,
}

/// Answer of `GET /v1/health`: HTTP 200 when healthy, 503 when something needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether nothing needs attention.
    pub healthy: bool,
    /// One sentence per thing that needs attention; empty when healthy.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// One endpoint in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// HTTP method.
    pub method: String,
    /// Path, with `{placeholders}`.
    pub path: String,
    /// What it does, in one sentence.
    pub summary: String,
}

/// Answer of `GET /v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The API's version, [`crate::API_VERSION`].
    pub api_version: String,
    /// Everything that can be asked for.
    pub endpoints: Vec<Endpoint>,
}
