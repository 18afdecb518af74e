//! What a MariaDB or MySQL replica holds: a transaction with a consistent snapshot, which shows its
//! checkpoint and its rows as of one instant.
//!
//! Rows come by the binary protocol, whose numbers are exact, and unbuffered, read ahead by a task
//! that owns the connection.

use std::io::Write;

use async_trait::async_trait;
use bytes::Bytes;
use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable;
use mysql_async::{Column, Conn, Params, Row as ServerRow, Value as Given};
use repl_core::ErrorKind;
use repl_core::codec::put_u64;
use repl_core::row::{Row, Value, put_value};
use repl_core::schema::TableName;
use tokio::sync::{mpsc, oneshot};

use super::MySqlApplierConfig;
use super::metadata::text;
use super::sql::{quote, quote_table};
use super::store::{Store, checkpoint, copied_tables, own_names};
use crate::answer::answered;
use crate::content::{Asking, Content, ContentColumn, ContentSource, Pieces};
use crate::mysql::target::MySqlLook;
use crate::mysql::{error, settings};
use crate::seam::{ConnectorError, ReplicaState, Result};

/// Rows are handed on in pieces of about this size, bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// The character set number of bytes that are not characters.
const BINARY: u16 = 63;

/// Rows and checkpoint are read as of one instant.
const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";

/// Opens views of one MariaDB or MySQL replica.
pub struct MySqlContents {
    config: MySqlApplierConfig,
}

impl MySqlContents {
    /// Views of the replica that is written with this configuration.
    pub fn new(config: MySqlApplierConfig) -> Self {
        MySqlContents { config }
    }
}

#[async_trait]
impl ContentSource for MySqlContents {
    async fn content(&self) -> Result<Box<dyn Content>> {
        let target = &self.config.target;
        let conn = target
            .connect("repl-daemon validate", settings::Session::Reader)
            .await?;
        let mut reader = Reader {
            look: target.look(&conn, None),
            conn,
            server: target.to_string(),
        };
        reader.run(ISOLATION).await?;
        reader
            .run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            .await?;
        let state = reader.state(&self.config).await?;
        let (reading, asked) = Asking::new(gone);
        tokio::spawn(reader.serve(asked));
        Ok(Box::new(MySqlContent { state, reading }))
    }
}

/// A question to the task that owns the connection.
enum Ask {
    Columns(TableName, oneshot::Sender<Result<Vec<ContentColumn>>>),
    Tables(String, oneshot::Sender<Result<Vec<TableName>>>),
    Enter(oneshot::Sender<Result<()>>),
    Leave(oneshot::Sender<Result<()>>),
    Count(TableName, oneshot::Sender<Result<u64>>),
    Read(TableName, Vec<String>, Pieces),
    End(oneshot::Sender<Result<()>>),
}

struct Reader {
    conn: Conn,
    look: MySqlLook,
    server: String,
}

impl Reader {
    async fn run(&mut self, sql: &str) -> Result<()> {
        let Reader { conn, look, server } = self;
        let work = async {
            let outcome = conn.query_drop(sql).await;
            outcome.map_err(|e| error::explain(server, e))
        };
        answered(work, look).await
    }

    async fn rows(&mut self, sql: &str, params: Vec<Given>) -> Result<Vec<ServerRow>> {
        let params = match params.is_empty() {
            true => Params::Empty,
            false => Params::Positional(params),
        };
        let Reader { conn, look, server } = self;
        let work = async {
            let outcome = conn.exec(sql, params).await;
            outcome.map_err(|e| error::explain(server, e))
        };
        answered(work, look).await
    }

    async fn state(&mut self, config: &MySqlApplierConfig) -> Result<ReplicaState> {
        let mut absent = None;
        for store in Store::candidates(&config.target.database) {
            match self.state_in(&store, config).await {
                Ok(state) if state.checkpoint.is_some() => return Ok(state),
                Ok(_) => {}
                // Only one of the two places exists, or may be read.
                Err(error) if is_absent(&error) => absent = Some(error),
                Err(error) => return Err(error),
            }
        }
        match absent {
            Some(error) if error.kind != ErrorKind::Schema => Err(error),
            _ => Ok(ReplicaState::default()),
        }
    }

    async fn state_in(
        &mut self,
        store: &Store,
        config: &MySqlApplierConfig,
    ) -> Result<ReplicaState> {
        let sql = format!(
            "SELECT format, log_id, epoch, seq, position FROM {} \
             WHERE group_name = ? AND origin = ?",
            store.checkpoint
        );
        let (group, origin) = (config.group.as_str(), config.origin.as_str());
        let rows = self.rows(&sql, vec![group.into(), origin.into()]).await?;
        let checkpoint = rows.first().map(checkpoint).transpose()?;
        let sql = format!(
            "SELECT table_schema, table_name, incarnation, cut FROM {} WHERE group_name = ?",
            store.tables
        );
        let tables = copied_tables(&self.rows(&sql, vec![group.into()]).await?)?;
        let mut state = ReplicaState::default();
        state.tables.extend(tables);
        state.checkpoint = checkpoint;
        Ok(state)
    }

