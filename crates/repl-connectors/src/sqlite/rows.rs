//! Writes row changes to a replica's tables.
//!
//! Parameter `?n` is always column `n` of the row image. Keys are compared exactly: by the
//! column's own collation, so that its index is used, and byte for byte in the same storage class,
//! so that `'a'` never finds `'A'`. Every statement says `OR ABORT`: a table's own
//! `ON CONFLICT REPLACE` must not remove rows that the source did not remove.

use std::collections::HashMap;
use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::batch::{NetTable, Route};
use repl_core::change::{Before, Change};
use repl_core::row::{Row, Value};
use repl_core::schema::{TableName, quote_identifier};
use rusqlite::{Connection, Statement};

use super::error::During;
use super::fit::{TargetTable, target_table};
use super::value::{Bound, from_sqlite, same, shown};
use crate::seam::{ConnectorError, Result, Style};

/// A table's statements, made once per route and session.
struct Statements {
    insert: String,
    delete: String,
    update: String,
    /// Finds rows equal to a full image: row number, then the columns.
    find_equal: String,
    rowid: Option<&'static str>,
    target: TargetTable,
}

/// The statements of one session.
#[derive(Default)]
pub(super) struct Writer {
    known: HashMap<(u32, TableName), Arc<Statements>>,
}

impl Writer {
    /// Forgets what was read of the tables: one of them was changed.
    pub(super) fn forget_shapes(&mut self) {
        self.known.clear();
    }

    /// Applies the net change of one table.
    pub(super) fn net(&mut self, db: &Connection, net: &NetTable, style: Style) -> Result<()> {
        let table = self.table(db, &net.route)?;
        let each = Each {
            db,
            route: &net.route,
            statements: &table,
        };
        if net.settling {
            return each.settle(net);
        }
        each.all(&table.delete, &net.deletes, Columns::Key, Expect::Row)?;
        match style {
            Style::Rewrite => each.rewrite(&net.updates)?,
            Style::SetWise => match each.update_all(&net.updates) {
                // Rows may be exchanging their unique values: only all at once can that be done.
                Err(error) if error.kind == ErrorKind::Constraint => each.rewrite(&net.updates)?,
                outcome => outcome?,
            },
        }
        each.all(&table.insert, &net.inserts, Columns::All, Expect::New)?;
        for (row, count) in net.multiset.iter().filter(|(_, count)| *count < 0) {
            each.delete_equal(row, count.unsigned_abs())?;
        }
        for (row, count) in net.multiset.iter().filter(|(_, count)| *count > 0) {
            for _ in 0..*count {
                each.all(
                    &table.insert,
                    std::slice::from_ref(row),
                    Columns::All,
                    Expect::New,
                )?;
            }
        }
        Ok(())
    }

    /// Applies one change as the source made it.
    pub(super) fn change(&mut self, db: &Connection, route: &Route, change: &Change) -> Result<()> {
        let table = self.table(db, route)?;
        let each = Each {
            db,
            route,
            statements: &table,
        };
        let one = std::slice::from_ref::<Row>;
        match change {
            Change::Insert { new, .. } => {
                each.all(&table.insert, one(new), Columns::All, Expect::New)
            }
            Change::Update {
                before: Before::Absent,
                new,
                ..
            } => each.update_all(one(new)),
            Change::Update {
                before: Before::Key(old) | Before::Full(old),
                new,
                ..
            } => each.change_row(old, new),
            Change::Delete { before, .. } => match before.row() {
                Some(old) if each.keyed() => {
                    each.all(&table.delete, one(old), Columns::Key, Expect::Row)
                }
                Some(old) => each.delete_equal(old, 1),
                None => Err(ConnectorError::new(
                    ErrorKind::Internal,
                    "a delete without a row",
                )),
            },
            Change::Truncate {
                restart_identity, ..
            } => truncate(db, &route.target, *restart_identity),
            Change::Message { .. } => Ok(()),
        }
    }

    fn table(&mut self, db: &Connection, route: &Route) -> Result<Arc<Statements>> {
        let key = (route.schema.id.0, route.target.clone());
        if let Some(table) = self.known.get(&key) {
            return Ok(Arc::clone(table));
        }
        let table = Arc::new(Statements::new(db, route)?);
        self.known.insert(key, Arc::clone(&table));
        Ok(table)
    }

    /// Inserts rows of one table; for loading.
    pub(super) fn insert(&mut self, db: &Connection, route: &Route, rows: &[Row]) -> Result<()> {
        let table = self.table(db, route)?;
        let each = Each {
            db,
            route,
            statements: &table,
        };
        each.all(&table.insert, rows, Columns::All, Expect::New)
    }
}

