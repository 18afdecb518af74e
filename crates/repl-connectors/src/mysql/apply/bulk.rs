//! Putting many rows into a table: LOAD DATA where the server allows it, else multi-row INSERT.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mysql_async::Value as Param;
use repl_core::ErrorKind;
use repl_core::row::{Row, Value};

use super::metadata::{Class, ReplicaColumn, Target};
use super::session::{Doing, Session};
use super::sql::{bits, param, quote, real_for, unchanged, utf8};
use crate::seam::{ConnectorError, Result};

/// Rows from which on LOAD DATA is the faster way.
const LOAD_ROWS: usize = 128;
/// Bytes of one LOAD DATA: as much is held in memory.
const LOAD_BYTES: usize = 4 * 1024 * 1024;
/// Bytes given to the connection at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Most rows of one INSERT.
const INSERT_ROWS: usize = 1_000;
/// Most bytes of one INSERT, unless it has one row.
const INSERT_BYTES: usize = 1024 * 1024;
/// Most parameters of one statement.
const PARAMETERS: usize = 65_535;
/// Bytes of a packet that are not the row's: headers, types, lengths.
const PACKET_OVERHEAD: usize = 64 * 1024;

/// Where rows are put.
pub(super) struct Into {
    /// Quoted name.
    pub(super) table: String,
    /// Quoted names of the columns there.
    pub(super) names: Vec<String>,
    /// Which columns of the rows, in the same order.
    pub(super) columns: Vec<usize>,
    /// Value of the column `g`, if there is one.
    pub(super) group: Option<u32>,
}

impl Into {
    /// Whole rows into the table itself.
    pub(super) fn table(target: &Target) -> Into {
        Into {
            table: target.name.clone(),
            names: target.columns[..target.sent]
                .iter()
                .map(|column| quote(&column.name))
                .collect(),
            columns: (0..target.sent).collect(),
            group: None,
        }
    }
}

/// What LOAD DATA is given: one line per row.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    rows: u64,
}

impl Session {
    /// Puts rows into a table; all of them, or it fails.
    pub(super) async fn put_rows(
        &mut self,
        target: &Arc<Target>,
        into: &Into,
        rows: &[&Row],
    ) -> Result<()> {
        // Fields pass through the server's buffers in a longer form than as parameters.
        let most = self.server.max_packet / 4;
        let loads = self.server.local_infile
            && rows.len() >= LOAD_ROWS
            && !into.names.is_empty()
            && rows.iter().all(|row| row.encoded().len() < most);
        if !loads {
            return self.insert_all(target, into, rows).await;
        }
        let mut lines = Lines::default();
        for row in rows {
            lines.push(target, into, row)?;
            if lines.bytes.len() >= LOAD_BYTES {
                self.load_lines(target, into, std::mem::take(&mut lines))
                    .await?;
            }
        }
        self.load_lines(target, into, lines).await
    }

    /// A row the server would not take is refused by name, before it breaks the connection.
    pub(super) fn check_size(&self, target: &Arc<Target>, row: &Row) -> Result<()> {
        let bytes = row.encoded().len();
        if bytes <= self.server.max_packet.saturating_sub(PACKET_OVERHEAD) {
            return Ok(());
        }
        let error = ConnectorError::new(
            ErrorKind::Data,
            format!(
                "{}: a row of {bytes} bytes is larger than the server's max_allowed_packet ({} \
                 bytes) has room for",
                self.config.target, self.server.max_packet
            ),
        )
        .advice(format!(
            "SET GLOBAL max_allowed_packet = {}, and in the server's configuration; then `replctl \
             retry`",
            (bytes + PACKET_OVERHEAD).next_multiple_of(1024 * 1024)
        ));
        Err(Doing::one("insert", target, row).complete(error))
    }

    /// Sends lines. LOCAL turns errors into warnings and skips duplicates, so the count of rows
    /// must be right and no warning may have been given.
    async fn load_lines(&mut self, target: &Arc<Target>, into: &Into, lines: Lines) -> Result<()> {
        if lines.rows == 0 {
            return Ok(());
        }
        let bytes = Bytes::from(lines.bytes);
        let pieces: Vec<std::io::Result<Bytes>> = (0..bytes.len())
            .step_by(PIECE_BYTES)
            .map(|at| Ok(bytes.slice(at..bytes.len().min(at + PIECE_BYTES))))
            .collect();
        self.conn
            .set_infile_handler(async move { Ok(stream::iter(pieces).boxed()) });
        let doing = Doing::new("insert", target);
        self.change_plain(doing, &into.load_sql(target), Some(lines.rows))
            .await
    }

    async fn insert_all(&mut self, target: &Arc<Target>, into: &Into, rows: &[&Row]) -> Result<()> {
        let width = into.columns.len().max(1);
        let most = (PARAMETERS / width).clamp(1, INSERT_ROWS);
        let most_bytes = INSERT_BYTES.min(self.server.max_packet / 4);
        let mut at = 0;
        while at < rows.len() {
            let (mut end, mut bytes) = (at, 0);
            while end < rows.len() && end - at < most {
                self.check_size(target, rows[end])?;
                bytes += rows[end].encoded().len();
                if bytes > most_bytes && end > at {
                    break;
                }
                end += 1;
            }
            self.insert(target, into, &rows[at..end]).await?;
            at = end;
        }
        Ok(())
    }

