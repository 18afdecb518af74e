//! The canonical form of a row at a replica.
//!
//! Two forms of a value meet here: what the conversion made of the primary's value, and what the
//! replica's server says the column holds. Both are in the classes of the replica's applier
//! (PostgreSQL: text; SQLite: storage classes; MySQL and MariaDB: integers, doubles, bytes, and
//! everything else as text). They are equal exactly when their canonical forms are equal bytes:
//!
//! | column at the replica | canonical form |
//! |---|---|
//! | same engine as the primary | the value itself, byte for byte |
//! | PostgreSQL `double precision` | the 64 bits of the number |
//! | PostgreSQL `numeric` | all digits without an exponent; zeros at the end of the fraction count |
//! | MySQL `decimal` | the digits; zeros at the end of the fraction do not count, the type adds them |
//! | MySQL `time`, `datetime`, `timestamp` | without zeros at the end of the fraction of a second |
//! | SQLite, a column of REAL affinity | the 64 bits of the number; the column itself turns -0 into 0 |
//! | every other | the value itself, byte for byte |
//!
//! NULL, an empty text and an empty BLOB are three different values everywhere.

use std::borrow::Cow;

use bytes::Bytes;

use crate::codec::{Malformed, put_u64};
use crate::convert::Engine;
use crate::row::{Row, Value, put_value};
use crate::schema::TableSchema;

/// How the values of one column become comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As they are.
    Exact,
    /// A number's digits without an exponent, its scale kept.
    Scaled,
    /// A number's digits, zeros at the end of the fraction left away.
    Decimal,
    /// The bits of a double.
    Double,
    /// A time, zeros at the end of the fraction of a second left away.
    Clock,
}

/// The canonical form of one table's rows at one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canon {
    forms: Vec<Form>,
    exact: bool,
    key: Vec<usize>,
}

impl Canon {
    /// For rows of `schema`, the table's shape at the replica, that come from a `source` engine.
    /// A target engine that is not known is compared byte for byte.
    pub fn new(schema: &TableSchema, source: &str) -> Canon {
        let engine = Engine::from_name(&schema.engine);
        let converted = schema.engine != source;
        let form = |type_name: &str| engine.map_or(Form::Exact, |e| form(e, converted, type_name));
        let forms: Vec<Form> = schema.columns.iter().map(|c| form(&c.type_name)).collect();
        Canon {
            exact: forms.iter().all(|form| *form == Form::Exact),
            forms,
            key: schema.key_columns().to_vec(),
        }
    }

    /// Whether rows have a key; without one equal rows are interchangeable and only counted.
    pub fn is_keyed(&self) -> bool {
        !self.key.is_empty()
    }

    /// The row in canonical form. Unchanged columns stay what they are.
    ///
    /// # Errors
    /// When the row is damaged or of another width.
    pub fn row(&self, row: &Row) -> Result<Row, Malformed> {
        if self.exact {
            return Ok(row.clone());
        }
        let values = row.values()?;
        if values.len() != self.forms.len() {
            return Err(Malformed("a row of another width than its schema"));
        }
        let mut out = Vec::with_capacity(row.encoded().len() + 8);
        put_u64(&mut out, values.len() as u64);
        for (form, value) in self.forms.iter().zip(values) {
            put(*form, value?, &mut out);
        }
        Ok(Row::from_encoded(Bytes::from(out)))
    }

    /// What identifies a canonical row: its key, or all of it.
    ///
    /// # Errors
    /// When the row is damaged.
    pub fn key(&self, row: &Row) -> Result<Bytes, Malformed> {
        if self.is_keyed() {
            Ok(match row.key(&self.key)? {
                Cow::Borrowed(slice) => row.encoded().slice_ref(slice),
                Cow::Owned(made) => Bytes::from(made),
            })
        } else {
            Ok(row.encoded().clone())
        }
    }

    /// Positions of the columns in which two canonical rows differ.
    ///
    /// # Errors
    /// When a row is damaged.
    pub fn differing(&self, left: &Row, right: &Row) -> Result<Vec<usize>, Malformed> {
        let (left, right) = (left.to_vec()?, right.to_vec()?);
        let pairs = left.iter().zip(&right).enumerate();
        Ok(pairs
            .filter(|(_, (left, right))| !same(**left, **right))
            .map(|(at, _)| at)
            .collect())
    }
}

/// The canonical row in a form the applier of a replica with this `engine` takes.
///
/// # Errors
/// When the row is damaged.
pub fn applicable(row: &Row, engine: &str) -> Result<Row, Malformed> {
    let mut reals = false;
    for value in row.values()? {
        reals |= matches!(value?, Value::Real(_));
    }
    if !reals || engine != Engine::Postgres.name() {
        return Ok(row.clone());
    }
    let values = row.to_vec()?;
    let texts: Vec<Option<String>> = values
        .iter()
        .map(|value| match value {
            Value::Real(real) if real.is_infinite() => {
                Some(if *real > 0.0 { "Infinity" } else { "-Infinity" }.to_owned())
            }
            Value::Real(real) => Some(format!("{real:?}")),
            _ => None,
        })
        .collect();
    let written = values.iter().zip(&texts).map(|(value, text)| match text {
        Some(text) => Value::Text(text.as_bytes()),
        None => *value,
    });
    Ok(Row::from_values(written))
}

