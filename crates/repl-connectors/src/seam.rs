//! What the daemon asks of an engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use repl_core::batch::{Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::convert::ConvertOptions;
use repl_core::convert::ddl::TableDescription;
use repl_core::cut::Cut;
use repl_core::log::{Durable, LogError, TxWriter};
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema};
use repl_core::select::Selection;
use repl_core::{ErrorKind, SourcePosition};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// An error of an engine, in the operator's words.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("{message}")]
pub struct ConnectorError {
    /// Decides what happens next.
    pub kind: ErrorKind,
    /// What happened and why; names the server, table or setting. Never row values or secrets.
    pub message: String,
    /// What to do, with the exact statement or command; empty when nothing is to be done.
    pub advice: String,
    /// The database's own error code (SQLSTATE, SQLite extended code).
    pub code: Option<String>,
    /// The table concerned, as the replica (or source) names it.
    pub table: Option<String>,
    /// The key of the row concerned, rendered for the operator's status output only.
    pub key: Option<String>,
}

impl ConnectorError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ConnectorError {
            kind,
            message: message.into(),
            advice: String::new(),
            code: None,
            table: None,
            key: None,
        }
    }

    /// With advice.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// With the table concerned.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }
}

impl From<LogError> for ConnectorError {
    fn from(error: LogError) -> Self {
        let kind = match error {
            LogError::Full(_) => ErrorKind::Transient,
            _ => ErrorKind::Internal,
        };
        ConnectorError::new(kind, format!("event log: {error}"))
    }
}

impl From<repl_core::codec::Malformed> for ConnectorError {
    fn from(error: repl_core::codec::Malformed) -> Self {
        ConnectorError::new(ErrorKind::Internal, error.to_string())
    }
}

/// Short for this crate's results.
pub type Result<T, E = ConnectorError> = std::result::Result<T, E>;

// ---------------------------------------------------------------- capture

/// Reads the changes of the primary into the log.
#[async_trait]
pub trait Capture: Send {
    /// Connects, verifies that history is continuous with the log, and streams until the
    /// connection breaks, ingest must pause or `port.shutdown` turns true (then `Ok`). Every error
    /// leaves the log at a transaction boundary; the daemon decides by its kind whether and when
    /// to call again.
    ///
    /// # Errors
    /// [`ErrorKind::History`] when positions or identity show a gap or a rewind: nothing was
    /// written to the log. The daemon then marks the replicas and calls [`Capture::rebase`].
    async fn run(&mut self, port: &mut CapturePort) -> Result<()>;

    /// Begins a new span of history at the source's present position (creating the slot or
    /// triggers anew where they are lost): a `History` record with the next epoch goes into the
    /// log. Also used for the first start with an empty log, with `epoch` = 1 or higher.
    ///
    /// # Errors
    /// As [`Capture::run`], except `History`.
    async fn rebase(
        &mut self,
        port: &mut CapturePort,
        epoch: repl_core::Epoch,
        reason: &str,
    ) -> Result<()>;

    /// Whether transactions that the log lost in a crash, because they were not durable yet, come
    /// again as the same transactions in the same order. Only then may replicas apply them before
    /// they are durable.
    fn repeats_exactly(&self) -> bool {
        false
    }

    /// Compares two positions of this source; none when they are not comparable (another
    /// incarnation, damaged text).
    fn compare(&self, a: &SourcePosition, b: &SourcePosition) -> Option<std::cmp::Ordering>;

    /// Removes what the daemon installed at the primary (slot and publication; triggers and change
    /// table). Only on the operator's explicit command, with capture stopped.
    ///
    /// # Errors
    /// When the primary refuses.
    async fn uninstall(&mut self) -> Result<Vec<String>>;
}

/// Everything a capture works with.
pub struct CapturePort {
    /// The log's writing side.
    pub writer: TxWriter,
    /// How far the log is durable: what may be acknowledged as flushed.
    pub durable: watch::Receiver<Durable>,
    /// Source position up to which the mode's rule is met: what may be acknowledged as applied.
    /// Empty as long as nothing is.
    pub released: watch::Receiver<SourcePosition>,
    /// Which tables to capture.
    pub selection: Selection,
    /// Limits.
    pub limits: CaptureLimits,
    /// Where the capture shows what it does.
    pub board: Arc<CaptureBoard>,
    /// Turns true when the daemon stops.
    pub shutdown: watch::Receiver<bool>,
    /// False while ingest must pause (log disk full): capture then disconnects, so that the
    /// primary's own shutdown never waits for us.
    pub ingest_allowed: watch::Receiver<bool>,
    /// Requests for an exact snapshot that only the capture's own read position can give (SQLite).
    pub snapshots: mpsc::Receiver<oneshot::Sender<Result<Box<dyn Snapshot>>>>,
}

