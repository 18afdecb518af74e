//! The way back.

use super::super::back::{Back, objections, spelled};
use super::super::{ConvertOptions, Engine, TablePlan};
use crate::row::{Row, Value};
use crate::schema::{Column, Identity, SchemaId, TableName, TableSchema};

fn schema(engine: &str, columns: &[(&str, &str)]) -> TableSchema {
    TableSchema {
        id: SchemaId(1),
        engine: engine.into(),
        table: TableName::new("public", "t"),
        incarnation: "1".into(),
        columns: columns
            .iter()
            .map(|(name, type_name)| Column::new(*name, *type_name, 0, true))
            .collect(),
        identity: Identity::Key(vec![0]),
        generated: Vec::new(),
    }
}

/// There by the plan, and back again.
fn round(engine: &str, target: Engine, type_name: &str, value: Value<'_>) {
    let form = schema(engine, &[("k", type_name)]);
    let options = ConvertOptions::default();
    let plan = TablePlan::new(&form, target, &options).unwrap();
    let back = Back::new(plan.schema(), &form, &options);
    assert_eq!(back.form(), &form, "{type_name}");
    let row = Row::from_values([value].into_iter());
    let there = plan.row(&row).unwrap();
    assert_eq!(
        back.row(&there).unwrap(),
        row,
        "{type_name} {value:?} by {there:?}"
    );
}

#[test]
fn keys_are_told_there_as_the_rows_hold_them_or_not_at_all() {
    for (engine, target, type_name, value, wanted) in [
        (
            "postgres",
            Engine::Sqlite,
            "bigint",
            Value::Text(b"-5"),
            Some(Value::Integer(-5)),
        ),
        (
            "postgres",
            Engine::Sqlite,
            "boolean",
            Value::Text(b"t"),
            Some(Value::Integer(1)),
        ),
        (
            "postgres",
            Engine::Sqlite,
            "bytea",
            Value::Text(b"\\x00ff"),
            Some(Value::Blob(b"\x00\xff")),
        ),
        (
            "postgres",
            Engine::Sqlite,
            "timestamp with time zone",
            Value::Text(b"2024-02-29 10:00:00.5+00"),
            Some(Value::Text(b"2024-02-29 10:00:00.5+00:00")),
        ),
        // Comes back as 5, and as x00.
        (
            "postgres",
            Engine::Sqlite,
            "bigint",
            Value::Text(b"05"),
            None,
        ),
        (
            "postgres",
            Engine::Sqlite,
            "bytea",
            Value::Text(b"\\x0F"),
            None,
        ),
        (
            "postgres",
            Engine::Sqlite,
            "bigint",
            Value::Text(b"x"),
            None,
        ),
        ("postgres", Engine::Sqlite, "bigint", Value::Null, None),
        (
            "sqlite",
            Engine::Postgres,
            "INTEGER",
            Value::Integer(i64::MIN),
            Some(Value::Text(b"-9223372036854775808")),
        ),
        (
            "sqlite",
            Engine::Postgres,
            "BLOB",
            Value::Blob(b"\x00\xff"),
            Some(Value::Text(b"\\x00ff")),
        ),
        (
            "sqlite",
            Engine::Postgres,
            "INTEGER",
            Value::Real(1.5),
            None,
        ),
        (
            "sqlite",
            Engine::Postgres,
            "TEXT",
            Value::Text(b"a\0b"),
            None,
        ),
        (
            "sqlite",
            Engine::Postgres,
            "TEXT",
            Value::Text(b"\x80"),
            None,
        ),
        ("sqlite", Engine::Postgres, "TEXT", Value::Blob(b"a"), None),
    ] {
        let mut form = schema(engine, &[("v", "bigint"), ("k", type_name)]);
        form.identity = Identity::Key(vec![1]);
        let options = ConvertOptions::default();
        let plan = TablePlan::new(&form, target, &options).unwrap();
        // The node's own table has its columns in another order.
        let mut own = plan.schema().clone();
        own.columns.reverse();
        own.identity = Identity::Key(vec![0]);
        let back = Back::new(&own, &form, &options);
        let image = Row::from_values([Value::Null, value].into_iter());
        let there = back.key_there(&image).unwrap();
        let wanted = wanted.map(|value| Row::from_values([value, Value::Null].into_iter()));
        assert_eq!(there, wanted, "{type_name} {value:?}");
    }
}

