//! Row changes of every kind.

use std::path::Path;

use anyhow::{Result, ensure};
use repl_api::TableState;

use super::group::{Group, PATIENCE};

#[test]
fn every_storage_class_is_copied_and_streamed() -> Result<()> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sqlite_types.sql");
    let group = Group::start(|primary| primary.execute_file(&fixture))?;
    // Without a key and with every name of its rowid taken, one of two equal rows cannot be named.
    let refused = group
        .daemon
        .wait_status("shadowed to be refused", PATIENCE, |status| {
            let table = status
                .tables
                .iter()
                .find(|table| table.source.ends_with("shadowed"))?;
            (table.state == TableState::Refused).then(|| table.clone())
        })?;
    ensure!(refused.remedy.is_some_and(|remedy| !remedy.is_empty()));
    group.primary.execute("DROP TABLE shadowed")?;
    group.equal()?;
    // Each row once more through the stream, into tables whose copy is over.
    group.primary.execute(
        "UPDATE classes SET untyped = b, b = untyped, t = NULL WHERE id % 2 = 0;
         DELETE FROM classes WHERE id % 5 = 0;
         INSERT INTO classes (id, untyped, b) SELECT id + 1000, untyped, b FROM classes;
         INSERT INTO keyless SELECT * FROM keyless;
         DELETE FROM keyless WHERE rowid = (SELECT min(rowid) FROM keyless);
         UPDATE rowid_extremes SET id = 5 WHERE id = 0;
         DELETE FROM not_rowid WHERE v = 'null key 1';",
    )?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn replaced_rows_do_not_stay_behind() -> Result<()> {
    let group = Group::start(|primary| {
        primary.execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b TEXT, UNIQUE (b));
             INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2'), (3, 'a3', 'b3');",
        )
    })?;
    group.equal()?;
    for recursive in ["OFF", "ON"] {
        group.primary.execute(&format!(
            "PRAGMA recursive_triggers = {recursive};
             DELETE FROM t;
             INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2'), (3, 'a3', 'b3'), (4, 'a4', 'b4');
             -- One row takes the place of three.
             REPLACE INTO t VALUES (1, 'a2', 'b3');
             INSERT OR IGNORE INTO t VALUES (9, 'a4', 'zz');
             INSERT INTO t VALUES (10, 'a4', 'y') ON CONFLICT (a) DO UPDATE SET b = 'upserted';
             UPDATE OR REPLACE t SET a = 'a2' WHERE id = 4;
             INSERT INTO t VALUES (5, 'a5', 'b5'), (6, 'a6', 'b6');
             SAVEPOINT s; DELETE FROM t WHERE id = 5; ROLLBACK TO s; RELEASE s;"
        ))?;
        group.equal()?;
    }
    group.daemon.finish()
}

#[test]
fn keys_move_and_unique_values_swap() -> Result<()> {
    let group = Group::start(|primary| {
        primary
            .execute(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, u INTEGER UNIQUE);
             INSERT INTO t SELECT value, value FROM generate_series(1, 50);",
            )
            .or_else(|_| {
                primary.execute(
                    "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, u INTEGER UNIQUE);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
                 INSERT INTO t SELECT i, i FROM n;",
                )
            })
    })?;
    group.equal()?;
    group.primary.execute(
        "-- From the top down, since SQLite checks uniqueness after every row.
         BEGIN;
         UPDATE t SET id = -id; UPDATE t SET id = 1 - id;
         COMMIT;
         BEGIN;
         UPDATE t SET u = -1 WHERE id = 2; UPDATE t SET u = 2 WHERE u = 1;
         UPDATE t SET u = 1 WHERE u = -1;
         COMMIT;",
    )?;
    group.equal()?;
    group.daemon.finish()
}
