//! What the daemon asks of a primary's capture.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use repl_core::log::{Durable, TxWriter};
use repl_core::schema::{TableName, TableSchema};
use repl_core::select::Selection;
use repl_core::{Seq, SourcePosition};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::{ConnectorError, Demand, Result, Snapshot};
use crate::told::Teller;

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

    /// What keeps these tables from being captured or copied, found without a change: what
    /// refuses all of them, and what concerns some.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn lacking(&mut self, _tables: &[TableName]) -> Result<Lacking> {
        Ok(Lacking::default())
    }

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
    /// How far the log is durable: nothing beyond is acknowledged.
    pub durable: watch::Receiver<Durable>,
    /// How far the mode's rule is met: what may be acknowledged as applied, or at all.
    pub released: watch::Receiver<Released>,
    /// Which tables to capture.
    pub selection: Selection,
    /// Limits.
    pub limits: CaptureLimits,
    /// Where the capture shows what it does.
    pub board: Arc<CaptureBoard>,
    /// Whether somebody waits for what is captured.
    pub demand: Arc<Demand>,
    /// Turns true when the daemon stops.
    pub shutdown: watch::Receiver<bool>,
    /// False while ingest must pause (log disk full): capture then disconnects, so that the
    /// primary's own shutdown never waits for us.
    pub ingest_allowed: watch::Receiver<bool>,
    /// Requests for an exact snapshot that only the capture's own read position can give (SQLite).
    pub snapshots: mpsc::Receiver<oneshot::Sender<Result<Box<dyn Snapshot>>>>,
}

/// How far the mode's rule is met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Everything through this transaction may be acknowledged as applied, once it is durable.
    pub seq: Seq,
    /// Commits of the source wait for acknowledgements, which are then sent without delay.
    pub waited: bool,
    /// They are acknowledged by what replicas commit, one group of them after the other.
    pub grouped: bool,
    /// Nothing is acknowledged before it is released, not even as received or as flushed: a commit is
    /// not to return by asking for less than that it is applied.
    pub withheld: bool,
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
    /// Which running database the source is, as a replica of the same engine would say it of itself;
    /// empty before it was asked. A copy of the same files says something else.
    pub instance: String,
    /// Position of the last transaction or mark received.
    pub captured: String,
    /// Position last acknowledged to the source as flushed.
    pub acknowledged: String,
    /// The source's own end position last heard.
    pub server: String,
    /// When the source was last heard, milliseconds since the Unix epoch; none before that.
    pub heard_ms: Option<u64>,
    /// Bytes of history the source keeps for us, where it tells.
    pub retained_bytes: Option<u64>,
    /// Transactions captured since start.
    pub transactions: u64,
    /// Row changes captured since start.
    pub rows: u64,
    /// What it waits for at the source, for people; empty when for nothing.
    pub waits: String,
}

/// What [`Capture::lacking`] finds.
#[derive(Debug, Default)]
pub struct Lacking {
    /// Without this nothing is captured.
    pub all: Option<ConnectorError>,
    /// Tables will be left out, or cannot be copied.
    pub some: Vec<ConnectorError>,
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
    /// Why the table is not captured; with a shape, why its rows cannot be read, though its changes are
    /// captured. Empty when neither is so.
    pub refusal: String,
    /// The statement that mends it; empty when there is nothing to mend.
    pub remedy: String,
    /// By what the stream covers the table: another word once anything can have kept one of its changes
    /// out of the stream, even if that was undone since. Empty while it is not in the stream, and where
    /// the incarnation tells it all.
    pub coverage: String,
    /// Why its rows cannot be copied yet; empty when they can.
    pub waits: String,
    /// Tables whose reading shows this one's rows too (PostgreSQL's INHERITS), in their order.
    pub parents: Vec<TableName>,
}

impl SourceTable {
    /// Whether it will be copied by itself, and cannot be yet.
    pub fn is_awaited(&self) -> bool {
        !self.waits.is_empty() || self.refusal.starts_with("new")
    }
}

/// Called with the tables before anybody sees them.
pub type Note = Box<dyn Fn(&[SourceTable]) -> Result<()> + Send + Sync>;

/// Shared view of the capture.
pub struct CaptureBoard {
    status: Mutex<CaptureStatus>,
    tables: watch::Sender<Arc<Vec<SourceTable>>>,
    /// They were told, though there may be none.
    listed: AtomicBool,
    /// How the tables are told; as they are where there is none.
    teller: Option<Teller>,
    note: Option<Note>,
    /// What covered the tables, by their incarnations, when all writers of before had ended already.
    settled: HashMap<String, String>,
}

impl CaptureBoard {
    /// A board that shows the tables as the log knows them.
    pub fn telling(teller: Teller) -> CaptureBoard {
        CaptureBoard {
            teller: Some(teller),
            ..CaptureBoard::default()
        }
    }

    /// Has every new list noted before it is shown. `settled` is what was noted before: of tables that
    /// were not waiting, what covered them.
    #[must_use]
    pub fn noting(mut self, note: Note, settled: HashMap<String, String>) -> CaptureBoard {
        (self.note, self.settled) = (Some(note), settled);
        self
    }

    /// Whether the writers that were there when `coverage` began had ended when the daemon was started.
    pub fn was_settled(&self, incarnation: &str, coverage: &str) -> bool {
        self.settled
            .get(incarnation)
            .is_some_and(|one| one == coverage)
    }
}

impl Default for CaptureBoard {
    fn default() -> Self {
        CaptureBoard {
            status: Mutex::new(CaptureStatus::default()),
            tables: watch::Sender::new(Arc::new(Vec::new())),
            listed: AtomicBool::new(false),
            teller: None,
            note: None,
            settled: HashMap::new(),
        }
    }
}

impl CaptureBoard {
    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut CaptureStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes that the source was heard, so long ago.
    pub fn heard(&self, ago: Duration) {
        let then = SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH);
        let ms = then
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        self.update(|status| status.heard_ms = status.heard_ms.max(Some(ms)));
    }

    /// A copy of the status.
    pub fn status(&self) -> CaptureStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Publishes the selected tables; watchers wake when the list changed, and the first time.
    ///
    /// # Errors
    /// When it cannot be noted; nobody sees it then.
    pub fn set_tables(&self, mut tables: Vec<SourceTable>) -> Result<()> {
        if let Some(teller) = &self.teller {
            tables = tables
                .into_iter()
                .map(|table| teller.table(table))
                .collect();
        }
        if self.listed() && **self.tables.borrow() == tables {
            return Ok(());
        }
        if let Some(note) = &self.note {
            note(&tables)?;
        }
        self.listed.store(true, Ordering::SeqCst);
        self.tables.send_replace(Arc::new(tables));
        Ok(())
    }

    /// Whether the selected tables were told: an empty list then means that there are none.
    pub fn listed(&self) -> bool {
        self.listed.load(Ordering::SeqCst)
    }

    /// Watches the selected tables.
    pub fn tables(&self) -> watch::Receiver<Arc<Vec<SourceTable>>> {
        self.tables.subscribe()
    }
}