/// Limits of capture.
#[derive(Clone, Copy, Debug)]
pub struct CaptureLimits {
    /// Bytes appended and not yet durable above which reading from the source waits.
    pub pending_bytes: u64,
    /// Largest row accepted, bytes; a larger one stops capture with an error that names the table.
    pub max_row_bytes: u64,
    /// How often a heartbeat is written to the primary when idle.
    pub heartbeat_interval: Duration,
    /// How often the list of tables is compared with the selection.
    pub table_refresh_interval: Duration,
    /// Silence after which the connection counts as dead.
    pub idle_timeout: Duration,
    /// Upper bound of the change-detection delay of engines that must poll (SQLite).
    pub poll_interval_max: Duration,
}

/// State of the capture, for status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureState {
    /// Not started or between attempts.
    #[default]
    Disconnected,
    /// Connecting and checking.
    Connecting,
    /// Comparing what the source sends again with what the log holds.
    Verifying,
    /// Following.
    Streaming,
    /// Stopped until the operator acts.
    Stopped,
}

/// What the capture last reported. Positions are the source's own text.
#[derive(Clone, Debug, Default)]
pub struct CaptureStatus {
    /// State.
    pub state: CaptureState,
    /// Position of the last transaction or mark received.
    pub captured: String,
    /// Position last acknowledged to the source as flushed.
    pub acknowledged: String,
    /// The source's own end position last heard.
    pub server: String,
    /// Bytes of history the source keeps for us, where it tells.
    pub retained_bytes: Option<u64>,
    /// Transactions captured since start.
    pub transactions: u64,
    /// Row changes captured since start.
    pub rows: u64,
}

/// One selected table of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceTable {
    /// Name at the source.
    pub name: TableName,
    /// Changes when the table was dropped and made again (PostgreSQL: OID), so that copies of the
    /// former one are not taken for this one's.
    pub incarnation: String,
    /// Present shape; none when the table is refused.
    pub schema: Option<Arc<TableSchema>>,
    /// Why the table is not captured; empty when it is.
    pub refusal: String,
    /// The statement that mends it; empty when there is nothing to mend.
    pub remedy: String,
}

/// Shared view of the capture.
#[derive(Debug)]
pub struct CaptureBoard {
    status: Mutex<CaptureStatus>,
    tables: watch::Sender<Arc<Vec<SourceTable>>>,
}

impl Default for CaptureBoard {
    fn default() -> Self {
        CaptureBoard {
            status: Mutex::new(CaptureStatus::default()),
            tables: watch::Sender::new(Arc::new(Vec::new())),
        }
    }
}

impl CaptureBoard {
    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut CaptureStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A copy of the status.
    pub fn status(&self) -> CaptureStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Publishes the selected tables; watchers wake only when the list changed.
    pub fn set_tables(&self, tables: Vec<SourceTable>) {
        self.tables.send_if_modified(|now| {
            let changed = **now != tables;
            if changed {
                *now = Arc::new(tables);
            }
            changed
        });
    }

    /// Watches the selected tables.
    pub fn tables(&self) -> watch::Receiver<Arc<Vec<SourceTable>>> {
        self.tables.subscribe()
    }
}

// ---------------------------------------------------------------- snapshot

/// Makes exact cuts of the source.
#[async_trait]
pub trait SnapshotSource: Send + Sync {
    /// Takes a snapshot and tells which transactions it contains.
    ///
    /// # Errors
    /// When the source refuses.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>>;

    /// Statements (in [`TableDdl::create`], each tolerating that the column is there) that add to
    /// `target` those columns of `schema` whose value in rows written before they were added is
    /// known exactly. Columns of which it is not are left out.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn added_columns(&self, schema: &TableSchema, target: &TableName) -> Result<TableDdl>;

    /// The selected tables as they are now, for checks before anything runs: nothing is changed at
    /// the source, and the schemas are not numbered.
    ///
    /// # Errors
    /// When the source cannot be reached or captured from.
    async fn tables(&self, selection: &Selection) -> Result<Vec<SourceTable>>;
}

/// One exact cut of the source, held open while tables are read from it.
#[async_trait]
pub trait Snapshot: Send {
    /// What the snapshot contains.
    fn cut(&self) -> Cut;

    /// The statements that make `table` at a replica of the same engine under the name `target`.
    ///
    /// # Errors
    /// When the table is gone or cannot be described.
    async fn ddl(&mut self, table: &TableName, target: &TableName) -> Result<TableDdl>;

