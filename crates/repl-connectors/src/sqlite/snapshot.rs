//! Exact cuts of a primary: the capture's own read transactions, held open.
//!
//! A snapshot holds exactly what the log holds up to its sequence, because it is the very read
//! transaction the capture read from. It blocks no writer; while it is open the primary's WAL file
//! keeps growing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use async_trait::async_trait;
use bytes::Bytes;
use repl_core::codec::put_u64;
use repl_core::convert::ddl::TableDescription;
use repl_core::copy::{KeyBound, KeyRange};
use repl_core::cut::Cut;
use repl_core::row::{Row, put_value};
use repl_core::schema::{TableName, TableSchema, quote_identifier};
use repl_core::select::Selection;
use repl_core::{ErrorKind, SourcePosition};
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use tokio::sync::{mpsc, oneshot};

use super::capture::blocking;
use super::describe::describe;
use super::error::{During, located};
use super::meta::Place;
use super::value::{Owned, from_sqlite};
use super::{SqliteTarget, connect, content, ddl, divide, inspect, meta};
use crate::seam::{
    ConnectorError, Division, PartSize, Result, Snapshot, SnapshotSource, SourceTable, TableDdl,
    altered,
};

/// Size at which a batch of rows is handed over: bytes, and rows.
const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_ROWS: usize = 10_000;

/// Asks the running capture for snapshots.
#[derive(Clone, Debug)]
pub struct SqliteSnapshots {
    target: SqliteTarget,
    requests: mpsc::Sender<oneshot::Sender<Result<Box<dyn Snapshot>>>>,
}

impl SqliteSnapshots {
    /// `target` is the primary; `requests` is the sending side of
    /// [`crate::seam::CapturePort::snapshots`].
    pub fn new(
        target: SqliteTarget,
        requests: mpsc::Sender<oneshot::Sender<Result<Box<dyn Snapshot>>>>,
    ) -> Self {
        SqliteSnapshots { target, requests }
    }
}

#[async_trait]
impl SnapshotSource for SqliteSnapshots {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let gone = || {
            ConnectorError::new(
                ErrorKind::Connection,
                "no snapshot of the primary: its capture is not running",
            )
        };
        let (reply, answer) = oneshot::channel();
        self.requests.send(reply).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn added_columns(&self, schema: &TableSchema, target: &TableName) -> Result<TableDdl> {
        let (path, schema, name) = (self.target.path.clone(), schema.clone(), target.clone());
        let read = blocking(move || added_columns(&connect::primary(&path)?, &schema, &name)).await;
        located(read, &self.target)
    }

    async fn tables(&self, selection: &Selection) -> Result<Vec<SourceTable>> {
        let (path, selection) = (self.target.path.clone(), selection.clone());
        let read = blocking(move || present_tables(&connect::primary(&path)?, &selection)).await;
        located(read, &self.target)
    }

    async fn end(&self) -> Result<SourcePosition> {
        let path = self.target.path.clone();
        let read = blocking(move || last_change(&connect::primary(&path)?)).await;
        located(read, &self.target)
    }

    fn position_of(&self, token: &str) -> Result<SourcePosition> {
        token.trim().parse().map(place_of).map_err(|_| {
            ConnectorError::new(
                ErrorKind::Configuration,
                format!("{token:?} is not the number of a change"),
            )
            .advice(
                "take it after the COMMIT by: SELECT coalesce(max(id), 0) FROM _repl_changes, or \
                 give none",
            )
        })
    }

    fn reads_keys(&self, _table: &TableName) -> bool {
        true
    }

    fn has_reached(&self, logged: &SourcePosition, wanted: &SourcePosition) -> bool {
        has_reached(logged, wanted)
    }
}

/// A position behind everything that is committed.
pub(super) fn last_change(db: &Connection) -> Result<SourcePosition> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_repl_changes')";
    let doing = "read the last recorded change";
    let begun: bool = db.query_row(sql, [], |row| row.get(0)).during(doing)?;
    if !begun {
        return Err(not_begun());
    }
    let sql = "SELECT max(id) FROM _repl_changes";
    let last: Option<i64> = db.query_row(sql, [], |row| row.get(0)).during(doing)?;
    // Changes that are not there any more are in the log.
    Ok(last.map_or_else(SourcePosition::default, place_of))
}

/// The position of a change whose own token is not known.
fn place_of(id: i64) -> SourcePosition {
    SourcePosition(id.to_string())
}

