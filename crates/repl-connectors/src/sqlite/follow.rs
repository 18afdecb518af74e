//! The thread that follows a primary.
//!
//! It owns two connections: the *reader*, whose read transactions are the units of capture, and
//! the *keeper*, for the daemon's own short writes (triggers, pruning). What it reads goes through
//! a short bounded channel to the capture task, which alone writes to the log; when that waits for
//! the disk, so does this thread.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use repl_core::ErrorKind;
use repl_core::change::{ChangeWriter, RowOp};
use repl_core::record::TxHeader;
use repl_core::schema::{SchemaId, quote_identifier};
use repl_core::select::Selection;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::mpsc::Sender;

use super::changes::{Translator, too_large};
use super::connect;
use super::error::{During, failpoint};
use super::meta::{self, Installed, Place, StoredLayout};
use super::schema::{self, Known};
use super::value::from_sqlite;
use crate::seam::{CaptureLimits, ConnectorError, Result};

/// Size at which translated changes are passed on, bytes.
const CHUNK_BYTES: usize = 128 * 1024;

/// Change detection while the primary is being written to.
const BUSY_POLL: Duration = Duration::from_millis(1);

/// How long after a change the detection stays quick before it slows down.
const STAYS_BUSY: Duration = Duration::from_millis(200);

/// How often it is checked that the path still names the file that is open.
const FILE_CHECK: Duration = Duration::from_secs(1);

/// Pruning: pause between two batches, rows of a batch, rows of a batch when much has piled up.
const PRUNE_PAUSE: Duration = Duration::from_millis(50);
const PRUNE_ROWS: i64 = 5_000;
const PRUNE_ROWS_BEHIND: i64 = 25_000;

/// How long the write lock is waited for to install triggers before the capture starts over.
const INSTALL_PATIENCE: Duration = Duration::from_secs(10);

/// What the thread tells the capture task, in order.
pub(super) enum Event {
    /// The tables changed; sent before any change told in the new layouts.
    Known(Arc<Known>),
    /// A unit begins.
    Begin(TxHeader),
    /// Encoded changes of the unit; schema numbers are layout numbers. Second: row changes in it.
    Changes(Bytes, u64),
    /// The unit (or, if none was begun, an empty stretch) ends here.
    End(Place),
    /// The reader's connection, in a read transaction that holds exactly what was sent so far.
    Snapshot(Connection),
}

/// What the capture task tells the thread.
pub(super) enum Command {
    /// Hand out a snapshot.
    Snapshot,
}

/// What both sides see.
#[derive(Default)]
pub(super) struct Shared {
    /// The thread is to end.
    pub(super) stop: AtomicBool,
    /// Last change that is durable in the log.
    pub(super) logged: AtomicI64,
    /// Looks at the file that went well.
    pub(super) looks: AtomicU64,
}

/// Why the thread ends.
pub(super) enum Halt {
    /// The capture task asked for it or is gone.
    Stopped,
    /// An error.
    Failed(ConnectorError),
}

impl From<ConnectorError> for Halt {
    fn from(error: ConnectorError) -> Self {
        Halt::Failed(error)
    }
}

/// What the thread starts from.
pub(super) struct Start {
    pub(super) path: PathBuf,
    pub(super) group: String,
    pub(super) selection: Selection,
    pub(super) limits: CaptureLimits,
    /// Incarnation in the log's history record.
    pub(super) incarnation: String,
    /// Last change in the log.
    pub(super) last: Place,
    pub(super) shared: Arc<Shared>,
    pub(super) events: Sender<Event>,
}

/// Follows the primary until told to stop.
///
/// # Errors
/// As [`crate::seam::Capture::run`].
pub(super) fn follow(start: Start, commands: &Receiver<Command>) -> Result<()> {
    match Follower::connect(start).and_then(|mut follower| follower.run(commands)) {
        Ok(()) | Err(Halt::Stopped) => Ok(()),
        Err(Halt::Failed(error)) => Err(error),
    }
}

struct Follower {
    start: Start,
    reader: Connection,
    keeper: Connection,
    known: Arc<Known>,
    last: Place,
    file: (u64, u64),
    file_checked: Instant,
    pruned: Instant,
    /// Everything before was deleted.
    pruned_before: i64,
    data_version: Option<i64>,
}

