//! Noise: nothing panics, and what comes out is a row.

use proptest::prelude::*;

use super::{Engine, Rule, column, schema};
use crate::convert::ddl::{ColumnDescription, TableDescription, ddl};
use crate::convert::{Allowance, ConvertOptions, TablePlan};
use crate::row::{Row, Value};
use crate::schema::TableName;

pub(super) const POSTGRES_TYPES: [&str; 30] = [
    "boolean",
    "smallint",
    "bigint",
    "oid",
    "xid8",
    "numeric(10,2)",
    "numeric",
    "numeric(3,5)",
    "money",
    "real",
    "double precision",
    "text",
    "character varying(5)",
    "character(3)",
    "bytea",
    "date",
    "time without time zone",
    "time with time zone",
    "timestamp(3) without time zone",
    "timestamp with time zone",
    "interval",
    "uuid",
    "jsonb",
    "inet",
    "bit(10)",
    "bit varying",
    "integer[]",
    "int4range",
    "app.mood",
    "((",
];
pub(super) const SQLITE_TYPES: [&str; 10] = [
    "INTEGER",
    "REAL",
    "BOOLEAN",
    "DECIMAL(10,2)",
    "TEXT",
    "VARCHAR(9)",
    "BLOB",
    "DATETIME",
    "JSON",
    "(",
];

/// Text that looks like values, and any bytes.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        "[-+0-9.eE:xXa-fBC $,TINinfinityNaN\\\\]{0,30}".prop_map(String::into_bytes),
        "[0-9]{4,6}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,7})?)?(\\+00)?( BC)?"
            .prop_map(String::into_bytes),
        "-?[0-9]{0,40}\\.?[0-9]{0,40}".prop_map(String::into_bytes),
    ]
}

#[derive(Clone, Debug)]
enum Any {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Integer(i64),
    Real(u64),
    Blob(Vec<u8>),
}

impl Any {
    fn value(&self) -> Value<'_> {
        match self {
            Any::Null => Value::Null,
            Any::Unchanged => Value::Unchanged,
            Any::Text(text) => Value::Text(text),
            Any::Integer(integer) => Value::Integer(*integer),
            Any::Real(bits) => Value::Real(f64::from_bits(*bits)),
            Any::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

fn value() -> impl Strategy<Value = Any> {
    prop_oneof![
        Just(Any::Null),
        Just(Any::Unchanged),
        text().prop_map(Any::Text),
        any::<i64>().prop_map(Any::Integer),
        any::<u64>().prop_map(Any::Real),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Any::Blob),
    ]
}

fn rule() -> impl Strategy<Value = Option<Rule>> {
    prop_oneof![
        Just(None),
        Just(Some(Rule::Text)),
        Just(Some(Rule::Nearest)),
        Just(Some(Rule::Null)),
    ]
}

fn plan(source: Engine, target: Engine, types: &[&str], rule: Option<Rule>) -> TablePlan {
    let columns = types
        .iter()
        .enumerate()
        .map(|(at, name)| column(&format!("c{at}"), name))
        .collect();
    let options = ConvertOptions {
        allow: rule
            .map(|rule| Allowance {
                table: None,
                column: None,
                source_type: None,
                rule,
            })
            .into_iter()
            .collect(),
        ..ConvertOptions::default()
    };
    TablePlan::new(&schema(source, columns), target, &options).unwrap()
}

fn pairs() -> Vec<(Engine, Engine, &'static [&'static str])> {
    vec![
        (Engine::Postgres, Engine::Mysql, &POSTGRES_TYPES),
        (Engine::Postgres, Engine::Sqlite, &POSTGRES_TYPES),
        (Engine::Sqlite, Engine::Postgres, &SQLITE_TYPES),
        (Engine::Sqlite, Engine::Mysql, &SQLITE_TYPES),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Each value alone, in every type of every pair: an error, or a row of one value; NULL and
    /// unchanged stay; a PostgreSQL target gets only text.
    #[test]
    fn any_value_converts_or_is_refused(value in value(), rule in rule()) {
        for (source, target, types) in pairs() {
            for type_name in types {
                let plan = plan(source, target, &[type_name], rule);
                let row = Row::from_values([value.value()].into_iter());
                let Ok(out) = plan.row(&row) else { continue };
                let out = out.to_vec().unwrap();
                prop_assert_eq!(out.len(), 1);
                match (&value, out[0]) {
                    (Any::Null, got) => prop_assert_eq!(got, Value::Null),
                    (Any::Unchanged, got) => prop_assert_eq!(got, Value::Unchanged),
                    (_, got) if target == Engine::Postgres => {
                        prop_assert!(matches!(got, Value::Text(_) | Value::Null));
                    }
                    (_, Value::Real(real)) => prop_assert!(!real.is_nan()),
                    (_, got) => prop_assert!(got != Value::Unchanged),
                }
            }
        }
    }

    /// Rows that are no rows.
    #[test]
    fn any_bytes_are_a_row_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        for (source, target, types) in pairs() {
            let plan = plan(source, target, &types[..3], None);
            if let Ok(row) = plan.row(&Row::from_encoded(bytes.clone().into())) {
                prop_assert_eq!(row.to_vec().unwrap().len(), 3);
            }
        }
    }

    /// Expressions that are none: left out with a note, or translated.
    #[test]
    fn any_expression_is_translated_or_left_out(
        expression in prop_oneof![
            any::<String>(),
            "(\\(|\\)|a|b|'x'|1|-|\\+|\\*| and | or | not | in |=|<|::text|ARRAY\\[|\\]|,|any|between|is null|\\[|\"){0,40}",
        ],
        type_name in any::<String>(),
    ) {
        for (source, target, types) in pairs() {
            let plan = plan(source, target, &types[..2], None);
            let column = ColumnDescription {
                name: "c0".into(),
                type_name: types[0].into(),
                nullable: true,
                default: Some(expression.clone()),
                ..ColumnDescription::default()
            };
            let generated = ColumnDescription {
                name: "g".into(),
                type_name: type_name.clone(),
                generated: Some((expression.clone(), true)),
                ..ColumnDescription::default()
            };
            let description = TableDescription {
                engine: source,
                table: TableName::new("public", "t"),
                columns: vec![column, generated],
                primary_key: Vec::new(),
                uniques: Vec::new(),
                indexes: Vec::new(),
                checks: vec![crate::convert::ddl::CheckDescription {
                    name: String::new(),
                    expression: expression.clone(),
                }],
                foreign_keys: Vec::new(),
            };
            let made = ddl(&description, &plan, &TableName::new("main", "t"), &Clone::clone).unwrap();
            prop_assert_eq!(made.create.len(), 1);
        }
    }
}

#[test]
fn deep_expressions_do_not_exhaust_the_stack() {
    for opening in ["(", "not (", "- ", "array[", "f("] {
        let deep = opening.repeat(100_000);
        assert!(
            crate::convert::ddl::tests_parse(&deep).is_none(),
            "{opening}"
        );
    }
}