/// Empties a table.
pub(super) fn truncate(db: &Connection, target: &TableName, restart_identity: bool) -> Result<()> {
    let doing = format!("empty the table {target}");
    db.execute_batch(&format!("DELETE FROM {}", target.quoted()))
        .during(&doing)?;
    let counted: bool = db
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence')",
            [],
            |row| row.get(0),
        )
        .during(&doing)?;
    if restart_identity && counted {
        db.execute(
            "DELETE FROM sqlite_sequence WHERE name = ?1",
            [&target.name],
        )
        .during(&doing)?;
    }
    Ok(())
}

impl Statements {
    fn new(db: &Connection, route: &Route) -> Result<Statements> {
        let target = target_table(db, &route.target)?.ok_or_else(|| {
            ConnectorError::new(
                ErrorKind::Schema,
                format!("the replica has no table {}", route.target),
            )
            .advice("copy the table again: replctl resync")
            .table(route.target.to_string())
        })?;
        let names: Vec<String> = route
            .schema
            .columns
            .iter()
            .map(|column| quote_identifier(&column.name))
            .collect();
        let table = route.target.quoted();
        let keys = route.schema.key_columns();
        let list = names.join(", ");
        let parameters: Vec<String> = (1..=names.len()).map(|n| format!("?{n}")).collect();
        let exact = |at: usize| {
            let (name, n) = (&names[at], at + 1);
            format!(
                "{name} = ?{n} AND {name} = ?{n} COLLATE BINARY AND typeof({name}) = typeof(?{n})"
            )
        };
        let by_key = keys
            .iter()
            .map(|&at| exact(at))
            .collect::<Vec<_>>()
            .join(" AND ");
        let assignments: Vec<String> = (0..names.len())
            .filter(|at| !keys.contains(at))
            .map(|at| format!("{} = ?{}", names[at], at + 1))
            .collect();
        // A table of keys only still has to prove that the row is there.
        let assignments = match names.first() {
            Some(name) if assignments.is_empty() => format!("{name} = {name}"),
            _ => assignments.join(", "),
        };
        let equal: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(at, name)| format!("{name} IS ?{} COLLATE BINARY", at + 1))
            .collect();
        let rowid = target.rowid();
        Ok(Statements {
            insert: format!(
                "INSERT OR ABORT INTO {table} ({list}) VALUES ({})",
                parameters.join(", ")
            ),
            delete: format!("DELETE FROM {table} WHERE {by_key}"),
            update: format!("UPDATE OR ABORT {table} SET {assignments} WHERE {by_key}"),
            find_equal: format!(
                "SELECT {}, {list} FROM {table} WHERE {}",
                rowid.unwrap_or("NULL"),
                equal.join(" AND ")
            ),
            rowid,
            target,
        })
    }
}

/// Which columns of an image are bound.
#[derive(Clone, Copy, PartialEq)]
enum Columns {
    All,
    Key,
}

/// What the statement must find.
#[derive(Clone, Copy)]
enum Expect {
    /// The row is there.
    Row,
    /// The row is not there; a constraint tells otherwise.
    New,
    /// Nothing.
    Any,
}

/// Statements over the rows of one table.
struct Each<'a> {
    db: &'a Connection,
    route: &'a Route,
    statements: &'a Statements,
}