/// Whether the change logged last is `wanted`, a position of [`place_of`], or a later one. Nothing
/// wanted is reached by any log.
fn has_reached(logged: &SourcePosition, wanted: &SourcePosition) -> bool {
    let logged = Place::parse(logged).map(|place| place.id);
    let wanted = wanted.as_str().parse().ok();
    logged >= wanted
}

fn present_tables(db: &Connection, selection: &Selection) -> Result<Vec<SourceTable>> {
    let tables = inspect::selected_tables(db, selection)?;
    let shown = tables.into_iter().map(|table| {
        let name = TableName::new(super::MAIN, table.name);
        let (schema, refusal, remedy) = match table.layout {
            Ok(layout) => (
                Some(Arc::new(layout.schema(""))),
                String::new(),
                String::new(),
            ),
            Err(refused) => (None, refused.reason, refused.remedy),
        };
        SourceTable {
            name,
            incarnation: String::new(),
            schema,
            refusal,
            remedy,
            coverage: String::new(),
            waits: String::new(),
            parents: Vec::new(),
        }
    });
    Ok(shown.collect())
}

/// Additions of the columns that were appended while the table was captured: SQLite allows only
/// constant defaults there, so what earlier rows hold is known.
fn added_columns(db: &Connection, schema: &TableSchema, target: &TableName) -> Result<TableDdl> {
    let layouts = meta::layouts(db)?;
    let Some(stored) = layouts
        .iter()
        .find(|s| s.current && s.layout.table == schema.table.name)
    else {
        return Ok(TableDdl::default());
    };
    let sql = definition(db, &schema.table)?;
    let create = stored
        .layout
        .columns
        .iter()
        .filter(|column| column.added && schema.columns.iter().any(|c| c.name == column.name))
        .filter_map(|column| ddl::column_definition(&sql, &column.name))
        .map(|definition| ddl::add_column(target, &definition))
        .collect();
    Ok(TableDdl {
        create,
        ..TableDdl::default()
    })
}

/// The `CREATE TABLE` that SQLite keeps of `table`.
///
/// # Errors
/// [`ErrorKind::Schema`] when it is gone.
pub(super) fn definition(db: &Connection, table: &TableName) -> Result<String> {
    let sql: Option<String> = db
        .query_row(
            "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
            params![table.name],
            |row| row.get(0),
        )
        .optional()
        .during(format!("read the definition of {table}"))?;
    sql.ok_or_else(|| {
        ConnectorError::new(ErrorKind::Schema, format!("the table {table} is gone"))
            .table(table.to_string())
    })
}

/// An estimate of a table's rows, and where its parts meet.
type Divided = (Option<u64>, Vec<KeyBound>);

/// Which rows of a table are read.
enum Wanted {
    Range(KeyRange),
    Keys(Vec<Row>),
}

impl Wanted {
    /// The condition that selects them, with its parameters.
    fn condition(&self, schema: &TableSchema) -> Result<(String, Vec<Owned>)> {
        match self {
            Wanted::Range(range) => Ok(divide::condition(schema, range)),
            Wanted::Keys(keys) => Ok(divide::keys_condition(schema, keys)?),
        }
    }
}

/// A question to the thread that owns the connection.
enum Ask {
    Ddl(TableName, TableName, oneshot::Sender<Result<TableDdl>>),
    Describe(TableName, oneshot::Sender<Result<TableDescription>>),
    Divide(TableName, PartSize, oneshot::Sender<Result<Divided>>),
    Open(TableName, Wanted, oneshot::Sender<Result<()>>),
    Rows(oneshot::Sender<Result<Vec<Row>>>),
    Count(TableName, oneshot::Sender<Result<u64>>),
}

/// One read transaction of the primary.
pub(super) struct SqliteSnapshot {
    cut: Cut,
    tables: HashMap<TableName, Arc<TableSchema>>,
    asks: Sender<Ask>,
}

