//! A table of the primary for replicas of another engine.

use repl_core::ErrorKind;
use repl_core::convert::Engine;
use repl_core::convert::ddl::{
    CheckDescription, ColumnDescription, ForeignKeyAction, ForeignKeyDescription, IndexDescription,
    TableDescription, UniqueDescription,
};
use repl_core::schema::{TableName, quote_identifier};
use rusqlite::{Connection, OptionalExtension, params};

use super::MAIN;
use super::clauses::{Clauses, Reference, clauses, predicate};
use super::error::During;
use super::inspect::default_expression;
use super::snapshot::definition;
use crate::seam::{ConnectorError, Result};

/// Describes `table` as the connection sees it.
///
/// # Errors
/// When the table is gone or its definition cannot be read.
pub(super) fn describe(db: &Connection, table: &TableName) -> Result<TableDescription> {
    let sql = definition(db, table)?;
    let clauses = clauses(&sql).ok_or_else(|| {
        ConnectorError::new(
            ErrorKind::Schema,
            format!("cannot understand the definition of table {table}"),
        )
        .advice("create the table at the replica yourself")
        .table(table.to_string())
    })?;
    let raw = raw_columns(db, &table.name)?;
    let indexes = raw_indexes(db, &table.name)?;
    let without_rowid = without_rowid(db, &table.name)?;
    let alias = alias(&raw, &indexes, without_rowid);
    let columns = raw
        .iter()
        .map(|column| describe_column(column, &clauses, alias, without_rowid))
        .collect();
    let mut description = TableDescription {
        engine: Engine::Sqlite,
        table: table.clone(),
        columns,
        primary_key: primary_key(&raw),
        uniques: Vec::new(),
        indexes: Vec::new(),
        checks: Vec::new(),
        foreign_keys: foreign_keys(db, &table.name, &clauses.references)?,
    };
    for (name, expression) in clauses.checks {
        description
            .checks
            .push(CheckDescription { name, expression });
    }
    for index in indexes {
        match index.origin.as_str() {
            // SQLite names these itself and does not keep the constraint's name.
            "u" => description.uniques.push(UniqueDescription {
                name: String::new(),
                columns: index.columns,
                nulls_equal: false,
            }),
            "c" => description.indexes.push(describe_index(db, index)?),
            _ => {}
        }
    }
    Ok(description)
}

struct RawColumn {
    name: String,
    type_name: String,
    not_null: bool,
    default: Option<String>,
    /// Place in the primary key, from 1; 0 outside.
    pk: usize,
    /// 2: generated when read; 3: generated and stored.
    hidden: i64,
}

struct RawIndex {
    name: String,
    unique: bool,
    /// `c`reate index, `u`nique constraint, `pk`.
    origin: String,
    partial: bool,
    /// Empty where a term is an expression or the row number.
    columns: Vec<String>,
}

fn raw_columns(db: &Connection, table: &str) -> Result<Vec<RawColumn>> {
    let doing = format!("read the columns of {}", quote_identifier(table));
    let mut statement = db
        .prepare_cached(
            "SELECT name, type, \"notnull\", dflt_value, pk, hidden \
             FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
        )
        .during(&doing)?;
    let rows = statement
        .query_map(params![table], |row| {
            Ok(RawColumn {
                name: row.get(0)?,
                type_name: row.get(1)?,
                not_null: row.get(2)?,
                default: row.get::<_, Option<String>>(3)?.map(default_expression),
                pk: row.get(4)?,
                hidden: row.get(5)?,
            })
        })
        .during(&doing)?;
    rows.collect::<rusqlite::Result<_>>().during(&doing)
}

fn without_rowid(db: &Connection, table: &str) -> Result<bool> {
    db.query_row(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
        params![table],
        |row| row.get(0),
    )
    .optional()
    .during(format!("read the kind of {}", quote_identifier(table)))
    .map(|found| found.unwrap_or(false))
}

fn raw_indexes(db: &Connection, table: &str) -> Result<Vec<RawIndex>> {
    let doing = format!("read the indexes of {}", quote_identifier(table));
    let mut statement = db
        .prepare_cached(
            "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?1, 'main') \
             ORDER BY seq DESC",
        )
        .during(&doing)?;
    let rows = statement
        .query_map(params![table], |row| {
            Ok(RawIndex {
                name: row.get(0)?,
                unique: row.get(1)?,
                origin: row.get(2)?,
                partial: row.get(3)?,
                columns: Vec::new(),
            })
        })
        .during(&doing)?;
    let mut indexes: Vec<RawIndex> = rows.collect::<rusqlite::Result<_>>().during(&doing)?;
    for index in &mut indexes {
        let mut statement = db
            .prepare_cached(
                "SELECT name FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno",
            )
            .during(&doing)?;
        let terms: Vec<Option<String>> = statement
            .query_map(params![index.name], |row| row.get(0))
            .and_then(Iterator::collect)
            .during(&doing)?;
        let columns: Option<Vec<String>> = terms.into_iter().collect();
        index.columns = columns.unwrap_or_default();
    }
    Ok(indexes)
}

/// The column that is the row number under another name: SQLite numbers it. `INTEGER PRIMARY KEY
/// DESC` is none, which shows by its index.
fn alias<'a>(raw: &'a [RawColumn], indexes: &[RawIndex], without_rowid: bool) -> Option<&'a str> {
    let mut keys = raw.iter().filter(|column| column.pk > 0);
    let (only, more) = (keys.next()?, keys.next());
    let indexed = indexes.iter().any(|index| index.origin == "pk");
    let integer = only.type_name.eq_ignore_ascii_case("INTEGER");
    (more.is_none() && integer && !indexed && !without_rowid).then_some(only.name.as_str())
}

