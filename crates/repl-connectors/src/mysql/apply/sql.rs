//! Names, values and comparisons in the server's SQL.

use std::borrow::Cow;

use mysql_async::Value as Param;
use repl_core::ErrorKind;
use repl_core::row::Value;
use repl_core::schema::TableName;

use super::metadata::{Class, ReplicaColumn};
use crate::seam::{ConnectorError, Result};

/// Quotes an identifier: backticks, doubled inside.
pub(super) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A table's name quoted for the server.
pub(super) fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

/// A value as the parameter of a statement.
///
/// # Errors
/// [`ErrorKind::Data`] when the column cannot hold it in any form.
pub(super) fn param(column: &ReplicaColumn, value: Value<'_>) -> Result<Param> {
    Ok(match value {
        Value::Null => Param::NULL,
        Value::Unchanged => return Err(unchanged(column)),
        Value::Integer(integer) => Param::Int(integer),
        Value::Real(real) => Param::Double(real_for(column, real)?),
        // As bytes bits would be compared as a text.
        Value::Blob(bytes) if column.class == Class::Bit => Param::UInt(bits(bytes)),
        Value::Blob(bytes) => Param::Bytes(bytes.to_vec()),
        Value::Text(text) => match number(column, text) {
            Some(number) => number,
            None => Param::Bytes(utf8(column, text)?.to_vec()),
        },
    })
}

/// The number of a bit string, the first byte the most significant.
pub(super) fn bits(bytes: &[u8]) -> u64 {
    let shift = |number: u64, byte: &u8| (number << 8) | u64::from(*byte);
    bytes.iter().fold(0, shift)
}

/// A number given as text, where the column is one: as text it would be compared as a double, and
/// its digits taken for bits.
fn number(column: &ReplicaColumn, text: &[u8]) -> Option<Param> {
    let text = std::str::from_utf8(text).ok()?;
    match column.class {
        Class::Integer | Class::Bit => text
            .parse()
            .map(Param::Int)
            .or_else(|_| text.parse().map(Param::UInt))
            .ok(),
        Class::Float | Class::Double => {
            let real = real_for(column, text.parse().ok()?).ok()?;
            Some(Param::Double(real))
        }
        _ => None,
    }
}

/// A finite number with the column's precision: a comparison with more would find nothing.
pub(super) fn real_for(column: &ReplicaColumn, real: f64) -> Result<f64> {
    if !real.is_finite() {
        return Err(refused(
            column,
            "is not a finite number, which the engine cannot store",
        ));
    }
    Ok(if column.class == Class::Float {
        f64::from(real as f32)
    } else {
        real
    })
}

/// Text that is valid in the session's character set, unless the column takes any bytes.
pub(super) fn utf8<'a>(column: &ReplicaColumn, text: &'a [u8]) -> Result<&'a [u8]> {
    if column.class != Class::Binary && std::str::from_utf8(text).is_err() {
        return Err(refused(column, "is a text that is not valid UTF-8"));
    }
    Ok(text)
}

pub(super) fn unchanged(column: &ReplicaColumn) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Internal,
        format!(
            "column {}: a value is needed that was not sent",
            column.name
        ),
    )
}

fn refused(column: &ReplicaColumn, what: &str) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Data,
        format!("column {}: a value {what}", column.name),
    )
}

/// A placeholder of the column's own type. The cast stands on the constant's side, so that indexes
/// are used; without it decimals and dates would be compared as doubles or texts.
fn placeholder(column: &ReplicaColumn) -> Cow<'static, str> {
    match &column.class {
        Class::Decimal { precision, scale } => {
            format!("CAST(? AS DECIMAL({precision},{scale}))").into()
        }
        Class::Date => "CAST(? AS DATE)".into(),
        Class::DateTime => "CAST(? AS DATETIME(6))".into(),
        Class::Time => "CAST(? AS TIME(6))".into(),
        Class::Json => "CAST(? AS JSON)".into(),
        _ => "?".into(),
    }
}

/// Compares a key column, never NULL and exact by its collation, with a parameter.
pub(super) fn key_equals(column: &ReplicaColumn) -> String {
    format!("{} = {}", quote(&column.name), placeholder(column))
}

/// Compares any column with a parameter, byte by byte for texts: most collations hold `a` and `A`,
/// or `a` and `a `, to be equal.
pub(super) fn same(column: &ReplicaColumn) -> String {
    let name = quote(&column.name);
    match column.class {
        Class::Text => {
            format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY) <=> CAST(? AS BINARY)")
        }
        Class::Bit => format!("CAST({name} AS UNSIGNED) <=> CAST(? AS UNSIGNED)"),
        _ => format!("{name} <=> {}", placeholder(column)),
    }
}
