//! Comparing replicas with their primary: `/v1/validations`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ApiError;

wire_enum! {
    /// The outcome of a comparison.
    #[derive(Default)]
    Verdict {
        /// The replica holds exactly what the primary holds.
        Equal = "equal",
        /// It does not.
        Different = "different",
        /// It could not be told; the reason is given.
        #[default]
        Undetermined = "undetermined",
    }
}

impl Verdict {
    /// The verdict on two things of which one is this and one is `other`: a difference outweighs
    /// what could not be told, and that outweighs equality.
    #[must_use]
    pub fn and(self, other: Verdict) -> Verdict {
        let weight = |verdict| match verdict {
            Verdict::Equal => 0,
            Verdict::Undetermined | Verdict::Unknown => 1,
            Verdict::Different => 2,
        };
        if weight(other) > weight(self) {
            other
        } else {
            self
        }
    }
}

wire_enum! {
    /// Where a validation stands.
    ValidationState {
        /// It is under way.
        Running = "running",
        /// It has ended and found differences, which are being repaired.
        Repairing = "repairing",
        /// It has ended.
        Done = "done",
        /// It has ended without a result; see `error`.
        Failed = "failed",
        /// It was ended by the operator or the daemon's stop.
        Cancelled = "cancelled",
    }
}

wire_enum! {
    /// How a row differs.
    DifferenceKind {
        /// The primary has it, the replica has not.
        Missing = "missing",
        /// The replica has it, the primary has not.
        Extra = "extra",
        /// Both have it, with other values.
        Changed = "changed",
    }
}

/// Body of `POST /v1/validations`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationRequest {
    /// Tables by their names at the primary (`schema.table`, `*` and `?` allowed); none means all.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Replicas; none means all that are enabled.
    #[serde(default)]
    pub replicas: Vec<String>,
    /// Compare every value, not only the numbers of rows.
    #[serde(default)]
    pub deep: bool,
    /// Give the values of rows that differ, not only their keys.
    #[serde(default)]
    pub show_values: bool,
}

/// One validation: answer of `POST /v1/validations` and `GET /v1/validations/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Its number, for the other requests.
    pub id: String,
    /// Where it stands.
    pub state: ValidationState,
    /// Whether every value is compared, or only the numbers of rows.
    pub deep: bool,
    /// When it began.
    pub started_ms: u64,
    /// When it ended; `null` while it is under way.
    #[serde(default)]
    pub finished_ms: Option<u64>,
    /// What it is doing; `null` when it has ended.
    #[serde(default)]
    pub progress: Option<ValidationProgress>,
    /// The outcome over all replicas; `null` until it is known.
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// The outcome by replica.
    #[serde(default)]
    pub replicas: Vec<ReplicaValidation>,
    /// Selected tables of the primary that are not replicated, with the reason.
    #[serde(default)]
    pub not_replicated: BTreeMap<String, String>,
    /// What repairs were made, in order; empty when none was asked for.
    #[serde(default)]
    pub repairs: Vec<RepairReport>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<ApiError>,
}

/// What a validation is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationProgress {
    /// In words: `waiting for the replicas`, `comparing`, `narrowing`, `repairing`.
    pub phase: String,
    /// The table at hand.
    #[serde(default)]
    pub table: Option<String>,
    /// Tables done.
    pub tables_done: u64,
    /// Tables to do.
    pub tables_total: u64,
    /// Rows read of the table at hand, all sides together.
    pub rows_done: u64,
    /// Estimate of the rows to read of the table at hand; `null` when there is none.
    #[serde(default)]
    pub rows_estimate: Option<u64>,
}

/// The outcome at one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaValidation {
    /// Its name.
    pub replica: String,
    /// Over all its tables.
    pub verdict: Verdict,
    /// Its tables, by name.
    #[serde(default)]
    pub tables: Vec<TableValidation>,
    /// Replicated tables that this replica is configured not to receive.
    #[serde(default)]
    pub excluded: Vec<String>,
    /// Tables that only this replica has, beside those it receives. They count for nothing.
    #[serde(default)]
    pub only_here: Vec<String>,
}

/// The outcome of one table at one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableValidation {
    /// Name at the primary.
    pub table: String,
    /// Name at the replica.
    pub target: String,
    /// The outcome.
    pub verdict: Verdict,
    /// Why it could not be told, or what differs besides rows.
    #[serde(default)]
    pub reason: Option<String>,
    /// Log sequence up to which the replica had applied everything when it was read.
    #[serde(default)]
    pub seq: Option<u64>,
    /// Rows the replica should hold: the primary's, at the replica's own point of the stream.
    #[serde(default)]
    pub primary_rows: Option<u64>,
    /// Rows it holds.
    #[serde(default)]
    pub replica_rows: Option<u64>,
    /// Columns of the primary that are configured not to be sent.
    #[serde(default)]
    pub excluded_columns: Vec<String>,
    /// Columns that only the replica has. They count for nothing.
    #[serde(default)]
    pub extra_columns: Vec<String>,
    /// Columns that the replica lacks.
    #[serde(default)]
    pub missing_columns: Vec<String>,
    /// Parts of the table, of 16384, that differ; `null` unless every value was compared.
    #[serde(default)]
    pub differing_buckets: Option<u64>,
    /// Whether all differing rows were counted; else there are more than the numbers below.
    #[serde(default)]
    pub complete: bool,
    /// Rows that are missing at the replica.
    #[serde(default)]
    pub missing: u64,
    /// Rows that only the replica has.
    #[serde(default)]
    pub extra: u64,
    /// Rows with other values.
    #[serde(default)]
    pub changed: u64,
    /// The first of these rows.
    #[serde(default)]
    pub differences: Vec<RowDifference>,
}

/// One row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDifference {
    /// How.
    pub kind: DifferenceKind,
    /// Its key, e.g. `id=42`; `null` in a table without one, unless values were asked for.
    #[serde(default)]
    pub key: Option<String>,
    /// The columns with other values.
    #[serde(default)]
    pub columns: Vec<String>,
    /// How many equal rows this is; 1 in a table with a key.
    pub copies: u64,
    /// Values the replica should hold, as it holds them; only when asked for.
    #[serde(default)]
    pub expected: Option<BTreeMap<String, Option<String>>>,
    /// Values it holds; only when asked for.
    #[serde(default)]
    pub actual: Option<BTreeMap<String, Option<String>>>,
}

/// What validations of every value last found at a replica; part of its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// Over all its tables that were ever compared.
    pub verdict: Verdict,
    /// When the table was compared whose comparison is the oldest.
    pub oldest_ms: u64,
    /// Tables that were compared.
    pub tables: u64,
    /// Those that differed when they were last compared, by their names at the primary.
    #[serde(default)]
    pub different: Vec<String>,
}

/// What was repaired at one table of one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairReport {
    /// The replica.
    pub replica: String,
    /// The table, by its name at the primary.
    pub table: String,
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Why not everything was repaired; `null` when it was.
    #[serde(default)]
    pub error: Option<String>,
}

impl Validation {
    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        !matches!(
            self.state,
            ValidationState::Running | ValidationState::Repairing
        )
    }
}
