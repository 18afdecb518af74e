//! REPLACE in all its forms, with the writer's `recursive_triggers` off and on.

use repl_core::ErrorKind;

use crate::harness::{Primary, Replica, content};

const TABLES: &str = "
    CREATE TABLE t (id INTEGER PRIMARY KEY, a UNIQUE, b TEXT COLLATE NOCASE, c NOT NULL DEFAULT 7, v);
    CREATE UNIQUE INDEX t_b ON t (b);
    CREATE UNIQUE INDEX t_c ON t (c, v);
    CREATE TABLE w (k TEXT, n INT, u UNIQUE, v, PRIMARY KEY (k, n)) WITHOUT ROWID;
    CREATE TABLE declared (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, u UNIQUE ON CONFLICT REPLACE, v);
    CREATE TABLE keyless (u UNIQUE, v);
    CREATE TABLE bare (v);
    CREATE TABLE words (id INTEGER PRIMARY KEY, k UNIQUE NOT NULL DEFAULT word, \"word\", q UNIQUE NOT NULL DEFAULT \"word\");
    CREATE TABLE child (id INTEGER PRIMARY KEY, t REFERENCES t (id) ON DELETE CASCADE);
";

const FORMS: &[&str] = &[
    "INSERT INTO t VALUES (1, 'a', 'b', 1, 0), (2, 'c', 'd', 2, 0), (3, 'e', 'f', 3, 0), (4, NULL, NULL, 4, NULL)",
    "REPLACE INTO t VALUES (1, 'a', 'b', 1, 'same key and values')",
    "INSERT OR REPLACE INTO t VALUES (1, 'c', 'F', 9, 'removes three')",
    "INSERT OR REPLACE INTO t (a, b, c, v) VALUES ('x', 'y', 9, 'no key given')",
    "INSERT OR REPLACE INTO t (a, b, v) VALUES ('x', 'Y', 'no key given, replaces')",
    "INSERT OR REPLACE INTO t (a, c, v) VALUES ('d1', NULL, 'default for NULL')",
    "INSERT OR REPLACE INTO t (a, c, v) VALUES ('d2', NULL, 'default for NULL')",
    "INSERT INTO t VALUES (20, 20, 20, 20, 20), (21, 21, 21, 21, 21), (22, 22, 22, 22, 22), (-1, -1, -1, -1, -1)",
    "INSERT OR REPLACE INTO t (a, b, c, v) VALUES (23, 23, 23, 23)",
    "UPDATE OR REPLACE t SET a = 21 WHERE id = 20",
    "UPDATE OR REPLACE t SET id = 22, b = 22 WHERE id = 20",
    "UPDATE OR REPLACE t SET id = id + 1 WHERE id IN (SELECT id FROM t ORDER BY id DESC LIMIT 3)",
    "UPDATE OR IGNORE t SET a = 'x'",
    "INSERT OR IGNORE INTO t SELECT id, a, b, c, 'ignored' FROM t",
    "INSERT INTO t (id, a, c) VALUES (1, 'upsert', 50) ON CONFLICT DO UPDATE SET v = excluded.a",
    "INSERT INTO t (id, a, c) VALUES (1, 'upsert', 50) ON CONFLICT (id) DO UPDATE SET id = 77, a = 'moved'",
    "INSERT INTO t (id, a, c, v) VALUES (77, 'n', 51, 0) ON CONFLICT DO NOTHING",
    "INSERT OR REPLACE INTO t (id, a, c, v) VALUES (78, 'moved', 52, 0) ON CONFLICT (id) DO UPDATE SET v = 1",
    "REPLACE INTO t SELECT id, a, b, c, 'again' FROM t",
    "REPLACE INTO t SELECT id + 1, a, b, c, v FROM t ORDER BY id",
    "INSERT INTO w VALUES ('a', 1, 1, 0), ('b', 1, 2, 0), ('a', 2, 3, 0)",
    "REPLACE INTO w VALUES ('a', 1, 2, 'removes two')",
    "UPDATE OR REPLACE w SET n = 1, v = 'onto the other' WHERE k = 'a' AND n = 2",
    "UPDATE OR REPLACE w SET u = 5",
    "INSERT INTO declared VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)",
    "INSERT INTO declared VALUES (1, 3, 'two gone')",
    "UPDATE declared SET u = 2 WHERE id = 1",
    "INSERT OR ABORT INTO declared VALUES (9, 9, 9)",
    "INSERT INTO keyless VALUES (1, 1), (2, 2), (NULL, 3), (NULL, 3)",
    "REPLACE INTO keyless VALUES (1, 'new'), (NULL, 3)",
    "REPLACE INTO keyless (rowid, u, v) VALUES (1, 2, 'row number and value'), (3, 7, 7)",
    "UPDATE OR REPLACE keyless SET rowid = 4, u = 8 WHERE u = 7",
    "INSERT INTO bare VALUES (1), (1), (2)",
    "REPLACE INTO bare (rowid, v) VALUES (2, 1), (3, 3), (-1, 4)",
    "REPLACE INTO bare (v) VALUES (4)",
    "UPDATE OR REPLACE bare SET rowid = 1 WHERE rowid = 3",
    "REPLACE INTO words (id, word) VALUES (1, 'x')",
    "REPLACE INTO words (id, k, word, q) VALUES (2, NULL, 'y', NULL)",
    "PRAGMA foreign_keys = ON",
    "INSERT INTO child SELECT id, id FROM t",
    "REPLACE INTO t (id, a, c, v) VALUES (77, 'cascades', 60, 0), (78, 'cascades', 61, 0)",
    "DELETE FROM t WHERE id > 20",
];

async fn run(recursive: bool, one_by_one: bool) {
    let primary = Primary::start(TABLES).await;
    let mut replica: Replica = primary.replica("r").await;
    replica.one_by_one = one_by_one;
    primary
        .db
        .pragma_update(None, "recursive_triggers", recursive)
        .unwrap();
    for form in FORMS {
        // Some forms must fail in their time: what matters is that both sides agree.
        let outcome = primary.db.execute_batch(form);
        println!("{form}: {outcome:?}");
        primary.check(&mut replica).await;
    }
    assert!(!content(&primary.db)["t"].is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_rows_are_deleted() {
    run(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_rows_are_deleted_once_with_recursive_triggers() {
    run(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_rows_are_deleted_in_order() {
    run(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_forms_in_one_transaction() {
    let primary = Primary::start(TABLES).await;
    let mut replica = primary.replica("r").await;
    primary.sql("BEGIN");
    for form in FORMS {
        let _ = primary.db.execute_batch(form);
    }
    primary.sql("COMMIT");
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_shift_and_unique_values_swap() {
    let primary = Primary::start(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u INT UNIQUE);
         INSERT INTO t SELECT value, value FROM generate_series(1, 200);"
            .replace("SELECT value, value FROM generate_series(1, 200)",
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) SELECT i, i FROM n")
            .as_str(),
    )
    .await;
    let mut replica = primary.replica("r").await;
    primary.sql("UPDATE t SET id = -id; UPDATE t SET id = 1 - id;");
    primary.check(&mut replica).await;
    primary.sql(
        "BEGIN; UPDATE t SET u = -1 WHERE id = 2; UPDATE t SET u = 2 WHERE id = 3;
         UPDATE t SET u = 1 WHERE id = 2; COMMIT;",
    );
    primary.sql("BEGIN; UPDATE t SET u = -u; UPDATE t SET u = u + 201; COMMIT;");
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_of_the_application_keep_their_order() {
    let primary = Primary::start(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v INT, touched INT DEFAULT 0);
         CREATE TABLE audit (n INTEGER PRIMARY KEY, what);
         CREATE TRIGGER touch AFTER UPDATE OF v ON t BEGIN
             UPDATE t SET touched = touched + 1 WHERE id = NEW.id; END;
         CREATE TRIGGER born AFTER INSERT ON t BEGIN
             UPDATE t SET touched = 100 WHERE id = NEW.id; INSERT INTO audit (what) VALUES (NEW.id); END;
         CREATE TRIGGER odd BEFORE INSERT ON t WHEN NEW.v < 0 BEGIN SELECT RAISE(IGNORE); END;",
    )
    .await;
    let mut replica = primary.replica("r").await;
    primary.sql(
        "INSERT INTO t (v) VALUES (1), (2), (-3); UPDATE t SET v = v + 1; REPLACE INTO t (id, v) VALUES (1, 5);",
    );
    primary.check(&mut replica).await;
    // A younger trigger fires before ours: what it recorded is put right.
    primary.sql(
        "BEGIN; CREATE TRIGGER younger AFTER UPDATE OF v ON t BEGIN
             UPDATE t SET touched = -NEW.v WHERE id = NEW.id; END;
         UPDATE t SET v = v + 10; INSERT INTO t (v) VALUES (9); COMMIT;",
    );
    primary.check(&mut replica).await;
    primary.sql("UPDATE t SET v = v + 10; DELETE FROM t WHERE id = 2");
    primary.check(&mut replica).await;
    assert_eq!(content(&primary.db)["t"].len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_onto_the_same_table_end_in_the_right_row() {
    let primary = Primary::start(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT UNIQUE, parent TEXT REFERENCES t (code)
             ON UPDATE CASCADE ON DELETE SET NULL);
         INSERT INTO t VALUES (1, 'a', 'a'), (2, 'b', 'a'), (3, 'c', 'b');",
    )
    .await;
    let mut replica = primary.replica("r").await;
    primary.sql("PRAGMA foreign_keys = ON; UPDATE t SET code = 'x' WHERE id = 1; UPDATE t SET code = code || '!';");
    primary.check(&mut replica).await;
    primary.sql("DELETE FROM t WHERE id = 2");
    primary.check(&mut replica).await;
}

/// No trigger can find them. A replica that has such an index stops at the row that takes their place.
#[tokio::test(flavor = "multi_thread")]
async fn rows_replaced_by_way_of_a_partial_or_expression_index_stop_the_replica() {
    for index in [
        "CREATE UNIQUE INDEX i ON t (a) WHERE a > 0",
        "CREATE UNIQUE INDEX i ON t (a + 0)",
    ] {
        let primary = Primary::start(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a INT); {index}; INSERT INTO t VALUES (1, 5), (2, 6);"
        ))
        .await;
        let mut replica = primary.replica("r").await;
        primary.sql("REPLACE INTO t VALUES (3, 5)");
        assert_eq!(content(&primary.db)["t"].len(), 2, "row 1 is gone");
        primary.settle().await;
        let error = replica.follow(&primary).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Constraint, "{index}: {error}");
    }
}
