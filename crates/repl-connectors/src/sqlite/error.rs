//! SQLite's errors in the operator's words.

use std::fmt::Display;

use repl_core::ErrorKind;
use rusqlite::ErrorCode;

use super::SqliteTarget;
use crate::seam::{ConnectorError, Result};

/// Adds to an error of SQLite what was being done.
pub(super) trait During<T> {
    /// Names the action, as in "cannot read the table list".
    fn during(self, what: impl Display) -> Result<T>;
}

impl<T> During<T> for rusqlite::Result<T> {
    fn during(self, what: impl Display) -> Result<T> {
        self.map_err(|error| describe(&error, &what))
    }
}

impl<T> During<T> for std::io::Result<T> {
    fn during(self, what: impl Display) -> Result<T> {
        self.map_err(|error| {
            ConnectorError::new(ErrorKind::Connection, format!("cannot {what}: {error}"))
        })
    }
}

/// Names the database in an error.
pub(super) fn located<T>(result: Result<T>, target: &SqliteTarget) -> Result<T> {
    result.map_err(|mut error| {
        error.message = format!(
            "{} ({}): {}",
            target.node,
            target.path.display(),
            error.message
        );
        error
    })
}

/// A passed failpoint that was set to fail.
pub(super) fn failpoint(name: &str) -> Result<()> {
    repl_core::failpoint::hit(name)
        .map_err(|error| ConnectorError::new(ErrorKind::Connection, error.to_string()))
}

fn describe(error: &rusqlite::Error, what: &impl Display) -> ConnectorError {
    let (kind, advice) = classify(error);
    let mut described = ConnectorError::new(kind, format!("cannot {what}: {error}")).advice(advice);
    described.code = error
        .sqlite_error()
        .map(|code| code_name(code.extended_code));
    described
}

fn classify(error: &rusqlite::Error) -> (ErrorKind, &'static str) {
    let Some(code) = error.sqlite_error_code() else {
        return (ErrorKind::Internal, "");
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => (
            ErrorKind::Transient,
            "another connection holds the write lock; nothing to do if it ends",
        ),
        ErrorCode::DiskFull => (ErrorKind::Transient, "free space on the database's disk"),
        ErrorCode::SystemIoFailure => (
            ErrorKind::Transient,
            "check the disk and the file system of the database",
        ),
        ErrorCode::OutOfMemory | ErrorCode::SchemaChanged | ErrorCode::OperationInterrupted => {
            (ErrorKind::Transient, "")
        }
        ErrorCode::CannotOpen => (
            ErrorKind::Connection,
            "check that the file and its directory exist and that the daemon's user may read and write both",
        ),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => (
            ErrorKind::Privilege,
            "give the daemon's user write permission on the file and on its directory (for the -wal and -shm files)",
        ),
        ErrorCode::NotADatabase => (
            ErrorKind::Configuration,
            "the file is not a SQLite database (or is encrypted): check the node's url",
        ),
        ErrorCode::DatabaseCorrupt => (
            ErrorKind::Data,
            "run PRAGMA integrity_check on the file and restore it from a backup",
        ),
        ErrorCode::ConstraintViolation => (ErrorKind::Constraint, ""),
        ErrorCode::TypeMismatch | ErrorCode::TooBig => (ErrorKind::Data, ""),
        ErrorCode::Unknown => (ErrorKind::Schema, ""),
        _ => (ErrorKind::Internal, ""),
    }
}

/// SQLite's name of the extended codes that matter to an operator, else the number.
fn code_name(code: i32) -> String {
    let name = match code {
        5 => "SQLITE_BUSY",
        6 => "SQLITE_LOCKED",
        8 => "SQLITE_READONLY",
        13 => "SQLITE_FULL",
        14 => "SQLITE_CANTOPEN",
        26 => "SQLITE_NOTADB",
        275 => "SQLITE_CONSTRAINT_CHECK",
        787 => "SQLITE_CONSTRAINT_FOREIGNKEY",
        1299 => "SQLITE_CONSTRAINT_NOTNULL",
        1555 => "SQLITE_CONSTRAINT_PRIMARYKEY",
        2067 => "SQLITE_CONSTRAINT_UNIQUE",
        2579 => "SQLITE_CONSTRAINT_ROWID",
        3091 => "SQLITE_CONSTRAINT_DATATYPE",
        _ => match code & 0xff {
            10 => "SQLITE_IOERR",
            11 => "SQLITE_CORRUPT",
            _ => return format!("SQLite error {code}"),
        },
    };
    format!("{name} ({code})")
}
