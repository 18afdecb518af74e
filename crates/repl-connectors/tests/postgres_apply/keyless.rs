//! Tables without a key: multisets of rows, types without equality included.

use repl_core::ErrorKind;
use repl_core::change::Before;

use crate::fixture::*;

const DDL: &str = "CREATE TABLE t (f float8, j json, p point, x xml, b box, a text[])";

fn table() -> std::sync::Arc<repl_core::batch::Route> {
    route(
        "t",
        &[
            "f double precision",
            "j json",
            "p point",
            "x xml",
            "b box",
            "a text[]",
        ],
    )
}

const ZERO: &[&str] = &[
    "0",
    "{\"a\": 1}",
    "(1,2)",
    "<a/>",
    "(1,1),(0,0)",
    "{a,NULL,\"\"}",
];
const MINUS: &[&str] = &[
    "-0",
    "{\"a\": 1}",
    "(1,2)",
    "<a/>",
    "(1,1),(0,0)",
    "{a,NULL,\"\"}",
];
const NULLS: &[&str] = &["~", "~", "~", "~", "~", "~"];
const EMPTY: &[&str] = &["~", "{}", "~", "", "~", "{}"];

#[tokio::test]
async fn just_so_many_of_each() {
    let mut replica = Replica::new(DDL).await;
    let t = table();
    replica
        .net(copies(&t, &[(ZERO, 3), (MINUS, 2), (NULLS, 4), (EMPTY, 1)]))
        .await
        .unwrap();
    replica
        .net(copies(
            &t,
            &[(ZERO, -1), (NULLS, -3), (EMPTY, -1), (MINUS, 1)],
        ))
        .await
        .unwrap();
    let count = "SELECT f::text, count(*) FROM t GROUP BY 1 ORDER BY 1 NULLS LAST";
    assert_eq!(replica.rows(count).await, ["-0|3", "0|2", "~|1"]);
    // One more than there are: nothing happens.
    let error = replica.net(copies(&t, &[(MINUS, -4)])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(
        error.message.contains("expected 4 rows, found 3"),
        "{error}"
    );
    replica.reopen().await;
    replica
        .net(copies(&t, &[(MINUS, -3), (ZERO, -2), (NULLS, -1)]))
        .await
        .unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test]
async fn ordered_changes_touch_one_of_equal_rows() {
    let mut replica = Replica::new(DDL).await;
    let t = table();
    let full = |values: &[&str]| Before::Full(row(values));
    let half: &[&str] = &["0.5", "?", "?", "?", "?", "?"];
    replica
        .ordered(
            &t,
            vec![
                insert(&t, ZERO),
                insert(&t, ZERO),
                insert(&t, ZERO),
                insert(&t, NULLS),
                insert(&t, NULLS),
                update(&t, full(ZERO), half),
                delete(&t, full(ZERO)),
                delete(&t, full(NULLS)),
            ],
        )
        .await
        .unwrap();
    let all = "SELECT f, j, p FROM t ORDER BY f NULLS LAST";
    let kept = ["0|{\"a\": 1}|(1,2)", "0.5|{\"a\": 1}|(1,2)", "~|~|~"];
    assert_eq!(replica.rows(all).await, kept);
    let error = replica
        .ordered(&t, vec![delete(&t, full(MINUS))])
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.key.unwrap().starts_with("f=-0"));
}

#[tokio::test]
async fn many_rows_and_partitions() {
    let mut replica = Replica::new(
        "CREATE TABLE t (a int, b text) PARTITION BY LIST (a); \
         CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); \
         CREATE TABLE t2 PARTITION OF t DEFAULT",
    )
    .await;
    let t = route("t", &["a integer", "b text"]);
    let mut change = copies(&t, &[]);
    change.multiset = (0..30_000)
        .map(|n| (row(&[&(n % 5).to_string(), &(n / 10).to_string()]), 2))
        .collect();
    replica.net(change.clone()).await.unwrap();
    for (_, count) in &mut change.multiset {
        *count = -1;
    }
    replica.net(change).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["30000"]);
}

#[tokio::test]
async fn a_table_without_columns() {
    let mut replica = Replica::new("CREATE TABLE t ()").await;
    let t = route("t", &[]);
    replica.net(copies(&t, &[(&[], 9)])).await.unwrap();
    replica.net(copies(&t, &[(&[], -4)])).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["5"]);
}
