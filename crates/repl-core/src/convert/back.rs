//! The way back: rows of a table that conversion made, in the form of the table it was made from.
//!
//! What conversion wrote comes back as it was, value by value. What applications have written there
//! since and has no such form (text in a column of numbers) is passed on as text: who cannot hold it
//! refuses it, with its row, and nobody else is held up.

use bytes::Bytes;

use super::Engine;
use super::encode::{Encoder, encode};
use super::kind::{Kind, Lite};
use super::mapping::Fidelity;
use super::options::{Allowance, ConvertOptions, Rule};
use super::plan::TablePlan;
use crate::change::Change;
use crate::codec::{Malformed, put_u64};
use crate::row::{Row, Value, put_value};
use crate::schema::{Column, Identity, TableSchema};

/// Converts the rows of one shape of a table back into its form.
#[derive(Clone, Debug)]
pub struct Back {
    form: TableSchema,
    /// For each column of the form.
    columns: Vec<BackColumn>,
    /// Columns of the rows that come.
    width: usize,
}

#[derive(Clone, Debug)]
struct BackColumn {
    /// Position in the rows that come.
    at: usize,
    way: Way,
    /// How values of the form get there; none where the form did not have the column.
    there: Option<Encoder>,
}

/// How a value comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From SQLite's storage classes to PostgreSQL's text, by the form's type.
    Pg(PgText),
    /// From PostgreSQL's text to SQLite's storage classes.
    Lite(Lite),
    /// A column that the form did not have: as for any replica of the form's engine.
    New(Encoder),
}

/// What PostgreSQL's text of a type looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PgText {
    /// `t` and `f`.
    Truth,
    /// Hexadecimal.
    Bytes,
    /// Shortest digits, of four bytes or eight.
    Float { single: bool },
    /// With the zone `+00`.
    Instant,
    /// `$1,234.50`.
    Money,
    /// As it is stored.
    Same,
}

impl Back {
    /// The way from `own`, a shape at a node of another engine, to `form`; `options` are those by which
    /// the node's table was made. Columns that the form does not have are added to it, those that are
    /// not there any more are left out.
    pub fn new(own: &TableSchema, form: &TableSchema, options: &ConvertOptions) -> Back {
        let there = TablePlan::new(form, engine(own), options).ok();
        let mut columns = Vec::new();
        let mut shape = Vec::new();
        let mut used = vec![false; own.columns.len()];
        for (index, column) in form.columns.iter().enumerate() {
            let at = own
                .columns
                .iter()
                .position(|one| same(&one.name, &column.name));
            let made = there.as_ref().and_then(|plan| plan.columns().get(index));
            let fits = |at: &usize| {
                let target = made.map(|made| made.target_type.as_str());
                target.is_some_and(|target| same(target, &own.columns[*at].type_name))
            };
            let Some(at) = at.filter(fits) else { continue };
            let Some(way) = way(form, column) else {
                continue;
            };
            used[at] = true;
            let there = made.map(|made| made.encoder);
            columns.push(BackColumn { at, way, there });
            shape.push(column.clone());
        }
        for (at, column) in own.columns.iter().enumerate().filter(|(at, _)| !used[*at]) {
            if let Some((encoder, added)) = added(own, at, column, engine(form)) {
                columns.push(BackColumn {
                    at,
                    way: Way::New(encoder),
                    there: None,
                });
                shape.push(added);
            }
        }
        let schema = TableSchema {
            identity: identity(own, form, &columns),
            columns: shape,
            ..form.clone()
        };
        Back {
            form: schema,
            columns,
            width: own.columns.len(),
        }
    }

    /// The form.
    pub fn form(&self) -> &TableSchema {
        &self.form
    }

