//! Tables that change their shape, lose their triggers, come and go.

use repl_connectors::seam::Applier;
use repl_core::ErrorKind;

use crate::harness::{Primary, content, open, table};

const T: &str =
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a'), (2, 'b');";

#[tokio::test(flavor = "multi_thread")]
async fn an_added_column_is_followed_with_the_values_of_its_first_moments() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    // The old triggers record these changes without the new column.
    primary.sql(
        "BEGIN; INSERT INTO t VALUES (3, 'c'); ALTER TABLE t ADD COLUMN w TEXT NOT NULL DEFAULT 'dflt';
         INSERT INTO t VALUES (4, 'd', 'given'), (6, 'gone', 'x'); UPDATE t SET w = 'changed' WHERE id = 1;
         UPDATE t SET id = 5 WHERE id = 4; DELETE FROM t WHERE id = 6; COMMIT;",
    );
    primary.check(&mut replica).await;
    primary.sql("INSERT INTO t VALUES (7, 'e', 'later'); UPDATE t SET w = w || '!';");
    primary.check(&mut replica).await;
    primary.sql(
        "ALTER TABLE t ADD COLUMN g AS (id * 2); ALTER TABLE t ADD COLUMN x INT DEFAULT 5 CHECK (x > 0);
         INSERT INTO t (id, v) VALUES (8, 'f');",
    );
    primary.settle().await;
    replica.follow(&primary).await.unwrap();
    let rows = open(&replica.path)
        .query_row("SELECT group_concat(x), max(w) FROM t", [], |r| {
            Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?))
        })
        .unwrap();
    assert_eq!(rows.0, "5,5,5,5,5,5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_gets_a_column() {
    let primary = Primary::start("CREATE TABLE k (a); INSERT INTO k VALUES (1), (1), (2);").await;
    let mut replica = primary.replica("r").await;
    primary.sql(
        "BEGIN; INSERT INTO k VALUES (1); ALTER TABLE k ADD COLUMN b DEFAULT 0; UPDATE k SET b = a;
         INSERT INTO k VALUES (3, 4); COMMIT; DELETE FROM k WHERE rowid = 1;",
    );
    primary.check(&mut replica).await;
    primary.sql("INSERT INTO k VALUES (1, 1), (9, 9); DELETE FROM k WHERE a = 9;");
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_column_needs_the_operator_at_the_replica() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    primary.sql("BEGIN; UPDATE t SET v = 'x'; ALTER TABLE t RENAME COLUMN v TO w; UPDATE t SET w = 'y'; COMMIT;");
    primary.settle().await;
    let error = replica.follow(&primary).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    assert!(
        error.advice.contains("RENAME COLUMN \"v\" TO \"w\""),
        "{}",
        error.advice
    );
    replica.applier.close().await;
    open(&replica.path)
        .execute_batch("ALTER TABLE t RENAME COLUMN v TO w")
        .unwrap();
    replica = reopened(replica).await;
    primary.sql("INSERT INTO t VALUES (9, 'z')");
    primary.check(&mut replica).await;
}

