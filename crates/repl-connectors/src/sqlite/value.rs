//! Values between SQLite's storage classes and the change model: one to one, byte for byte.

use repl_core::row::Value;
use repl_core::spelling::Spelt;
use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

/// What SQLite returned, as a value of the change model. TEXT need not be valid UTF-8.
#[inline]
pub(super) fn from_sqlite(value: ValueRef<'_>) -> Value<'_> {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) => Value::Text(text),
        ValueRef::Blob(blob) => Value::Blob(blob),
    }
}

/// A value of the change model as a statement's parameter.
pub(super) struct Bound<'a>(pub(super) Value<'a>);

impl ToSql for Bound<'_> {
    #[inline]
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        bound(self.0)
    }
}

#[inline]
fn bound(value: Value<'_>) -> rusqlite::Result<ToSqlOutput<'_>> {
    Ok(ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(integer) => ValueRef::Integer(integer),
        Value::Real(real) => ValueRef::Real(real),
        Value::Text(text) => ValueRef::Text(text),
        Value::Blob(blob) => ValueRef::Blob(blob),
        Value::Unchanged => {
            return Err(rusqlite::Error::ToSqlConversionFailure(
                "a value that was not sent cannot be written".into(),
            ));
        }
    }))
}

/// A value by itself as a statement's parameter; without one NULL, which no key equals.
pub(super) struct Owned(pub(super) Option<Spelt>);

impl ToSql for Owned {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        bound(self.0.as_ref().map_or(Value::Null, Spelt::value))
    }
}

/// Whether two values are the same in storage class and bits.
#[inline]
pub(super) fn same(a: Value<'_>, b: Value<'_>) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

/// A value as the operator sees it in a key: shortened, control characters escaped.
pub(super) fn shown(value: Value<'_>) -> String {
    const LONGEST: usize = 64;
    let cut = |text: String| -> String {
        if text.chars().count() > LONGEST {
            text.chars().take(LONGEST).chain(['…']).collect()
        } else {
            text
        }
    };
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Unchanged => "?".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(text) => {
            let text = String::from_utf8_lossy(text).escape_debug().to_string();
            format!("'{}'", cut(text))
        }
        Value::Blob(blob) => {
            let hex: String = blob
                .iter()
                .take(LONGEST)
                .map(|b| format!("{b:02x}"))
                .collect();
            format!("x'{}'", cut(hex))
        }
    }
}
