//! Canonical rendering of rows of several engines, computed on each side from what its own server says, without the
//! daemon's code.
//!
//! Every server gives each value's text in hexadecimal (so that no quoting can hide a difference);
//! what remains different between engines by design — zeros at the end of a decimal, how a double
//! is written, `T` or a blank in a time — is normalised here, by the *primary's* type of the column.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::types::ValueRef;

use crate::mariadb::MariaDb;
use crate::pg::PgServer;
use crate::sqlite::SqliteDb;

/// How two texts of a column are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As they are.
    Text,
    /// As bytes, given in hexadecimal.
    Bytes,
    /// 0 or 1.
    Bool,
    /// PostgreSQL's money: its amount as a decimal.
    Money,
    /// PostgreSQL's real: its value as a double.
    Real,
    /// As numbers of any precision: zeros at the end of the fraction do not count.
    Decimal,
    /// By the 64 bits of the double.
    Double,
    /// Integers exactly, everything else as doubles: what SQLite's NUMERIC holds.
    Number,
    /// Without zeros at the end of the fraction of seconds, UTC.
    Time,
}

/// One column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How it is compared.
    pub kind: Kind,
    /// Computed by the primary; a replica of another engine may not have it.
    pub generated: bool,
}

/// A column by name and kind.
#[must_use]
pub fn column(name: &str, kind: Kind) -> Column {
    Column {
        name: name.to_owned(),
        kind,
        generated: false,
    }
}

/// The columns a replica must have: all but those computed ones that it has not.
#[must_use]
pub fn columns_at(replica: &[String], columns: &[Column]) -> Vec<Column> {
    let wanted = |column: &&Column| !column.generated || replica.contains(&column.name);
    columns.iter().filter(wanted).cloned().collect()
}

/// The rows of a table, sorted, each a list of canonical texts; `~` is NULL.
pub type Rows = Vec<Vec<String>>;

/// The columns of a PostgreSQL table with the kinds of their types, sorted by name.
///
/// # Errors
/// When the database cannot be read or the table is of another shape.
pub fn pg_columns(server: &PgServer, table: &str) -> Result<Vec<Column>> {
    let text = server.query(&format!(
        "SELECT a.attname, coalesce(nullif(b.typbasetype, 0), b.oid)::regtype,
                a.attgenerated <> ''
         FROM pg_attribute a JOIN pg_type b ON b.oid = a.atttypid
         WHERE a.attrelid = '{table}'::regclass AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attname COLLATE \"C\""
    ))?;
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('|').collect();
            let [name, kind, generated] = fields[..] else {
                bail!("three columns, not {line:?}")
            };
            Ok(Column {
                generated: generated == "t",
                ..column(name, pg_kind(kind))
            })
        })
        .collect()
}

fn pg_kind(type_name: &str) -> Kind {
    match type_name {
        "boolean" => Kind::Bool,
        "bytea" => Kind::Bytes,
        "numeric" => Kind::Decimal,
        "money" => Kind::Money,
        "real" => Kind::Real,
        "double precision" => Kind::Double,
        "time without time zone" => Kind::Time,
        name if name.starts_with("timestamp") => Kind::Time,
        _ => Kind::Text,
    }
}

/// A PostgreSQL table's rows; `table` is quoted by the caller where needed.
///
/// # Errors
/// When the database cannot be read or the table is of another shape.
pub fn pg_rows(server: &PgServer, table: &str, columns: &[Column]) -> Result<Rows> {
    let list: Vec<String> = columns
        .iter()
        .map(|column| {
            let name = format!("t.\"{}\"", column.name);
            let text = match column.kind {
                Kind::Bytes => format!("encode({name}, 'hex')"),
                Kind::Bool => format!("{name}::boolean::int::text"),
                Kind::Money => format!("{name}::numeric::text"),
                Kind::Real => format!("{name}::float8::text"),
                // Casts would cut the blanks of character(n); this is the type's own output.
                _ => format!("format('%s', {name})"),
            };
            Ok(format!(
                "CASE WHEN num_nulls({name}) = 1 THEN '~' ELSE encode(convert_to({text}, 'UTF8'), 'hex') END"
            ))
        })
        .collect::<Result<_>>()?;
    let text = server.query(&format!(
        "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres';
         SET extra_float_digits = 3;
         SELECT {} FROM {table} t",
        list.join(" || ' ' || ")
    ))?;
    parse(&text, columns)
}

