//! The state of a replication group: `GET /v1/status`.

use serde::{Deserialize, Serialize};

use crate::{ModeStatus, PromotionInfo, Validated};

/// Defines a unit-only wire enum with its names on the wire, one more variant for names of newer
/// daemons, and `as_str`/`Display` that agree with the wire.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vmeta])* #[serde(rename = $text)] $variant,)+
            /// A value this build does not know: the daemon is newer.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $name {
            /// The value as it stands on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Unknown => "unknown",
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

wire_enum! {
    /// When a COMMIT on the primary returns, relative to the replicas.
    Mode {
        /// At once: the primary does not wait for any replica.
        Async = "async",
        /// Commits wait for a number of replicas.
        SemiSync = "semi-sync",
        /// Commits wait for all replicas that count.
        Sync = "sync",
    }
}

wire_enum! {
    /// Whether the log takes in new transactions.
    IngestState {
        /// It does.
        Ok = "ok",
        /// Capture is disconnected until the reason (a full disk, a size limit) is gone.
        Paused = "paused",
    }
}

wire_enum! {
    /// What capture is doing.
    PrimaryState {
        /// Connecting, or waiting for the next attempt.
        Connecting = "connecting",
        /// Comparing the source's identity and positions with the log, before anything is read.
        Verifying = "verifying",
        /// Reading changes.
        Streaming = "streaming",
        /// The connection is lost or deliberately released.
        Disconnected = "disconnected",
        /// Stopped for a reason that needs the operator; see `refusal`.
        Stopped = "stopped",
    }
}

wire_enum! {
    /// Whether a source table is replicated.
    TableState {
        /// Its changes are captured.
        Replicated = "replicated",
        /// It matches the selection but is not part of the stream yet.
        New = "new",
        /// It matches the selection but cannot be replicated; see `reason` and `remedy`.
        Refused = "refused",
        /// It was replicated and is gone from the primary.
        Missing = "missing",
    }
}

wire_enum! {
    /// A replica's membership state; persisted by the daemon before anything relies on it.
    Membership {
        /// Receiving its initial copy.
        Copying = "copying",
        /// Following the log: its content is a prefix of the primary's commits.
        Streaming = "streaming",
        /// Stopped by the operator or by an error that needs the operator; the backlog waits.
        Paused = "paused",
        /// Failed transactions were set aside by policy.
        Parked = "parked",
        /// Follows the log, but is known to differ from the primary.
        Diverged = "diverged",
        /// Being emptied and copied again.
        Resyncing = "resyncing",
        /// Its history and the log's no longer join; only a resync helps.
        NeedsResync = "needs-resync",
        /// Follows the log with a reduced selection of rows or tables.
        Filtered = "filtered",
    }
}

wire_enum! {
    /// What a replica's worker is doing at this moment.
    Activity {
        /// Caught up, waiting for transactions.
        Idle = "idle",
        /// Applying transactions.
        Applying = "applying",
        /// Connecting to the replica.
        Connecting = "connecting",
        /// Waiting to try again after a transient error.
        Retrying = "retrying",
        /// Copying tables.
        Copying = "copying",
        /// Ahead of the event log, which lost its end in a crash: waiting until the primary has sent
        /// that again.
        AwaitingLog = "awaiting-log",
        /// Not running: disabled, paused, or in need of a resync.
        Stopped = "stopped",
    }
}

wire_enum! {
    /// How far the copy of one table is.
    TableCopyState {
        /// Not begun in this round.
        Waiting = "waiting",
        /// Rows are being loaded.
        Copying = "copying",
        /// All rows are there; key and indexes are being made.
        Indexing = "indexing",
        /// Complete.
        Done = "done",
    }
}

wire_enum! {
    /// The kind of an error; it decides what the daemon does about it.
    ErrorKind {
        /// The server is not reachable or the connection broke.
        Connection = "connection",
        /// The server refused for the moment: deadlock, lock timeout, serialization, resources.
        Transient = "transient",
        /// A constraint of the target rejected a change.
        Constraint = "constraint",
        /// A value cannot be represented or decoded.
        Data = "data",
        /// The target does not hold the row a change refers to, or holds another one.
        Conflict = "conflict",
        /// A table or column is absent or of another shape.
        Schema = "schema",
        /// A privilege or login is missing.
        Privilege = "privilege",
        /// A setting must be changed.
        Configuration = "configuration",
        /// The history is not continuous: a gap, or a source behind the log.
        History = "history",
        /// A defect in the daemon.
        Internal = "internal",
    }
}

wire_enum! {
    /// What the daemon does about an error.
    Directive {
        /// It tries again by itself, with backoff.
        Retry = "retry",
        /// It holds this replica until the operator decides.
        Pause = "pause",
        /// It has stopped; repeating without a change cannot help.
        Stop = "stop",
    }
}

