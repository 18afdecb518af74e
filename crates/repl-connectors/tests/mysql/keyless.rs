//! Tables without a key: exactly the right number of exactly equal rows.

use repl_core::ErrorKind;
use repl_core::change::Before;

use crate::fixture::*;

const TABLE: &str = "CREATE TABLE t (a varchar(20), n int, d decimal(10,2), f float, \
    at datetime(6)) CHARACTER SET utf8mb4";
const COLUMNS: [&str; 5] = [
    "a varchar(20)",
    "n int",
    "d decimal(10,2)",
    "f float",
    "at datetime(6)",
];
const AT: &str = "2020-02-29 23:59:59.999999";

#[tokio::test]
async fn exactly_as_many_copies_as_asked_for() {
    let mut replica = Replica::new(&[TABLE]).await;
    let t = replica.route("t", &COLUMNS);
    let full: &[&str] = &["a", "#1", "1.50", "0.1", AT];
    let upper: &[&str] = &["A", "#1", "1.50", "0.1", AT];
    let blank: &[&str] = &["a ", "#1", "1.50", "0.1", AT];
    let nulls: &[&str] = &["~", "~", "~", "~", "~"];
    replica
        .net(copies(&t, &[(full, 3), (upper, 1), (blank, 1), (nulls, 2)]))
        .await
        .unwrap();
    replica
        .net(copies(&t, &[(full, -2), (blank, -1), (nulls, -1)]))
        .await
        .unwrap();
    let sql = "SELECT HEX(a), count(*) FROM t GROUP BY HEX(a) ORDER BY 1";
    assert_eq!(replica.rows(sql).await, ["~|1", "41|1", "61|1"]);
    for (gone, count) in [(full, -2), (blank, -1)] {
        let error = replica.net(copies(&t, &[(gone, count)])).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict);
    }
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["3"]);
}

#[tokio::test]
async fn ordered_changes_touch_one_copy() {
    let mut replica = Replica::new(&[TABLE]).await;
    let t = replica.route("t", &COLUMNS);
    let old: &[&str] = &["a", "#1", "~", "~", "~"];
    replica.net(copies(&t, &[(old, 3)])).await.unwrap();
    replica
        .ordered(
            &t,
            vec![
                update(&t, Before::Full(row(old)), &["b", "#2", "?", "?", "?"]),
                delete(&t, Before::Full(row(old))),
            ],
        )
        .await
        .unwrap();
    assert_eq!(
        replica.rows("SELECT a, n FROM t ORDER BY a").await,
        ["a|1", "b|2"]
    );
    let error = replica
        .ordered(
            &t,
            vec![delete(&t, Before::Full(row(&["A", "#1", "~", "~", "~"])))],
        )
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
}
