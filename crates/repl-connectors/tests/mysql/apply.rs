//! Changes by key in all styles, few and many, and what must make them fail.

use std::sync::Arc;

use repl_connectors::seam::Style;
use repl_core::ErrorKind;
use repl_core::batch::{NetTable, Step};
use repl_core::change::Before;
use repl_core::row::{Row, Value};

use crate::fixture::*;
use crate::server::{second, shared};

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, a varchar(40), b longtext, n int) \
    CHARACTER SET utf8mb4";
const COLUMNS: [&str; 4] = ["*id bigint", "a varchar(40)", "b longtext", "n int"];

fn full(id: i64, text: &str) -> Row {
    let number = Value::Integer(id * 2);
    Row::from_values(
        [
            Value::Integer(id),
            Value::Text(text.as_bytes()),
            Value::Null,
            number,
        ]
        .into_iter(),
    )
}

#[tokio::test]
async fn few_rows_change_in_every_style() {
    for style in [Style::SetWise, Style::Rewrite] {
        let mut replica = Replica::new(&[TABLE]).await;
        let t = replica.route("t", &COLUMNS);
        let first = net(
            &t,
            &[],
            &[],
            &[
                &["#1", "x", "big", "#1"],
                &["#0", "y", "~", "~"],
                &["#3", "z", "", "#3"],
            ],
        );
        replica
            .apply(&[Step::Net(vec![first])], style)
            .await
            .unwrap();
        let second = net(
            &t,
            &[&["#3", "?", "?", "?"]],
            &[&["#1", "x2", "?", "?"], &["#0", "?", "?", "#7"]],
            &[&["#4", "\\N\t\n'\"`", "~", "#4"]],
        );
        replica
            .apply(&[Step::Net(vec![second])], style)
            .await
            .unwrap();
        assert_eq!(
            replica.rows("SELECT * FROM t ORDER BY id").await,
            ["0|y|~|7", "1|x2|big|1", "4|\\N\t\n'\"`|~|4"],
            "{style:?}"
        );
        assert_eq!(replica.stored_seq().await, "2");
    }
}

/// Through LOAD DATA and the staging table, and where LOAD DATA is not allowed by INSERT.
#[tokio::test]
async fn many_rows_change_in_every_style() {
    for (style, load) in [
        (Style::SetWise, true),
        (Style::Rewrite, true),
        (Style::SetWise, false),
        (Style::Rewrite, false),
    ] {
        let server = if load { shared() } else { second() };
        let mut replica = Replica::on(server, &[TABLE]).await;
        let t = replica.route("t", &COLUMNS);
        let mut table = NetTable::new(Arc::clone(&t));
        table.inserts = (0..5_000).map(|id| full(id, "first\\")).collect();
        replica
            .apply(&[Step::Net(vec![table])], style)
            .await
            .unwrap();
        let mut table = NetTable::new(Arc::clone(&t));
        table.deletes = (0..1_000).map(|id| full(id, "")).collect();
        table.updates = (1_000..4_000)
            .map(|id| {
                let a = if id % 2 == 0 {
                    Value::Unchanged
                } else {
                    Value::Text(b"odd")
                };
                Row::from_values(
                    [Value::Integer(id), a, Value::Text(b"b"), Value::Unchanged].into_iter(),
                )
            })
            .collect();
        table.inserts = (5_000..6_000).map(|id| full(id, "last")).collect();
        replica
            .apply(&[Step::Net(vec![table])], style)
            .await
            .unwrap();
        let sql = "SELECT a, b, count(*), sum(n), min(id), max(id) FROM t GROUP BY a, b \
            ORDER BY a, b";
        assert_eq!(
            replica.rows(sql).await,
            [
                "first\\|~|1000|8999000|4000|4999",
                "first\\|b|1500|7497000|1000|3998",
                "last|~|1000|10999000|5000|5999",
                "odd|b|1500|7500000|1001|3999",
            ],
            "{style:?}"
        );
    }
}

#[tokio::test]
async fn ordered_changes_move_keys() {
    let mut replica = Replica::new(&[TABLE]).await;
    let t = replica.route("t", &COLUMNS);
    let key = |id: &str| Before::Key(row(&[id, "?", "?", "?"]));
    replica
        .ordered(
            &t,
            vec![
                insert(&t, &["#1", "a", "~", "#1"]),
                insert(&t, &["#2", "b", "~", "#2"]),
                update(&t, key("#1"), &["#9", "?", "c", "?"]),
                update(&t, Before::Absent, &["#2", "bb", "?", "?"]),
                delete(&t, key("#2")),
                insert(&t, &["#1", "again", "~", "~"]),
            ],
        )
        .await
        .unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM t ORDER BY id").await,
        ["1|again|~|~", "9|a|c|1"]
    );
}