/// The names of a MariaDB table's columns.
///
/// # Errors
/// When the server cannot be asked.
pub fn mariadb_columns(server: &MariaDb, table: &str) -> Result<Vec<String>> {
    let (database, name) = table.split_once('.').context("database.table")?;
    let text = server.query(&format!(
        "SELECT column_name FROM information_schema.columns
         WHERE table_schema = '{database}' AND table_name = '{name}'"
    ))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The names and declared types of a SQLite table's columns.
///
/// # Errors
/// When the file cannot be read.
pub fn sqlite_declared(db: &SqliteDb, table: &str) -> Result<Vec<(String, String)>> {
    let connection = db.connect_read_only()?;
    let mut statement =
        connection.prepare("SELECT name, type FROM pragma_table_xinfo(?1) ORDER BY name")?;
    let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The columns of a SQLite table with the kinds of their declared types, sorted by name.
///
/// # Errors
/// When the file cannot be read.
pub fn sqlite_columns(db: &SqliteDb, table: &str) -> Result<Vec<Column>> {
    let kind = |declared: &str| match declared.to_ascii_uppercase().as_str() {
        "REAL" | "DOUBLE" => Kind::Double,
        "BOOLEAN" => Kind::Bool,
        "BLOB" => Kind::Bytes,
        name if name.starts_with("NUMERIC") || name.starts_with("DECIMAL") => Kind::Number,
        _ => Kind::Text,
    };
    let declared = sqlite_declared(db, table)?;
    Ok(declared
        .iter()
        .map(|(name, declared)| column(name, kind(declared)))
        .collect())
}

/// A MariaDB table's rows, as `database.table`.
///
/// # Errors
/// When the database cannot be read or the table is of another shape.
pub fn mariadb_rows(server: &MariaDb, table: &str, columns: &[Column]) -> Result<Rows> {
    let (database, name) = table.split_once('.').context("database.table")?;
    let text = server.query(&format!(
        "SELECT column_name, data_type, coalesce(numeric_precision, 0)
         FROM information_schema.columns
         WHERE table_schema = '{database}' AND table_name = '{name}'"
    ))?;
    let types: BTreeMap<&str, Vec<&str>> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            Some((fields.next()?, fields.collect()))
        })
        .collect();
    ensure!(
        types.len() == columns.len(),
        "{table} has the columns {:?}",
        types.keys()
    );
    let list: Vec<String> = columns
        .iter()
        .map(|column| {
            let own = types
                .get(column.name.as_str())
                .with_context(|| format!("{table} has no column {}", column.name))?;
            let name = format!("`{}`", column.name);
            let text = match own.as_slice() {
                ["bit", width] => format!("LPAD(BIN({name} + 0), {width}, '0')"),
                ["float", ..] => format!("CAST(CAST({name} AS DOUBLE) AS CHAR)"),
                [kind, ..] if kind.ends_with("blob") || kind.ends_with("binary") => {
                    format!("LOWER(HEX({name}))")
                }
                _ => format!("CAST({name} AS CHAR)"),
            };
            Ok(format!(
                "IF({name} IS NULL, '~', HEX(CONVERT({text} USING utf8mb4)))"
            ))
        })
        .collect::<Result<_>>()?;
    let text = server.query(&format!(
        "SELECT CONCAT_WS(' ', {}) FROM `{database}`.`{name}`",
        list.join(", ")
    ))?;
    parse(&text, columns)
}

