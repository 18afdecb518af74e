//! Unique values that move between rows; deferrable and exclusion constraints.

use repl_connectors::seam::Style;
use repl_core::ErrorKind;
use repl_core::batch::{NetTable, Step};

use crate::fixture::*;

#[tokio::test]
async fn swaps_and_cycles_of_unique_values() {
    let mut replica =
        Replica::new("CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE, big text)").await;
    let t = route("t", &["*id integer", "u text", "big text"]);
    let start: [&[&str]; 5] = [
        &["1", "a", "B1"],
        &["2", "b", "B2"],
        &["3", "c", "B3"],
        &["4", "d", "B4"],
        &["5", "e", "B5"],
    ];
    replica.net(net(&t, &[], &[], &start)).await.unwrap();
    let cycle: [&[&str]; 4] = [
        &["1", "b", "?"],
        &["2", "c", "?"],
        &["3", "d", "?"],
        &["4", "a", "new"],
    ];
    let change = || net(&t, &[&["5", "~", "~"]], &cycle, &[&["6", "e", "B6"]]);
    let error = replica.net(change()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    replica.reopen().await;
    replica.rewrite(change()).await.unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM t ORDER BY id").await,
        ["1|b|B1", "2|c|B2", "3|d|B3", "4|a|new", "6|e|B6"]
    );
    // Twice in one transaction.
    let again: [&[&str]; 2] = [&["1", "c", "?"], &["2", "b", "?"]];
    let back: [&[&str]; 2] = [&["1", "b", "?"], &["2", "c", "?"]];
    let steps = [&again, &back].map(|rows| Step::Net(vec![net(&t, &[], rows, &[])]));
    replica.apply(&steps, Style::Rewrite).await.unwrap();
    assert_eq!(
        replica
            .rows("SELECT u FROM t WHERE id < 3 ORDER BY id")
            .await,
        ["b", "c"]
    );
}