    /// One row image.
    ///
    /// # Errors
    /// When the image is damaged or of another shape.
    pub fn row(&self, row: &Row) -> Result<Row, Malformed> {
        let values: Vec<Value<'_>> = row.values()?.collect::<Result<_, _>>()?;
        if values.len() != self.width {
            return Err(Malformed("a row of another width than its schema"));
        }
        let mut out = Vec::with_capacity(row.encoded().len() + 16);
        put_u64(&mut out, self.columns.len() as u64);
        for column in &self.columns {
            match values[column.at] {
                value @ (Value::Null | Value::Unchanged) => put_value(&mut out, value),
                value => column.way.put(value, &mut out),
            }
        }
        Ok(Row::from_encoded(Bytes::from(out)))
    }

    /// The key of an image in the form, as a row image of the node; NULL in every other column. None where it
    /// cannot be told exactly: there is no such key there, or it does not come back as it was.
    ///
    /// # Errors
    /// When the image is damaged.
    pub fn key_there(&self, image: &Row) -> Result<Option<Row>, Malformed> {
        let values = image.to_vec()?;
        let key = self.form.key_columns();
        let mut there = vec![vec![]; self.width];
        for &column in key {
            let (Some(to), Some(value)) = (self.columns.get(column), values.get(column)) else {
                return Err(Malformed("a key of another width than its schema"));
            };
            let out = &mut there[to.at];
            let encoded = to.there.as_ref().map(|encoder| match value {
                Value::Null | Value::Unchanged => false,
                value => encode(encoder, *value, false, out).is_ok(),
            });
            if encoded != Some(true) {
                return Ok(None);
            }
        }
        let mut out = Vec::new();
        put_u64(&mut out, self.width as u64);
        for value in there {
            match value.is_empty() {
                true => put_value(&mut out, Value::Null),
                false => out.extend(value),
            }
        }
        let there = Row::from_encoded(Bytes::from(out));
        let same = self.row(&there)?.key(key)? == image.key(key)?;
        Ok(same.then_some(there))
    }

    /// A change with its row images.
    ///
    /// # Errors
    /// As [`Back::row`].
    pub fn change(&self, change: Change) -> Result<Change, Malformed> {
        change.map_rows(|row| self.row(row))
    }
}

/// What speaks against writing to the table that `plan` makes of `form`: (column, why), in words that
/// follow its name.
pub fn objections(form: &TableSchema, plan: &TablePlan) -> Vec<(String, String)> {
    let columns = form.columns.iter().zip(plan.columns());
    let why = |column: &Column, made: &super::ColumnPlan| {
        if made.excluded {
            return Some(
                "is left out there ([node.convert] exclude): new rows would lack it".to_owned(),
            );
        }
        if made.fidelity == Fidelity::DeclaredLossy || made.allowed.text {
            return Some("is carried there with a declared loss ([node.convert] allow)".to_owned());
        }
        match Kind::of(engine(form), column) {
            Some(Kind::Lite(Lite::Number)) => Some(format!(
                "({}) is {} there, which takes more digits than a number of SQLite has",
                column.type_name, made.target_type
            )),
            _ => None,
        }
    };
    columns
        .filter_map(|(column, made)| Some((column.name.clone(), why(column, made)?)))
        .collect()
}

/// Columns of `form` of which it cannot be told by looking whether a text is how PostgreSQL would print
/// the value ([`super::shape`]): nodes may come to hold the same in different spellings.
pub fn spelled(form: &TableSchema) -> Vec<String> {
    let many = |column: &&Column| match Kind::of(engine(form), column) {
        Some(Kind::Form(_)) => column.type_name != "uuid",
        Some(Kind::Time(_)) => true,
        _ => false,
    };
    let columns = form.columns.iter().filter(many);
    columns
        .map(|column| format!("{} ({})", column.name, column.type_name))
        .collect()
}

