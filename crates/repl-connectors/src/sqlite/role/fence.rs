//! Refusing writes.
//!
//! Every replicated table has three triggers, before each INSERT, UPDATE and DELETE of a row, that refuse it.
//! They are made and dropped under SQLite's one write lock: once it is had, nothing that was accepted is
//! still under way, and a transaction that began to read before cannot begin to write any more.
//!
//! Against whom it holds: every connection of every process, unless it drops the triggers or switches
//! triggers off (`SQLITE_DBCONFIG_ENABLE_TRIGGER`), as the daemon's own applier does.

use std::path::Path;
use std::time::Duration;

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::seam::{ConnectorError, Result};
use crate::sqlite::error::During;
use crate::sqlite::fit::{TargetTable, target_table};
use crate::sqlite::schema::{end_transaction, trigger_names};
use crate::sqlite::{MAIN, connect};

/// What the name of every trigger of a fence begins with; group, table and event follow.
pub(in crate::sqlite) const FENCE_PREFIX: &str = "_repl_fence_";

/// What is refused.
const EVENTS: [&str; 3] = ["INSERT", "UPDATE", "DELETE"];

/// The fence of one group.
pub(super) struct Fence<'a> {
    pub(super) path: &'a Path,
    pub(super) group: &'a str,
}

impl Fence<'_> {
    /// Has the tables that are there refuse writes, and verifies it.
    pub(super) fn close(&self, tables: &[TableName], patience: Duration) -> Result<()> {
        let db = connect::guard(self.path, patience)?;
        lock(&db, patience)?;
        let outcome = self.make(&db, tables);
        end_transaction(&db, "COMMIT", &outcome)?;
        outcome?;
        drop(db);
        let probed = self.probe(tables, patience);
        if probed.is_err() {
            self.open(patience)?;
        }
        probed
    }

    fn make(&self, db: &Connection, tables: &[TableName]) -> Result<()> {
        for table in present(db, tables)? {
            for (name, sql) in self.triggers(&table) {
                if stored(db, &name)?.as_deref() == Some(&sql) {
                    continue;
                }
                let name = quote_identifier(&name);
                db.execute_batch(&format!("DROP TRIGGER IF EXISTS {name}; {sql}"))
                    .during(format!("refuse writes to {table}"))?;
            }
        }
        Ok(())
    }

    /// Takes writes again.
    pub(super) fn open(&self, patience: Duration) -> Result<()> {
        let db = connect::guard(self.path, patience)?;
        if self.existing(&db)?.is_empty() {
            return Ok(());
        }
        lock(&db, patience)?;
        let outcome = self.existing(&db).and_then(|names| {
            for name in names {
                db.execute_batch(&format!("DROP TRIGGER {}", quote_identifier(&name)))
                    .during("take writes again")?;
            }
            Ok(())
        });
        end_transaction(&db, "COMMIT", &outcome)?;
        outcome
    }

    /// Whether these tables, as far as they are there, refuse writes.
    pub(super) fn is_closed(&self, tables: &[TableName]) -> Result<bool> {
        let db = connect::reader(self.path)?;
        for table in present(&db, tables)? {
            for (name, sql) in self.triggers(&table) {
                if stored(&db, &name)?.as_deref() != Some(&sql) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Tries to write to every table over a connection like any other: all must refuse.
    fn probe(&self, tables: &[TableName], patience: Duration) -> Result<()> {
        let db = connect::guard(self.path, patience)?;
        lock(&db, patience)?;
        let outcome = present(&db, tables)
            .and_then(|tables| tables.iter().try_for_each(|table| probe_table(&db, table)));
        let ended = db.execute_batch("ROLLBACK").during("end the probe");
        outcome.and(ended)
    }

    /// Name and statement of each trigger of a table.
    fn triggers(&self, table: &str) -> impl Iterator<Item = (String, String)> {
        let refusal = format!(
            "writes are refused: this database is not the primary of replication group {}; replctl \
             topology shows which is",
            self.group
        );
        EVENTS.into_iter().map(move |event| {
            let name = format!("{}{table}:{}", self.prefix(), event.to_ascii_lowercase());
            let sql = format!(
                "CREATE TRIGGER {} BEFORE {event} ON {} BEGIN SELECT RAISE(ABORT, '{refusal}'); END",
                quote_identifier(&name),
                quote_identifier(table)
            );
            (name, sql)
        })
    }

    fn prefix(&self) -> String {
        format!("{FENCE_PREFIX}{}:", self.group)
    }

    fn existing(&self, db: &Connection) -> Result<Vec<String>> {
        let names = trigger_names(db).during("look for the fence's triggers")?;
        let prefix = self.prefix();
        Ok(names
            .into_iter()
            .filter(|name| name.starts_with(&prefix))
            .collect())
    }
}

/// Takes the write lock; `patience` is the connection's own.
pub(super) fn lock(db: &Connection, patience: Duration) -> Result<()> {
    let locked = db
        .execute_batch("BEGIN IMMEDIATE")
        .during("lock the database");
    locked.map_err(|mut error| {
        if error.kind == ErrorKind::Transient {
            error.message = format!(
                "the write lock could not be had within {} s: a process is in a transaction that \
                 writes",
                patience.as_secs_f32()
            );
            error.advice =
                "end it (fuser and lsof name the processes that have the file open), then \
                            try again"
                    .into();
        }
        error
    })
}

/// The names of those tables that are there. Virtual ones, which are not replicated, take no triggers, and the
/// tables they keep their rows in are theirs.
pub(super) fn present(db: &Connection, tables: &[TableName]) -> Result<Vec<String>> {
    let doing = "look for the tables";
    let mut found = Vec::new();
    for table in tables.iter().filter(|table| table.schema == MAIN) {
        let name: Option<String> = db
            .prepare_cached(
                "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
                 AND name = ?1 COLLATE NOCASE",
            )
            .and_then(|mut statement| {
                statement
                    .query_row(params![table.name], |row| row.get(0))
                    .optional()
            })
            .during(doing)?;
        found.extend(name);
    }
    Ok(found)
}

fn stored(db: &Connection, trigger: &str) -> Result<Option<String>> {
    db.prepare_cached("SELECT sql FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1")
        .and_then(|mut statement| {
            statement
                .query_row(params![trigger], |row| row.get(0))
                .optional()
        })
        .during("look at the fence's triggers")
}

/// In a transaction that is rolled back.
fn probe_table(db: &Connection, table: &str) -> Result<()> {
    let quoted = quote_identifier(table);
    let mut probes = vec![format!("INSERT INTO {quoted} DEFAULT VALUES")];
    if let Some(row) = some_row(db, table)? {
        let column: String = db
            .query_row(
                "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0 LIMIT 1",
                params![table],
                |row| row.get(0),
            )
            .during("verify that writes are refused")?;
        let column = quote_identifier(&column);
        probes.push(format!(
            "UPDATE {quoted} SET {column} = {column} WHERE {row}"
        ));
        probes.push(format!("DELETE FROM {quoted} WHERE {row}"));
    }
    for probe in probes {
        match db.execute(&probe, []) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {}
            Err(error) => return Err(error).during("verify that writes are refused"),
            Ok(_) => {
                return Err(ConnectorError::new(
                    ErrorKind::Configuration,
                    format!("a probe write to {table} was not refused"),
                )
                .advice("see whether the triggers _repl_fence_… of the table were dropped"));
            }
        }
    }
    Ok(())
}

/// A condition that holds for some row of the table; none where it has no rows, or none that can be named.
fn some_row(db: &Connection, table: &str) -> Result<Option<String>> {
    let doing = "verify that writes are refused";
    let quoted = quote_identifier(table);
    let any = format!("SELECT EXISTS (SELECT 1 FROM {quoted})");
    if !db.query_row(&any, [], |row| row.get(0)).during(doing)? {
        return Ok(None);
    }
    let found = target_table(db, &TableName::new(MAIN, table))?;
    let terms = match found.as_ref().and_then(TargetTable::rowid) {
        Some(rowid) => rowid.to_owned(),
        None => {
            let mut statement = db
                .prepare_cached("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE pk > 0")
                .during(doing)?;
            let key: Vec<String> = statement
                .query_map(params![table], |row| row.get::<_, String>(0))
                .and_then(Iterator::collect)
                .during(doing)?;
            let key: Vec<String> = key.iter().map(|name| quote_identifier(name)).collect();
            key.join(", ")
        }
    };
    Ok((!terms.is_empty()).then(|| format!("({terms}) IN (SELECT {terms} FROM {quoted} LIMIT 1)")))
}