fn primary_key(raw: &[RawColumn]) -> Vec<String> {
    let mut key: Vec<&RawColumn> = raw.iter().filter(|column| column.pk > 0).collect();
    key.sort_by_key(|column| column.pk);
    key.into_iter().map(|column| column.name.clone()).collect()
}

fn describe_column(
    column: &RawColumn,
    clauses: &Clauses,
    alias: Option<&str>,
    without_rowid: bool,
) -> ColumnDescription {
    let identity = alias == Some(column.name.as_str());
    let generated = (column.hidden >= 2).then(|| {
        let found = clauses
            .generated
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&column.name));
        let expression = found.map(|(_, expression)| expression.clone());
        (expression.unwrap_or_default(), column.hidden == 3)
    });
    ColumnDescription {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        detail: None,
        nullable: !(column.not_null || identity || without_rowid && column.pk > 0),
        default: column.default.clone().filter(|_| generated.is_none()),
        generated,
        identity,
    }
}

fn describe_index(db: &Connection, index: RawIndex) -> Result<IndexDescription> {
    let predicate = if index.partial {
        let sql: Option<String> = db
            .query_row(
                "SELECT sql FROM main.sqlite_schema WHERE type = 'index' AND name = ?1",
                params![index.name],
                |row| row.get(0),
            )
            .optional()
            .during(format!(
                "read the definition of index {}",
                quote_identifier(&index.name)
            ))?;
        // That it covers a part of the rows must show even if which part were not readable.
        Some(sql.as_deref().and_then(predicate).unwrap_or_default())
    } else {
        None
    };
    Ok(IndexDescription {
        name: index.name,
        columns: index.columns,
        unique: index.unique,
        predicate,
        method: None,
    })
}

struct RawReference {
    id: i64,
    refers: String,
    from: String,
    to: Option<String>,
    on_update: ForeignKeyAction,
    on_delete: ForeignKeyAction,
}

/// The foreign keys in the order they are written, which is that of falling numbers.
fn foreign_keys(
    db: &Connection,
    table: &str,
    written: &[Reference],
) -> Result<Vec<ForeignKeyDescription>> {
    let mut keys: Vec<(i64, ForeignKeyDescription)> = Vec::new();
    for raw in raw_references(db, table)? {
        if keys.last().is_none_or(|(id, _)| *id != raw.id) {
            let written = written.get(keys.len());
            let key = ForeignKeyDescription {
                name: written.map(|w| w.name.clone()).unwrap_or_default(),
                columns: Vec::new(),
                refers: TableName::new(MAIN, table_as_named(db, &raw.refers)?),
                referred_columns: Vec::new(),
                on_update: raw.on_update,
                on_delete: raw.on_delete,
                deferred: written.is_some_and(|w| w.deferred),
            };
            keys.push((raw.id, key));
        }
        if let Some((_, key)) = keys.last_mut() {
            key.columns.push(raw.from);
            key.referred_columns.extend(raw.to);
        }
    }
    let mut described = Vec::with_capacity(keys.len());
    for (_, mut key) in keys {
        name_referred_columns(db, &mut key)?;
        described.push(key);
    }
    Ok(described)
}

fn raw_references(db: &Connection, table: &str) -> Result<Vec<RawReference>> {
    let doing = format!("read the foreign keys of {}", quote_identifier(table));
    let mut statement = db
        .prepare_cached(
            "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete \
             FROM pragma_foreign_key_list(?1, 'main') ORDER BY id DESC, seq",
        )
        .during(&doing)?;
    let rows = statement
        .query_map(params![table], |row| {
            Ok(RawReference {
                id: row.get(0)?,
                refers: row.get(1)?,
                from: row.get(2)?,
                to: row.get(3)?,
                on_update: action(&row.get::<_, String>(4)?),
                on_delete: action(&row.get::<_, String>(5)?),
            })
        })
        .during(&doing)?;
    rows.collect::<rusqlite::Result<_>>().during(&doing)
}

fn action(words: &str) -> ForeignKeyAction {
    match words {
        "RESTRICT" => ForeignKeyAction::Restrict,
        "CASCADE" => ForeignKeyAction::Cascade,
        "SET NULL" => ForeignKeyAction::SetNull,
        "SET DEFAULT" => ForeignKeyAction::SetDefault,
        _ => ForeignKeyAction::NoAction,
    }
}

/// A reference may write a table's name in another case; one that is not there stays as written.
fn table_as_named(db: &Connection, written: &str) -> Result<String> {
    db.query_row(
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
        params![written],
        |row| row.get(0),
    )
    .optional()
    .during(format!("look for the table {}", quote_identifier(written)))
    .map(|found| found.unwrap_or_else(|| written.to_owned()))
}

/// Other engines want the columns named, and in the case the table has them.
fn name_referred_columns(db: &Connection, key: &mut ForeignKeyDescription) -> Result<()> {
    let referred = raw_columns(db, &key.refers.name)?;
    if key.referred_columns.is_empty() {
        let primary = primary_key(&referred);
        if primary.len() == key.columns.len() {
            key.referred_columns = primary;
        }
    }
    for name in &mut key.referred_columns {
        let same = referred
            .iter()
            .find(|column| column.name.eq_ignore_ascii_case(name));
        if let Some(column) = same {
            name.clone_from(&column.name);
        }
    }
    Ok(())
}
