//! Keeps the capture triggers in step with the primary's tables.
//!
//! [`plan`] compares what is installed with what should be; [`reconcile`] brings it about in one
//! write transaction. Nothing is remembered outside the database: a table that must be sent whole
//! is noted in `_repl_reloads` in that very transaction, so that a crash at any moment leaves
//! either the old state or the new one with its consequences.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use repl_core::schema::quote_identifier;
use repl_core::select::Selection;
use rusqlite::{Connection, params};

use super::error::During;
use super::inspect::{Inspected, Refusal, selected_tables};
use super::layout::Layout;
use super::meta::{self, StoredLayout};
use super::role::{FENCE_PREFIX, FORM_PREFIX};
use super::triggers::{TRIGGER_PREFIX, triggers};
use crate::seam::Result;

/// What the capture knows of the primary's tables while `version` is its schema version.
pub(super) struct Known {
    /// `PRAGMA schema_version`.
    pub(super) version: i64,
    /// All layouts by number.
    pub(super) layouts: HashMap<i64, Arc<StoredLayout>>,
    /// Selected tables that are not captured.
    pub(super) refused: Vec<(String, Refusal)>,
    /// Value columns of `_repl_changes`.
    pub(super) width: usize,
}

impl Known {
    /// What is stored, whatever the tables are like now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn stored(db: &Connection) -> Result<Known> {
        Ok(Known {
            version: version(db)?,
            layouts: numbered(meta::layouts(db)?),
            refused: Vec::new(),
            width: meta::width(db)?,
        })
    }

    /// The present layout of the table with this number.
    pub(super) fn current_of(&self, tab: i64) -> Option<&Arc<StoredLayout>> {
        self.layouts
            .values()
            .find(|stored| stored.tab == tab && stored.current)
    }

    /// The present layouts, by table name.
    pub(super) fn current(&self) -> Vec<&Arc<StoredLayout>> {
        let mut current: Vec<_> = self
            .layouts
            .values()
            .filter(|stored| stored.current)
            .collect();
        current.sort_by(|a, b| a.layout.table.cmp(&b.layout.table));
        current
    }
}

/// The schema version the connection sees; inside a read transaction, that of its snapshot.
pub(super) fn version(db: &Connection) -> Result<i64> {
    db.prepare_cached("PRAGMA schema_version")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .during("read the schema version")
}

/// What has to be done about one table.
#[derive(Debug)]
enum Action {
    /// Remove the triggers that write this layout; the layout's table is no longer captured.
    Retire(i64),
    /// Capture a table that was not captured.
    Start(Layout),
    /// Install the triggers of `layout` in place of those of the stored layout `of`.
    Replace {
        of: i64,
        layout: Layout,
        reload: Reload,
    },
}

/// Whether a table has to be sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reload {
    /// Nothing was lost.
    No,
    /// Only if changes are waiting that cannot be understood or put in order any more.
    IfPending,
    /// Changes may not have been recorded.
    Yes,
}

struct Plan {
    actions: Vec<Action>,
    /// Capture triggers that belong to no layout.
    strays: Vec<String>,
    refused: Vec<(String, Refusal)>,
}

/// A trigger as the database holds it.
struct Trigger {
    name: String,
    table: String,
    sql: String,
    rowid: i64,
}

/// Brings the triggers in step and returns what is then known. `logged` is the last change that is
/// durable in the log. Takes the write lock only when something is to be done.
///
/// # Errors
/// [`repl_core::ErrorKind::Transient`] when the write lock is held by others for long.
pub(super) fn reconcile(db: &Connection, selection: &Selection, logged: i64) -> Result<Known> {
    db.execute_batch("BEGIN")
        .during("begin a read transaction")?;
    let outcome = plan(db, selection).and_then(|plan| known(db, plan));
    end_transaction(db, "COMMIT", &outcome)?;
    let (plan, known) = outcome?;
    if plan.actions.is_empty() && plan.strays.is_empty() {
        return Ok(known);
    }
    db.execute_batch("BEGIN IMMEDIATE")
        .during("lock the primary to install its triggers")?;
    let outcome = install(db, selection, logged);
    end_transaction(db, "COMMIT", &outcome)?;
    outcome
}

