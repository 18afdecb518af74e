//! SQLite databases as primary and as replica.
//!
//! # Capture
//! Triggers append every row change to the table `_repl_changes` inside the writer's own
//! transaction, so that any process may write with any library; the daemon follows that table.
//! One transaction of the log is everything one read transaction of the daemon finds there, hence
//! one or more whole transactions of the source.
//!
//! What follows from triggers, and what the operator has to know:
//! - The primary must be in WAL mode and hold its text as UTF-8.
//! - Rows removed by the conflict resolution REPLACE fire no trigger. `BEFORE` triggers record the
//!   rows a new row is about to collide with, on the primary key and on every unique index that is
//!   neither partial nor over an expression; the capture knows them gone when the new row is in.
//!   A REPLACE through a *partial* or *expression* index is not seen: a replica made by the daemon
//!   has the same index and stops with a constraint error; it never differs silently.
//! - `ALTER TABLE … DROP COLUMN` of a captured table fails at the application, naming the trigger
//!   `_repl_capture_<table>_…`: SQLite refuses to drop a column that a trigger uses. Rebuild the
//!   table instead (create, copy, drop, rename), or exclude the table while dropping the column.
//! - A captured table that lost its triggers (rebuilt, dropped and made again, triggers dropped) is
//!   emptied and sent whole within the stream, at one exact point of it. If columns are gone or
//!   have other types it counts as another table, which the replicas copy anew.
//! - Writers that switch triggers off (`SQLITE_DBCONFIG_ENABLE_TRIGGER`) or write through
//!   `PRAGMA writable_schema` are not seen; `TEMP` triggers that change the very row they fire for
//!   run before ours and are recorded out of order.
//! - Renaming a table makes it a new one for the replicas, which copy it again.
//! - The row number of a table without an `INTEGER PRIMARY KEY` is not replicated.
//! - A snapshot is a read transaction held open for as long as the copy lasts: it blocks nobody,
//!   but the WAL file cannot be truncated meanwhile and grows by what is written.
//!
//! # Apply
//! One connection with foreign keys and triggers off, `journal_mode=WAL` and `synchronous=FULL`.
//! The checkpoint is compared and written in the same transaction as the changes.
//!
//! The connector's own tables begin with `_repl_` and are never selected, nor are SQLite's own.

// `ConnectorError` carries everything status shows of an error; errors are rare, so its size on the
// stack costs nothing that matters.
#![allow(clippy::result_large_err)]

use std::path::PathBuf;

mod admin;
mod apply;
mod capture;
mod changes;
mod clauses;
mod compare;
mod connect;
mod content;
mod ddl;
mod describe;
mod divide;
mod error;
mod fit;
mod follow;
mod images;
mod inspect;
mod layout;
mod meta;
mod parts;
mod registry;
mod role;
mod rows;
mod schema;
mod session;
pub mod settings;
mod snapshot;
mod triggers;
mod value;

pub use apply::SqliteApplier;
pub use capture::SqliteCapture;
pub use content::SqliteContents;
pub use role::SqliteRole;
pub use snapshot::SqliteSnapshots;

/// A SQLite database file and the part it plays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteTarget {
    /// The database file.
    pub path: PathBuf,
    /// The node's name in the configuration.
    pub node: String,
    /// The replication group's name. Several groups may keep their checkpoints in one replica;
    /// a primary belongs to one group.
    pub group: String,
}

/// Name of the engine in schemas and source identities.
const ENGINE: &str = "sqlite";

/// The only schema whose tables are replicated.
const MAIN: &str = "main";

/// Prefix of the connector's own tables.
const OWN_PREFIX: &str = "_repl_";
