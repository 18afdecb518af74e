//! Tables that change, come and go while the stream runs.

use anyhow::{Result, ensure};
use repl_api::TableState;

use super::group::{Group, PATIENCE};

fn start() -> Result<Group> {
    Group::start(|primary| {
        primary.execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);
             INSERT INTO t VALUES (1, 'one'), (2, 'two');
             CREATE INDEX t_a ON t (a);",
        )
    })
}

#[test]
fn added_columns_are_followed_with_writes_at_once() -> Result<()> {
    let group = start()?;
    group.equal()?;
    group.primary.execute(
        "ALTER TABLE t ADD COLUMN b INTEGER DEFAULT 7;
         UPDATE t SET b = 8 WHERE id = 1;
         INSERT INTO t VALUES (3, 'three', 9);
         ALTER TABLE t ADD COLUMN c;
         INSERT INTO t (id, c) VALUES (4, x'00ff');",
    )?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn a_new_table_is_copied_and_followed() -> Result<()> {
    let group = start()?;
    group.equal()?;
    group.primary.execute(
        "CREATE TABLE late (k TEXT PRIMARY KEY NOT NULL, v) WITHOUT ROWID;
         INSERT INTO late VALUES ('a', 1), ('b', 2);",
    )?;
    group.equal()?;
    group
        .primary
        .execute("INSERT INTO late VALUES ('c', 3); DELETE FROM late WHERE k = 'a'")?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn a_rebuilt_table_is_sent_anew() -> Result<()> {
    let group = start()?;
    group.equal()?;
    // The documented way to change a table in SQLite drops its triggers with it.
    group.primary.execute(
        "BEGIN;
         CREATE TABLE t_new (id INTEGER PRIMARY KEY, a TEXT NOT NULL DEFAULT '');
         INSERT INTO t_new SELECT * FROM t;
         DROP TABLE t;
         ALTER TABLE t_new RENAME TO t;
         COMMIT;
         INSERT INTO t VALUES (10, 'unseen by any trigger');",
    )?;
    group
        .daemon
        .wait_status("table t to be replicated", PATIENCE, |status| {
            status
                .tables
                .iter()
                .find(|table| table.source.ends_with('t') && table.state == TableState::Replicated)
                .map(|_| ())
        })?;
    let rows = "SELECT group_concat(id || a, ',') = '1one,2two,10unseen by any trigger' FROM t";
    for replica in &group.replicas {
        repl_tests::wait::wait_until("the rebuilt table", PATIENCE, || {
            Ok(replica.query_i64(rows).is_ok_and(|equal| equal == 1))
        })?;
    }
    group
        .primary
        .execute("UPDATE t SET a = 'after' WHERE id = 10")?;
    for replica in &group.replicas {
        repl_tests::wait::wait_until("a change after the rebuild", PATIENCE, || {
            let after = "SELECT count(*) FROM t WHERE a = 'after'";
            Ok(replica.query_i64(after).is_ok_and(|count| count == 1))
        })?;
    }
    Ok(())
}

#[test]
fn selection_and_renames_apply() -> Result<()> {
    let group = Group::configured(
        |primary| {
            primary.execute(
                "CREATE TABLE keep (id INTEGER PRIMARY KEY); INSERT INTO keep VALUES (1);
                 CREATE TABLE secret (id INTEGER PRIMARY KEY); INSERT INTO secret VALUES (1);",
            )
        },
        |config| {
            config.set("tables", "exclude", &["secret"][..]).set(
                "tables",
                "rename",
                repl_tests::daemon::Toml::raw("[{ from = \"keep\", to = \"kept\" }]"),
            )
        },
    )?;
    group
        .primary
        .execute("INSERT INTO keep VALUES (2); INSERT INTO secret VALUES (2)")?;
    for replica in &group.replicas {
        repl_tests::wait::wait_until("both rows", PATIENCE, || {
            let both = replica.query_i64("SELECT count(*) FROM kept");
            Ok(both.is_ok_and(|count| count == 2))
        })?;
        ensure!(replica.query_i64("SELECT count(*) FROM secret").is_err());
    }
    group.daemon.finish()
}