fn same(left: Value<'_>, right: Value<'_>) -> bool {
    match (left, right) {
        (Value::Real(left), Value::Real(right)) => left.to_bits() == right.to_bits(),
        (left, right) => left == right,
    }
}

fn form(engine: Engine, converted: bool, type_name: &str) -> Form {
    let upper = type_name.to_ascii_uppercase();
    match engine {
        Engine::Postgres if converted => match upper.as_str() {
            "DOUBLE PRECISION" => Form::Double,
            "NUMERIC" => Form::Scaled,
            _ => Form::Exact,
        },
        Engine::Postgres => Form::Exact,
        Engine::Sqlite if is_real(&upper) => Form::Double,
        Engine::Sqlite => Form::Exact,
        Engine::Mysql => match upper.split(['(', ' ']).next().unwrap_or_default() {
            "DECIMAL" => Form::Decimal,
            "TIME" | "DATETIME" | "TIMESTAMP" => Form::Clock,
            _ => Form::Exact,
        },
    }
}

/// SQLite's rule of affinity for REAL (<https://sqlite.org/datatype3.html>, section 3.1).
fn is_real(upper: &str) -> bool {
    let has = |part: &str| upper.contains(part);
    let earlier = ["INT", "CHAR", "CLOB", "TEXT", "BLOB"];
    !earlier.into_iter().any(has) && ["REAL", "FLOA", "DOUB"].into_iter().any(has)
}

fn put(form: Form, value: Value<'_>, out: &mut Vec<u8>) {
    let value = match (form, value) {
        (Form::Double, Value::Integer(integer)) => Value::Real(integer as f64),
        // Adding zero turns -0 into 0; PostgreSQL, which keeps it, gives text.
        (Form::Double, Value::Real(real)) => Value::Real(real + 0.0),
        (Form::Double, Value::Text(text)) => number(text).map_or(value, Value::Real),
        (Form::Scaled, Value::Text(text)) => {
            return put_value(out, Value::Text(&expanded(text)));
        }
        (Form::Decimal, Value::Text(text)) => Value::Text(trimmed(text)),
        (Form::Clock, Value::Text(text)) => Value::Text(without_end(text)),
        _ => value,
    };
    put_value(out, value);
}

fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `1.5e-7` as `0.00000015` and `1e3` as `1000`: PostgreSQL stores a numeric written with an
/// exponent with just the digits it stands for.
fn expanded(text: &[u8]) -> Cow<'_, [u8]> {
    let plain = || Cow::Borrowed(text);
    let Some(at) = text.iter().position(|byte| matches!(byte, b'e' | b'E')) else {
        return plain();
    };
    let exponent = std::str::from_utf8(&text[at + 1..]).ok();
    let Some(exponent) = exponent.and_then(|digits| digits.parse::<i32>().ok()) else {
        return plain();
    };
    // The exponents of doubles; anything else is not from a number.
    if exponent.abs() > 400 {
        return plain();
    }
    let (sign, mantissa) = match text[..at].strip_prefix(b"-") {
        Some(rest) => (b"-".as_slice(), rest),
        None => (b"".as_slice(), &text[..at]),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, b"".as_slice()),
    };
    let mut digits = [whole, fraction].concat();
    let mut point = whole.len() as i32 + exponent;
    if point <= 0 {
        digits.splice(
            0..0,
            std::iter::repeat_n(b'0', 1 + point.unsigned_abs() as usize),
        );
        point = 1;
    }
    let point = point as usize;
    if digits.len() < point {
        digits.resize(point, b'0');
    }
    let leading = digits[..point - 1]
        .iter()
        .take_while(|byte| **byte == b'0')
        .count();
    let mut out = sign.to_vec();
    out.extend_from_slice(&digits[leading..point]);
    if digits.len() > point {
        out.push(b'.');
        out.extend_from_slice(&digits[point..]);
    }
    Cow::Owned(out)
}

/// A decimal without zeros at the end of its fraction, and zero without a sign.
fn trimmed(text: &[u8]) -> &[u8] {
    match without_end(text) {
        b"-0" => b"0",
        other => other,
    }
}

fn without_end(text: &[u8]) -> &[u8] {
    if !text.contains(&b'.') {
        return text;
    }
    let zeros = text.iter().rev().take_while(|byte| **byte == b'0').count();
    let kept = &text[..text.len() - zeros];
    kept.strip_suffix(b".").unwrap_or(kept)
}