impl Follower {
    fn connect(start: Start) -> Result<Follower, Halt> {
        let file = file_identity(&start)?;
        let reader = connect::primary(&start.path)?;
        let keeper = connect::keeper(&start.path)?;
        verify(&reader, &start)?;
        let known = reconcile(&keeper, &start)?;
        failpoint("sqlite.capture.after_triggers")?;
        let last = start.last.clone();
        let now = Instant::now();
        let follower = Follower {
            start,
            reader,
            keeper,
            known: Arc::new(known),
            last,
            file,
            file_checked: now,
            pruned: now,
            pruned_before: 0,
            data_version: None,
        };
        follower.send(Event::Known(Arc::clone(&follower.known)))?;
        Ok(follower)
    }

    fn run(&mut self, commands: &Receiver<Command>) -> Result<(), Halt> {
        let mut active = Instant::now();
        let mut pause = BUSY_POLL;
        loop {
            if self.start.shared.stop.load(Ordering::Relaxed) {
                return Err(Halt::Stopped);
            }
            if self.changed()? && self.capture(false)? {
                active = Instant::now();
            }
            self.keep_up()?;
            self.start.shared.looks.fetch_add(1, Ordering::Relaxed);
            let longest = self.start.limits.poll_interval_max.max(BUSY_POLL);
            pause = if active.elapsed() < STAYS_BUSY {
                BUSY_POLL
            } else {
                (pause * 3 / 2).min(longest)
            };
            match commands.recv_timeout(pause) {
                Ok(Command::Snapshot) => {
                    self.capture(true)?;
                    self.hand_out()?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Halt::Stopped),
            }
        }
    }

    fn send(&self, event: Event) -> Result<(), Halt> {
        self.start
            .events
            .blocking_send(event)
            .map_err(|_| Halt::Stopped)
    }

    /// Whether anything was committed since the last call.
    fn changed(&mut self) -> Result<bool, Halt> {
        let version: i64 = self
            .reader
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .during("look for changes")?;
        Ok(self.data_version.replace(version) != Some(version))
    }

    /// Captures what is there; returns whether there was anything. With `hold` the read transaction
    /// stays open.
    fn capture(&mut self, hold: bool) -> Result<bool, Halt> {
        loop {
            self.reader
                .execute_batch("BEGIN")
                .during("begin a read transaction")?;
            if schema::version(&self.reader)? == self.known.version {
                break;
            }
            // Changes may be recorded in layouts, or tables be without triggers, that are not
            // known yet. What is installed now is part of the next read transaction.
            self.reader
                .execute_batch("ROLLBACK")
                .during("end a read transaction")?;
            let known = reconcile(&self.keeper, &self.start)?;
            failpoint("sqlite.capture.after_triggers")?;
            self.known = Arc::new(known);
            self.send(Event::Known(Arc::clone(&self.known)))?;
        }
        let outcome = self.unit();
        if !hold || outcome.is_err() {
            let _ = self.reader.execute_batch("ROLLBACK");
        }
        let end = outcome?;
        let anything = end.is_some();
        if let Some(place) = end {
            self.last = place;
        }
        Ok(anything)
    }

    /// Sends everything after the last captured change as one unit.
    fn unit(&self) -> Result<Option<Place>, Halt> {
        verify_place(&self.reader, &self.last)?;
        let (end, header) = newest(&self.reader)?;
        if end == self.last {
            return Ok(None);
        }
        let mut outlet = Outlet {
            events: &self.start.events,
            header: Some(header),
            chunk: Vec::new(),
            rows: 0,
        };
        let reloads = self.reloads()?;
        self.changes(reloads.clone(), &mut outlet)?;
        for tab in reloads {
            if let Some(stored) = self.known.current_of(tab) {
                self.whole_table(stored, &mut outlet)?;
            }
        }
        outlet.pass_on()?;
        failpoint("sqlite.capture.after_read")?;
        self.send(Event::End(end.clone()))?;
        Ok(Some(end))
    }

    fn reloads(&self) -> Result<HashSet<i64>> {
        let doing = "look for tables to be sent whole";
        let mut statement = self
            .reader
            .prepare_cached("SELECT DISTINCT tab FROM _repl_reloads WHERE id > ?1")
            .during(doing)?;
        let rows = statement
            .query_map([self.last.id], |row| row.get(0))
            .during(doing)?;
        rows.collect::<rusqlite::Result<_>>().during(doing)
    }

