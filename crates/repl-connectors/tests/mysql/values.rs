//! Values arrive exactly, by every way in, or are refused.

use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::batch::NetTable;
use repl_core::row::{Row, Value};

use crate::fixture::*;

/// Type, value in, and what the server shows of it.
fn cases() -> Vec<(&'static str, Value<'static>, &'static str)> {
    let text = |text: &'static str| Value::Text(text.as_bytes());
    vec![
        ("tinyint", Value::Integer(-128), "-128"),
        ("bigint", Value::Integer(i64::MIN), "-9223372036854775808"),
        (
            "bigint unsigned",
            text("18446744073709551615"),
            "18446744073709551615",
        ),
        (
            "decimal(65,30)",
            text("12345678901234567890123456789012345.123456789012345678901234567890"),
            "12345678901234567890123456789012345.123456789012345678901234567890",
        ),
        ("decimal(10,2)", text("-0.10"), "-0.10"),
        (
            "double",
            Value::Real(1.797_693_134_862_315_7e308),
            "1.7976931348623157e308",
        ),
        ("double", Value::Real(5e-324), "5e-324"),
        ("double", Value::Real(0.1), "0.1"),
        ("float", Value::Real(0.5), "0.5"),
        (
            "varchar(30)",
            text("tab\tnl\ncr\rnul\0bs\\N'\"`;--"),
            "tab\tnl\ncr\rnul\0bs\\N'\"`;--",
        ),
        ("varchar(30)", text("\u{1F600} ä ß"), "\u{1F600} ä ß"),
        ("varchar(30)", text(""), ""),
        ("varchar(30)", text("trailing  "), "trailing  "),
        ("varchar(30)", text("\\N"), "\\N"),
        ("longtext", text("NULL"), "NULL"),
        (
            "longblob",
            Value::Blob(b"\0\xff\x80\\\t\n'"),
            "\0\u{fffd}\u{fffd}\\\t\n'",
        ),
        ("varbinary(4)", Value::Blob(b""), ""),
        ("bit(10)", Value::Integer(513), "\u{2}\u{1}"),
        ("date", text("0001-01-01"), "0001-01-01"),
        ("date", text("9999-12-31"), "9999-12-31"),
        (
            "datetime(6)",
            text("1970-01-01 00:00:00.000001"),
            "1970-01-01 00:00:00.000001",
        ),
        (
            "timestamp(6)",
            text("2038-01-19 03:14:07.999999"),
            "2038-01-19 03:14:07.999999",
        ),
        ("time(6)", text("-838:59:58.999999"), "-838:59:58.999999"),
        ("year", Value::Integer(1901), "1901"),
        ("enum('a','b,''c')", text("b,'c"), "b,'c"),
        ("set('x','y')", text("x,y"), "x,y"),
        (
            "json",
            text(r#"{"a": [1, "\u0000ä", null]}"#),
            r#"{"a": [1, "\u0000ä", null]}"#,
        ),
    ]
}

/// One row goes as parameters, many by LOAD DATA.
#[tokio::test]
async fn values_are_exact_by_every_way_in() {
    let cases = cases();
    let columns: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(at, (ty, _, _))| format!("c{at} {ty} NULL"))
        .collect();
    let create = format!(
        "CREATE TABLE t (id int PRIMARY KEY, {}) CHARACTER SET utf8mb4",
        columns.join(", ")
    );
    let mut replica = Replica::new(&[&create]).await;
    let mut shape = vec!["*id int".to_owned()];
    shape.extend(
        cases
            .iter()
            .enumerate()
            .map(|(at, (ty, _, _))| format!("c{at} : {ty}")),
    );
    let shape: Vec<&str> = shape.iter().map(String::as_str).collect();
    let t = replica.route("t", &shape);
    replica.fit_ok(&t).await;
    let make = |id: i64, nulls: bool| {
        let values = cases
            .iter()
            .map(|(_, value, _)| if nulls { Value::Null } else { *value });
        let all: Vec<Value<'_>> = std::iter::once(Value::Integer(id)).chain(values).collect();
        Row::from_values(all.into_iter())
    };
    let mut one = NetTable::new(Arc::clone(&t));
    one.inserts = vec![make(0, false), make(1, true)];
    replica.net(one).await.unwrap();
    let mut many = NetTable::new(Arc::clone(&t));
    many.inserts = (2..400).map(|id| make(id, false)).collect();
    replica.net(many).await.unwrap();
    // Through the staging table, from NULL.
    let mut staged = NetTable::new(Arc::clone(&t));
    staged.inserts = (400..600).map(|id| make(id, true)).collect();
    replica.net(staged).await.unwrap();
    let mut staged = NetTable::new(Arc::clone(&t));
    staged.updates = (400..600).map(|id| make(id, false)).collect();
    replica.net(staged.clone()).await.unwrap();
    replica.rewrite(staged).await.unwrap();
    replica.run("SET time_zone = '+00:00'").await;
    for (at, (ty, _, shown)) in cases.iter().enumerate() {
        for id in [0, 2, 399, 450] {
            let sql = format!("SELECT c{at} FROM t WHERE id = {id}");
            let found = replica.rows(&sql).await.concat();
            let number = |text: &str| text.parse::<f64>().ok();
            let equal = found == *shown
                || (ty.starts_with('d') && number(&found) == number(shown) && ty != &"date");
            assert!(equal, "{ty} at {id}: {found:?} is not {shown:?}");
        }
        let sql = format!("SELECT count(*) FROM t WHERE c{at} IS NULL");
        assert_eq!(replica.rows(&sql).await, ["1"], "{ty}");
    }
}