/// The names of all triggers of the database.
pub(super) fn trigger_names(db: &Connection) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT name FROM main.sqlite_schema WHERE type = 'trigger'")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Ends a transaction: as asked after success, by a rollback otherwise.
pub(super) fn end_transaction<T>(
    db: &Connection,
    success: &str,
    outcome: &Result<T>,
) -> Result<()> {
    if outcome.is_ok() {
        let ended = db.execute_batch(success).during("commit on the primary");
        if ended.is_err() && !db.is_autocommit() {
            let _ = db.execute_batch("ROLLBACK");
        }
        return ended;
    }
    if !db.is_autocommit() {
        // The error that made the rollback necessary is the one to report.
        let _ = db.execute_batch("ROLLBACK");
    }
    Ok(())
}

/// Brings the triggers in step inside the caller's write transaction.
pub(super) fn install(db: &Connection, selection: &Selection, logged: i64) -> Result<Known> {
    let plan = plan(db, selection)?;
    carry_out(db, &plan, logged)?;
    forget_old_layouts(db)?;
    known(db, plan).map(|(_, known)| known)
}

fn known(db: &Connection, mut plan: Plan) -> Result<(Plan, Known)> {
    let known = Known {
        refused: std::mem::take(&mut plan.refused),
        ..Known::stored(db)?
    };
    Ok((plan, known))
}

fn numbered(layouts: Vec<StoredLayout>) -> HashMap<i64, Arc<StoredLayout>> {
    let numbered = layouts.into_iter();
    numbered
        .map(|stored| (stored.id, Arc::new(stored)))
        .collect()
}

/// A captured table whose triggers are not as they were made, if there is one: what was written to
/// it need not be recorded.
pub(super) fn unwatched(db: &Connection) -> Result<Option<String>> {
    let existing = existing_triggers(db)?;
    let stored = meta::layouts(db)?;
    let watched = |layout: &StoredLayout| {
        let as_made = |(name, sql): (&String, &String)| {
            existing
                .iter()
                .any(|one| one.name == *name && one.sql == *sql)
        };
        layout.triggers.iter().all(as_made)
    };
    let lost = stored
        .into_iter()
        .find(|layout| layout.current && !watched(layout));
    Ok(lost.map(|layout| layout.layout.table))
}

fn plan(db: &Connection, selection: &Selection) -> Result<Plan> {
    let stored: Vec<StoredLayout> = meta::layouts(db)?
        .into_iter()
        .filter(|s| s.current)
        .collect();
    let existing = existing_triggers(db)?;
    let mut refused = Vec::new();
    let mut tables: HashMap<String, Layout> = HashMap::new();
    for Inspected { name, layout } in selected_tables(db, selection)? {
        match layout {
            Ok(layout) => drop(tables.insert(name, layout)),
            Err(refusal) => refused.push((name, refusal)),
        }
    }
    let mut actions = Vec::new();
    let mut claimed: HashSet<&str> = HashSet::new();
    for former in &stored {
        claimed.extend(former.triggers.keys().map(String::as_str));
        if let Some(now) = tables.get_mut(&former.layout.table) {
            now.inherit(&former.layout);
        }
        let now = tables.get(&former.layout.table);
        match (judge(former, now, &existing), now) {
            (Verdict::Keep, _) => drop(tables.remove(&former.layout.table)),
            (Verdict::Replace(reload), Some(layout)) => {
                actions.push(Action::Replace {
                    of: former.id,
                    layout: layout.clone(),
                    reload,
                });
                tables.remove(&former.layout.table);
            }
            _ => actions.push(Action::Retire(former.id)),
        }
    }
    let strays = existing
        .iter()
        .filter(|trigger| trigger.name.starts_with(TRIGGER_PREFIX))
        .filter(|trigger| !claimed.contains(trigger.name.as_str()))
        .map(|trigger| trigger.name.clone())
        .collect();
    let mut fresh: Vec<Layout> = tables.into_values().collect();
    fresh.sort_by(|a, b| a.table.cmp(&b.table));
    actions.extend(fresh.into_iter().map(Action::Start));
    Ok(Plan {
        actions,
        strays,
        refused,
    })
}

