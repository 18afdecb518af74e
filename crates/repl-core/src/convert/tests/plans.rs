//! Plans: identity, refusals, key lengths, exclusion, errors.

use super::{Engine, Rule, column, convert, plan_of, schema};
use crate::convert::{
    Allowance, ConvertOptions, Exclusion, Fidelity, MysqlFlavor, Refusal, TablePlan,
    table_collisions,
};
use crate::row::{Row, Value};
use crate::schema::{Column, Identity, TableName, TableSchema, TypeDetail};
use crate::select::TablePattern;

fn keyed(engine: Engine, columns: Vec<Column>, key: &[usize]) -> TableSchema {
    let mut schema = schema(engine, columns);
    schema.identity = Identity::Key(key.to_vec());
    schema
}

fn types(plan: &TablePlan) -> Vec<&str> {
    plan.schema()
        .columns
        .iter()
        .map(|column| column.type_name.as_str())
        .collect()
}

fn plain(schema: &TableSchema, target: Engine) -> Result<TablePlan, Vec<Refusal>> {
    TablePlan::new(schema, target, &ConvertOptions::default())
}

#[test]
fn rows_between_like_engines_are_untouched() {
    for engine in Engine::ALL {
        let schema = schema(engine, vec![column("c", "whatever")]);
        let plan = plain(&schema, engine).unwrap();
        assert!(plan.is_identity());
        assert_eq!(plan.schema(), &schema);
        let row = Row::from_values([Value::Text(b"\xff\0")].into_iter());
        let out = plan.row(&row).unwrap();
        // Shared, not copied.
        assert_eq!(out.encoded().as_ptr(), row.encoded().as_ptr());
    }
}

#[test]
fn null_and_unchanged_stay() {
    let plan = plan_of(Engine::Postgres, Engine::Mysql, "bigint", &[]);
    for value in [Value::Null, Value::Unchanged] {
        assert_eq!(convert(&plan, value).unwrap().to_vec().unwrap(), [value]);
    }
}

#[test]
fn details_tell_what_names_do_not() {
    let labels = vec!["a".into()];
    let domain = |base: &str, detail| TypeDetail::Domain {
        base: base.into(),
        detail,
    };
    let label = TypeDetail::Enum { labels };
    let columns = vec![
        column("e", "app.mood").with_detail(label.clone()),
        column("d", "app.price").with_detail(domain("numeric(8,2)", None)),
        column("de", "app.m2").with_detail(domain("app.mood", Some(Box::new(label)))),
        column("a", "app.list").with_detail(TypeDetail::Array {
            element: "app.mood".into(),
        }),
    ];
    let schema = schema(Engine::Postgres, columns);
    let plan = plain(&schema, Engine::Mysql).unwrap();
    assert_eq!(
        types(&plan),
        ["varchar(63)", "decimal(8,2)", "varchar(63)", "longtext"]
    );
}

#[test]
fn the_target_schema_is_of_the_target() {
    let columns = vec![
        column("a", "int4"),
        column("b", "text"),
        column("c", "date"),
    ];
    let source = keyed(Engine::Postgres, columns, &[2, 0]);
    let options = ConvertOptions {
        exclude: vec![Exclusion {
            table: Some(TablePattern::parse("public.*", "public").unwrap()),
            column: "b".into(),
        }],
        ..ConvertOptions::default()
    };
    let plan = TablePlan::new(&source, Engine::Mysql, &options).unwrap();
    assert_eq!(plan.schema().engine, "mysql");
    assert_eq!(plan.schema().id, source.id);
    assert_eq!(plan.schema().incarnation, source.incarnation);
    assert_eq!(plan.schema().identity, Identity::Key(vec![1, 0]));
    assert_eq!(types(&plan), ["int", "date"]);
    let row = Row::from_values(
        [
            Value::Text(b"1"),
            Value::Text(b"x"),
            Value::Text(b"2024-01-01"),
        ]
        .into_iter(),
    );
    assert_eq!(
        plan.row(&row).unwrap().to_vec().unwrap(),
        [Value::Integer(1), Value::Text(b"2024-01-01")]
    );
    // Between like engines too.
    let same = TablePlan::new(&source, Engine::Postgres, &options).unwrap();
    assert!(!same.is_identity());
    assert_eq!(
        same.row(&row).unwrap().to_vec().unwrap(),
        [Value::Text(b"1"), Value::Text(b"2024-01-01")]
    );
}