    /// Describes `table` for a replica of another engine, in the source's own words. Its columns
    /// that are not generated are those of the schema [`Snapshot::open`] returns.
    ///
    /// # Errors
    /// When the table is gone or cannot be described.
    async fn describe(&mut self, table: &TableName) -> Result<TableDescription>;

    /// Starts reading a table's rows; returns the shape of the images and an estimate of the rows.
    /// The names of the columns, in order, are those of the schema.
    ///
    /// # Errors
    /// When the table is gone.
    async fn open(&mut self, table: &TableName) -> Result<(TableSchema, Option<u64>)>;

    /// The next rows of the opened table, a bounded number of bytes; empty at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn next_rows(&mut self) -> Result<Vec<Row>>;

    /// Begins work on one table; what it locks is let go by [`Snapshot::leave`]. Without it the
    /// locks last as long as the snapshot.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn enter(&mut self) -> Result<()> {
        Ok(())
    }

    /// Ends work on a table, after an error as well; false when what was read need not be what the
    /// snapshot holds, because the table was emptied or rewritten in a way that snapshots do not
    /// survive.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn leave(&mut self, _table: &TableName) -> Result<bool> {
        Ok(true)
    }

    /// Counts the rows of a table.
    ///
    /// # Errors
    /// When the table is gone or the connection breaks.
    async fn count(&mut self, table: &TableName) -> Result<u64> {
        self.open(table).await?;
        let mut count = 0;
        loop {
            match self.next_rows().await?.len() as u64 {
                0 => return Ok(count),
                rows => count += rows,
            }
        }
    }

    /// Source ids of transactions that are committed, and may be in the log, but that the snapshot
    /// does not show because the source withholds their commit.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn withheld(&mut self) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }

    /// Ends the snapshot in good order. Dropping it does as well, but some servers complain of it
    /// in their log.
    async fn end(&mut self) {}
}

/// Statements that make a table. All identifiers are already quoted for the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDdl {
    /// Before the table: schemas, types, sequences; each tolerates being there already.
    pub before: Vec<String>,
    /// The table itself.
    pub create: Vec<String>,
    /// After the rows were loaded: primary key, unique constraints, indexes, check constraints,
    /// ownership of sequences.
    pub after: Vec<String>,
    /// After all tables were made: foreign keys.
    pub foreign_keys: Vec<ForeignKeyDdl>,
}

/// A foreign key whose statement is complete once the referenced table's name at the replica is
/// known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKeyDdl {
    /// The table referred to, by its name at the source.
    pub refers: TableName,
    /// Statement up to the referenced table's name.
    pub head: String,
    /// Statement after it.
    pub tail: String,
}

impl ForeignKeyDdl {
    /// The statement, for the name the replica gives the referenced table.
    pub fn statement(&self, referenced: &TableName) -> String {
        format!("{}{}{}", self.head, referenced.quoted(), self.tail)
    }
}

// ---------------------------------------------------------------- apply

/// What a replica says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaState {
    /// Its checkpoint for our group; none when it was never attached.
    pub checkpoint: Option<Checkpoint>,
    /// Tables that were copied, by source name.
    pub tables: HashMap<TableName, CopiedTable>,
}

/// A table whose existing rows are in the replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopiedTable {
    /// The source table's incarnation at the time.
    pub incarnation: String,
    /// What of the stream the copy already contains; none once the stream has passed it.
    pub cut: Option<Cut>,
}

/// How a step is to be applied; each is tried after the one before failed on a constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Sets: deletes, updates, inserts.
    SetWise,
    /// Touched rows are read, unchanged columns merged, all deleted, all inserted: solves swaps of
    /// unique values.
    Rewrite,
}

/// How much a target transaction waits for when it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// What is committed, and everything before it, survives a crash of the replica.
    Durable,
    /// What is committed is visible. A crash of the replica may take it back, together with
    /// everything after it and with its checkpoint; engines that cannot do that commit durably.
    Asynchronous,
}

/// Writes to one replica over one session. The calls of one target transaction are
/// `begin`, `apply`…, `submit`; an implementation may send them in one go at `submit`. Up to
/// [`Applier::depth`] transactions may have been submitted whose outcome is not known: `settle`
/// waits for that of the oldest. After any error the session is closed and the next `open` starts
/// anew; nothing of a transaction remains unless it had been submitted, in which case the
/// checkpoint tells.
///
/// What makes it safe to send a transaction before the one before it is known to be committed is
/// the compare-and-set: it expects the checkpoint the other one leaves. If that one fails, so does
/// it, at its first statement, and whatever is behind it.
#[async_trait]
pub trait Applier: Send {
    /// Connects, prepares the session (foreign keys and user triggers off, fixed settings), ends
    /// left-over sessions of ours, creates our own tables where absent and reads them. What it
    /// returns is durable at the replica, however it was committed.
    ///
    /// # Errors
    /// When the replica cannot be reached, refuses, or lacks a privilege or setting.
    async fn open(&mut self) -> Result<ReplicaState>;