#[tokio::test]
async fn unique_values_pass_between_rows_of_a_table_that_settles() {
    let mut replica =
        Replica::new("CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE, big text)").await;
    let t = route("t", &["*id integer", "u text", "big text"]);
    let start: [&[&str]; 4] = [
        &["1", "a", "B1"],
        &["2", "b", "B2"],
        &["3", "c", "B3"],
        &["4", "d", "B4"],
    ];
    replica.net(net(&t, &[], &[], &start)).await.unwrap();
    let settling = |deletes: &[&[&str]], updates: &[&[&str]], inserts: &[&[&str]]| NetTable {
        settling: true,
        ..net(&t, deletes, updates, inserts)
    };
    // A whole row takes what one that is sent in part lets go, and the other way round; those that are not there
    // are not missed.
    let updates: [&[&str]; 4] = [
        &["1", "b", "?"],
        &["2", "c", "whole"],
        &["3", "e", "?"],
        &["8", "x", "?"],
    ];
    let gone: [&[&str]; 2] = [&["4", "~", "~"], &["9", "~", "~"]];
    let change = settling(&gone, &updates, &[&["5", "d", "B5"]]);
    replica.net(change).await.unwrap();
    let all = "SELECT * FROM t ORDER BY id";
    assert_eq!(
        replica.rows(all).await,
        ["1|b|B1", "2|c|whole", "3|e|B3", "5|d|B5"]
    );
    // Among rows that are sent in part.
    let cycle: [&[&str]; 3] = [&["1", "e", "?"], &["3", "b", "?"], &["8", "x", "?"]];
    let error = replica.net(settling(&[], &cycle, &[])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    replica.reopen().await;
    replica.rewrite(settling(&[], &cycle, &[])).await.unwrap();
    assert_eq!(
        replica.rows(all).await,
        ["1|e|B1", "2|c|whole", "3|b|B3", "5|d|B5"]
    );
}

#[tokio::test]
async fn exclusion_constraints() {
    let mut replica = Replica::new(
        "CREATE TABLE t (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&)); \
         CREATE TABLE d (id int PRIMARY KEY, r int4range, live bool, \
         CONSTRAINT no_overlap EXCLUDE USING gist (r WITH &&) WHERE (live) \
         DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let t = route("t", &["*id integer", "r int4range"]);
    replica
        .net(net(&t, &[], &[], &[&["1", "[1,5)"], &["2", "[5,9)"]]))
        .await
        .unwrap();
    let swap: [&[&str]; 2] = [&["1", "[5,9)"], &["2", "[1,5)"]];
    assert!(replica.net(net(&t, &[], &swap, &[])).await.is_err());
    replica.reopen().await;
    replica.rewrite(net(&t, &[], &swap, &[])).await.unwrap();
    assert_eq!(
        replica.rows("SELECT r FROM t ORDER BY id").await,
        ["[5,9)", "[1,5)"]
    );

    let d = route("d", &["*id integer", "r int4range", "live boolean"]);
    let start: [&[&str]; 3] = [
        &["1", "[1,5)", "t"],
        &["2", "[5,9)", "t"],
        &["3", "[1,9)", "f"],
    ];
    replica.net(net(&d, &[], &[], &start)).await.unwrap();
    let swap: [&[&str]; 2] = [&["1", "[5,9)", "t"], &["2", "[1,5)", "t"]];
    replica.net(net(&d, &[], &swap, &[])).await.unwrap();
    let error = replica
        .net(net(&d, &[], &[], &[&["4", "[2,3)", "t"]]))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert!(error.message.contains("no_overlap"), "{error}");
    assert_eq!(replica.rows("SELECT count(*) FROM d").await, ["3"]);
}

#[tokio::test]
async fn deferrable_unique_constraints_are_verified() {
    let mut replica = Replica::new(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int, \
         CONSTRAINT pair UNIQUE (a, b) DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let t = route("t", &["*id integer", "a integer", "b integer"]);
    let start: [&[&str]; 4] = [
        &["1", "1", "1"],
        &["2", "1", "2"],
        &["3", "~", "1"],
        &["4", "~", "1"],
    ];
    replica.net(net(&t, &[], &[], &start)).await.unwrap();
    let swap: [&[&str]; 2] = [&["1", "?", "2"], &["2", "?", "1"]];
    replica.net(net(&t, &[], &swap, &[])).await.unwrap();
    for (style, ordered) in [
        (Style::SetWise, false),
        (Style::Rewrite, false),
        (Style::SetWise, true),
    ] {
        let step = if ordered {
            Step::Ordered(vec![(t.clone(), insert(&t, &["9", "1", "2"]))])
        } else {
            Step::Net(vec![net(&t, &[], &[], &[&["9", "1", "2"]])])
        };
        let error = replica.apply(&[step], style).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Constraint);
        assert!(error.message.contains("pair"), "{error}");
        assert_eq!(error.table.as_deref(), Some("public.t"));
        replica.reopen().await;
    }
    // Violated in between, whole at the end.
    let steps = [
        Step::Net(vec![net(&t, &[], &[], &[&["9", "1", "2"]])]),
        Step::Net(vec![net(&t, &[&["9", "~", "~"]], &[], &[])]),
    ];
    replica.apply(&steps, Style::SetWise).await.unwrap();
    // And the check sees many rows at once.
    let mut table = net(&t, &[], &[], &[]);
    table.inserts = (10..15_000)
        .map(|n| row(&[&n.to_string(), "5", &n.to_string()]))
        .collect();
    replica.net(table).await.unwrap();
}

#[tokio::test]
async fn a_deferrable_primary_key_of_a_table_identified_by_whole_rows() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, a text)").await;
    let t = route("t", &["id integer", "a text"]);
    replica
        .net(copies(&t, &[(&["1", "x"], 1), (&["2", "y"], 1)]))
        .await
        .unwrap();
    // SET id = id + 1.
    replica
        .net(copies(
            &t,
            &[
                (&["1", "x"], -1),
                (&["2", "x"], 1),
                (&["2", "y"], -1),
                (&["3", "y"], 1),
            ],
        ))
        .await
        .unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM t ORDER BY id").await,
        ["2|x", "3|y"]
    );
    let error = replica
        .net(copies(&t, &[(&["3", "z"], 1)]))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
}

/// Where the rows are too many to remember, whole tables are looked at.
#[tokio::test]
async fn deferrable_constraints_are_verified_for_any_number_of_rows() {
    let mut replica = Replica::new(
        "CREATE TABLE t (id int PRIMARY KEY, u int, v text, \
         CONSTRAINT once UNIQUE (u) DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let t = route("t", &["*id integer", "u integer", "v text"]);
    let large = "x".repeat(8 * 1024);
    let rows = |from: u32| -> Vec<[String; 3]> {
        let row = |n: u32| [n.to_string(), n.to_string(), large.clone()];
        (from..from + 2_500).map(row).collect()
    };
    let change = |rows: &[[String; 3]]| {
        let rows: Vec<Vec<&str>> = rows
            .iter()
            .map(|row| row.iter().map(String::as_str).collect())
            .collect();
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        net(&t, &[], &[], &rows)
    };
    replica.net(change(&rows(0))).await.unwrap();
    let mut clashing = rows(2_500);
    clashing[0][1] = "17".into();
    let error = replica.net(change(&clashing)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert!(error.message.contains("once"), "{error}");
    replica.reopen().await;
    replica.net(change(&rows(2_500))).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["5000"]);
}
