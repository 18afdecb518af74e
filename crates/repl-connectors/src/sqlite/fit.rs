//! Makes a replica's tables fit the source's, or says what would.

use std::collections::HashMap;

use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::schema::{Column, TableName, quote_identifier};
use rusqlite::{Connection, params};

use super::ddl;
use super::error::During;
use crate::seam::{ConnectorError, Result, TableDdl};

/// One column of a replica's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetColumn {
    pub(super) name: String,
    pub(super) type_name: String,
    /// A row can be inserted without it.
    pub(super) optional: bool,
    pub(super) generated: bool,
}

/// A replica's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetTable {
    pub(super) columns: Vec<TargetColumn>,
    without_rowid: bool,
}

impl TargetTable {
    /// The name under which the row number can be read, if there is one.
    pub(super) fn rowid(&self) -> Option<&'static str> {
        if self.without_rowid {
            return None;
        }
        ["rowid", "_rowid_", "oid"].into_iter().find(|name| {
            !self
                .columns
                .iter()
                .any(|c| c.name.eq_ignore_ascii_case(name))
        })
    }

    /// Whether the key's columns hold integers, by their declared types.
    pub(super) fn has_integers(&self, route: &Route) -> bool {
        route.schema.key_names().all(|name| {
            let declared = self.column(name).map(|column| column.type_name.as_str());
            declared.is_some_and(|name| name.to_ascii_uppercase().contains("INT"))
        })
    }

    pub(super) fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.columns
            .iter()
            .find(|column| column.name.eq_ignore_ascii_case(name))
    }
}

/// Reads a table of the replica; none when there is no such table.
///
/// # Errors
/// When something else has the name, or the database cannot be read.
pub(super) fn target_table(db: &Connection, table: &TableName) -> Result<Option<TargetTable>> {
    ddl::check_schema(table)?;
    let doing = format!("read the table {table} of the replica");
    let mut kinds: HashMap<String, (String, bool)> = HashMap::new();
    {
        let mut statement = db
            .prepare_cached(
                "SELECT name, type, wr FROM pragma_table_list(?1) WHERE schema = 'main'",
            )
            .during(&doing)?;
        let mut rows = statement.query(params![table.name]).during(&doing)?;
        while let Some(row) = rows.next().during(&doing)? {
            let name: String = row.get(0).during(&doing)?;
            kinds.insert(
                name,
                (row.get(1).during(&doing)?, row.get(2).during(&doing)?),
            );
        }
    }
    let Some((kind, without_rowid)) = kinds.into_values().next() else {
        return Ok(None);
    };
    if kind != "table" {
        return Err(schema_error(
            table,
            format!("the replica has a {kind} called {table} where a table is needed"),
            format!(
                "the {kind} is not the daemon's: rename it at the replica, or have the table there under another \
                 name (tables.rename)"
            ),
        ));
    }
    let mut statement = db
        .prepare_cached(
            "SELECT name, type, \"notnull\" = 0 OR dflt_value IS NOT NULL, hidden <> 0 \
             FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
        )
        .during(&doing)?;
    let columns = statement
        .query_map(params![table.name], |row| {
            Ok(TargetColumn {
                name: row.get(0)?,
                type_name: row.get(1)?,
                optional: row.get(2)?,
                generated: row.get(3)?,
            })
        })
        .and_then(Iterator::collect)
        .during(&doing)?;
    Ok(Some(TargetTable {
        columns,
        without_rowid,
    }))
}

fn schema_error(table: &TableName, message: String, advice: String) -> ConnectorError {
    ConnectorError::new(ErrorKind::Schema, message)
        .advice(advice)
        .table(table.to_string())
}