#[tokio::test]
async fn swapped_unique_values_need_the_rewrite() {
    let mut replica = Replica::new(&["CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, \
        kept int DEFAULT 5, made int AS (u + 1) STORED) CHARACTER SET utf8mb4"])
    .await;
    let t = replica.route("t", &["*id int", "u int"]);
    let values: Vec<Vec<String>> = (0..10)
        .map(|n| vec![format!("#{n}"), format!("#{n}")])
        .collect();
    let mut table = NetTable::new(Arc::clone(&t));
    table.inserts = values.iter().map(|v| row(&[&v[0], &v[1]])).collect();
    replica.net(table).await.unwrap();
    replica.run("UPDATE t SET kept = id").await;
    let mut cycle = NetTable::new(Arc::clone(&t));
    cycle.updates = (0..10)
        .map(|n| row(&[&format!("#{n}"), &format!("#{}", (n + 1) % 10)]))
        .collect();
    let error = replica.net(cycle.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert_eq!(error.code.as_deref(), Some("1062"));
    replica.rewrite(cycle).await.unwrap();
    assert_eq!(
        replica
            .rows("SELECT count(*) FROM t WHERE u = (id + 1) % 10 AND kept = id AND made = u + 1")
            .await,
        ["10"]
    );
}

#[tokio::test]
async fn a_replica_that_differs_is_a_conflict() {
    let mut replica = Replica::new(&[TABLE]).await;
    let t = replica.route("t", &COLUMNS);
    for count in [1, 300] {
        let ids: Vec<i64> = (0..count).collect();
        for style in [Style::SetWise, Style::Rewrite] {
            let mut updates = NetTable::new(Arc::clone(&t));
            updates.updates = ids.iter().map(|&id| full(id, "x")).collect();
            let mut deletes = NetTable::new(Arc::clone(&t));
            deletes.deletes = ids.iter().map(|&id| full(id, "x")).collect();
            for (verb, table) in [("update", updates), ("delete", deletes)] {
                let error = replica
                    .apply(&[Step::Net(vec![table])], style)
                    .await
                    .unwrap_err();
                assert_eq!(error.kind, ErrorKind::Conflict, "{verb} {count} {style:?}");
                assert!(error.message.contains(verb), "{}", error.message);
                let table = format!("{}.t", replica.database);
                assert_eq!(error.table, Some(table));
            }
        }
    }
    replica.run("INSERT INTO t (id) VALUES (150)").await;
    for count in [1, 300] {
        let mut inserts = NetTable::new(Arc::clone(&t));
        inserts.inserts = (150..150 + count).map(|id| full(id, "x")).collect();
        let error = replica.net(inserts).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Constraint, "{count}");
        assert!(error.key.is_some_and(|key| key.contains("150")));
    }
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["1"]);
    assert_eq!(replica.stored_seq().await, "0");
}

/// The same values as before are found too, though the server changes nothing.
#[tokio::test]
async fn updates_that_change_nothing_are_no_conflict() {
    let mut replica = Replica::new(&[TABLE]).await;
    let t = replica.route("t", &COLUMNS);
    let mut table = NetTable::new(Arc::clone(&t));
    table.inserts = (0..50).map(|id| full(id, "x")).collect();
    replica.net(table).await.unwrap();
    for count in [1, 50] {
        let mut same = NetTable::new(Arc::clone(&t));
        same.updates = (0..count).map(|id| full(id, "x")).collect();
        replica.net(same).await.unwrap();
        let mut nothing = NetTable::new(Arc::clone(&t));
        nothing.updates = (0..count)
            .map(|id| row(&[&format!("#{id}"), "?", "?", "?"]))
            .collect();
        replica.net(nothing.clone()).await.unwrap();
        replica.rewrite(nothing).await.unwrap();
    }
}

#[tokio::test]
async fn truncation_is_part_of_the_transaction() {
    let mut replica =
        Replica::new(&["CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, v int)"]).await;
    let t = replica.route("t", &["*id int", "v int"]);
    replica
        .net(net(&t, &[], &[], &[&["#5", "#1"], &["#0", "#0"]]))
        .await
        .unwrap();
    let truncate = Step::Truncate {
        tables: vec![Arc::clone(&t)],
        restart_identity: true,
    };
    let missing = Step::Net(vec![net(&t, &[&["#5", "?"]], &[], &[])]);
    let error = replica
        .apply(&[truncate.clone(), missing], Style::SetWise)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(
        replica.rows("SELECT id FROM t ORDER BY id").await,
        ["0", "5"]
    );
    replica.apply(&[truncate], Style::SetWise).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["0"]);
    replica.run("INSERT INTO t (v) VALUES (1)").await;
    assert_eq!(replica.rows("SELECT id FROM t").await, ["1"]);
}

#[tokio::test]
async fn foreign_keys_do_not_act() {
    let mut replica = Replica::new(&[
        "CREATE TABLE p (id int PRIMARY KEY)",
        "CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p (id) ON DELETE CASCADE)",
    ])
    .await;
    let (p, c) = (
        replica.route("p", &["*id int"]),
        replica.route("c", &["*id int", "p int"]),
    );
    let both = Step::Net(vec![
        net(&c, &[], &[], &[&["#1", "#1"]]),
        net(&p, &[], &[], &[&["#1"]]),
    ]);
    replica.apply(&[both], Style::SetWise).await.unwrap();
    let parent = Step::Net(vec![net(&p, &[&["#1"]], &[], &[])]);
    replica.apply(&[parent], Style::SetWise).await.unwrap();
    assert_eq!(replica.rows("SELECT * FROM c").await, ["1|1"]);
}

#[tokio::test]
async fn timestamps_do_not_update_themselves() {
    let mut replica = Replica::new(&["CREATE TABLE t (id int PRIMARY KEY, v int, \
        at timestamp(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6))"])
    .await;
    let t = replica.route("t", &["*id int", "v int", "at timestamp(6)"]);
    let at = "2001-02-03 04:05:06.000007";
    let ids: Vec<String> = (0..9).map(|n| format!("#{n}")).collect();
    let rows_with = |v: &str, at: &str| ids.iter().map(|id| row(&[id, v, at])).collect();
    let mut table = NetTable::new(Arc::clone(&t));
    table.inserts = rows_with("#1", at);
    replica.net(table).await.unwrap();
    for (v, count) in [("#2", 1), ("#3", 9)] {
        let mut table = NetTable::new(Arc::clone(&t));
        table.updates = rows_with(v, "?");
        table.updates.truncate(count);
        replica.net(table).await.unwrap();
    }
    replica.run("SET time_zone = '+00:00'").await;
    let sql = "SELECT DISTINCT v, at FROM t";
    assert_eq!(replica.rows(sql).await, [format!("3|{at}")]);
}