/// The state of one replication group: one primary, its log, its replicas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this document, [`crate::API_VERSION`].
    pub api_version: String,
    /// The group's name.
    pub group: String,
    /// The daemon's version.
    pub daemon_version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// When the daemon started.
    pub started_at_ms: u64,
    /// The replication mode in force.
    pub mode: Mode,
    /// What commits on the primary wait for, and whether they do; `null` from older daemons.
    #[serde(default)]
    pub commits: Option<ModeStatus>,
    /// The group's epoch: grows with each promotion or rebuilt log.
    pub epoch: u64,
    /// The event log.
    pub log: LogStatus,
    /// The primary and its capture.
    pub primary: PrimaryStatus,
    /// Source tables that match the selection, or did.
    #[serde(default)]
    pub tables: Vec<TableStatus>,
    /// The replicas, in the order of the configuration.
    #[serde(default)]
    pub replicas: Vec<ReplicaStatus>,
    /// Conditions of the whole group that need attention, as sentences.
    #[serde(default)]
    pub alerts: Vec<String>,
    /// The node that the configuration names as the first primary, where another one is it now.
    #[serde(default)]
    pub configured_primary: Option<String>,
    /// The change of primary under way; `null` when there is none.
    #[serde(default)]
    pub promotion: Option<PromotionInfo>,
    /// How automatic failover judges the primary; `null` where there is none.
    #[serde(default)]
    pub failover: Option<FailoverStatus>,
}

/// How automatic failover judges the primary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverStatus {
    /// The daemon replaces a dead primary by itself.
    pub automatic: bool,
    /// `watching`, `suspect` (it does not answer) or `dead`.
    pub state: String,
    /// Since when it does not answer, milliseconds since the Unix epoch; `null` while it does.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Role checks do not call it the primary any more.
    pub doubted: bool,
    /// Why it is dead and not replaced; `null` otherwise.
    #[serde(default)]
    pub held: Option<String>,
}

/// The state of the event log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
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
    /// Number of segment files.
    pub segments: u64,
    /// Source commit time of the oldest transaction still in the log; `null` when it is empty.
    #[serde(default)]
    pub oldest_commit_ms: Option<u64>,
    /// Whether the log takes in new transactions.
    pub ingest_state: IngestState,
    /// Why ingest is paused; `null` when it is not.
    #[serde(default)]
    pub ingest_reason: Option<String>,
}

/// The state of the primary and of the capture that follows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrimaryStatus {
    /// The node's name.
    pub name: String,
    /// The node's engine, e.g. `postgres` or `sqlite`.
    pub engine: String,
    /// What capture is doing.
    pub state: PrimaryState,
    /// Where the node is, without secrets.
    pub endpoint: String,
    /// Source position up to which changes were received; may not be durable yet.
    #[serde(default)]
    pub captured_position: Option<String>,
    /// Source position up to which changes are durable in the log.
    #[serde(default)]
    pub durable_position: Option<String>,
    /// Source position last acknowledged to the primary; it may release its WAL below it.
    #[serde(default)]
    pub acked_position: Option<String>,
    /// The server's own end of WAL (or binlog), as last heard.
    #[serde(default)]
    pub server_position: Option<String>,
    /// Bytes of WAL the server keeps because of our slot; `null` where there is no such thing.
    #[serde(default)]
    pub retained_bytes: Option<u64>,
    /// When the server was last heard: a change, a progress mark or a keepalive.
    #[serde(default)]
    pub last_event_ms: Option<u64>,
    /// Transactions captured since the daemon started.
    #[serde(default)]
    pub transactions: u64,
    /// Row changes captured since the daemon started.
    #[serde(default)]
    pub rows: u64,
    /// Transactions captured per second, recent average.
    #[serde(default)]
    pub tx_per_s: f64,
    /// Row changes captured per second, recent average.
    #[serde(default)]
    pub rows_per_s: f64,
    /// The last error; kept after recovery as long as the daemon runs, with `past` set.
    #[serde(default)]
    pub last_error: Option<ErrorInfo>,
    /// Why capture is stopped until the operator acts; `null` while it is running or retrying.
    #[serde(default)]
    pub refusal: Option<ErrorInfo>,
}

/// The state of one source table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// The table at the source: `schema.table`, or `table` where the engine has no schemas.
    pub source: String,
    /// Whether it is replicated.
    pub state: TableState,
    /// Why it is not; `null` when it is.
    #[serde(default)]
    pub reason: Option<String>,
    /// What to do about it: the exact statement where there is one.
    #[serde(default)]
    pub remedy: Option<String>,
    /// What identifies a row: the columns (`id` or `region, id`), or `full row`.
    #[serde(default)]
    pub key: String,
}

