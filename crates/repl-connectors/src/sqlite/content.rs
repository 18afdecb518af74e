//! What a SQLite replica holds: a read transaction of its own, on a thread of its own.

use async_trait::async_trait;
use repl_core::ErrorKind;
use repl_core::row::Row;
use repl_core::schema::{TableName, quote_identifier};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::capture::blocking;
use super::error::{During, located};
use super::fit::target_table;
use super::snapshot::batch;
use super::{MAIN, OWN_PREFIX, SqliteTarget, connect, registry};
use crate::content::{Asking, Content, ContentColumn, ContentSource, Pieces};
use crate::seam::{ConnectorError, ReplicaState, Result};

/// Opens views of one SQLite replica.
pub struct SqliteContents {
    target: SqliteTarget,
}

impl SqliteContents {
    /// Views of this database.
    pub fn new(target: SqliteTarget) -> Self {
        SqliteContents { target }
    }
}

#[async_trait]
impl ContentSource for SqliteContents {
    async fn content(&self) -> Result<Box<dyn Content>> {
        let (path, group) = (self.target.path.clone(), self.target.group.clone());
        let opened = blocking(move || {
            let db = connect::reader(&path)?;
            // The first read fixes what the transaction sees.
            db.execute_batch("BEGIN").during("begin a transaction")?;
            let state = registry::state(&db, &group)?;
            Ok((db, state))
        });
        let (db, state) = located(opened.await, &self.target)?;
        let (reading, mut asked) = Asking::new(gone);
        std::thread::Builder::new()
            .name("sqlite-content".to_owned())
            .spawn(move || {
                while let Some(ask) = asked.blocking_recv() {
                    serve(&db, ask);
                }
            })
            .map_err(|error| ConnectorError::new(ErrorKind::Transient, error.to_string()))?;
        Ok(Box::new(SqliteContent {
            target: self.target.clone(),
            state,
            reading,
        }))
    }
}

/// A question to the thread that owns the connection.
enum Ask {
    Columns(TableName, oneshot::Sender<Result<Vec<ContentColumn>>>),
    Tables(oneshot::Sender<Result<Vec<TableName>>>),
    Count(TableName, oneshot::Sender<Result<u64>>),
    Read(TableName, Vec<String>, Pieces),
}

/// Answers; a caller that stopped waiting does not need it.
fn serve(db: &Connection, ask: Ask) {
    match ask {
        Ask::Columns(table, reply) => drop(reply.send(columns(db, &table))),
        Ask::Tables(reply) => drop(reply.send(tables(db))),
        Ask::Count(table, reply) => drop(reply.send(count(db, &table))),
        Ask::Read(table, columns, pieces) => {
            if let Err(error) = read(db, &table, &columns, &pieces) {
                let _ = pieces.blocking_send(Err(error));
            }
        }
    }
}

fn columns(db: &Connection, table: &TableName) -> Result<Vec<ContentColumn>> {
    let found = target_table(db, table)?;
    let columns = found.map(|table| table.columns).unwrap_or_default();
    let content = columns.into_iter().map(|column| ContentColumn {
        name: column.name,
        generated: column.generated,
        composites: None,
    });
    Ok(content.collect())
}

fn tables(db: &Connection) -> Result<Vec<TableName>> {
    let doing = "list the tables";
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND substr(name, 1, ?1) <> ?2 ORDER BY 1";
    let mut statement = db.prepare(sql).during(doing)?;
    let names = statement.query_map(params![OWN_PREFIX.len(), OWN_PREFIX], |row| {
        Ok(TableName::new(MAIN, row.get::<_, String>(0)?))
    });
    names.and_then(Iterator::collect).during(doing)
}

pub(super) fn count(db: &Connection, table: &TableName) -> Result<u64> {
    let sql = format!("SELECT count(*) FROM {}", table.quoted());
    db.query_row(&sql, [], |row| row.get(0))
        .during(format!("count the rows of {table}"))
}

fn read(db: &Connection, table: &TableName, columns: &[String], pieces: &Pieces) -> Result<()> {
    let doing = format!("read the table {table}");
    let names: Vec<String> = columns.iter().map(|name| quote_identifier(name)).collect();
    let sql = format!("SELECT {} FROM {}", names.join(", "), table.quoted());
    let mut statement = db.prepare(&sql).during(&doing)?;
    let mut rows = statement.query([]).during(&doing)?;
    loop {
        let piece = batch(&mut rows, columns.len(), &doing)?;
        // An empty piece is the end; a reader that has gone is one too.
        let last = piece.is_empty();
        if pieces.blocking_send(Ok(piece)).is_err() || last {
            return Ok(());
        }
    }
}

struct SqliteContent {
    target: SqliteTarget,
    state: ReplicaState,
    reading: Asking<Ask>,
}

fn gone() -> ConnectorError {
    ConnectorError::new(ErrorKind::Internal, "the reader's thread has ended")
}

impl SqliteContent {
    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T>>) -> Ask) -> Result<T> {
        located(self.reading.ask(make).await, &self.target)
    }
}

#[async_trait]
impl Content for SqliteContent {
    fn state(&self) -> &ReplicaState {
        &self.state
    }

    async fn columns(&mut self, table: &TableName) -> Result<Vec<ContentColumn>> {
        self.ask(|reply| Ask::Columns(table.clone(), reply)).await
    }

    async fn tables(&mut self, _schema: &str) -> Result<Vec<TableName>> {
        self.ask(Ask::Tables).await
    }

    async fn enter(&mut self) -> Result<()> {
        Ok(())
    }

    async fn leave(&mut self, _table: &TableName) -> Result<bool> {
        self.reading.stop();
        Ok(true)
    }

    async fn count(&mut self, table: &TableName) -> Result<u64> {
        self.ask(|reply| Ask::Count(table.clone(), reply)).await
    }

    async fn open(&mut self, table: &TableName, columns: &[String]) -> Result<()> {
        let read = |pieces| Ask::Read(table.clone(), columns.to_vec(), pieces);
        self.reading.open(read).await
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        located(self.reading.next_rows().await, &self.target)
    }
}