    async fn insert(&mut self, target: &Arc<Target>, into: &Into, rows: &[&Row]) -> Result<()> {
        let mut params = Vec::with_capacity(rows.len() * into.columns.len());
        for row in rows {
            let values = target.values(row)?;
            for &column in &into.columns {
                let value = param(&target.columns[column], values[column]);
                params.push(
                    value.map_err(|error| Doing::one("insert", target, row).complete(error))?,
                );
            }
        }
        let doing = match rows {
            [row] => Doing::one("insert", target, row),
            _ => Doing::new("insert", target),
        };
        let sql = into.insert_sql(rows.len());
        self.change(doing, &sql, params, rows.len() as u64).await
    }
}

impl Into {
    fn insert_sql(&self, rows: usize) -> String {
        let mut one: Vec<String> = vec!["?".into(); self.columns.len()];
        let mut names = self.names.clone();
        if let Some(group) = self.group {
            names.push("g".into());
            one.push(group.to_string());
        }
        let one = format!("({})", one.join(","));
        let mut sql = format!("INSERT INTO {} ({}) VALUES ", self.table, names.join(","));
        for at in 0..rows {
            if at > 0 {
                sql.push(',');
            }
            sql.push_str(&one);
        }
        sql
    }

    /// Bytes pass in hexadecimal, since the lines have a character set; so bits as numbers.
    fn load_sql(&self, target: &Target) -> String {
        let mut fields = Vec::new();
        let mut sets = Vec::new();
        for (name, &at) in self.names.iter().zip(&self.columns) {
            let expression = match target.columns[at].class {
                Class::Binary => format!("UNHEX(@repl_{at})"),
                Class::Bit => format!("CAST(@repl_{at} AS UNSIGNED)"),
                _ => {
                    fields.push(name.clone());
                    continue;
                }
            };
            fields.push(format!("@repl_{at}"));
            sets.push(format!("{name} = {expression}"));
        }
        if let Some(group) = self.group {
            sets.push(format!("g = {group}"));
        }
        let set = if sets.is_empty() {
            String::new()
        } else {
            format!(" SET {}", sets.join(", "))
        };
        format!(
            "LOAD DATA LOCAL INFILE 'rows' INTO TABLE {} CHARACTER SET utf8mb4 \
             FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({}){set}",
            self.table,
            fields.join(", ")
        )
    }
}

impl Lines {
    /// Appends a row.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] when a column cannot hold its value in any form.
    fn push(&mut self, target: &Target, into: &Into, row: &Row) -> Result<()> {
        let values = target.values(row)?;
        for (nth, &at) in into.columns.iter().enumerate() {
            if nth > 0 {
                self.bytes.push(b'\t');
            }
            self.value(&target.columns[at], values[at])
                .map_err(|error| Doing::one("insert", target, row).complete(error))?;
        }
        self.bytes.push(b'\n');
        self.rows += 1;
        Ok(())
    }

    fn value(&mut self, column: &ReplicaColumn, value: Value<'_>) -> Result<()> {
        match value {
            Value::Null => self.bytes.extend_from_slice(b"\\N"),
            Value::Unchanged => return Err(unchanged(column)),
            Value::Integer(integer) => self.bytes.extend_from_slice(integer.to_string().as_bytes()),
            // The shortest text that reads back as the same number.
            Value::Real(real) => {
                let text = format!("{:e}", real_for(column, real)?);
                self.bytes.extend_from_slice(text.as_bytes());
            }
            Value::Text(bytes) | Value::Blob(bytes) if column.class == Class::Binary => {
                self.hex(bytes);
            }
            Value::Text(text) => {
                let text = utf8(column, text)?;
                self.escaped(text);
            }
            Value::Blob(bytes) if column.class == Class::Bit => {
                self.bytes
                    .extend_from_slice(bits(bytes).to_string().as_bytes());
            }
            Value::Blob(bytes) => {
                let text = utf8(column, bytes)?;
                self.escaped(text);
            }
        }
        Ok(())
    }

    fn escaped(&mut self, text: &[u8]) {
        for &byte in text {
            match byte {
                b'\\' => self.bytes.extend_from_slice(b"\\\\"),
                b'\t' => self.bytes.extend_from_slice(b"\\t"),
                b'\n' => self.bytes.extend_from_slice(b"\\n"),
                0 => self.bytes.extend_from_slice(b"\\0"),
                _ => self.bytes.push(byte),
            }
        }
    }

    fn hex(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        for byte in bytes {
            self.bytes.push(DIGITS[usize::from(byte >> 4)]);
            self.bytes.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}

/// A parameter list of whole rows.
pub(super) fn whole(target: &Target, row: &Row) -> Result<Vec<Param>> {
    let values = target.values(row)?;
    target
        .columns
        .iter()
        .zip(values)
        .map(|(column, value)| param(column, value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_escape_what_would_end_a_field() {
        let mut lines = Lines::default();
        lines.escaped(b"a\tb\nc\\N\0\r");
        assert_eq!(lines.bytes, b"a\\tb\\nc\\\\N\\0\r");
        lines.bytes.clear();
        lines.hex(b"\x00\xff");
        assert_eq!(lines.bytes, b"00FF");
    }
}