#[test]
fn key_columns_have_lengths_that_fit_an_index() {
    let text = || column("k", "text");
    let single = keyed(Engine::Postgres, vec![text(), column("v", "text")], &[0]);
    let plan = plain(&single, Engine::Mysql).unwrap();
    assert_eq!(types(&plan), ["varchar(767)", "longtext"]);
    assert_eq!(plan.columns()[0].fidelity, Fidelity::ValueDependent);
    let long = "é".repeat(767);
    let fits = Row::from_values([Value::Text(long.as_bytes()), Value::Null].into_iter());
    assert!(plan.row(&fits).is_ok());
    let longer = format!("{long}x");
    let row = Row::from_values([Value::Text(longer.as_bytes()), Value::Null].into_iter());
    let error = plan.row(&row).unwrap_err();
    assert!(error.reason.contains("768 characters"), "{}", error.reason);

    let pair = keyed(
        Engine::Postgres,
        vec![
            column("a", "character varying(20)"),
            column("b", "text"),
            column("c", "bytea"),
            column("d", "bigint"),
        ],
        &[0, 1, 2, 3],
    );
    let plan = plain(&pair, Engine::Mysql).unwrap();
    assert_eq!(
        types(&plan),
        ["varchar(20)", "varchar(371)", "varbinary(1488)", "bigint"]
    );
    let bytes = 4 * 20 + 4 * 371 + 1488 + 8 + 3 * 3 + 1;
    assert!(bytes <= 3072, "{bytes}");
}

#[test]
fn other_unique_keys_are_bounded_too() {
    let schema = schema(
        Engine::Sqlite,
        vec![column("a", "TEXT"), column("b", "TEXT")],
    );
    let options = ConvertOptions::default();
    let keys = [vec!["b".to_owned()]];
    let plan = TablePlan::with_keys(&schema, Engine::Mysql, &options, &keys).unwrap();
    assert_eq!(types(&plan), ["longtext", "varchar(767)"]);
}

#[test]
fn keys_no_index_holds_are_refused() {
    let wide: Vec<Column> = (0..17)
        .map(|n| column(&format!("c{n}"), "bigint"))
        .collect();
    let source = keyed(Engine::Postgres, wide, &(0..17).collect::<Vec<_>>());
    assert!(plain(&source, Engine::Mysql).is_ok(), "MariaDB allows 32");
    let options = ConvertOptions {
        mysql: MysqlFlavor::Mysql,
        ..ConvertOptions::default()
    };
    let refusals = TablePlan::new(&source, Engine::Mysql, &options).unwrap_err();
    assert!(refusals[0].reason.contains("16 columns"), "{refusals:?}");

    let decimals: Vec<Column> = (0..32).map(|n| column(&format!("c{n}"), "text")).collect();
    let source = keyed(Engine::Postgres, decimals, &(0..32).collect::<Vec<_>>());
    let plan = plain(&source, Engine::Mysql).unwrap();
    assert!(
        types(&plan)
            .iter()
            .all(|t| ["varchar(23)", "varchar(24)"].contains(t)),
        "{:?}",
        types(&plan)
    );
}

#[test]
fn rows_with_many_short_texts_stay_within_the_row_limit() {
    let columns = (0..200)
        .map(|n| column(&format!("c{n}"), "character varying(255)"))
        .collect();
    let source = schema(Engine::Postgres, columns);
    let plan = plain(&source, Engine::Mysql).unwrap();
    let bytes: usize = types(&plan)
        .iter()
        .map(|t| if *t == "varchar(255)" { 1022 } else { 12 })
        .sum();
    assert!(bytes <= 65_535 && types(&plan)[0] == "varchar(255)");
}

