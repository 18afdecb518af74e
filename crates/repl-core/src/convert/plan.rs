//! The conversion of one table's rows, decided once.

use bytes::Bytes;
use thiserror::Error;

use super::Engine;
use super::draft::Draft;
use super::encode::{Encoder, Reason, encode};
use super::kind::Kind;
use super::mapping::{Fidelity, Meaning};
use super::options::{Allowed, ConvertOptions, Exclusion, MysqlFlavor};
use crate::codec::{Malformed, put_u64};
use crate::row::{Row, Value, put_value};
use crate::schema::{TableName, TableSchema};

/// A table or column that cannot be carried, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.text())]
pub struct Refusal {
    /// The table, by its name at the source.
    pub table: TableName,
    /// The column; empty where the table as a whole is concerned.
    pub column: String,
    /// The column's type at the source.
    pub source_type: String,
    /// The engine that cannot hold it.
    pub target: Engine,
    /// Why.
    pub reason: String,
    /// The configuration or statement that mends it.
    pub remedy: String,
}

impl Refusal {
    fn text(&self) -> String {
        let what = if self.column.is_empty() {
            format!("table {}", self.table)
        } else {
            format!(
                "column `{}` ({}) of table {}",
                self.column,
                shown_type(&self.source_type),
                self.table
            )
        };
        format!(
            "{what} cannot be carried to {}: {}",
            self.target, self.reason
        )
    }
}

fn shown_type(type_name: &str) -> &str {
    if type_name.is_empty() {
        "no declared type"
    } else {
        type_name
    }
}

/// A value that the target cannot represent, or a row that is not of the plan's shape.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("column `{column}`: the value {reason}")]
pub struct ConvertError {
    /// The column.
    pub column: String,
    /// Why, in words that follow "the value"; never the value itself.
    pub reason: String,
    /// The configuration that would let it pass.
    pub remedy: String,
    /// The value, shortened, for the operator's status output only.
    pub shown: String,
}

/// How one column of the source is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnPlan {
    /// Name, at both sides.
    pub name: String,
    /// Type at the source.
    pub source_type: String,
    /// Type at the target.
    pub target_type: String,
    /// How faithfully; see [`Fidelity`].
    pub fidelity: Fidelity,
    /// The representation and its limits; empty where there is nothing to say.
    pub note: String,
    /// Whether the replica does without it.
    pub excluded: bool,
    pub(super) encoder: Encoder,
    pub(super) meaning: Meaning,
    pub(super) kind: Option<Kind>,
    pub(super) allowed: Allowed,
}

/// The conversion of one version of a table for one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePlan {
    pub(super) source: Engine,
    pub(super) target: Engine,
    pub(super) flavor: MysqlFlavor,
    pub(super) identity: bool,
    pub(super) columns: Vec<ColumnPlan>,
    /// Columns the replica does without, generated ones included.
    pub(super) exclude: Vec<Exclusion>,
    /// Columns the replica gets.
    pub(super) kept: usize,
    pub(super) schema: TableSchema,
}

impl TablePlan {
    /// Plans the conversion of `schema` for `target`.
    ///
    /// # Errors
    /// Everything that cannot be carried, not only the first.
    pub fn new(
        schema: &TableSchema,
        target: Engine,
        options: &ConvertOptions,
    ) -> Result<TablePlan, Vec<Refusal>> {
        TablePlan::with_keys(schema, target, options, &[])
    }

    /// As [`TablePlan::new`], for a table that has these unique keys (lists of column names)
    /// besides its identity: at MySQL their text and binary columns need a bounded length.
    ///
    /// # Errors
    /// Everything that cannot be carried, not only the first.
    pub fn with_keys(
        schema: &TableSchema,
        target: Engine,
        options: &ConvertOptions,
        keys: &[Vec<String>],
    ) -> Result<TablePlan, Vec<Refusal>> {
        let draft = Draft {
            schema,
            target,
            options,
        };
        let Some(source) = Engine::from_name(&schema.engine) else {
            return Err(vec![draft.refuse_table(
                format!("its source's engine `{}` is not known", schema.engine),
                "use a release that knows the engine".into(),
            )]);
        };
        draft.plan(source, keys)
    }

    /// The shape of converted rows: engine and types of the target, without excluded columns.
    pub fn schema(&self) -> &TableSchema {
        &self.schema
    }

    /// The engine rows are converted for.
    pub fn target(&self) -> Engine {
        self.target
    }

    /// The engine rows come from.
    pub fn source(&self) -> Engine {
        self.source
    }

    /// Which of the two a MySQL target is.
    pub fn mysql_flavor(&self) -> MysqlFlavor {
        self.flavor
    }

