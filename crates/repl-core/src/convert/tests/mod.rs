//! The value layer against tables of boundary values, properties and noise.

mod back;
mod cells;
mod ddl;
mod document;
mod fuzz;
mod plans;
mod properties;

use super::{Allowance, ConvertError, ConvertOptions, Engine, Rule, TablePlan};
use crate::row::{Row, Value};
use crate::schema::{Column, Identity, SchemaId, TableName, TableSchema};

/// A table without a key.
pub(super) fn schema(engine: Engine, columns: Vec<Column>) -> TableSchema {
    TableSchema {
        id: SchemaId(7),
        engine: engine.name().into(),
        table: TableName::new("public", "t"),
        incarnation: "1".into(),
        columns,
        identity: Identity::FullRow,
        generated: Vec::new(),
    }
}

pub(super) fn column(name: &str, type_name: &str) -> Column {
    Column::new(name, type_name, 0, true)
}

/// A plan for one nullable column of that type.
pub(super) fn plan_of(
    source: Engine,
    target: Engine,
    type_name: &str,
    rules: &[Rule],
) -> TablePlan {
    let options = ConvertOptions {
        allow: rules
            .iter()
            .map(|rule| Allowance {
                table: None,
                column: None,
                source_type: None,
                rule: *rule,
            })
            .collect(),
        ..ConvertOptions::default()
    };
    TablePlan::new(
        &schema(source, vec![column("c", type_name)]),
        target,
        &options,
    )
    .unwrap_or_else(|refusals| panic!("{type_name}: {refusals:?}"))
}

/// One value through a plan of one column.
pub(super) fn convert(plan: &TablePlan, value: Value<'_>) -> Result<Row, ConvertError> {
    plan.row(&Row::from_values([value].into_iter()))
}

/// A value as the tables of cells write it.
pub(super) fn written(value: Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Unchanged => "unchanged".into(),
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => format!("t:{}", text.replace(' ', "␠").replace('\0', "␀")),
            Err(_) => format!("tx:{}", hex(text)),
        },
        Value::Integer(integer) => format!("i:{integer}"),
        Value::Real(real) => format!("r:{real:?}"),
        Value::Blob(bytes) => format!("b:{}", hex(bytes)),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap())
        .collect()
}