enum Verdict {
    Keep,
    Replace(Reload),
    /// The table is gone, renamed, of another shape or no longer selected; one that has its name
    /// now is another table.
    Gone,
}

/// Compares a captured table with what is there now.
fn judge(former: &StoredLayout, now: Option<&Layout>, existing: &[Trigger]) -> Verdict {
    let ours: Vec<&Trigger> = existing
        .iter()
        .filter(|trigger| former.triggers.contains_key(&trigger.name))
        .collect();
    let complete = ours.len() == former.triggers.len();
    let table = &former.layout.table;
    if complete
        && ours
            .iter()
            .any(|trigger| !trigger.table.eq_ignore_ascii_case(table))
    {
        return Verdict::Gone; // SQLite moved them along with the renamed table.
    }
    let Some(now) = now else {
        return Verdict::Gone;
    };
    let as_made = ours
        .iter()
        .all(|t| former.triggers.get(&t.name) == Some(&t.sql));
    let renamed_columns = now.columns.len() >= former.layout.columns.len()
        && now
            .columns
            .iter()
            .zip(&former.layout.columns)
            .any(|(a, b)| a.name != b.name);
    if !now.extends(&former.layout) {
        return Verdict::Gone; // Rebuilt in another shape, which a copy takes over as it is.
    }
    if !complete || (!as_made && !renamed_columns) {
        return Verdict::Replace(Reload::Yes);
    }
    let youngest = existing
        .iter()
        .filter(|t| t.table.eq_ignore_ascii_case(table) && !former.triggers.contains_key(&t.name))
        // They refuse, and change nothing.
        .filter(|t| !t.name.starts_with(FENCE_PREFIX) && !t.name.starts_with(FORM_PREFIX))
        .map(|trigger| trigger.rowid)
        .max()
        .unwrap_or(0);
    if ours.iter().any(|trigger| trigger.rowid < youngest) {
        return Verdict::Replace(Reload::IfPending);
    }
    if *now == former.layout {
        let wanted = triggers(now, former.id);
        let same_text = wanted
            .iter()
            .all(|(name, sql)| former.triggers.get(name) == Some(sql));
        return if same_text {
            Verdict::Keep
        } else {
            Verdict::Replace(Reload::No)
        };
    }
    let widened = now.columns.len() > former.layout.columns.len();
    let filled_by_key = !now.key.is_empty() && now.key == former.layout.key;
    let renamed_key = renamed_columns && now.key != former.layout.key;
    // A REPLACE through an index that the old triggers did not know went unseen.
    let new_index = now
        .uniques
        .iter()
        .any(|unique| !former.layout.uniques.contains(unique));
    if (widened && !filled_by_key) || renamed_key || new_index {
        Verdict::Replace(Reload::IfPending)
    } else {
        Verdict::Replace(Reload::No)
    }
}

fn existing_triggers(db: &Connection) -> Result<Vec<Trigger>> {
    let doing = "read the triggers";
    let mut statement = db
        .prepare_cached(
            "SELECT name, tbl_name, sql, rowid FROM sqlite_schema WHERE type = 'trigger'",
        )
        .during(doing)?;
    let rows = statement
        .query_map([], |row| {
            Ok(Trigger {
                name: row.get(0)?,
                table: row.get(1)?,
                sql: row.get(2)?,
                rowid: row.get(3)?,
            })
        })
        .during(doing)?;
    rows.collect::<rusqlite::Result<_>>().during(doing)
}

