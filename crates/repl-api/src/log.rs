//! What is in the event log: `GET /v1/log`.

use serde::{Deserialize, Serialize};

use crate::{DEFAULT_LOG_LIMIT, MAX_LOG_LIMIT};

/// Query parameters of `GET /v1/log`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// How many transactions to list at most, 1 to [`MAX_LOG_LIMIT`]; [`DEFAULT_LOG_LIMIT`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only transactions that changed this source table, written as in the status (`schema.table`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// List from this log sequence upwards; when absent, the newest transactions are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
}

impl LogQuery {
    /// The number of transactions to list: the limit asked for, or the default, within bounds.
    pub fn effective_limit(&self) -> usize {
        self.limit
            .unwrap_or(DEFAULT_LOG_LIMIT)
            .clamp(1, MAX_LOG_LIMIT) as usize
    }
}

/// Answer of `GET /v1/log`: range, segments, and transactions in log order (oldest first).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogInfo {
    /// The log's identity (UUID).
    pub log_id: String,
    /// The log's current epoch.
    pub epoch: u64,
    /// Sequence of the oldest transaction still in the log; above `durable_seq` when it is empty.
    pub first_seq: u64,
    /// Sequence of the newest durable transaction; 0 when there never was one.
    pub durable_seq: u64,
    /// Size of all segments in bytes.
    pub size_bytes: u64,
    /// The segment files, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// The transactions asked for, in ascending sequence.
    pub transactions: Vec<TransactionInfo>,
    /// Whether the listing stopped before it had looked at every transaction that could match: at its
    /// limit, or at the daemon's bound on how much of the log one request may read.
    #[serde(default)]
    pub truncated: bool,
}

/// One segment file of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// File name within the log directory.
    pub file: String,
    /// Sequence of the first transaction that begins in it; `null` when none does.
    pub first_seq: Option<u64>,
    /// Sequence of the last transaction that begins in it; `null` when none does.
    pub last_seq: Option<u64>,
    /// File size in bytes.
    pub bytes: u64,
    /// Whether it is complete and will not be written again.
    pub sealed: bool,
}

/// One transaction of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionInfo {
    /// Log sequence.
    pub seq: u64,
    /// Epoch it was captured in.
    pub epoch: u64,
    /// The source's own transaction id, e.g. a PostgreSQL xid.
    pub source_txid: String,
    /// Source position after it, e.g. a PostgreSQL end LSN.
    pub position: String,
    /// Commit time at the source.
    pub commit_ms: u64,
    /// Its size in the log, in bytes.
    pub bytes: u64,
    /// What it changed, per table.
    pub tables: Vec<TableChanges>,
}

/// How often one transaction changed one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableChanges {
    /// The source table.
    pub table: String,
    /// Rows inserted.
    #[serde(default)]
    pub inserts: u64,
    /// Rows updated.
    #[serde(default)]
    pub updates: u64,
    /// Rows deleted.
    #[serde(default)]
    pub deletes: u64,
    /// Truncations.
    #[serde(default)]
    pub truncates: u64,
}