/// The state of one replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The node's name.
    pub name: String,
    /// The node's engine, e.g. `postgres` or `sqlite`.
    pub engine: String,
    /// Where the node is, without secrets.
    pub endpoint: String,
    /// Whether the configuration enables it. A disabled replica is not applied to and does not hold the log.
    pub enabled: bool,
    /// The configured priority, 0 to 1000: preference among replicas that are equally advanced.
    pub priority: u32,
    /// Its membership state.
    pub membership: Membership,
    /// Who paused it: `operator`, or `error` (see `last_error`); `null` when it is not paused.
    #[serde(default)]
    pub paused_by: Option<String>,
    /// When it entered this membership state.
    #[serde(default)]
    pub since_ms: u64,
    /// What its worker is doing.
    pub activity: Activity,
    /// Log sequence up to which it has applied everything; 0 before the first.
    #[serde(default)]
    pub applied_seq: u64,
    /// Source position of `applied_seq`.
    #[serde(default)]
    pub applied_position: Option<String>,
    /// Log sequence up to which a crash of the replica cannot take anything back; the log keeps
    /// what is above it. Within a second of `applied_seq`, 0 before the first.
    #[serde(default)]
    pub durable_seq: u64,
    /// Durable transactions it has not applied.
    #[serde(default)]
    pub queue_transactions: u64,
    /// Size of these in the log, in bytes.
    #[serde(default)]
    pub queue_bytes: u64,
    /// Age of the oldest transaction it has not applied, in milliseconds: 0 when caught up, `null` when
    /// not known (during a copy, and with nothing left to apply while the primary is not followed).
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// The lag above which it needs attention, in milliseconds.
    #[serde(default)]
    pub max_lag_ms: Option<u64>,
    /// Transactions applied since the daemon started.
    #[serde(default)]
    pub applied_transactions: u64,
    /// Row changes applied since the daemon started.
    #[serde(default)]
    pub applied_rows: u64,
    /// Transactions that failed for a reason that needs the operator, since the daemon started.
    #[serde(default)]
    pub failed: u64,
    /// Transactions left out by the operator, ever.
    #[serde(default)]
    pub skipped: u64,
    /// Transactions applied per second, recent average.
    #[serde(default)]
    pub tx_per_s: f64,
    /// Row changes applied per second, recent average.
    #[serde(default)]
    pub rows_per_s: f64,
    /// The error the replica is held by or retrying after, else the last one it recovered from, with
    /// `past` set.
    #[serde(default)]
    pub last_error: Option<ErrorInfo>,
    /// Progress of the copy; `null` when none is under way.
    #[serde(default)]
    pub copy: Option<CopyProgress>,
    /// What comparisons with the primary last found; `null` when there was none of every value.
    #[serde(default)]
    pub validated: Option<Validated>,
}

/// Progress of copying tables into a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// The table being copied; `null` before the first and after the last.
    #[serde(default)]
    pub table: Option<String>,
    /// Tables complete.
    pub tables_done: u64,
    /// Tables to copy.
    pub tables_total: u64,
    /// Rows copied or compared, over all tables.
    pub rows_done: u64,
    /// Estimate of the rows of all tables; `null` when there is none.
    #[serde(default)]
    pub rows_estimate: Option<u64>,
    /// Rows written because they differed, since the daemon's start; `null` when nothing is compared.
    #[serde(default)]
    pub rows_written: Option<u64>,
    /// Rows copied per second, recent average.
    #[serde(default)]
    pub rows_per_s: f64,
    /// Seconds left at that rate; `null` when the rows are not known.
    #[serde(default)]
    pub eta_s: Option<f64>,
    /// Why the copy waits; `null` when it does not.
    #[serde(default)]
    pub paused: Option<String>,
    /// The tables under way.
    #[serde(default)]
    pub tables: Vec<TableCopyProgress>,
}

/// Progress of one table's copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCopyProgress {
    /// Its name at the primary.
    pub table: String,
    /// What is being done.
    pub state: TableCopyState,
    /// Rows copied or compared, before an interruption included.
    pub rows_done: u64,
    /// Estimate of the rows in the table; `null` when there is none.
    #[serde(default)]
    pub rows_estimate: Option<u64>,
}

/// An error as the operator needs it: what, where, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// When it happened last.
    pub at_ms: u64,
    /// Its kind.
    pub kind: ErrorKind,
    /// What happened and why.
    pub message: String,
    /// What to do: the exact command or statement where there is one.
    #[serde(default)]
    pub advice: String,
    /// The transaction that was being processed.
    #[serde(default)]
    pub transaction: Option<FailedTransaction>,
    /// The table concerned.
    #[serde(default)]
    pub table: Option<String>,
    /// The key of the row concerned, e.g. `id=42`.
    #[serde(default)]
    pub key: Option<String>,
    /// The database's own code, e.g. the SQLSTATE `23505`.
    #[serde(default)]
    pub database_code: Option<String>,
    /// What the daemon does about it.
    pub directive: Directive,
    /// How often it was tried, the first time included.
    #[serde(default)]
    pub attempts: u32,
    /// It is overcome: what it concerned works again.
    #[serde(default)]
    pub past: bool,
}

/// The transaction an error concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTransaction {
    /// Log sequence; what `replctl skip --seq` takes.
    pub seq: u64,
    /// The source's own transaction id.
    pub source_txid: String,
    /// Source position after it.
    pub position: String,
}
