//! Opens database files with the settings each part needs.

use std::path::Path;
use std::time::Duration;

use repl_core::ErrorKind;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::error::During;
use super::settings;
use crate::seam::{ConnectorError, Result};

/// How long a statement waits for a lock before it fails as busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The same for upkeep that can as well be done later.
const SHORT_BUSY_TIMEOUT: Duration = Duration::from_millis(200);

/// Statements kept prepared per connection.
const CACHED_STATEMENTS: usize = 512;

fn open(path: &Path, create: bool) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    } else if !path.exists() {
        return Err(
            ConnectorError::new(ErrorKind::Connection, "the database file does not exist")
                .advice("check the node's url, or restore the file"),
        );
    }
    let db = Connection::open_with_flags(path, flags).during("open the database")?;
    db.busy_timeout(BUSY_TIMEOUT)
        .during("set the busy timeout")?;
    settings::pin(&db).during("prepare the session")?;
    db.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    Ok(db)
}

/// Opens a primary for reading the changes and checks what capture needs of it.
///
/// # Errors
/// [`ErrorKind::Configuration`] with the statement to run when it is not in WAL mode or not UTF-8.
pub(super) fn primary(path: &Path) -> Result<Connection> {
    let db = open(path, false)?;
    let mode: String = db
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .during("read the journal mode")?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!("the primary is in journal mode {mode}; following it needs WAL mode"),
        )
        .advice("run on it once, with no other connection open: PRAGMA journal_mode=WAL;"));
    }
    let encoding: String = db
        .query_row("PRAGMA encoding", [], |row| row.get(0))
        .during("read the text encoding")?;
    if encoding != "UTF-8" {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!("the primary stores text as {encoding}; only UTF-8 is copied without loss"),
        )
        .advice("load a dump of it into a new database made with PRAGMA encoding='UTF-8';"));
    }
    Ok(db)
}

/// Opens a primary for the daemon's own writes to it: short transactions that give way to the
/// application's. What they write may be lost in a power failure without harm, except where the
/// caller asks for more.
///
/// # Errors
/// As [`primary`].
pub(super) fn keeper(path: &Path) -> Result<Connection> {
    let db = primary(path)?;
    db.busy_timeout(SHORT_BUSY_TIMEOUT)
        .during("set the busy timeout")?;
    // In WAL mode NORMAL never breaks the file; a lost deletion of recorded changes is made again.
    db.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=OFF;")
        .during("prepare the session")?;
    Ok(db)
}

/// Opens a database for a change of its role: as any client would, waiting for locks no longer than
/// `patience`, its commits durable.
///
/// # Errors
/// As [`primary`].
pub(super) fn guard(path: &Path, patience: Duration) -> Result<Connection> {
    let db = primary(path)?;
    db.busy_timeout(patience).during("set the busy timeout")?;
    db.execute_batch("PRAGMA synchronous=FULL; PRAGMA foreign_keys=OFF;")
        .during("prepare the session")?;
    Ok(db)
}

/// Opens a replica for reading what it holds.
///
/// # Errors
/// When the file is absent or not a database.
pub(super) fn reader(path: &Path) -> Result<Connection> {
    let db = open(path, false)?;
    db.execute_batch("PRAGMA query_only=ON; PRAGMA cache_size=-8000;")
        .during("prepare the session")?;
    Ok(db)
}

/// Opens a replica: durable commits, no triggers, no foreign key actions.
///
/// # Errors
/// When the settings cannot be made.
pub(super) fn replica(path: &Path, create: bool) -> Result<Connection> {
    prepared(path, create).map_err(ConnectorError::connecting)
}

fn prepared(path: &Path, create: bool) -> Result<Connection> {
    let db = open(path, create)?;
    let mode: String = db
        .query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))
        .during("switch the replica to WAL mode")?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!("the replica stays in journal mode {mode} although WAL mode was asked for"),
        )
        .advice("put it on a local file system that allows shared memory"));
    }
    db.execute_batch(
        "PRAGMA synchronous=FULL; PRAGMA foreign_keys=OFF; PRAGMA cache_size=-8000; \
         PRAGMA journal_size_limit=67108864;",
    )
    .during("prepare the session")?;
    let settings: (i64, bool) = db
        .query_row(
            "SELECT (SELECT synchronous FROM pragma_synchronous), \
             (SELECT foreign_keys FROM pragma_foreign_keys)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .during("verify the session's settings")?;
    let triggers = db
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .during("switch triggers off")?;
    if settings != (2, false) || triggers {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            "the session's settings (synchronous=FULL, foreign keys and triggers off) did not hold",
        ));
    }
    Ok(db)
}