impl SqliteSnapshot {
    /// Takes over a connection in a read transaction.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(super) fn start(
        db: Connection,
        cut: Cut,
        tables: HashMap<TableName, Arc<TableSchema>>,
    ) -> Result<Self> {
        let (asks, asked) = std::sync::mpsc::channel();
        let schemas = tables.clone();
        std::thread::Builder::new()
            .name("sqlite-snapshot".to_owned())
            .spawn(move || serve(&db, &schemas, &asked))
            .map_err(|error| ConnectorError::new(ErrorKind::Transient, error.to_string()))?;
        Ok(SqliteSnapshot { cut, tables, asks })
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T>>) -> Ask) -> Result<T> {
        let gone = || ConnectorError::new(ErrorKind::Internal, "the snapshot's thread has ended");
        let (reply, answer) = oneshot::channel();
        self.asks.send(make(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn open_wanted(&self, schema: &TableSchema, wanted: Wanted) -> Result<()> {
        let table = &schema.table;
        if !self.schema(table)?.same_shape(schema) {
            return Err(altered(table));
        }
        self.ask(|reply| Ask::Open(table.clone(), wanted, reply))
            .await
    }

    fn schema(&self, table: &TableName) -> Result<&Arc<TableSchema>> {
        self.tables.get(table).ok_or_else(|| {
            ConnectorError::new(
                ErrorKind::Schema,
                format!("the table {table} is not captured, or was dropped or renamed"),
            )
            .table(table.to_string())
        })
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    fn cut(&self) -> Cut {
        self.cut.clone()
    }

    async fn ddl(&mut self, table: &TableName, target: &TableName) -> Result<TableDdl> {
        self.schema(table)?;
        self.ask(|reply| Ask::Ddl(table.clone(), target.clone(), reply))
            .await
    }

    async fn describe(&mut self, table: &TableName) -> Result<TableDescription> {
        self.schema(table)?;
        self.ask(|reply| Ask::Describe(table.clone(), reply)).await
    }

    async fn open(&mut self, table: &TableName) -> Result<(TableSchema, Option<u64>)> {
        let schema = TableSchema::clone(self.schema(table)?);
        let whole = PartSize {
            rows: u64::MAX,
            bytes: u64::MAX,
        };
        let (estimate, _) = self
            .ask(|reply| Ask::Divide(table.clone(), whole, reply))
            .await?;
        self.open_range(&schema, &KeyRange::default()).await?;
        Ok((schema, estimate))
    }

    async fn divide(&mut self, table: &TableName, part: PartSize) -> Result<Division> {
        let schema = TableSchema::clone(self.schema(table)?);
        let (estimate, bounds) = self
            .ask(|reply| Ask::Divide(table.clone(), part, reply))
            .await?;
        Ok(Division {
            schema,
            bounds,
            estimate,
        })
    }

    async fn open_range(&mut self, schema: &TableSchema, range: &KeyRange) -> Result<()> {
        self.open_wanted(schema, Wanted::Range(range.clone())).await
    }

    async fn open_keys(&mut self, schema: &TableSchema, keys: &[Row]) -> Result<bool> {
        let keys = Wanted::Keys(keys.to_vec());
        self.open_wanted(schema, keys).await?;
        Ok(true)
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        self.ask(Ask::Rows).await
    }

    async fn count(&mut self, table: &TableName) -> Result<u64> {
        self.schema(table)?;
        self.ask(|reply| Ask::Count(table.clone(), reply)).await
    }
}

fn serve(db: &Connection, schemas: &HashMap<TableName, Arc<TableSchema>>, asked: &Receiver<Ask>) {
    let mut waiting = None;
    while let Some(ask) = waiting.take().or_else(|| asked.recv().ok()) {
        // A caller that stopped waiting for its answer does not need it.
        match ask {
            Ask::Ddl(table, target, reply) => drop(reply.send(table_ddl(db, &table, &target))),
            Ask::Describe(table, reply) => drop(reply.send(describe(db, &table))),
            Ask::Count(table, reply) => drop(reply.send(content::count(db, &table))),
            Ask::Rows(reply) => {
                let unopened = ConnectorError::new(ErrorKind::Internal, "no table is open");
                drop(reply.send(Err(unopened)));
            }
            Ask::Divide(table, part, reply) => drop(reply.send(match schemas.get(&table) {
                Some(schema) => {
                    let estimate = estimate(db, &table);
                    divide::bounds(db, schema, estimate, part).map(|bounds| (estimate, bounds))
                }
                None => Ok((None, Vec::new())),
            })),
            Ask::Open(table, wanted, reply) => match schemas.get(&table) {
                Some(schema) => waiting = read_table(db, schema, &wanted, reply, asked),
                None => drop(reply.send(Ok(()))),
            },
        }
    }
}

/// Serves the rows of one table; returns the first question that is about something else.
fn read_table(
    db: &Connection,
    schema: &TableSchema,
    wanted: &Wanted,
    opened: oneshot::Sender<Result<()>>,
    asked: &Receiver<Ask>,
) -> Option<Ask> {
    let doing = format!("read the table {}", schema.table);
    let columns: Vec<String> = schema
        .columns
        .iter()
        .map(|c| quote_identifier(&c.name))
        .collect();
    let prepared = wanted.condition(schema).and_then(|(condition, params)| {
        let sql = format!(
            "SELECT {} FROM {}{condition}",
            columns.join(", "),
            schema.table.quoted()
        );
        Ok((db.prepare(&sql).during(&doing)?, params))
    });
    let (mut statement, params) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = opened.send(Err(error));
            return None;
        }
    };
    let mut rows = match statement.query(params_from_iter(params)).during(&doing) {
        Ok(rows) => rows,
        Err(error) => {
            let _ = opened.send(Err(error));
            return None;
        }
    };
    let _ = opened.send(Ok(()));
    loop {
        match asked.recv().ok()? {
            Ask::Rows(reply) => {
                drop(reply.send(batch(&mut rows, columns.len(), &doing)));
            }
            other => return Some(other),
        }
    }
}

/// An upper bound of the row count that costs two look-ups; none for tables without row numbers.
fn estimate(db: &Connection, table: &TableName) -> Option<u64> {
    let sql = format!("SELECT max(rowid) - min(rowid) + 1 FROM {}", table.quoted());
    db.query_row(&sql, [], |row| row.get::<_, Option<u64>>(0))
        .ok()
        .map(Option::unwrap_or_default)
}

/// The next rows, all in one buffer.
pub(super) fn batch(
    rows: &mut rusqlite::Rows<'_>,
    columns: usize,
    doing: &str,
) -> Result<Vec<Row>> {
    let mut buffer = Vec::with_capacity(BATCH_BYTES / 4);
    let mut ends = Vec::new();
    while buffer.len() < BATCH_BYTES && ends.len() < BATCH_ROWS {
        let Some(row) = rows.next().during(doing)? else {
            break;
        };
        put_u64(&mut buffer, columns as u64);
        for at in 0..columns {
            put_value(&mut buffer, from_sqlite(row.get_ref(at).during(doing)?));
        }
        ends.push(buffer.len());
    }
    let buffer = Bytes::from(buffer);
    let mut start = 0;
    Ok(ends
        .into_iter()
        .map(|end| Row::from_encoded(buffer.slice(std::mem::replace(&mut start, end)..end)))
        .collect())
}

fn table_ddl(db: &Connection, table: &TableName, target: &TableName) -> Result<TableDdl> {
    ddl::check_schema(target)?;
    let doing = format!("read the definition of {table}");
    let create = definition(db, table)?;
    let mut statement = db
        .prepare(
            "SELECT name, sql FROM main.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL \
             AND tbl_name = ?1 COLLATE NOCASE ORDER BY rowid",
        )
        .during(&doing)?;
    let indexes: Vec<(String, String)> = statement
        .query_map(params![table.name], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .during(&doing)?;
    let unreadable = |what: &str| {
        ConnectorError::new(
            ErrorKind::Schema,
            format!("cannot understand the definition of {what}"),
        )
        .advice("create the table at the replica yourself")
        .table(table.to_string())
    };
    let after = indexes
        .iter()
        .map(|(name, sql)| {
            ddl::index_for(sql, &table.name, name, &target.name)
                .ok_or_else(|| unreadable(&format!("index {name}")))
        })
        .collect::<Result<_>>()?;
    let create = ddl::table_for(&create, &table.name, &target.name)
        .ok_or_else(|| unreadable(&format!("table {table}")))?;
    Ok(TableDdl {
        create: vec![create],
        after,
        ..TableDdl::default()
    })
}

fn not_begun() -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Transient,
        "capturing has not begun: what is committed now is part of the first copy",
    )
    .advice("try again once replctl status shows the primary as streaming")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_compared_as_numbers() {
        let logged = |id| Place {
            id,
            token: "0123456789abcdef".into(),
        };
        let reached = |id, wanted| has_reached(&logged(id).position(), &wanted);
        assert!(reached(10, place_of(9)) && !reached(9, place_of(10)));
        assert!(reached(i64::MAX, place_of(i64::MAX)) && !reached(1, place_of(i64::MAX)));
        assert!(reached(1, place_of(0)) && reached(1, place_of(1)));
        // Nothing is wanted of a file without recorded changes.
        assert!(reached(1, SourcePosition::default()));
        assert!(!has_reached(&SourcePosition::default(), &place_of(0)));
    }
}