fn engine(schema: &TableSchema) -> Engine {
    Engine::from_name(&schema.engine).unwrap_or(Engine::Postgres)
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

fn way(form: &TableSchema, column: &Column) -> Option<Way> {
    Some(match Kind::of(engine(form), column)? {
        Kind::Lite(lite) => Way::Lite(lite),
        Kind::Bool => Way::Pg(PgText::Truth),
        Kind::Bytes => Way::Pg(PgText::Bytes),
        Kind::Float4 => Way::Pg(PgText::Float { single: true }),
        Kind::Float8 => Way::Pg(PgText::Float { single: false }),
        Kind::TimestampTz(_) => Way::Pg(PgText::Instant),
        Kind::Money => Way::Pg(PgText::Money),
        _ => Way::Pg(PgText::Same),
    })
}

/// A column that the form does not have, as the form's engine would hold it.
fn added(own: &TableSchema, at: usize, column: &Column, form: Engine) -> Option<(Encoder, Column)> {
    let alone = TableSchema {
        columns: vec![column.clone()],
        identity: Identity::FullRow,
        ..own.clone()
    };
    let as_text = ConvertOptions {
        allow: vec![Allowance {
            table: None,
            column: None,
            source_type: None,
            rule: Rule::Text,
        }],
        ..ConvertOptions::default()
    };
    let plan = TablePlan::new(&alone, form, &ConvertOptions::default())
        .or_else(|_| TablePlan::new(&alone, form, &as_text))
        .ok()?;
    let made = plan.columns().first()?;
    let nullable = own.columns[at].nullable;
    Some((
        made.encoder,
        Column::new(&column.name, &made.target_type, 0, nullable),
    ))
}

/// The form's identity, if it is still that of the table.
fn identity(own: &TableSchema, form: &TableSchema, columns: &[BackColumn]) -> Identity {
    let place = |at: &usize| columns.iter().position(|column| column.at == *at);
    let Identity::Key(key) = &own.identity else {
        return Identity::FullRow;
    };
    let Some(key) = key.iter().map(place).collect::<Option<Vec<usize>>>() else {
        return Identity::FullRow;
    };
    let mut sorted = key.clone();
    sorted.sort_unstable();
    match &form.identity {
        Identity::Key(known) => {
            let mut known_sorted = known.clone();
            known_sorted.sort_unstable();
            Identity::Key(if known_sorted == sorted {
                known.clone()
            } else {
                key
            })
        }
        Identity::FullRow => Identity::Key(key),
    }
}

impl Way {
    fn put(self, value: Value<'_>, out: &mut Vec<u8>) {
        match self {
            Way::Pg(text) => text.put(value, out),
            Way::Lite(lite) => put_class(lite, value, out),
            Way::New(encoder) => {
                let start = out.len();
                if encode(&encoder, value, false, out).is_err() {
                    out.truncate(start);
                    put_plain(value, out);
                }
            }
        }
    }
}

impl PgText {
    fn put(self, value: Value<'_>, out: &mut Vec<u8>) {
        match (self, value) {
            (PgText::Truth, Value::Integer(0)) => put_value(out, Value::Text(b"f")),
            (PgText::Truth, Value::Integer(1)) => put_value(out, Value::Text(b"t")),
            (PgText::Bytes, Value::Blob(bytes)) => {
                let mut text = String::with_capacity(bytes.len() * 2 + 2);
                text.push_str("\\x");
                push_digits(bytes, &mut text);
                put_value(out, Value::Text(text.as_bytes()));
            }
            (PgText::Float { single }, Value::Real(real)) => {
                let text = match single {
                    true => float_text(f64::from(real as f32), &format!("{:e}", real as f32), 6),
                    false => float_text(real, &format!("{real:e}"), 15),
                };
                put_value(out, Value::Text(text.as_bytes()));
            }
            (PgText::Instant, Value::Text(text)) => {
                let (body, era) = match text.strip_suffix(b" BC") {
                    Some(body) => (body, &b" BC"[..]),
                    None => (text, &b""[..]),
                };
                match body.strip_suffix(b"+00:00") {
                    Some(local) => put_value(out, Value::Text(&[local, b"+00", era].concat())),
                    None => put_value(out, Value::Text(text)),
                }
            }
            (PgText::Money, Value::Text(text)) => {
                let printed = std::str::from_utf8(text).ok().and_then(money_text);
                let text = printed.as_ref().map_or(text, |text| text.as_bytes());
                put_value(out, Value::Text(text));
            }
            (_, value) => put_plain(value, out),
        }
    }
}

/// Whatever it is, as text.
fn put_plain(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Integer(integer) => put_value(out, Value::Text(integer.to_string().as_bytes())),
        Value::Real(real) => {
            let text = float_text(real, &format!("{real:e}"), 15);
            put_value(out, Value::Text(text.as_bytes()));
        }
        Value::Blob(bytes) => {
            let mut text = String::from("X'");
            push_digits(bytes, &mut text);
            text.push('\'');
            put_value(out, Value::Text(text.as_bytes()));
        }
        other => put_value(out, other),
    }
}