    /// Whether the replica is to do without this column, which its source may generate.
    pub(super) fn excludes(&self, column: &str) -> bool {
        let options = ConvertOptions {
            exclude: self.exclude.clone(),
            ..ConvertOptions::default()
        };
        options.excludes(&self.schema.table, column)
    }

    /// True when rows pass untouched, byte for byte.
    pub fn is_identity(&self) -> bool {
        self.identity
    }

    /// All columns of the source, in the order of its images.
    pub fn columns(&self) -> &[ColumnPlan] {
        &self.columns
    }

    /// Converts one row image. NULL and unchanged columns stay what they are.
    ///
    /// # Errors
    /// The first value the target cannot represent.
    pub fn row(&self, row: &Row) -> Result<Row, ConvertError> {
        if self.identity {
            return Ok(row.clone());
        }
        let values = row.values().map_err(|e| damaged(&e))?;
        if values.len() != self.columns.len() {
            return Err(damaged(&Malformed(
                "a row of another width than its schema",
            )));
        }
        let length = row.encoded().len();
        let mut out = Vec::with_capacity(length + length / 4 + 16);
        put_u64(&mut out, self.kept as u64);
        for (column, value) in self.columns.iter().zip(values) {
            let value = value.map_err(|e| damaged(&e))?;
            match value {
                _ if column.excluded => {}
                Value::Null | Value::Unchanged => put_value(&mut out, value),
                _ => {
                    let start = out.len();
                    if let Err(reason) =
                        encode(&column.encoder, value, column.allowed.nearest, &mut out)
                    {
                        if !column.allowed.null {
                            return Err(self.unrepresentable(column, &reason, value));
                        }
                        out.truncate(start);
                        put_value(&mut out, Value::Null);
                    }
                }
            }
        }
        Ok(Row::from_encoded(Bytes::from(out)))
    }

    #[cold]
    fn unrepresentable(
        &self,
        column: &ColumnPlan,
        reason: &Reason,
        value: Value<'_>,
    ) -> ConvertError {
        let key = self.schema.key_columns().iter().any(|&position| {
            self.schema.columns.get(position).map(|c| &c.name) == Some(&column.name)
        });
        ConvertError {
            column: column.name.clone(),
            reason: reason.to_string(),
            remedy: remedy(&self.schema.table, column, key),
            shown: shown(value),
        }
    }
}

#[cold]
fn damaged(error: &Malformed) -> ConvertError {
    ConvertError {
        column: String::new(),
        reason: format!("cannot be read: {error}"),
        remedy: String::new(),
        shown: String::new(),
    }
}

fn remedy(table: &TableName, column: &ColumnPlan, key: bool) -> String {
    let correct = format!(
        "correct the value at the source (if it came by the stream, the log holds it: then have the \
         table copied anew with replctl resync --tables '{}')",
        pattern(table)
    );
    let rules: &[&str] = if key {
        &["text"]
    } else {
        &["text", "nearest", "null"]
    };
    if key && column.allowed.text {
        return correct;
    }
    format!(
        "{correct}, or declare how to carry it: {} (rule: {}), or leave the column out: {}",
        allow_line(table, &column.name, rules[0]),
        rules.join(", "),
        exclude_line(table, &column.name)
    )
}

pub(super) fn allow_line(table: &TableName, column: &str, rule: &str) -> String {
    format!(
        "allow = [{{ table = {:?}, column = {column:?}, rule = {rule:?} }}]",
        pattern(table)
    )
}

pub(super) fn exclude_line(table: &TableName, column: &str) -> String {
    format!(
        "exclude = [{{ table = {:?}, column = {column:?} }}]",
        pattern(table)
    )
}

/// The pattern that names this table and no other: in quotes unless it is plain.
fn pattern(table: &TableName) -> String {
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match plain(&table.schema) && plain(&table.name) {
        true => table.to_string(),
        false => table.quoted(),
    }
}

/// A value for the operator: shortened, control characters escaped.
fn shown(value: Value<'_>) -> String {
    const LONGEST: usize = 48;
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Unchanged => "?".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(bytes) => {
            let head = &bytes[..bytes.len().min(LONGEST)];
            let more = if head.len() < bytes.len() { "…" } else { "" };
            format!("'{}{more}'", String::from_utf8_lossy(head).escape_debug())
        }
        Value::Blob(bytes) => {
            let head = bytes.iter().take(LONGEST / 2);
            let digits: String = head.map(|byte| format!("{byte:02x}")).collect();
            let more = if bytes.len() > LONGEST / 2 { "…" } else { "" };
            format!("x'{digits}{more}'")
        }
    }
}

impl ColumnPlan {
    /// The values have the type their kind is mapped to, not the text form of a rule.
    pub(super) fn encoder_is_native(&self) -> bool {
        !self.allowed.text
    }
}