    fn changes(&self, reloads: HashSet<i64>, outlet: &mut Outlet<'_>) -> Result<(), Halt> {
        let values: String = (0..self.known.width).map(|at| format!(", v{at}")).collect();
        let sql =
            format!("SELECT id, layout, op{values} FROM _repl_changes WHERE id > ?1 ORDER BY id");
        let doing = "read the recorded changes";
        let limit = self.start.limits.max_row_bytes;
        let mut translator = Translator::new(&self.reader, &self.known, reloads, limit);
        let mut statement = self.reader.prepare_cached(&sql).during(doing)?;
        let mut rows = statement.query([self.last.id]).during(doing)?;
        let mut expected = self.last.id;
        while let Some(row) = rows.next().during(doing)? {
            let id: i64 = row.get(0).during(doing)?;
            expected += 1;
            if id != expected {
                return Err(missing(expected, id).into());
            }
            outlet.rows += translator.row(row, &mut outlet.chunk)?;
            outlet.pass_on_if_full()?;
        }
        Ok(())
    }

    /// Sends a table as it is in the reader's snapshot: emptied, then every row.
    fn whole_table(&self, stored: &StoredLayout, outlet: &mut Outlet<'_>) -> Result<(), Halt> {
        let layout = &stored.layout;
        let table = layout.table_name();
        tracing::info!(%table, "capture was interrupted for this table; sending it whole");
        let schema = SchemaId(u32::try_from(stored.id).unwrap_or(u32::MAX));
        ChangeWriter::new(&mut outlet.chunk).truncate(&[schema], false);
        let columns: Vec<String> = layout
            .columns
            .iter()
            .map(|column| quote_identifier(&column.name))
            .collect();
        let doing = format!("read the table {table}");
        let sql = format!("SELECT {} FROM {}", columns.join(", "), table.quoted());
        let mut statement = self.reader.prepare(&sql).during(&doing)?;
        let mut rows = statement.query([]).during(&doing)?;
        while let Some(row) = rows.next().during(&doing)? {
            let start = outlet.chunk.len();
            let mut writer = ChangeWriter::new(&mut outlet.chunk);
            writer.row_op(RowOp::Insert, schema);
            let mut image = writer.row(columns.len());
            for at in 0..columns.len() {
                image.put(from_sqlite(row.get_ref(at).during(&doing)?));
            }
            image.finish();
            let bytes = outlet.chunk.len() - start;
            if bytes as u64 > self.start.limits.max_row_bytes {
                return Err(
                    too_large(bytes, self.start.limits.max_row_bytes, table.to_string()).into(),
                );
            }
            outlet.rows += 1;
            outlet.pass_on_if_full()?;
        }
        Ok(())
    }

    /// Gives the reader, in its read transaction, away and takes a new one.
    fn hand_out(&mut self) -> Result<(), Halt> {
        let fresh = connect::primary(&self.start.path)?;
        let snapshot = std::mem::replace(&mut self.reader, fresh);
        // Versions of different connections cannot be compared.
        self.data_version = None;
        self.send(Event::Snapshot(snapshot))
    }

    /// The small regular duties.
    fn keep_up(&mut self) -> Result<(), Halt> {
        if self.file_checked.elapsed() >= FILE_CHECK {
            self.file_checked = Instant::now();
            if file_identity(&self.start)? != self.file {
                return Err(ConnectorError::new(
                    ErrorKind::Connection,
                    "the database file was replaced by another one; connecting anew",
                )
                .into());
            }
        }
        if self.pruned.elapsed() >= PRUNE_PAUSE {
            self.pruned = Instant::now();
            self.prune()?;
        }
        Ok(())
    }

    /// Deletes a batch of changes that are durable in the log, never the last logged one.
    fn prune(&mut self) -> Result<(), Halt> {
        let logged = self.start.shared.logged.load(Ordering::Acquire);
        if logged <= self.pruned_before {
            return Ok(());
        }
        let oldest: Option<i64> = self
            .keeper
            .prepare_cached("SELECT min(id) FROM _repl_changes")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .during("read the oldest recorded change")?;
        let Some(oldest) = oldest.filter(|&oldest| oldest < logged) else {
            self.pruned_before = logged;
            return Ok(());
        };
        failpoint("sqlite.capture.before_prune")?;
        let waiting = logged - oldest;
        let batch = if waiting > 10 * PRUNE_ROWS {
            PRUNE_ROWS_BEHIND
        } else {
            PRUNE_ROWS
        };
        let before = logged.min(oldest + batch);
        match delete_before(&self.keeper, before) {
            // The application comes first; there is a next time.
            Err(error) if error.kind == ErrorKind::Transient => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

fn delete_before(db: &Connection, id: i64) -> Result<()> {
    let doing = "delete changes that are in the log";
    db.execute_batch("BEGIN IMMEDIATE").during(doing)?;
    let outcome = db
        .prepare_cached("DELETE FROM _repl_changes WHERE id < ?1")
        .and_then(|mut statement| statement.execute(params![id]))
        .and_then(|_| db.prepare_cached("DELETE FROM _repl_reloads WHERE id < ?1"))
        .and_then(|mut statement| statement.execute(params![id]))
        .during(doing);
    schema::end_transaction(db, "COMMIT", &outcome)?;
    outcome.map(drop)
}

/// Translated changes on their way to the capture task.
struct Outlet<'a> {
    events: &'a Sender<Event>,
    /// Present until the unit was begun.
    header: Option<TxHeader>,
    chunk: Vec<u8>,
    rows: u64,
}

impl Outlet<'_> {
    fn pass_on_if_full(&mut self) -> Result<(), Halt> {
        if self.chunk.len() >= CHUNK_BYTES {
            self.pass_on()
        } else {
            Ok(())
        }
    }

    fn pass_on(&mut self) -> Result<(), Halt> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let send = |event| self.events.blocking_send(event).map_err(|_| Halt::Stopped);
        if let Some(header) = self.header.take() {
            send(Event::Begin(header))?;
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES + 4096));
        send(Event::Changes(
            Bytes::from(chunk),
            std::mem::take(&mut self.rows),
        ))
    }
}