    async fn serve(mut self, mut asked: mpsc::Receiver<Ask>) {
        // A caller that stopped waiting for its answer does not need it.
        while let Some(ask) = asked.recv().await {
            match ask {
                Ask::Columns(table, reply) => drop(reply.send(self.columns(&table).await)),
                Ask::Tables(schema, reply) => drop(reply.send(self.tables(&schema).await)),
                Ask::Enter(reply) => drop(reply.send(self.run("SAVEPOINT one_table").await)),
                // Lets the metadata locks go and keeps the snapshot.
                Ask::Leave(reply) => {
                    let outcome = self.run("ROLLBACK TO SAVEPOINT one_table").await;
                    drop(reply.send(outcome));
                }
                Ask::Count(table, reply) => drop(reply.send(self.count(&table).await)),
                Ask::Read(table, columns, pieces) => {
                    match self.read(&table, &columns, &pieces).await {
                        Ok(true) => {}
                        // What was not taken may be long; ending the session is quicker.
                        Ok(false) => return,
                        Err(error) => drop(pieces.send(Err(error)).await),
                    }
                }
                Ask::End(reply) => {
                    let outcome = self.run("COMMIT").await;
                    drop(reply.send(outcome));
                    let _ = self.conn.disconnect().await;
                    return;
                }
            }
        }
    }

    async fn columns(&mut self, table: &TableName) -> Result<Vec<ContentColumn>> {
        let sql = "SELECT COLUMN_NAME, EXTRA FROM information_schema.COLUMNS \
                   WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";
        let name = vec![table.schema.as_str().into(), table.name.as_str().into()];
        let rows = self.rows(sql, name).await?;
        let column = |row: &ServerRow| {
            let extra = text(row, 1).to_ascii_lowercase();
            let words = ["virtual", "stored", "persistent"];
            ContentColumn {
                name: text(row, 0),
                generated: words.into_iter().any(|word| extra.contains(word)),
                composites: None,
            }
        };
        Ok(rows.iter().map(column).collect())
    }

    async fn tables(&mut self, schema: &str) -> Result<Vec<TableName>> {
        let sql = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? \
                   AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') \
                   ORDER BY 1";
        let rows = self.rows(sql, vec![schema.into()]).await?;
        let own: Vec<String> = own_names().collect();
        let names = rows.iter().map(|row| text(row, 0));
        let names = names.filter(|name| !own.contains(name));
        Ok(names.map(|name| TableName::new(schema, name)).collect())
    }

    async fn count(&mut self, table: &TableName) -> Result<u64> {
        let sql = format!("SELECT COUNT(*) FROM {}", quote_table(table));
        let rows = self.rows(&sql, Vec::new()).await?;
        let count = rows.first().and_then(|row| text(row, 0).parse().ok());
        count.ok_or_else(|| {
            ConnectorError::new(ErrorKind::Internal, format!("no count of table {table}"))
        })
    }

    /// Hands on a table's rows; false when they were not wanted to the end.
    async fn read(
        &mut self,
        table: &TableName,
        columns: &[String],
        pieces: &Pieces,
    ) -> Result<bool> {
        let names: Vec<String> = columns.iter().map(|name| quote(name)).collect();
        let sql = format!("SELECT {} FROM {}", names.join(", "), quote_table(table));
        let Reader { conn, look, server } = self;
        let explain = |e| error::explain(server, e);
        let begin = async { conn.exec_iter(sql, ()).await.map_err(explain) };
        let mut result = answered(begin, look).await?;
        loop {
            let fill = async {
                let mut buffer = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
                let mut ends = Vec::new();
                while buffer.len() < PIECE_BYTES {
                    let Some(row) = result.next().await.map_err(explain)? else {
                        break;
                    };
                    encode(&row, &mut buffer)?;
                    ends.push(buffer.len());
                }
                Ok((buffer, ends))
            };
            let (buffer, ends) = answered(fill, look).await?;
            // An empty piece is the end.
            let last = ends.is_empty();
            let buffer = Bytes::from(buffer);
            let mut start = 0;
            let slice = |end| buffer.slice(std::mem::replace(&mut start, end)..end);
            let rows = ends.into_iter().map(slice).map(Row::from_encoded).collect();
            let taken = pieces.send(Ok(rows)).await.is_ok();
            if last || !taken {
                return Ok(taken);
            }
        }
    }
}