#[test]
fn values_of_postgres_come_back_from_sqlite_as_they_were() {
    for (type_name, texts) in [
        ("boolean", &["t", "f"][..]),
        ("bigint", &["0", "-9223372036854775808", "42"]),
        ("xid8", &["18446744073709551615"]),
        ("numeric(10,2)", &["12.50", "-0.10", "NaN"]),
        (
            "numeric",
            &["1e10000", "0.000", "123456789012345678901234567890.5"],
        ),
        ("money", &["$1,234.50", "-$0.99", "$12.00", "$1,234,567.00"]),
        (
            "real",
            &[
                "1.5",
                "1e+06",
                "100000",
                "0.0001",
                "1e-05",
                "3.4028235e+38",
                "Infinity",
                "-0",
            ],
        ),
        (
            "double precision",
            &[
                "1e+15",
                "123456789012345",
                "0.1",
                "-0",
                "1e-05",
                "0.0001",
                "1.7976931348623157e+308",
                "5e-324",
                "-Infinity",
                "100000000000000",
                "12345.678",
            ],
        ),
        ("text", &["", "ä", "12"]),
        ("character(5)", &["ab   "]),
        ("bytea", &["\\x", "\\x00ff10"]),
        ("date", &["2024-02-29", "infinity", "0044-03-15 BC"]),
        (
            "timestamp without time zone",
            &["2024-02-29 10:00:00.000001"],
        ),
        (
            "timestamp with time zone",
            &[
                "2024-02-29 10:00:00+00",
                "2024-02-29 10:00:00.5+00",
                "-infinity",
                "0044-03-15 10:00:00+00 BC",
            ],
        ),
        ("interval", &["1 year 2 mons"]),
        ("uuid", &["6f0b5a3e-5d4f-4c6e-9a57-0d9f4a2b7c11"]),
        ("jsonb", &["{\"a\": 1}"]),
        ("integer[]", &["{1,NULL}"]),
        ("bit(10)", &["0101010101"]),
    ] {
        for text in texts {
            round(
                "postgres",
                Engine::Sqlite,
                type_name,
                Value::Text(text.as_bytes()),
            );
        }
    }
}

#[test]
fn values_of_sqlite_come_back_from_postgres_as_they_were() {
    for (type_name, value) in [
        ("INTEGER", Value::Integer(i64::MIN)),
        ("REAL", Value::Real(1e300)),
        ("REAL", Value::Real(f64::INFINITY)),
        ("BOOLEAN", Value::Integer(1)),
        ("NUMERIC", Value::Integer(7)),
        ("NUMERIC", Value::Real(0.1)),
        ("TEXT", Value::Text(b"12")),
        ("VARCHAR(20)", Value::Text("ä".as_bytes())),
        ("BLOB", Value::Blob(&[0, 255])),
        ("DATETIME", Value::Text(b"2024-02-29")),
        ("DATETIME", Value::Integer(1_700_000_000)),
    ] {
        round("sqlite", Engine::Postgres, type_name, value);
    }
}

#[test]
fn what_has_no_form_is_passed_on_as_text_and_columns_come_and_go() {
    let form = schema(
        "postgres",
        &[("id", "bigint"), ("gone", "text"), ("v", "bytea")],
    );
    let own = schema(
        "sqlite",
        &[
            ("v", "BLOB"),
            ("ID", "INTEGER"),
            ("more", "REAL"),
            ("any", ""),
        ],
    );
    let own = TableSchema {
        identity: Identity::Key(vec![1]),
        ..own
    };
    let back = Back::new(&own, &form, &ConvertOptions::default());
    let names: Vec<(&str, &str)> = back
        .form()
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.type_name.as_str()))
        .collect();
    let wanted = [
        ("id", "bigint"),
        ("v", "bytea"),
        ("more", "double precision"),
        ("any", "text"),
    ];
    assert_eq!(names, wanted);
    assert_eq!(back.form().identity, Identity::Key(vec![0]));
    let row = [
        Value::Text(b"no bytes"),
        Value::Integer(3),
        Value::Real(0.5),
        Value::Blob(&[1]),
    ];
    let told = back.row(&Row::from_values(row.into_iter())).unwrap();
    let values: Vec<Value<'_>> = told.values().unwrap().map(Result::unwrap).collect();
    let wanted = [b"3".as_slice(), b"no bytes", b"0.5", b"X'01'"].map(Value::Text);
    assert_eq!(values, wanted);
    let short = Row::from_values([Value::Null].into_iter());
    assert!(back.row(&short).is_err());
}

#[test]
fn what_cannot_be_written_back_is_named() {
    let options = ConvertOptions::default();
    let form = schema("sqlite", &[("id", "INTEGER"), ("price", "DECIMAL(10,2)")]);
    let plan = TablePlan::new(&form, Engine::Postgres, &options).unwrap();
    let found = objections(&form, &plan);
    assert!(found.len() == 1 && found[0].0 == "price", "{found:?}");
    let form = schema(
        "postgres",
        &[("id", "bigint"), ("doc", "jsonb"), ("t", "text")],
    );
    let plan = TablePlan::new(&form, Engine::Sqlite, &options).unwrap();
    assert!(objections(&form, &plan).is_empty());
    assert_eq!(spelled(&form), ["doc (jsonb)"]);
}