/// Installs what is needed, giving way to the application's transactions for a while.
fn reconcile(keeper: &Connection, start: &Start) -> Result<Known, Halt> {
    let began = Instant::now();
    loop {
        if start.shared.stop.load(Ordering::Relaxed) {
            return Err(Halt::Stopped);
        }
        let logged = start.shared.logged.load(Ordering::Acquire);
        match schema::reconcile(keeper, &start.selection, logged) {
            Err(error)
                if error.kind == ErrorKind::Transient && began.elapsed() < INSTALL_PATIENCE => {}
            outcome => return Ok(outcome?),
        }
    }
}

fn file_identity(start: &Start) -> Result<(u64, u64)> {
    let metadata = std::fs::metadata(&start.path).during("find the database file")?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Checks that the database is the one the log followed, and not an older state of it.
fn verify(db: &Connection, start: &Start) -> Result<()> {
    if meta::installed(db)? != Installed::Completely {
        return Err(history(
            "the tables of the capture are gone: the file was replaced by another, or they were dropped",
        ));
    }
    meta::check_owner(db, &start.group)?;
    if meta::incarnation(db)?.as_deref() != Some(start.incarnation.as_str()) {
        return Err(history(
            "the file is not the one the log followed (its incarnation differs)",
        ));
    }
    verify_place(db, &start.last)
}

/// Proves by the random token of the last captured change that the history goes on from there.
fn verify_place(db: &Connection, last: &Place) -> Result<()> {
    let doing = "verify the last captured change";
    let token: Option<String> = db
        .prepare_cached("SELECT lower(hex(token)) FROM _repl_changes WHERE id = ?1")
        .and_then(|mut s| s.query_row([last.id], |row| row.get(0)).optional())
        .during(doing)?;
    match token {
        Some(token) if token == last.token => Ok(()),
        Some(_) => Err(history(&format!(
            "change {} is another than the one in the log: an older copy of the file was restored \
             and written to",
            last.id
        ))),
        None => Err(history(&format!(
            "change {}, the last one in the log, is not there: an older copy of the file was \
             restored, or the change table was emptied",
            last.id
        ))),
    }
}

fn missing(expected: i64, found: i64) -> ConnectorError {
    history(&format!(
        "changes {expected} to {} are missing from _repl_changes: somebody deleted them",
        found - 1
    ))
}

fn history(what: &str) -> ConnectorError {
    ConnectorError::new(ErrorKind::History, what)
        .advice(
            "if the primary's file is the one it should be (a resync removes what a replica has and it has not), copy \
             the replicas anew with: replctl resync <replica>",
        )
}

/// The newest recorded change, and the header of a unit that ends with it.
fn newest(db: &Connection) -> Result<(Place, TxHeader)> {
    db.prepare_cached(
        "SELECT id, lower(hex(token)), at FROM _repl_changes ORDER BY id DESC LIMIT 1",
    )
    .and_then(|mut statement| {
        statement.query_row([], |row| {
            let place = Place {
                id: row.get(0)?,
                token: row.get(1)?,
            };
            let at_ms: i64 = row.get(2)?;
            let header = TxHeader {
                txid: u64::try_from(place.id).unwrap_or_default(),
                commit_time_us: at_ms.saturating_mul(1000),
                origin: String::new(),
            };
            Ok((place, header))
        })
    })
    .during("read the newest recorded change")
}