fn push_digits(bytes: &[u8], text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// As PostgreSQL prints a number of that many sure digits; `shortest` is Rust's `{:e}` of it, which has
/// the same digits.
fn float_text(real: f64, shortest: &str, digits: i32) -> String {
    if real.is_nan() {
        return "NaN".to_owned();
    }
    if real.is_infinite() {
        return if real > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= digits {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let all: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let point = exponent + 1;
    if point <= 0 {
        return format!("{sign}0.{}{all}", "0".repeat(point.unsigned_abs() as usize));
    }
    let point = point.unsigned_abs() as usize;
    match all.len() > point {
        true => format!("{sign}{}.{}", &all[..point], &all[point..]),
        false => format!("{sign}{all}{}", "0".repeat(point - all.len())),
    }
}

/// As PostgreSQL prints an amount in the C locale.
fn money_text(amount: &str) -> Option<String> {
    let (sign, digits) = match amount.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", amount),
    };
    let (whole, cents) = digits.split_once('.')?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(cents) || cents.len() != 2 {
        return None;
    }
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    Some(format!("{sign}${grouped}.{cents}"))
}

/// PostgreSQL's text as the value SQLite would hold.
fn put_class(lite: Lite, value: Value<'_>, out: &mut Vec<u8>) {
    let Value::Text(bytes) = value else {
        return put_value(out, value);
    };
    let text = std::str::from_utf8(bytes).ok();
    let real = |text: &str| match text {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        "NaN" => None,
        text => text.parse().ok(),
    };
    let held = match lite {
        Lite::Integer => text.and_then(|text| text.parse().ok()).map(Value::Integer),
        Lite::Boolean => match bytes {
            b"t" => Some(Value::Integer(1)),
            b"f" => Some(Value::Integer(0)),
            _ => None,
        },
        // A column of REAL has no -0.
        Lite::Real => text.and_then(real).map(|real| Value::Real(real + 0.0)),
        Lite::Number | Lite::Other => text.and_then(number),
        Lite::Blob => {
            let start = out.len();
            if encode(&Encoder::PgBytes { most: u32::MAX }, value, false, out).is_ok() {
                return;
            }
            out.truncate(start);
            None
        }
        Lite::Text | Lite::Any => None,
    };
    put_value(out, held.unwrap_or(value));
}

/// What SQLite makes of a text in a column of NUMERIC affinity; none where it stays text.
fn number(text: &str) -> Option<Value<'static>> {
    let numeric = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if !numeric || text.is_empty() {
        return None;
    }
    if let Ok(integer) = text.parse() {
        return Some(Value::Integer(integer));
    }
    let real: f64 = text.parse().ok()?;
    // An integer that a double holds exactly is stored as one.
    let whole = real as i64;
    let exact = whole as f64 == real && real.abs() < 9_007_199_254_740_992.0;
    Some(if exact {
        Value::Integer(whole)
    } else {
        Value::Real(real)
    })
}