/// A SQLite table's rows.
///
/// # Errors
/// When the database cannot be read or the table is of another shape.
pub fn sqlite_rows(db: &SqliteDb, table: &str, columns: &[Column]) -> Result<Rows> {
    let connection = db.connect_read_only()?;
    let list: Vec<String> = columns
        .iter()
        .map(|column| format!("\"{}\"", column.name))
        .collect();
    let sql = format!("SELECT {} FROM \"{table}\"", list.join(", "));
    let mut statement = connection.prepare(&sql).with_context(|| sql.clone())?;
    ensure!(
        connection
            .prepare(&format!("SELECT * FROM \"{table}\""))?
            .column_count()
            == columns.len(),
        "{table} has other columns than {list:?}"
    );
    let mut found = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let mut texts = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            texts.push(match row.get_ref(index)? {
                ValueRef::Null => "~".to_owned(),
                ValueRef::Integer(number) => canonical(&number.to_string(), column.kind)?,
                ValueRef::Real(number) => canonical(&format!("{number:?}"), column.kind)?,
                ValueRef::Text(bytes) => canonical(std::str::from_utf8(bytes)?, column.kind)?,
                ValueRef::Blob(bytes) if column.kind == Kind::Bytes => {
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    canonical(&hex, column.kind)?
                }
                ValueRef::Blob(bytes) => bail!("{table}.{}: BLOB {bytes:?}", column.name),
            });
        }
        rows.push(texts);
    }
    rows.sort();
    Ok(rows)
}

/// Lines of hexadecimal texts, as the servers gave them.
fn parse(text: &str, columns: &[Column]) -> Result<Rows> {
    let mut rows = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        ensure!(fields.len() == columns.len(), "{line:?}");
        let row: Result<Vec<String>> = fields
            .iter()
            .zip(columns)
            .map(|(&field, column)| match field {
                "~" => Ok(field.to_owned()),
                hex => canonical(&from_hex(hex)?, column.kind),
            })
            .collect();
        rows.push(row?);
    }
    rows.sort();
    Ok(rows)
}

fn from_hex(hex: &str) -> Result<String> {
    let bytes: Result<Vec<u8>, _> = (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16))
        .collect();
    Ok(String::from_utf8(bytes?)?)
}

/// The form that is equal exactly when the values are.
fn canonical(text: &str, kind: Kind) -> Result<String> {
    Ok(match kind {
        Kind::Text | Kind::Bytes | Kind::Bool => format!("={text}"),
        Kind::Decimal | Kind::Money => decimal(text),
        Kind::Double | Kind::Real => format!("{:016x}", text.parse::<f64>()?.to_bits()),
        Kind::Number => match text.parse::<i128>() {
            Ok(number) => number.to_string(),
            Err(_) => number(text.parse()?),
        },
        Kind::Time => time(text),
    })
}

fn number(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e38 {
        return format!("{number:.0}");
    }
    format!("{:016x}", number.to_bits())
}

fn decimal(text: &str) -> String {
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text.to_owned()
}

/// `2024-02-29T12:00:00.500000+00:00 BC` and `2024-02-29 12:00:00.5+00 BC` are one moment.
fn time(text: &str) -> String {
    let (text, era) = match text.strip_suffix(" BC") {
        Some(rest) => (rest, " BC"),
        None => (text, ""),
    };
    let text = text.trim_end_matches("+00:00").trim_end_matches("+00");
    format!("{}{era}", decimal(&text.replace('T', " ")))
}

/// Fails with the first differences.
///
/// # Errors
/// The differences.
pub fn assert_same(what: &str, primary: &Rows, replica: &Rows) -> Result<()> {
    if primary == replica {
        return Ok(());
    }
    let only = |left: &Rows, right: &Rows| -> Vec<Vec<String>> {
        let missing = left.iter().filter(|row| !right.contains(row));
        missing.take(5).cloned().collect()
    };
    bail!(
        "{what}: {} rows on the primary, {} here\n only on the primary: {:?}\n only here: {:?}",
        primary.len(),
        replica.len(),
        only(primary, replica),
        only(replica, primary)
    )
}