async fn reopened(mut replica: crate::harness::Replica) -> crate::harness::Replica {
    let state = replica.applier.open().await.unwrap();
    replica.checkpoint = state.checkpoint;
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_table_is_sent_whole() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    primary.sql(
        "BEGIN; UPDATE t SET v = 'before' WHERE id = 1;
         CREATE TABLE new_t (id INTEGER PRIMARY KEY, v, w DEFAULT 3); INSERT INTO new_t (id, v) SELECT * FROM t;
         DROP TABLE t; ALTER TABLE new_t RENAME TO t; UPDATE t SET w = 4, v = 'unseen' WHERE id = 2;
         INSERT INTO t VALUES (10, 'unseen', 1); COMMIT; INSERT INTO t VALUES (11, 'later', 1);",
    );
    primary.check(&mut replica).await;
    primary.sql("UPDATE t SET v = 'seen'; DELETE FROM t WHERE id = 1;");
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_dropped_at_the_replica_is_not_made_up_for() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    primary.sql("ALTER TABLE t ADD COLUMN w DEFAULT 1; UPDATE t SET w = id;");
    primary.check(&mut replica).await;
    open(&replica.path)
        .execute_batch("ALTER TABLE t DROP COLUMN w")
        .unwrap();
    primary.sql("ALTER TABLE t ADD COLUMN x DEFAULT 2; UPDATE t SET x = id WHERE id = 1;");
    primary.settle().await;
    let error = replica.follow(&primary).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    assert!(error.message.contains("no column w"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_rebuilt_in_another_shape_is_copied_anew() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    let before = primary.tables(|t| t.len() == 1).await[0]
        .incarnation
        .clone();
    primary.sql(
        "BEGIN; CREATE TABLE new_t (id INTEGER PRIMARY KEY, other TEXT NOT NULL);
         INSERT INTO new_t SELECT * FROM t; DROP TABLE t; ALTER TABLE new_t RENAME TO t;
         CREATE INDEX t_other ON t (other); COMMIT;",
    );
    primary
        .tables(|t| t.len() == 1 && t[0].incarnation != before)
        .await;
    replica.copy(&primary, "t").await;
    primary.sql("INSERT INTO t VALUES (9, 'later')");
    primary.check(&mut replica).await;
    let indexes: i64 = open(&replica.path)
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name = 't_other'",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(indexes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_triggers_are_noticed() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    primary
        .sql("BEGIN; DROP TRIGGER \"_repl_capture_t_update\"; UPDATE t SET v = 'unseen'; COMMIT;");
    primary.check(&mut replica).await;
    primary.sql("BEGIN; DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (7, 'new'); COMMIT;");
    primary.check(&mut replica).await;
    primary.sql(
        "BEGIN; DROP TRIGGER \"_repl_capture_t_insert\";
         CREATE TRIGGER \"_repl_capture_t_insert\" AFTER INSERT ON t BEGIN SELECT 1; END;
         INSERT INTO t VALUES (8, 'into a false trigger'); COMMIT;",
    );
    primary.check(&mut replica).await;
    assert_eq!(content(&open(&replica.path))["t"].len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_lost_while_nobody_watched_are_noticed() {
    let mut primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    primary.stop().await.unwrap();
    primary.sql("INSERT INTO t VALUES (3, 'recorded'); DROP TRIGGER \"_repl_capture_t_delete\"; DELETE FROM t WHERE id = 1;");
    primary.run().await;
    primary.ends().board.tables();
    primary.tables(|t| !t.is_empty()).await;
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_come_and_go() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    let first = primary.tables(|t| t.len() == 1).await[0]
        .incarnation
        .clone();
    primary.sql("BEGIN; CREATE TABLE u (id INTEGER PRIMARY KEY, v); INSERT INTO u VALUES (1, 'unseen'); COMMIT;");
    replica.copy(&primary, "u").await;
    primary.sql("INSERT INTO u VALUES (2, 'seen')");
    primary.check(&mut replica).await;
    primary.sql("DROP TABLE t");
    primary
        .tables(|t| t.iter().all(|t| t.name != table("t")))
        .await;
    primary
        .sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'second life')");
    let tables = primary.tables(|t| t.len() == 2).await;
    assert_ne!(tables[0].incarnation, first);
    replica.copy(&primary, "t").await;
    primary.check(&mut replica).await;
    primary.sql("ALTER TABLE u RENAME TO u2; INSERT INTO u2 VALUES (3, 'after the rename');");
    primary
        .tables(|t| t.iter().any(|t| t.name == table("u2")))
        .await;
    replica.copy(&primary, "u2").await;
    primary.sql("UPDATE u2 SET v = 'x' WHERE id = 1");
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_index_is_watched_for_replacements() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    primary.sql("BEGIN; CREATE UNIQUE INDEX t_v ON t (v); REPLACE INTO t VALUES (3, 'a'); COMMIT;");
    primary.check(&mut replica).await;
    primary.sql("REPLACE INTO t VALUES (4, 'b')");
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_captured_is_refused_with_the_reason() {
    let mut primary = Primary::create(
        "CREATE VIRTUAL TABLE search USING fts5 (body); CREATE VIEW v AS SELECT 1;
         CREATE TABLE hidden (rowid, _rowid_, oid); CREATE TABLE t (id INTEGER PRIMARY KEY);
         CREATE TABLE secret (id INTEGER PRIMARY KEY);",
    );
    let wide: Vec<String> = (0..1500).map(|n| format!("c{n}")).collect();
    primary.sql(&format!("CREATE TABLE wide ({})", wide.join(", ")));
    primary.exclude("secret");
    primary.run().await;
    let tables = primary.tables(|t| !t.is_empty()).await;
    let captured: Vec<&str> = tables
        .iter()
        .filter(|t| t.schema.is_some())
        .map(|t| t.name.name.as_str())
        .collect();
    assert_eq!(captured, ["t"]);
    for name in ["search", "search_data", "hidden", "wide"] {
        let refused = tables.iter().find(|t| t.name == table(name)).unwrap();
        assert!(
            !refused.refusal.is_empty() && !refused.remedy.is_empty(),
            "{name}"
        );
    }
    assert!(
        tables
            .iter()
            .all(|t| t.name != table("v") && t.name != table("secret"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_column_names_our_trigger() {
    let primary = Primary::start(T).await;
    primary.tables(|t| !t.is_empty()).await;
    let error = primary
        .db
        .execute_batch("ALTER TABLE t DROP COLUMN v")
        .unwrap_err();
    assert!(error.to_string().contains("_repl_capture_t_"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unrelated_schema_changes_do_not_touch_the_triggers() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    let layouts = || -> i64 {
        primary
            .db
            .query_row("SELECT max(id) FROM _repl_layouts", [], |row| row.get(0))
            .unwrap()
    };
    let before = layouts();
    primary.sql(
        "CREATE INDEX i ON t (v); CREATE VIEW v AS SELECT * FROM t; ANALYZE; DROP VIEW v; VACUUM;",
    );
    primary.sql("INSERT INTO t VALUES (5, 'x')");
    primary.check(&mut replica).await;
    assert_eq!(layouts(), before);
}
