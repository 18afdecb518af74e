//! Prepares a primary for capture, and clears away what was installed.

use std::time::Duration;

use repl_core::ErrorKind;
use repl_core::position::SourceIdentity;
use repl_core::schema::quote_identifier;
use repl_core::select::Selection;
use rusqlite::Connection;

use super::error::During;
use super::meta::{self, Installed, Place};
use super::role::FORM_PREFIX;
use super::schema::{Known, end_transaction, install, trigger_names};
use super::triggers::TRIGGER_PREFIX;
use super::{ENGINE, SqliteTarget, connect};
use crate::seam::Result;

/// Attempts at the write lock; each waits for the keeper's own busy timeout.
const LOCK_ATTEMPTS: usize = 50;

/// Installs triggers and tables where absent and begins a new span of history: from the returned
/// place on, every change is recorded.
///
/// # Errors
/// When the primary is not fit for capture, belongs to another group, or stays locked.
pub(super) fn begin_history(
    target: &SqliteTarget,
    selection: &Selection,
) -> Result<(SourceIdentity, Place)> {
    let db = connect::keeper(&target.path)?;
    // Unlike pruning, this must not be lost once the log builds on it.
    db.execute_batch("PRAGMA synchronous=FULL")
        .during("prepare the session")?;
    lock(&db)?;
    let outcome = begin_locked(&db, target, selection);
    end_transaction(&db, "COMMIT", &outcome)?;
    outcome
}

/// As [`begin_history`], with nothing left of an earlier time; also what is captured then.
///
/// # Errors
/// As [`begin_history`].
pub(super) fn begin_anew(
    target: &SqliteTarget,
    selection: &Selection,
    patience: Duration,
) -> Result<(SourceIdentity, Place, Known)> {
    let db = connect::guard(&target.path, patience)?;
    lock(&db)?;
    let outcome = (|| {
        if meta::installed(&db)? != Installed::Nothing {
            uninstall_locked(&db, &target.group)?;
        }
        let (source, place) = begin_locked(&db, target, selection)?;
        Ok((source, place, Known::stored(&db)?))
    })();
    end_transaction(&db, "COMMIT", &outcome)?;
    outcome
}

fn begin_locked(
    db: &Connection,
    target: &SqliteTarget,
    selection: &Selection,
) -> Result<(SourceIdentity, Place)> {
    meta::create(db, &target.group)?;
    meta::check_owner(db, &target.group)?;
    let system = meta::renew_incarnation(db)?;
    let place = meta::mark(db)?;
    // After the mark, so that a table that lost its triggers is sent whole within the new span.
    install(db, selection, place.id)?;
    let source = SourceIdentity {
        node: target.node.clone(),
        engine: ENGINE.to_owned(),
        system,
        timeline: String::new(),
    };
    Ok((source, place))
}

fn lock(db: &Connection) -> Result<()> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match db
            .execute_batch("BEGIN IMMEDIATE")
            .during("lock the primary")
        {
            Err(error) if error.kind == ErrorKind::Transient && attempt < LOCK_ATTEMPTS => {}
            outcome => return outcome,
        }
    }
}

/// Drops the capture's triggers and tables; returns what was done, for the operator.
///
/// # Errors
/// When another group owns them or the primary stays locked.
pub(super) fn uninstall(target: &SqliteTarget) -> Result<Vec<String>> {
    let db = connect::keeper(&target.path)?;
    if meta::installed(&db)? == Installed::Nothing {
        return Ok(vec![
            "nothing of the daemon is installed in the primary".to_owned(),
        ]);
    }
    lock(&db)?;
    let outcome = uninstall_locked(&db, &target.group);
    end_transaction(&db, "COMMIT", &outcome)?;
    outcome
}

fn uninstall_locked(db: &Connection, group: &str) -> Result<Vec<String>> {
    if meta::installed(db)? == Installed::Completely {
        meta::check_owner(db, group)?;
    }
    let names = trigger_names(db).during("read the capture's triggers")?;
    let mut done = Vec::new();
    let ours = |name: &&String| {
        [TRIGGER_PREFIX, FORM_PREFIX]
            .iter()
            .any(|one| name.starts_with(one))
    };
    for name in names.iter().filter(ours) {
        let sql = format!("DROP TRIGGER {}", quote_identifier(name));
        db.execute_batch(&sql).during("drop a trigger")?;
        done.push(format!("dropped trigger {name}"));
    }
    for table in [
        "_repl_changes",
        "_repl_reloads",
        "_repl_layouts",
        "_repl_meta",
    ] {
        db.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))
            .during("drop a table")?;
        done.push(format!("dropped table {table}"));
    }
    Ok(done)
}
