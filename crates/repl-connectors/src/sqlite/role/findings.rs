//! What speaks against a change of role, and what it does not carry over.

use std::collections::BTreeSet;
use std::time::Duration;

use repl_core::ErrorKind;
use repl_core::schema::TableSchema;
use repl_core::select::Selection;
use rusqlite::Connection;

use super::fence::lock;
use crate::seam::{Finding, Part, Result, SourceTable};
use crate::sqlite::clauses::clauses;
use crate::sqlite::error::During;
use crate::sqlite::inspect::{self, Inspected};
use crate::sqlite::meta::{self, Installed};
use crate::sqlite::{MAIN, OWN_PREFIX, SqliteTarget, connect};

/// How long the write lock is waited for, to see whether it can be had.
const TRIAL: Duration = Duration::from_secs(1);

/// What speaks against the part that is meant for this database.
pub(super) fn look(
    target: &SqliteTarget,
    part: Part,
    tables: &[SourceTable],
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let db = match connect::guard(&target.path, TRIAL) {
        Ok(db) => db,
        Err(error) if error.kind == ErrorKind::Connection => return Err(error),
        Err(error) => return Ok(vec![Finding::blocker(error.message, error.advice)]),
    };
    match lock(&db, TRIAL) {
        Ok(()) => db.execute_batch("ROLLBACK").during("give the lock back")?,
        Err(error) => findings.push(Finding::blocker(error.message, error.advice)),
    }
    if part == Part::TakesOver {
        if meta::installed(&db)? != Installed::Nothing
            && let Err(error) = meta::check_owner(&db, &target.group)
        {
            findings.push(Finding::blocker(error.message, error.advice));
        }
        let here =
            inspect::selected_tables(&db, &Selection::of(tables.iter().map(|table| &table.name)))?;
        for wanted in tables.iter().filter_map(|table| table.schema.as_ref()) {
            let name = &wanted.table.name;
            let found = here.iter().find(|one| one.name.eq_ignore_ascii_case(name));
            findings.extend(unlike(wanted, found));
        }
    }
    Ok(findings)
}

/// How a table differs from the one it is to stand for.
fn unlike(wanted: &TableSchema, found: Option<&Inspected>) -> Option<Finding> {
    let name = &wanted.table;
    let Some(found) = found else {
        return Some(Finding::missing(name));
    };
    let here = match &found.layout {
        Ok(layout) => layout.schema(""),
        Err(refusal) => {
            let what = format!(
                "table {name} could not be captured there: {}",
                refusal.reason
            );
            return Some(Finding::blocker(what, refusal.remedy.clone()));
        }
    };
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    for column in &wanted.columns {
        match here
            .columns
            .iter()
            .find(|one| same(&one.name, &column.name))
        {
            Some(one) if same(&one.type_name, &column.type_name) => {}
            Some(one) => {
                let what = format!(
                    "column {} of {name} is of type {:?} there, not {:?}",
                    column.name, one.type_name, column.type_name
                );
                return Some(Finding::blocker(what, "give it the primary's type"));
            }
            None => {
                let what = format!("table {name} has no column {} there", column.name);
                return Some(Finding::blocker(what, "add the column"));
            }
        }
    }
    if let Some(finding) = Finding::superfluous(wanted, &here, same) {
        return Some(finding);
    }
    let key = |schema: &TableSchema| -> BTreeSet<String> {
        schema.key_names().map(str::to_ascii_lowercase).collect()
    };
    (key(wanted) != key(&here)).then(|| {
        let what = format!("table {name} has another key there");
        Finding::blocker(what, "give it the primary's key")
    })
}

/// What applications may rely on at a primary, and replication does not bring.
const BESIDE: &str = "
    SELECT 'trigger' AS kind, 'main.' || tbl_name || ': ' || name AS name FROM main.sqlite_schema
     WHERE type = 'trigger'
    UNION ALL
    SELECT 'view', 'main.' || name FROM main.sqlite_schema WHERE type = 'view'
    UNION ALL
    SELECT 'virtual table', 'main.' || name FROM pragma_table_list
     WHERE schema = 'main' AND type = 'virtual'
    UNION ALL
    SELECT 'default', 'main.' || l.name || '.' || i.name
      FROM pragma_table_list AS l JOIN pragma_table_info(l.name, 'main') AS i
     WHERE l.schema = 'main' AND l.type = 'table' AND (i.dflt_value IS NOT NULL OR i.pk = 1 AND NOT l.wr AND upper(i.type) = 'INTEGER')";

/// What of the database, beside rows and tables, applications may rely on: kind and name.
pub(super) fn beside(db: &Connection) -> Result<BTreeSet<(String, String)>> {
    let doing = "look at what else the database holds";
    let mut statement = db.prepare(BESIDE).during(doing)?;
    let all: Vec<(String, String)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .during(doing)?;
    let mut all: BTreeSet<(String, String)> = all.into_iter().collect();
    for (table, sql) in tables(db)? {
        let references = clauses(&sql).map(|clauses| clauses.references);
        let named = references.into_iter().flatten().map(|reference| {
            let name = format!("{MAIN}.{table}: {}", reference.name);
            ("foreign key".to_owned(), name)
        });
        all.extend(named);
    }
    let own = format!("{MAIN}.{OWN_PREFIX}");
    all.retain(|(_, name)| !name.starts_with(&own) && !name.contains(&format!(": {OWN_PREFIX}")));
    Ok(all)
}

/// Name and definition of every table.
fn tables(db: &Connection) -> Result<Vec<(String, String)>> {
    let doing = "read the definitions of the tables";
    let sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql IS NOT NULL";
    let mut statement = db.prepare(sql).during(doing)?;
    statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .during(doing)
}
