//! Every storage class, key and identifier arrives as it was.

use repl_core::schema::Identity;
use rusqlite::params;

use crate::harness::{Primary, cli, content, open, table};

#[tokio::test(flavor = "multi_thread")]
async fn every_storage_class_is_copied_to_the_bit() {
    let primary = Primary::start(
        "CREATE TABLE any (id INTEGER PRIMARY KEY, v);
         CREATE TABLE typed (id INTEGER PRIMARY KEY, i INTEGER, r REAL, t TEXT, b BLOB, n NUMERIC);
         CREATE TABLE strict (id INTEGER PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT;
         INSERT INTO any VALUES (-1, 'there before');",
    )
    .await;
    let mut replica = primary.replica("r").await;
    let values = "(1, NULL), (2, 9223372036854775807), (3, -9223372036854775808), (4, 0.0), (5, 1e400), \
        (6, -1e400), (7, 5e-324), (8, ''), (9, x''), (10, x'00ff'), (11, 'a' || char(0) || 'b'), \
        (12, CAST(x'fffe80' AS TEXT)), (13, '\u{1F600}'), (14, '1'), (15, 1), (16, 1.0), \
        (17, 1.7976931348623157e308), (18, 0.1), (19, 9007199254740993)";
    primary.sql(&format!("INSERT INTO any VALUES {values}"));
    primary.sql(&format!(
        "WITH s(id, v) AS (VALUES {values}) INSERT INTO typed SELECT id, v, v, v, v, v FROM s"
    ));
    primary.sql(&format!(
        "WITH s(id, v) AS (VALUES {values}) INSERT INTO strict (id, a) SELECT * FROM s"
    ));
    primary
        .db
        .execute(
            "INSERT INTO any VALUES (20, ?1), (21, ?2)",
            params![-0.0, f64::NAN],
        )
        .unwrap();
    primary.check(&mut replica).await;
    primary.sql("UPDATE any SET v = (SELECT v FROM any AS o WHERE o.id = (any.id * 7) % 20 + 1)");
    primary.sql("UPDATE typed SET i = t, t = r, r = i, b = n, n = b WHERE id % 2");
    primary.sql("DELETE FROM strict WHERE id % 3 = 0; UPDATE strict SET a = hex(a), b = x'01'");
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_all_kinds_are_found_exactly() {
    let primary = Primary::start(
        "CREATE TABLE composite (a TEXT, b INT, v, PRIMARY KEY (b, a)) WITHOUT ROWID;
         CREATE TABLE nocase (k TEXT PRIMARY KEY COLLATE NOCASE NOT NULL, v);
         CREATE TABLE loose (k PRIMARY KEY NOT NULL, v);
         CREATE TABLE nullable (k TEXT PRIMARY KEY, v);
         CREATE TABLE uniq (k INT NOT NULL UNIQUE, v);
         CREATE TABLE descending (k INTEGER PRIMARY KEY DESC, v);
         CREATE TABLE keyless (a, b);
         CREATE TABLE onlykey (k TEXT PRIMARY KEY) WITHOUT ROWID;",
    )
    .await;
    let tables = primary.tables(|t| t.len() == 8).await;
    let identity = |name: &str| {
        tables
            .iter()
            .find(|t| t.name == table(name))
            .unwrap()
            .schema
            .as_ref()
            .unwrap()
            .identity
            .clone()
    };
    assert_eq!(identity("composite"), Identity::Key(vec![0, 1]));
    assert_eq!(identity("uniq"), Identity::Key(vec![0]));
    for name in ["nullable", "descending", "keyless"] {
        assert_eq!(identity(name), Identity::FullRow, "{name}");
    }
    let mut replica = primary.replica("r").await;
    primary.sql(
        "INSERT INTO composite VALUES ('x', 1, 1), ('x', 2, 2), ('X', 1, 3);
         INSERT INTO nocase VALUES ('a', 1), ('b', 2);
         INSERT INTO loose VALUES (1, 'i'), ('1', 't'), (x'31', 'b'), (1.5, 'r');
         INSERT INTO nullable VALUES (NULL, 1), (NULL, 1), ('k', 2);
         INSERT INTO uniq VALUES (5, 1); INSERT INTO descending VALUES (1, 1), (NULL, 2), (NULL, 2);
         INSERT INTO keyless VALUES (1, 'd'), (1, 'd'), (1, 'd'), (1.0, 'd'), (NULL, NULL);
         INSERT INTO onlykey VALUES ('p'), ('q');",
    );
    primary.check(&mut replica).await;
    primary.sql(
        "UPDATE composite SET a = a || b, b = b + 1;
         UPDATE nocase SET k = 'A' WHERE k = 'a'; UPDATE nocase SET v = v + 1 WHERE k = 'B';
         UPDATE loose SET k = 1.0 WHERE typeof(k) = 'integer'; DELETE FROM loose WHERE k = '1';
         DELETE FROM nullable WHERE rowid = 1; UPDATE uniq SET k = 6;
         UPDATE descending SET v = 3 WHERE rowid = 2;
         DELETE FROM keyless WHERE rowid = 2; UPDATE keyless SET b = 'e' WHERE rowid = 3;
         DELETE FROM onlykey WHERE k = 'p'; UPDATE onlykey SET k = 'r';",
    );
    primary.check(&mut replica).await;
    replica.one_by_one = true;
    primary.sql(
        "UPDATE composite SET a = 'new', v = 7 WHERE b = 3; UPDATE nocase SET k = 'B' WHERE k = 'b';
         UPDATE loose SET k = 1 WHERE typeof(k) = 'real' AND k = 1; INSERT INTO loose VALUES ('1', 9);
         INSERT INTO keyless VALUES (1, 'd'); UPDATE keyless SET a = a + 1; DELETE FROM keyless WHERE a = 2.0;
         DELETE FROM nullable; DELETE FROM composite WHERE b = 2;",
    );
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_are_data() {
    let name = "Robert\"); DROP TABLE \"x`[]';--";
    let quoted = format!("\"{}\"", name.replace('"', "\"\""));
    let primary = Primary::start(&format!(
        "CREATE TABLE {quoted} (\"select\" INTEGER PRIMARY KEY, {quoted} TEXT UNIQUE, rowid INT, \"a b\");
         CREATE UNIQUE INDEX \"in\"\"dex\" ON {quoted} (\"a b\");
         CREATE TABLE x (id INTEGER PRIMARY KEY);"
    ))
    .await;
    let mut replica = primary.replica("r").await;
    primary.sql(&format!(
        "INSERT INTO {quoted} VALUES (1, 'x', 2, 3), (2, 'y', 2, 4); INSERT INTO x VALUES (1);
         INSERT OR REPLACE INTO {quoted} VALUES (3, 'x', 5, 4);
         UPDATE {quoted} SET {quoted} = 'z', rowid = 9;"
    ));
    primary.check(&mut replica).await;
    assert_eq!(content(&primary.db)[name].len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_are_computed_by_the_replica() {
    let primary = Primary::start(
        "CREATE TABLE g (id INTEGER PRIMARY KEY, a INT, b AS (a * 2) VIRTUAL, c AS (a + 1) STORED, d,
                         UNIQUE (b));",
    )
    .await;
    let mut replica = primary.replica("r").await;
    primary.sql("INSERT INTO g (a, d) VALUES (1, 'x'), (2, 'y'); UPDATE g SET a = 5 WHERE id = 1;");
    primary.sql("REPLACE INTO g (a, d) VALUES (5, 'by its generated column');");
    primary.check(&mut replica).await;
    assert_eq!(content(&open(&replica.path))["g"].len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_processes_and_older_libraries_may_write() {
    let primary = Primary::start("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE);").await;
    let mut replica = primary.replica("r").await;
    let written = cli(
        &primary.path,
        "PRAGMA trusted_schema = OFF; INSERT INTO t SELECT value, 'v' || value FROM generate_series(1, 500);
         BEGIN; INSERT OR REPLACE INTO t VALUES (1000, 'v7'); ROLLBACK;
         BEGIN; UPDATE t SET v = 'w' || id WHERE id < 100; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s;
         REPLACE INTO t VALUES (600, 'v300'); COMMIT; DELETE FROM t WHERE id % 10 = 0;",
    );
    if written {
        primary.check(&mut replica).await;
        assert_eq!(content(&primary.db)["t"].len(), 450);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rolled_back_work_leaves_nothing() {
    let primary = Primary::start("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE);").await;
    let mut replica = primary.replica("r").await;
    primary.sql(
        "INSERT INTO t VALUES (1, 1); BEGIN; INSERT INTO t VALUES (2, 2); SAVEPOINT a; DELETE FROM t;
         SAVEPOINT b; INSERT INTO t VALUES (3, 3); RELEASE b; ROLLBACK TO a; INSERT INTO t VALUES (4, 4);
         COMMIT; BEGIN; DELETE FROM t; ROLLBACK;",
    );
    assert!(
        primary
            .db
            .execute_batch("INSERT INTO t VALUES (9, 9), (10, 1)")
            .is_err()
    );
    assert!(
        primary
            .db
            .execute_batch("INSERT OR FAIL INTO t VALUES (11, 11), (12, 1)")
            .is_err()
    );
    assert!(
        primary
            .db
            .execute_batch("BEGIN; DELETE FROM t; INSERT OR ROLLBACK INTO t VALUES (1, 1), (1, 1)")
            .is_err()
    );
    primary.check(&mut replica).await;
    let ids: Vec<String> = content(&primary.db)["t"]
        .iter()
        .map(|row| row[0].clone())
        .collect();
    assert_eq!(ids, ["i1", "i11", "i2", "i4"]);
}
