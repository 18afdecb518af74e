use std::time::Duration;

use anyhow::Result;
use repl_tests::content::{self, TablePair, assert_all_equal, assert_equal};
use repl_tests::pg::PgServer;
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;

const PG_SCHEMA: &str = "
CREATE TABLE public.t (id int PRIMARY KEY, body text, f float8, b bytea);
INSERT INTO t SELECT n, 'row ' || n, n / 3.0, decode('00ff', 'hex') FROM generate_series(1, 3000) n;
INSERT INTO t VALUES (0, '', 0, ''), (-1, NULL, 'NaN', NULL);
CREATE TABLE public.keyless (v text); INSERT INTO keyless VALUES ('x'), ('x'), (NULL);
CREATE SCHEMA \"Odd.schema\"; CREATE TABLE \"Odd.schema\".\"a \"\"t\"\"; --\" (\"Col\"\"umn\" int);
INSERT INTO \"Odd.schema\".\"a \"\"t\"\"; --\" VALUES (1);
CREATE TABLE public.nothing ();
";

/// Each planted difference, the statement that undoes it, and what the report must show.
const PG_DIFFERENCES: [(&str, &str, &str); 8] = [
    (
        "DELETE FROM t WHERE id = 1500",
        "INSERT INTO t VALUES (1500, 'row 1500', 1500 / 3.0, '\\x00ff')",
        "only on the primary: (\"\\\\x00ff\",\"row 1500\",500,1500)",
    ),
    (
        "UPDATE t SET body = 'row 43' WHERE id = 42",
        "UPDATE t SET body = 'row 42' WHERE id = 42",
        "\"row 43\"",
    ),
    (
        "UPDATE t SET body = '' WHERE id = -1",
        "UPDATE t SET body = NULL WHERE id = -1",
        "NaN",
    ),
    (
        "UPDATE t SET body = NULL WHERE id = 0",
        "UPDATE t SET body = '' WHERE id = 0",
        "0,0",
    ),
    (
        "UPDATE t SET f = '-0' WHERE id = 0",
        "UPDATE t SET f = 0 WHERE id = 0",
        "-0",
    ),
    (
        "UPDATE t SET b = '\\x00fe' WHERE id = 7",
        "UPDATE t SET b = '\\x00ff' WHERE id = 7",
        "x00fe",
    ),
    (
        "UPDATE t SET f = f + 1e-13 WHERE id = 1",
        "UPDATE t SET f = 1 / 3.0 WHERE id = 1",
        "0.333333333333",
    ),
    (
        "INSERT INTO keyless VALUES ('x')",
        "DELETE FROM keyless WHERE ctid = (SELECT max(ctid) FROM keyless WHERE v = 'x')",
        "3 rows on the primary, 4 on the replica",
    ),
];

#[test]
fn planted_differences_in_postgresql_are_found_and_shown() -> Result<()> {
    let server = PgServer::builder("content").start()?;
    for database in ["left_side", "right_side"] {
        server.execute(&format!("CREATE DATABASE {database}"))?;
        server.psql(database, repl_tests::pg::Role::Superuser, PG_SCHEMA)?;
    }
    let (left, right) = (
        content::pg(&server, "left_side"),
        content::pg(&server, "right_side"),
    );
    let change = |sql: &str| server.psql("right_side", repl_tests::pg::Role::Superuser, sql);
    assert_all_equal(&left, &right)?;
    for (plant, undo, shown) in PG_DIFFERENCES {
        change(plant)?;
        let report = format!("{:#}", assert_all_equal(&left, &right).expect_err(plant));
        assert!(
            report.contains(shown),
            "{plant}: the report does not show {shown:?}:\n{report}"
        );
        change(undo)?;
        assert_all_equal(&left, &right)?;
    }
    change("ALTER TABLE t ADD COLUMN more int")?;
    let report = format!(
        "{:#}",
        assert_all_equal(&left, &right).expect_err("a column more")
    );
    assert!(report.contains("columns differ"), "{report}");
    change("ALTER TABLE t DROP COLUMN more; CREATE TABLE extra (n int)")?;
    let report = format!(
        "{:#}",
        assert_all_equal(&left, &right).expect_err("a table more")
    );
    assert!(report.contains("public.extra"), "{report}");
    change("DROP TABLE extra; ALTER TABLE keyless RENAME TO renamed")?;
    let pair = TablePair {
        source: "public.keyless".into(),
        target: "public.renamed".into(),
    };
    assert_equal(&left, &right, &[pair])
}

const SQLITE_SCHEMA: &str = "
CREATE TABLE t (id INTEGER PRIMARY KEY, v, g AS (typeof(v)) STORED);
INSERT INTO t (id, v) VALUES (1, 1), (2, 1.0), (3, '1'), (4, x'31'), (5, NULL), (6, ''), (7, x''),
  (8, -0.0), (9, 9e999), (10, CAST(x'ff00fe' AS TEXT)), (11, 9223372036854775807);
CREATE TABLE \"odd \"\"name\"\"\" (\"a b\" TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO \"odd \"\"name\"\"\" VALUES ('x');
";

#[test]
fn planted_differences_in_sqlite_are_found_and_shown() -> Result<()> {
    let scratch = Scratch::new()?;
    let (left, right) = (
        SqliteDb::create(&scratch.join("l.db"))?,
        SqliteDb::create(&scratch.join("r.db"))?,
    );
    left.execute(SQLITE_SCHEMA)?;
    right.execute(SQLITE_SCHEMA)?;
    let (one, two) = (content::sqlite(&left), content::sqlite(&right));
    content::wait_equal(&one, &two, Duration::from_secs(1))?;
    for (id, other, original, shown) in [
        (1, "1.0", "1", "[int 1]"),
        (3, "x'31'", "'1'", "[blob 1: 1]"),
        (5, "''", "NULL", "[null]"),
        (6, "x''", "''", "[blob 0: ]"),
        (8, "0.0", "-0.0", "[real -0e0 8000000000000000]"),
        (
            10,
            "CAST(x'ff00ff' AS TEXT)",
            "CAST(x'ff00fe' AS TEXT)",
            "\\xff\\x00\\xff",
        ),
        (
            11,
            "9223372036854775806",
            "9223372036854775807",
            "[int 9223372036854775806]",
        ),
    ] {
        right.execute(&format!("UPDATE t SET v = {other} WHERE id = {id}"))?;
        let report = format!("{:#}", assert_all_equal(&one, &two).expect_err(other));
        assert!(
            report.contains(shown),
            "{other}: the report does not show {shown:?}:\n{report}"
        );
        right.execute(&format!("UPDATE t SET v = {original} WHERE id = {id}"))?;
        assert_all_equal(&one, &two)?;
    }
    right.execute("DELETE FROM \"odd \"\"name\"\"\"")?;
    assert!(assert_all_equal(&one, &two).is_err());
    Ok(())
}