    /// After [`Applier::open`]: completes how rows are converted for this replica by what only its
    /// server tells (MariaDB and MySQL name their exact collations differently).
    fn complete_conversion(&self, _options: &mut ConvertOptions) {}

    /// Sets the checkpoint outside a batch: first attachment or a new copy. Compare-and-set on
    /// `expected` (none = no row yet).
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointMoved`] when the stored one is another.
    async fn set_checkpoint(
        &mut self,
        expected: Option<&Checkpoint>,
        next: &Checkpoint,
    ) -> Result<()>;

    /// Most transactions that may be submitted and not settled. With 1 a transaction is committed
    /// when `submit` returns, and `settle` has nothing to wait for.
    fn depth(&self) -> usize {
        1
    }

    /// Begins a target transaction; its first statement locks the checkpoint and fails unless it
    /// is `expected`: the one stored, or the one left by the last transaction submitted.
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointMoved`], possibly only at `settle`. The error may be that of a
    /// transaction submitted before.
    async fn begin(&mut self, expected: &Checkpoint) -> Result<()>;

    /// Applies one step. Fails when a row to update or delete is not there, or one to insert is:
    /// a replica that differs is never patched over.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], [`ErrorKind::Constraint`], [`ErrorKind::Data`], possibly only at
    /// `settle`. The error may be that of a transaction submitted before.
    async fn apply(&mut self, step: &Step, style: Style) -> Result<()>;

    /// Writes `next` as the checkpoint in the same transaction and sends its COMMIT; may return
    /// before the replica has answered. `joined` are source tables whose cut the stream has passed
    /// with this batch: their cut is cleared too.
    ///
    /// # Errors
    /// As above; after a lost connection the outcome is told by the stored checkpoint.
    async fn submit(
        &mut self,
        next: &Checkpoint,
        joined: &[TableName],
        commit: Commit,
    ) -> Result<()>;

    /// Waits until the oldest transaction submitted is committed. Safe to cancel: it is then
    /// waited for by the next call.
    ///
    /// # Errors
    /// As above.
    async fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Submits durably and waits, with nothing else in flight.
    ///
    /// # Errors
    /// As above.
    async fn commit(&mut self, next: &Checkpoint, joined: &[TableName]) -> Result<()> {
        self.submit(next, joined, Commit::Durable).await?;
        self.settle().await
    }

    /// Adapts the replica's table to a new schema version, or explains why it cannot be: adds
    /// columns that appeared (with the source's default), accepts columns that disappeared when
    /// the replica's allow NULL or have a default, refuses what would guess (renames, other
    /// types). Also checks a table that existed before us.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] with the statement that mends it.
    async fn fit(&mut self, route: &Route, ddl: Option<&TableDdl>) -> Result<()>;

    /// Loads one table's rows in one transaction: makes the table by `ddl` if it is absent and
    /// `create` is true, refuses if it holds rows and `replace` is false, empties it otherwise,
    /// loads, creates what `ddl.after` lists if it made the table, records `copied`, commits.
    ///
    /// # Errors
    /// As above.
    async fn load(&mut self, load: Load<'_>) -> Result<u64>;

    /// Adds foreign keys, once all tables are there; a statement whose constraint is there already
    /// is passed over. Those whose other table the replica does not have are left out by the
    /// caller.
    ///
    /// # Errors
    /// As above.
    async fn add_foreign_keys(&mut self, statements: &[String]) -> Result<()>;

    /// Forgets that tables were copied (before a new copy of them).
    ///
    /// # Errors
    /// As above.
    async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()>;

    /// Closes the session.
    async fn close(&mut self);
}

/// One table's load.
pub struct Load<'a> {
    /// Shape and target name.
    pub route: &'a Route,
    /// How to make the table.
    pub ddl: &'a TableDdl,
    /// Whether an absent table may be made.
    pub create: bool,
    /// Whether existing rows may be removed first.
    pub replace: bool,
    /// The registry entry to write.
    pub copied: &'a CopiedTable,
    /// The rows: `snapshot.next_rows()` of the opened table.
    pub rows: &'a mut dyn Snapshot,
    /// Told the number of rows loaded so far, for progress.
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
}