fn is_absent(error: &ConnectorError) -> bool {
    // No such table, no such database, no privilege on it.
    let code = error.code.as_deref();
    matches!(code, Some("1146" | "1049" | "1142" | "1044" | "1143"))
}

fn encode(row: &ServerRow, out: &mut Vec<u8>) -> Result<()> {
    put_u64(out, row.len() as u64);
    for (at, column) in row.columns_ref().iter().enumerate() {
        let Some(value) = row.as_ref(at) else {
            return Err(ConnectorError::new(
                ErrorKind::Internal,
                "the replica sent a row without one of its columns",
            ));
        };
        put(column, value, out);
    }
    Ok(())
}

/// A value in the class the applier takes: numbers as numbers, bytes as bytes, the rest as text.
fn put(column: &Column, value: &Given, out: &mut Vec<u8>) {
    let mut room = [0_u8; 40];
    match value {
        Given::NULL => put_value(out, Value::Null),
        Given::Int(number) => put_value(out, Value::Integer(*number)),
        Given::UInt(number) => match i64::try_from(*number) {
            Ok(number) => put_value(out, Value::Integer(number)),
            Err(_) => put_text(out, &mut room, format_args!("{number}")),
        },
        Given::Float(number) => put_value(out, Value::Real(f64::from(*number))),
        Given::Double(number) => put_value(out, Value::Real(*number)),
        Given::Bytes(bytes) if is_binary(column) => put_value(out, Value::Blob(bytes)),
        Given::Bytes(bytes) => put_value(out, Value::Text(bytes)),
        Given::Date(year, month, day, hour, minute, second, micros) => {
            let date = format_args!("{year:04}-{month:02}-{day:02}");
            if column.column_type() == ColumnType::MYSQL_TYPE_DATE {
                return put_text(out, &mut room, date);
            }
            let clock = format_args!("{hour:02}:{minute:02}:{second:02}.{micros:06}");
            put_text(out, &mut room, format_args!("{date} {clock}"));
        }
        Given::Time(negative, days, hours, minutes, seconds, micros) => {
            let sign = if *negative { "-" } else { "" };
            let hours = u64::from(*days) * 24 + u64::from(*hours);
            let clock = format_args!("{sign}{hours:02}:{minutes:02}:{seconds:02}.{micros:06}");
            put_text(out, &mut room, clock);
        }
    }
}

fn is_binary(column: &Column) -> bool {
    match column.column_type() {
        ColumnType::MYSQL_TYPE_BIT | ColumnType::MYSQL_TYPE_GEOMETRY => true,
        ColumnType::MYSQL_TYPE_NEWDECIMAL | ColumnType::MYSQL_TYPE_DECIMAL => false,
        ColumnType::MYSQL_TYPE_JSON => false,
        _ => column.character_set() == BINARY,
    }
}

/// Writes text without allocating; numbers and times are never longer than the room.
fn put_text(out: &mut Vec<u8>, room: &mut [u8; 40], text: std::fmt::Arguments<'_>) {
    let mut left = room.as_mut_slice();
    // Errors only when full.
    let _ = left.write_fmt(text);
    let used = 40 - left.len();
    put_value(out, Value::Text(&room[..used]));
}

struct MySqlContent {
    state: ReplicaState,
    reading: Asking<Ask>,
}

fn gone() -> ConnectorError {
    ConnectorError::new(ErrorKind::Connection, "the reader's session has ended")
}

#[async_trait]
impl Content for MySqlContent {
    fn state(&self) -> &ReplicaState {
        &self.state
    }

    async fn columns(&mut self, table: &TableName) -> Result<Vec<ContentColumn>> {
        self.reading
            .ask(|reply| Ask::Columns(table.clone(), reply))
            .await
    }

    async fn tables(&mut self, schema: &str) -> Result<Vec<TableName>> {
        self.reading
            .ask(|reply| Ask::Tables(schema.to_owned(), reply))
            .await
    }

    async fn enter(&mut self) -> Result<()> {
        self.reading.ask(Ask::Enter).await
    }

    async fn leave(&mut self, _table: &TableName) -> Result<bool> {
        self.reading.stop();
        // A table that was rebuilt refuses to be read in an older snapshot, so what was read is
        // what the view holds.
        self.reading.ask(Ask::Leave).await.map(|()| true)
    }

    async fn count(&mut self, table: &TableName) -> Result<u64> {
        self.reading
            .ask(|reply| Ask::Count(table.clone(), reply))
            .await
    }

    async fn open(&mut self, table: &TableName, columns: &[String]) -> Result<()> {
        let read = |pieces| Ask::Read(table.clone(), columns.to_vec(), pieces);
        self.reading.open(read).await
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        self.reading.next_rows().await
    }

    async fn end(&mut self) {
        // The server drops the view either way.
        let _ = self.reading.ask(Ask::End).await;
    }
}