fn carry_out(db: &Connection, plan: &Plan, logged: i64) -> Result<()> {
    let stored: HashMap<i64, StoredLayout> = meta::layouts(db)?
        .into_iter()
        .map(|stored| (stored.id, stored))
        .collect();
    let former = |action: &Action| match action {
        Action::Retire(id) | Action::Replace { of: id, .. } => stored.get(id),
        Action::Start(_) => None,
    };
    // All old triggers go before any new one comes: after renames a table may need the names that
    // another one's triggers still have.
    let names = plan
        .actions
        .iter()
        .filter_map(former)
        .flat_map(|s| s.triggers.keys());
    for name in names.chain(&plan.strays) {
        let name = quote_identifier(name);
        db.execute_batch(&format!("DROP TRIGGER IF EXISTS {name}"))
            .during("drop a trigger")?;
    }
    for action in &plan.actions {
        match action {
            Action::Retire(id) => retire(db, *id)?,
            Action::Start(layout) => {
                let incarnation = meta::random_token(db)?;
                start(db, layout, None, &incarnation)?;
            }
            Action::Replace { of, layout, reload } => {
                let Some(former) = stored.get(of) else {
                    continue;
                };
                retire(db, *of)?;
                start(db, layout, Some(former.tab), &former.incarnation)?;
                let reload = match reload {
                    Reload::No => false,
                    Reload::IfPending => pending(db, former.tab, logged)?,
                    Reload::Yes => true,
                };
                if reload {
                    note_reload(db, former.tab)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether changes of the table are recorded that the log does not durably hold.
fn pending(db: &Connection, tab: i64, logged: i64) -> Result<bool> {
    db.query_row(
        "SELECT EXISTS (SELECT 1 FROM _repl_changes WHERE id > ?1 \
         AND layout IN (SELECT id FROM _repl_layouts WHERE tab = ?2))",
        params![logged, tab],
        |row| row.get(0),
    )
    .during("look for changes that are not in the log yet")
}

fn note_reload(db: &Connection, tab: i64) -> Result<()> {
    let place = meta::mark(db)?;
    db.execute(
        "INSERT INTO _repl_reloads VALUES (?1, ?2)",
        params![place.id, tab],
    )
    .during("note that a table must be sent whole")?;
    Ok(())
}

fn retire(db: &Connection, id: i64) -> Result<()> {
    db.execute(
        "UPDATE _repl_layouts SET retired = (SELECT coalesce(max(id), 0) FROM _repl_changes) \
         WHERE id = ?1",
        params![id],
    )
    .during("retire a layout")?;
    Ok(())
}

fn start(db: &Connection, layout: &Layout, tab: Option<i64>, incarnation: &str) -> Result<()> {
    meta::widen(db, layout.width())?;
    let doing = format!("install the triggers of {}", layout.table_name());
    let json = serde_json::to_string(layout).map_err(|error| {
        crate::seam::ConnectorError::new(repl_core::ErrorKind::Internal, error.to_string())
    })?;
    db.execute(
        "INSERT INTO _repl_layouts (tab, incarnation, layout, triggers) VALUES (0, ?1, ?2, '{}')",
        params![incarnation, json],
    )
    .during(&doing)?;
    let id = db.last_insert_rowid();
    let mut stored = serde_json::Map::new();
    for (name, sql) in triggers(layout, id) {
        db.execute_batch(&sql).during(&doing)?;
        let text: String = db
            .query_row(
                "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?1",
                params![name],
                |row| row.get(0),
            )
            .during(&doing)?;
        stored.insert(name, text.into());
    }
    db.execute(
        "UPDATE _repl_layouts SET tab = ?2, triggers = ?3 WHERE id = ?1",
        params![
            id,
            tab.unwrap_or(id),
            serde_json::Value::Object(stored).to_string()
        ],
    )
    .during(&doing)?;
    Ok(())
}

/// Deletes layouts that no recorded change refers to any more.
fn forget_old_layouts(db: &Connection) -> Result<()> {
    db.execute_batch(
        "DELETE FROM _repl_layouts WHERE retired < (SELECT min(id) FROM _repl_changes)",
    )
    .during("forget old layouts")
}