impl Each<'_> {
    fn keyed(&self) -> bool {
        !self.route.schema.key_columns().is_empty()
    }

    fn doing(&self) -> String {
        format!("write to the table {}", self.route.target)
    }

    fn all(&self, sql: &str, rows: &[Row], columns: Columns, expect: Expect) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut statement = self.db.prepare_cached(sql).during(self.doing())?;
        for row in rows {
            self.bind(&mut statement, row, columns)?;
            let changed = statement.raw_execute().during_row(self, row)?;
            if matches!(expect, Expect::Row) && changed != 1 {
                return Err(self.absent(row));
            }
        }
        Ok(())
    }

    fn bind(&self, statement: &mut Statement<'_>, row: &Row, columns: Columns) -> Result<()> {
        let keys = self.route.schema.key_columns();
        for (at, value) in row.values()?.enumerate() {
            let value = value?;
            if columns == Columns::All || keys.contains(&at) {
                statement
                    .raw_bind_parameter(at + 1, Bound(value))
                    .during(self.doing())?;
            }
        }
        Ok(())
    }

    /// Updates rows whose key stays; a column that was not sent is left alone.
    fn update_all(&self, rows: &[Row]) -> Result<()> {
        for row in rows {
            if row.has_unchanged()? {
                self.update_partly(row)?;
            } else {
                self.all(
                    &self.statements.update,
                    std::slice::from_ref(row),
                    Columns::All,
                    Expect::Row,
                )?;
            }
        }
        Ok(())
    }

    /// Net changes of a table that is settling: what is there gives way, what is not is not missed. All
    /// rows go before any is put back, since unique values may pass from one to another.
    fn settle(&self, net: &NetTable) -> Result<()> {
        let (complete, partial) = net.complete_and_partial()?;
        let mut there = Vec::new();
        for row in &partial {
            if let Some(stored) = self.read(row)? {
                there.push(Row::from_values(merge(&stored, row)?.into_iter()));
            }
        }
        for rows in [&net.deletes, &partial, &complete] {
            self.all(&self.statements.delete, rows, Columns::Key, Expect::Any)?;
        }
        self.put_back(&there)?;
        self.all(
            &self.statements.insert,
            &complete,
            Columns::All,
            Expect::New,
        )
    }

    fn update_partly(&self, row: &Row) -> Result<()> {
        let stored = self.read(row)?.ok_or_else(|| self.absent(row))?;
        let mut merged = merge(&stored, row)?;
        merged.truncate(self.route.schema.columns.len());
        let full = Row::from_values(merged.into_iter());
        self.all(&self.statements.update, &[full], Columns::All, Expect::Row)
    }

    /// Reads all touched rows, deletes them all, inserts them all: values may then be exchanged
    /// between rows. Columns that only the replica has keep their values.
    fn rewrite(&self, rows: &[Row]) -> Result<()> {
        let mut merged = Vec::with_capacity(rows.len());
        for row in rows {
            let stored = self.read(row)?.ok_or_else(|| self.absent(row))?;
            merged.push(Row::from_values(merge(&stored, row)?.into_iter()));
        }
        self.all(&self.statements.delete, rows, Columns::Key, Expect::Row)?;
        self.put_back(&merged)
    }

    /// Inserts rows in the columns of [`Each::columns`].
    fn put_back(&self, rows: &[Row]) -> Result<()> {
        let names: Vec<String> = self
            .columns()
            .iter()
            .map(|name| quote_identifier(name))
            .collect();
        let parameters: Vec<String> = (1..=names.len()).map(|n| format!("?{n}")).collect();
        let sql = format!(
            "INSERT OR ABORT INTO {} ({}) VALUES ({})",
            self.route.target.quoted(),
            names.join(", "),
            parameters.join(", ")
        );
        self.all(&sql, rows, Columns::All, Expect::New)
    }

    /// Changes a row found by its old key or image, key included.
    fn change_row(&self, old: &Row, new: &Row) -> Result<()> {
        if !self.keyed() {
            let new = new.filled_from(old)?;
            self.delete_equal(old, 1)?;
            return self.all(&self.statements.insert, &[new], Columns::All, Expect::New);
        }
        let stored = self.read(old)?.ok_or_else(|| self.absent(old))?;
        // Old and new key cannot share parameters, so the row is found by its old key, shifted
        // behind the new values.
        let width = self.route.schema.columns.len();
        let assignments: Vec<String> = self
            .route
            .schema
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("{} = ?{}", quote_identifier(&column.name), at + 1))
            .collect();
        let keys = self.route.schema.key_columns();
        let by_key: Vec<String> = keys
            .iter()
            .map(|&at| {
                let name = quote_identifier(&self.route.schema.columns[at].name);
                let n = width + at + 1;
                format!("{name} = ?{n} AND {name} = ?{n} COLLATE BINARY AND typeof({name}) = typeof(?{n})")
            })
            .collect();
        let sql = format!(
            "UPDATE OR ABORT {} SET {} WHERE {}",
            self.route.target.quoted(),
            assignments.join(", "),
            by_key.join(" AND ")
        );
        let mut statement = self.db.prepare_cached(&sql).during(self.doing())?;
        for (at, value) in merge(&stored, new)?.into_iter().take(width).enumerate() {
            statement
                .raw_bind_parameter(at + 1, Bound(value))
                .during(self.doing())?;
        }
        for (at, value) in old.values()?.enumerate() {
            let value = value?;
            if keys.contains(&at) {
                statement
                    .raw_bind_parameter(width + at + 1, Bound(value))
                    .during(self.doing())?;
            }
        }
        if statement.raw_execute().during_row(self, new)? == 1 {
            Ok(())
        } else {
            Err(self.absent(old))
        }
    }

    /// Deletes `count` rows equal to the image in every bit.
    fn delete_equal(&self, row: &Row, count: u64) -> Result<()> {
        let Some(rowid) = self.statements.rowid else {
            return Err(ConnectorError::new(
                ErrorKind::Schema,
                format!(
                    "the table {} has no row numbers at the replica",
                    self.route.target
                ),
            )
            .advice("make it at the replica as it is at the source")
            .table(self.route.target.to_string()));
        };
        let wanted: Vec<Value<'_>> = row.to_vec()?;
        let mut found = Vec::new();
        {
            let mut statement = self
                .db
                .prepare_cached(&self.statements.find_equal)
                .during(self.doing())?;
            self.bind(&mut statement, row, Columns::All)?;
            let mut rows = statement.raw_query();
            while (found.len() as u64) < count {
                let Some(stored) = rows.next().during(self.doing())? else {
                    break;
                };
                // SQL's equality knows neither 1 from 1.0 nor 0.0 from -0.0.
                let mut equal = true;
                for (at, value) in wanted.iter().enumerate() {
                    equal &= same(
                        from_sqlite(stored.get_ref(at + 1).during(self.doing())?),
                        *value,
                    );
                }
                if equal {
                    found.push(stored.get::<_, i64>(0).during(self.doing())?);
                }
            }
        }
        if (found.len() as u64) < count {
            return Err(self.absent(row));
        }
        let sql = format!(
            "DELETE FROM {} WHERE {rowid} = ?1",
            self.route.target.quoted()
        );
        let mut statement = self.db.prepare_cached(&sql).during(self.doing())?;
        for number in found {
            statement.execute([number]).during(self.doing())?;
        }
        Ok(())
    }

    /// All columns a rewritten row keeps: the source's in their order, then the replica's own.
    fn columns(&self) -> Vec<&str> {
        let own = &self.route.schema.columns;
        let extra = self.statements.target.columns.iter().filter(|column| {
            !column.generated
                && !own
                    .iter()
                    .any(|c| c.name.eq_ignore_ascii_case(&column.name))
        });
        let own = own.iter().map(|column| column.name.as_str());
        own.chain(extra.map(|column| column.name.as_str()))
            .collect()
    }

    /// The row as the replica holds it, in the order of [`Each::columns`].
    fn read(&self, row: &Row) -> Result<Option<Row>> {
        let columns = self.columns();
        let names: Vec<String> = columns.iter().map(|name| quote_identifier(name)).collect();
        let sql =
            self.statements
                .delete
                .replacen("DELETE", &format!("SELECT {}", names.join(", ")), 1);
        let mut statement = self.db.prepare_cached(&sql).during(self.doing())?;
        self.bind(&mut statement, row, Columns::Key)?;
        let mut rows = statement.raw_query();
        let Some(stored) = rows.next().during(self.doing())? else {
            return Ok(None);
        };
        let values = (0..columns.len())
            .map(|at| stored.get_ref(at).map(from_sqlite).during(self.doing()))
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(Row::from_values(values.into_iter())))
    }

    fn absent(&self, row: &Row) -> ConnectorError {
        let mut error = ConnectorError::new(
            ErrorKind::Conflict,
            format!(
                "a row to change or delete is not in the table {}: the replica was written to by \
                 somebody else",
                self.route.target
            ),
        )
        .advice("copy the table again with replctl resync, or step over it with replctl skip")
        .table(self.route.target.to_string());
        error.key = self.shown_key(row);
        error
    }

    fn shown_key(&self, row: &Row) -> Option<String> {
        let values = row.to_vec().ok()?;
        let keys = self.route.schema.key_columns();
        let shown: Vec<String> = keys
            .iter()
            .map(|&at| {
                let name = &self.route.schema.columns[at].name;
                format!(
                    "{name}={}",
                    values.get(at).map_or_else(String::new, |v| shown(*v))
                )
            })
            .collect();
        (!shown.is_empty()).then(|| shown.join(", "))
    }
}

/// A stored row with what a new image says of its first columns.
fn merge<'a>(stored: &'a Row, new: &'a Row) -> Result<Vec<Value<'a>>> {
    let mut merged = stored.to_vec()?;
    for (slot, value) in merged.iter_mut().zip(new.values()?) {
        match value? {
            Value::Unchanged => {}
            value => *slot = value,
        }
    }
    Ok(merged)
}

trait DuringRow<T> {
    fn during_row(self, each: &Each<'_>, row: &Row) -> Result<T>;
}

impl<T> DuringRow<T> for rusqlite::Result<T> {
    /// Adds table and key to an error.
    fn during_row(self, each: &Each<'_>, row: &Row) -> Result<T> {
        self.during(each.doing()).map_err(|mut error| {
            error.table = Some(each.route.target.to_string());
            error.key = each.shown_key(row);
            error
        })
    }
}
