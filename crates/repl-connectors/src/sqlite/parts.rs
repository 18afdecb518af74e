//! The replica's record of copies in parts.

use std::collections::HashMap;

use repl_core::copy::{PartialCopy, StoredCopy};
use repl_core::schema::{TableName, TableSchema};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::During;
use crate::copies::{stored_form, taken_over};
use crate::seam::Result;

/// Statements that make the tables.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS _repl_copies (
        grp TEXT NOT NULL, tab_schema TEXT NOT NULL, tab_name TEXT NOT NULL,
        made INTEGER NOT NULL, id TEXT NOT NULL, copy TEXT,
        PRIMARY KEY (grp, tab_schema, tab_name)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _repl_copy_parts (
        grp TEXT NOT NULL, tab_schema TEXT NOT NULL, tab_name TEXT NOT NULL,
        part INTEGER NOT NULL, loaded INTEGER NOT NULL,
        PRIMARY KEY (grp, tab_schema, tab_name, part)
    ) WITHOUT ROWID;";
const TABLE: &str = "grp = ?1 AND tab_schema = ?2 AND tab_name = ?3";
const DOING: &str = "record the copy of a table";

/// Reads the copies that are not complete, and their parts.
pub(super) fn stored(db: &Connection, group: &str) -> Result<HashMap<TableName, StoredCopy>> {
    let mut copies: HashMap<TableName, StoredCopy> = HashMap::new();
    let mut statement = db
        .prepare(
            "SELECT c.tab_schema, c.tab_name, c.copy, p.part, p.loaded FROM _repl_copies c \
             LEFT JOIN _repl_copy_parts p USING (grp, tab_schema, tab_name) WHERE grp = ?1",
        )
        .during(DOING)?;
    let mut rows = statement.query([group]).during(DOING)?;
    while let Some(row) = rows.next().during(DOING)? {
        let text = |at: usize| row.get::<_, String>(at).during(DOING);
        let copy: Option<String> = row.get(2).during(DOING)?;
        let part: Option<u32> = row.get(3).during(DOING)?;
        let loaded: Option<u64> = row.get(4).during(DOING)?;
        let stored = copies
            .entry(TableName::new(text(0)?, text(1)?))
            .or_insert_with(|| StoredCopy {
                copy: copy.as_deref().and_then(PartialCopy::from_json),
                ..StoredCopy::default()
            });
        if let (Some(part), Some(loaded)) = (part, loaded) {
            stored.done.insert(part, loaded);
        }
    }
    Ok(copies)
}

/// Whether there is a record of a copy, and then whether the copy made the table.
pub(super) fn made(db: &Connection, group: &str, table: &TableName) -> Result<Option<bool>> {
    db.query_row(
        &format!("SELECT made FROM _repl_copies WHERE {TABLE}"),
        params![group, table.schema, table.name],
        |row| row.get(0),
    )
    .optional()
    .during(DOING)
}

/// Removes the record and its parts.
pub(super) fn forget(db: &Connection, group: &str, table: &TableName) -> Result<()> {
    for own in ["_repl_copies", "_repl_copy_parts"] {
        db.execute(
            &format!("DELETE FROM {own} WHERE {TABLE}"),
            params![group, table.schema, table.name],
        )
        .during(DOING)?;
    }
    Ok(())
}

/// Lets a copy not go on.
pub(super) fn give_up(db: &Connection, group: &str, table: &TableName) -> Result<()> {
    db.execute(
        &format!("UPDATE _repl_copies SET copy = NULL WHERE {TABLE}"),
        params![group, table.schema, table.name],
    )
    .during(DOING)
    .map(drop)
}

/// Records a copy in place of any other.
pub(super) fn store(
    db: &Connection,
    group: &str,
    table: &TableName,
    made: bool,
    copy: &PartialCopy,
) -> Result<()> {
    forget(db, group, table)?;
    db.execute(
        "INSERT INTO _repl_copies VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            group,
            table.schema,
            table.name,
            made,
            copy.id.to_string(),
            stored_form(copy)?
        ],
    )
    .during(DOING)
    .map(drop)
}

/// Changes what is recorded of a copy; false when it is another one.
pub(super) fn update(
    db: &Connection,
    group: &str,
    table: &TableName,
    copy: &PartialCopy,
) -> Result<bool> {
    db.execute(
        &format!("UPDATE _repl_copies SET copy = ?5 WHERE {TABLE} AND id = ?4"),
        params![
            group,
            table.schema,
            table.name,
            copy.id.to_string(),
            stored_form(copy)?
        ],
    )
    .during(DOING)
    .map(|changed| changed == 1)
}

/// The statements left until the table has settled.
pub(super) fn finish(db: &Connection, group: &str, table: &TableName) -> Result<Vec<String>> {
    let json: Option<Option<String>> = db
        .query_row(
            &format!("SELECT copy FROM _repl_copies WHERE {TABLE}"),
            params![group, table.schema, table.name],
            |row| row.get(0),
        )
        .optional()
        .during(DOING)?;
    let copy = json.flatten().as_deref().and_then(PartialCopy::from_json);
    Ok(copy.map(|copy| copy.finish).unwrap_or_default())
}

/// Records a part as done, in the transaction that loads it.
pub(super) fn claim(
    db: &Connection,
    group: &str,
    table: &TableName,
    id: uuid::Uuid,
    part: u32,
) -> Result<()> {
    let claimed = db
        .execute(
            &format!(
                "INSERT OR IGNORE INTO _repl_copy_parts SELECT grp, tab_schema, tab_name, ?5, 0 \
                 FROM _repl_copies WHERE {TABLE} AND id = ?4"
            ),
            params![group, table.schema, table.name, id.to_string(), part],
        )
        .during(DOING)?;
    if claimed == 1 {
        return Ok(());
    }
    Err(taken_over(table))
}

/// Records how many rows a part had.
pub(super) fn loaded(
    db: &Connection,
    group: &str,
    table: &TableName,
    part: u32,
    rows: u64,
) -> Result<()> {
    db.execute(
        &format!("UPDATE _repl_copy_parts SET loaded = ?5 WHERE {TABLE} AND part = ?4"),
        params![
            group,
            table.schema,
            table.name,
            part,
            i64::try_from(rows).unwrap_or(i64::MAX)
        ],
    )
    .during(DOING)
    .map(drop)
}

/// Whether rows of several snapshots can be in the replica's table together: its primary key is the
/// rows' identity, and nothing else in it is unique.
pub(super) fn can_settle(
    db: &Connection,
    target: &TableName,
    schema: &TableSchema,
) -> Result<bool> {
    let doing = format!("look at the table {target}");
    let mut statement = db
        .prepare("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk")
        .during(&doing)?;
    let primary: Vec<String> = statement
        .query_map([&target.name], |row| row.get(0))
        .and_then(Iterator::collect)
        .during(&doing)?;
    let others: i64 = db
        .query_row(
            "SELECT count(*) FROM pragma_index_list(?1) WHERE \"unique\" AND origin <> 'pk'",
            [&target.name],
            |row| row.get(0),
        )
        .during(&doing)?;
    let mut key: Vec<String> = schema.key_names().map(str::to_lowercase).collect();
    let mut primary: Vec<String> = primary.iter().map(|name| name.to_lowercase()).collect();
    key.sort();
    primary.sort();
    Ok(others == 0 && key == primary)
}