#[tokio::test]
async fn values_that_do_not_fit_are_refused_by_every_way_in() {
    for (ty, value) in [
        ("tinyint", Value::Integer(128)),
        ("varchar(3)", Value::Text(b"abcd")),
        ("date", Value::Text(b"2023-02-29")),
        ("enum('a')", Value::Text(b"b")),
        ("int", Value::Text(b"x")),
        ("double", Value::Real(f64::NAN)),
        ("double", Value::Real(f64::INFINITY)),
        ("varchar(30)", Value::Text(b"\xff")),
        ("decimal(5,2)", Value::Text(b"1.005")),
        ("varbinary(2)", Value::Blob(b"abc")),
    ] {
        let create = format!("CREATE TABLE t (id int PRIMARY KEY, v {ty}) CHARACTER SET utf8mb4");
        let mut replica = Replica::new(&[&create]).await;
        let t = replica.route("t", &["*id int", &format!("v : {ty}")]);
        for count in [1, 2, 300] {
            let mut table = NetTable::new(Arc::clone(&t));
            table.inserts = (0..count)
                .map(|id| Row::from_values([Value::Integer(id), value].into_iter()))
                .collect();
            let error = replica.net(table).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Data, "{ty} {count}: {error:?}");
        }
        assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["0"], "{ty}");
    }
}

#[tokio::test]
async fn keys_of_every_type_find_their_rows() {
    let mut replica = Replica::new(&[]).await;
    let long = "18446744073709551615";
    for (at, (ty, one, other)) in [
        (
            "bigint unsigned",
            Value::Text(long.as_bytes()),
            Value::Text(b"18446744073709551614"),
        ),
        (
            "decimal(30,2)",
            Value::Text(b"9007199254740993.01"),
            Value::Text(b"9007199254740993.02"),
        ),
        (
            "datetime(6)",
            Value::Text(b"2020-01-01 00:00:00.000001"),
            Value::Text(b"2020-01-01 00:00:00.000002"),
        ),
        (
            "varbinary(20)",
            Value::Blob(b"\xff\0a"),
            Value::Blob(b"\xff\0A"),
        ),
        ("double", Value::Real(0.1), Value::Real(0.2)),
        ("float", Value::Real(0.1), Value::Real(0.2)),
        (
            "date",
            Value::Text(b"2020-01-01"),
            Value::Text(b"2020-01-02"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        replica
            .run(&format!("CREATE TABLE k{at} (k {ty} PRIMARY KEY, v int)"))
            .await;
        let t = replica.route(&format!("k{at}"), &[&format!("*k : {ty}"), "v int"]);
        let pair = |key, v| Row::from_values([key, Value::Integer(v)].into_iter());
        let mut table = NetTable::new(Arc::clone(&t));
        table.inserts = vec![pair(one, 1), pair(other, 2)];
        replica.net(table).await.unwrap();
        let mut table = NetTable::new(Arc::clone(&t));
        table.updates = vec![pair(one, 11)];
        table.deletes = vec![pair(other, 0)];
        replica.net(table).await.unwrap();
        let mut table = NetTable::new(Arc::clone(&t));
        table.updates = vec![pair(one, 12)];
        replica.rewrite(table).await.unwrap();
        let sql = format!("SELECT v FROM k{at}");
        assert_eq!(replica.rows(&sql).await, ["12"], "{ty}");
    }
}