#[test]
fn refusals_name_everything_and_what_to_do() {
    let columns = vec![
        column("a", ""),
        column("B", "TEXT"),
        column("b", "TEXT"),
        column(&"n".repeat(64), "TEXT"),
        column("", "TEXT"),
    ];
    let source = schema(Engine::Sqlite, columns);
    let refusals = plain(&source, Engine::Mysql).unwrap_err();
    let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    assert_eq!(refusals.len(), 3, "{texts:?}");
    let untyped = refusals.iter().find(|r| r.column == "a").unwrap();
    assert_eq!(
        untyped.remedy,
        "declare that its text form may be carried: allow = [{ table = \"public.t\", column = \
         \"a\", rule = \"text\" }], or leave the column out: exclude = [{ table = \"public.t\", \
         column = \"a\" }]"
    );
    assert!(
        texts.iter().any(|t| t.contains(
            "`b` (TEXT) of table public.t cannot be carried to \
        MySQL/MariaDB: its name and `B` differ in case only"
        )),
        "{texts:?}"
    );
    // PostgreSQL tells the two apart, but not names beyond 63 bytes.
    let refusals = plain(&source, Engine::Postgres).unwrap_err();
    assert_eq!(refusals.len(), 3);
    assert!(refusals.iter().any(|r| r.reason.contains("64 bytes")));
    let mut odd = source.clone();
    odd.table = TableName::new("public", "Odd.Table");
    let refusals = plain(&odd, Engine::Mysql).unwrap_err();
    let untyped = refusals.iter().find(|r| r.column == "a").unwrap();
    assert!(
        untyped
            .remedy
            .contains(r#"table = "\"public\".\"Odd.Table\"""#),
        "{untyped}"
    );
    let unknown = TableSchema {
        engine: "oracle".into(),
        ..source
    };
    assert!(
        plain(&unknown, Engine::Mysql).unwrap_err()[0]
            .reason
            .contains("oracle")
    );
    let mysql = schema(Engine::Mysql, vec![column("a", "int")]);
    assert!(plain(&mysql, Engine::Sqlite).is_err());
}

#[test]
fn rules_do_not_touch_keys() {
    let columns = vec![column("k", "date"), column("v", "date")];
    let source = keyed(Engine::Postgres, columns, &[0]);
    let allow = |column: Option<&str>| ConvertOptions {
        allow: vec![Allowance {
            table: None,
            column: column.map(str::to_owned),
            source_type: Some("DATE".into()),
            rule: Rule::Nearest,
        }],
        ..ConvertOptions::default()
    };
    let plan = TablePlan::new(&source, Engine::Mysql, &allow(None)).unwrap();
    let infinite = Value::Text(b"infinity");
    let date = Value::Text(b"2024-01-01");
    let row = |k, v| Row::from_values([k, v].into_iter());
    assert!(plan.row(&row(date, infinite)).is_ok());
    assert_eq!(plan.row(&row(infinite, date)).unwrap_err().column, "k");
    let refusals = TablePlan::new(&source, Engine::Mysql, &allow(Some("k"))).unwrap_err();
    assert!(refusals[0].reason.contains("different keys equal"));
    let excluded = ConvertOptions {
        exclude: vec![Exclusion {
            table: None,
            column: "k".into(),
        }],
        ..ConvertOptions::default()
    };
    let refusals = TablePlan::new(&source, Engine::Mysql, &excluded).unwrap_err();
    assert!(refusals[0].reason.contains("identified by it"));
}

#[test]
fn null_is_no_rule_for_columns_without_null() {
    let mut columns = vec![column("a", "date")];
    columns[0].nullable = false;
    let source = schema(Engine::Postgres, columns);
    let options = ConvertOptions {
        allow: vec![Allowance {
            table: None,
            column: Some("a".into()),
            source_type: None,
            rule: Rule::Null,
        }],
        ..ConvertOptions::default()
    };
    let refusals = TablePlan::new(&source, Engine::Mysql, &options).unwrap_err();
    assert!(refusals[0].reason.contains("NOT NULL"));
}

#[test]
fn errors_tell_the_reason_and_keep_the_value_apart() {
    let plan = plan_of(Engine::Postgres, Engine::Mysql, "numeric", &[]);
    let secret = "1234567".repeat(20);
    let error = convert(&plan, Value::Text(secret.as_bytes())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "column `c`: the value has more than 35 digits before the point"
    );
    assert!(!error.to_string().contains("1234567"));
    assert!(error.shown.starts_with("'1234567") && error.shown.len() < 60);
    assert!(error.remedy.contains("rule = \"text\""), "{}", error.remedy);
}

#[test]
fn tables_that_would_be_one_are_found() {
    let names = ["a.T", "b.t", "a.t"].map(|name| {
        let (schema, name) = name.split_once('.').unwrap();
        TableName::new(schema, name)
    });
    assert!(table_collisions(Engine::Postgres, &names).is_empty());
    for engine in [Engine::Mysql, Engine::Sqlite] {
        let found = table_collisions(engine, &names);
        assert_eq!(found, [(names[0].clone(), names[2].clone())]);
    }
}

/// Prints values per second; run it alone, by name.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let types = [
        "bigint",
        "text",
        "numeric(10,2)",
        "timestamp with time zone",
        "boolean",
        "bytea",
    ];
    let columns = types.iter().map(|name| column(name, name)).collect();
    let source = schema(Engine::Postgres, columns);
    let values: [&[u8]; 6] = [
        b"123456789",
        b"some text of usual length",
        b"1234.50",
        b"2024-03-31 01:30:00.123456+00",
        b"t",
        b"\\xdeadbeefdeadbeef",
    ];
    let row = Row::from_values(values.map(Value::Text).into_iter());
    for target in [Engine::Mysql, Engine::Sqlite] {
        let plan = plain(&source, target).unwrap();
        let started = std::time::Instant::now();
        let rounds = 300_000;
        for _ in 0..rounds {
            std::hint::black_box(plan.row(&row).unwrap());
        }
        let rate = f64::from(rounds * 6) / started.elapsed().as_secs_f64();
        println!("to {target}: {:.1} million values/s", rate / 1e6);
    }
}