/// Adapts the table to the route's schema; see [`crate::seam::Applier::fit`]. Inside a write
/// transaction. `had` are the source's columns it was fitted to before: one of these that is not
/// there was dropped or renamed at the replica, and adding it anew would lose what it held.
///
/// # Errors
/// [`ErrorKind::Schema`] with the statement that mends it.
pub(super) fn fit(
    db: &Connection,
    route: &Route,
    ddl: Option<&TableDdl>,
    had: &[String],
) -> Result<()> {
    let table = &route.target;
    let found = target_table(db, table)?.ok_or_else(|| absent(table, ddl))?;
    let mut added = Vec::new();
    for column in &route.schema.columns {
        match found.column(&column.name) {
            None => added.push(column),
            Some(own) => check_column(table, column, own)?,
        }
    }
    for column in &route.schema.generated {
        if found.column(&column.name).is_some_and(|own| !own.generated) {
            let name = quote_identifier(&column.name);
            return Err(schema_error(
                table,
                format!(
                    "the replica's table {table} has an ordinary column {}, which the source \
                     generates: no value of it would ever arrive",
                    column.name
                ),
                format!(
                    "ALTER TABLE {} RENAME COLUMN {name} TO {}; and, where it is wanted here, add it as \
                     GENERATED ALWAYS AS with the source's expression; then `replctl retry`",
                    table.quoted(),
                    quote_identifier(&format!("{}_before", column.name))
                ),
            ));
        }
    }
    let gone: Vec<&TargetColumn> = found
        .columns
        .iter()
        .filter(|own| !own.generated)
        .filter(|own| {
            !route
                .schema
                .columns
                .iter()
                .any(|c| c.name.eq_ignore_ascii_case(&own.name))
        })
        .collect();
    if let Some(needed) = gone.iter().find(|own| !own.optional) {
        return Err(schema_error(
            table,
            format!(
                "the column {} of the replica's table {table} is no longer at the source, and rows \
                 cannot be inserted without it",
                needed.name
            ),
            format!(
                "give the column a default there (which means to rebuild the table); what it holds is nowhere else, \
                 so drop it only if nobody needs that: ALTER TABLE {} DROP COLUMN {};",
                table.quoted(),
                quote_identifier(&needed.name)
            ),
        ));
    }
    for column in added {
        let lost = had.iter().any(|had| had.eq_ignore_ascii_case(&column.name));
        let definition = ddl.filter(|_| !lost).and_then(|ddl| {
            ddl.create
                .iter()
                .find_map(|sql| ddl::definition_for(sql, &column.name))
        });
        match definition {
            Some(definition) => add_column(db, table, column, &definition)?,
            None => return Err(missing_column(table, column, &gone)),
        }
    }
    Ok(())
}

fn absent(table: &TableName, ddl: Option<&TableDdl>) -> ConnectorError {
    let create = ddl.map(|ddl| ddl.create.join("; ")).unwrap_or_default();
    let advice = if create.is_empty() {
        "copy the table again: replctl resync".to_owned()
    } else {
        format!("{create};")
    };
    schema_error(table, format!("the replica has no table {table}"), advice)
}

fn check_column(table: &TableName, source: &Column, own: &TargetColumn) -> Result<()> {
    let quoted = quote_identifier(&own.name);
    if own.generated {
        return Err(schema_error(
            table,
            format!(
                "the column {} of the replica's table {table} is generated; at the source it is not",
                own.name
            ),
            format!(
                "its values are computed, so none is lost: ALTER TABLE {} DROP COLUMN {quoted}; the daemon adds it \
                 as the source has it",
                table.quoted()
            ),
        ));
    }
    if same_type(&source.type_name, &own.type_name) {
        return Ok(());
    }
    Err(schema_error(
        table,
        format!(
            "the column {} of table {table} has type `{}` at the source and `{}` at the replica",
            own.name, source.type_name, own.type_name
        ),
        format!(
            "rebuild the replica's table with the source's type; or, if it holds nothing but what the primary \
             does, have it made anew: replctl resync <replica> --tables {table}"
        ),
    ))
}

/// Declared types, but for case and spaces.
fn same_type(a: &str, b: &str) -> bool {
    let plain = |text: &str| {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        text.to_ascii_uppercase()
    };
    plain(a) == plain(b)
}

/// What rows written earlier hold in the column is not known, so the operator decides.
fn missing_column(table: &TableName, missing: &Column, gone: &[&TargetColumn]) -> ConnectorError {
    let (target, new) = (table.quoted(), quote_identifier(&missing.name));
    let add = format!(
        "ALTER TABLE {target} ADD COLUMN {new} {}; then replctl retry, and where rows that are here \
         already have values in it at the primary: replctl resync --tables {table}",
        missing.type_name
    );
    let renamed = gone
        .iter()
        .find(|own| same_type(&missing.type_name, &own.type_name));
    let advice = match renamed {
        Some(former) => format!(
            "if it was renamed: ALTER TABLE {target} RENAME COLUMN {} TO {new}; if it is another: \
             {add}",
            quote_identifier(&former.name)
        ),
        None => add,
    };
    schema_error(
        table,
        format!("the replica's table {table} has no column {}", missing.name),
        advice,
    )
}

fn add_column(db: &Connection, table: &TableName, column: &Column, definition: &str) -> Result<()> {
    let sql = ddl::add_column(table, definition);
    db.execute_batch(&sql)
        .during(format!("add the column {} to {table}", column.name))
        .map_err(|error| {
            schema_error(
                table,
                error.message,
                format!(
                    "rebuild the replica's table with the column, or copy it again; tried: {sql};"
                ),
            )
        })
}
