//! Tables that change their shape while they are followed.

use anyhow::Result;
use repl_api::{ErrorKind, Membership};

use super::group::{Group, PATIENCE, assert_contains};

#[test]
fn added_columns_are_followed() -> Result<()> {
    let group = Group::start(2, |primary| {
        primary.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v' FROM generate_series(1, 50) n")
    })?;
    group.equal()?;
    group.replctl(&["pause", "replica-2"])?;
    group.primary.execute(
        "UPDATE t SET v = 'before' WHERE id = 1;
         ALTER TABLE t ADD COLUMN plain int;
         UPDATE t SET plain = 1 WHERE id = 2;
         ALTER TABLE t ADD COLUMN filled text NOT NULL DEFAULT 'it''s \"old\"';
         INSERT INTO t (id, v) VALUES (51, 'new'); UPDATE t SET filled = 'changed' WHERE id = 3;
         CREATE TYPE color AS ENUM ('red'); ALTER TABLE t ADD COLUMN c color DEFAULT 'red', ADD COLUMN a int[] DEFAULT '{1,2}';
         ALTER TABLE t ADD COLUMN made timestamptz DEFAULT now();
         UPDATE t SET a = a || 3 WHERE id < 10",
    )?;
    group.replctl(&["resume", "replica-2"])?;
    group.equal()?;
    // Old rows got the moment of the change, new ones get their own, here as there.
    let defaults = "SELECT column_name, column_default FROM information_schema.columns
                    WHERE table_name = 't' ORDER BY ordinal_position";
    for server in &group.replicas {
        assert_eq!(group.primary.query(defaults)?, server.query(defaults)?);
    }
    group.daemon.finish()
}

/// The rows before a change hold the columns that were the key at the time, whatever is the key when
/// the daemon comes to read them.
#[test]
fn a_key_that_moved_while_the_daemon_was_down_is_read_as_it_was() -> Result<()> {
    let mut group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL UNIQUE, v text);
             INSERT INTO t SELECT n, 100 + n, 'v' FROM generate_series(1, 20) n",
        )
    })?;
    group.equal()?;
    assert!(group.daemon.terminate()?.success());
    group.primary.execute(
        "DELETE FROM t WHERE a = 1; UPDATE t SET a = 1000 WHERE a = 2;
         UPDATE t SET v = 'changed' WHERE a < 10;
         ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b);
         DELETE FROM t WHERE b = 103; UPDATE t SET b = 500 WHERE b = 104;
         UPDATE t SET v = 'again' WHERE b > 110",
    )?;
    group.daemon.start()?;
    group.equal()?;
    group.daemon.finish()
}

/// What a new copy contains is not applied from the log, whatever shape its tables had then.
#[test]
fn a_resync_passes_the_shapes_before_it() -> Result<()> {
    let mut group = Group::start(1, |primary| {
        primary.execute("CREATE TABLE t (id int PRIMARY KEY, old text)")
    })?;
    group.equal()?;
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    group.primary.execute(
        "INSERT INTO t VALUES (1, 'a'); ALTER TABLE t RENAME COLUMN old TO new; INSERT INTO t VALUES (2, 'b')",
    )?;
    group.paused_by_error(1)?;
    group
        .replica()
        .execute("ALTER TABLE t RENAME COLUMN old TO new")?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    for arguments in [
        &["--yes"][..],
        &["--full", "--yes"],
        &["--tables", "t", "--yes"],
    ] {
        let resync = [&["resync", "replica-1", "--wait"], arguments].concat();
        group.replctl(&resync)?;
        group.primary.execute("UPDATE t SET new = new || 'x'")?;
        group.equal()?;
    }
    group.daemon.finish()
}

/// What the stream cannot carry stops the replica before the first row it concerns; after the
/// statement it names, the replica goes on.
fn stops_and_goes_on(change: &str, rows: &str, complaint: &str, mend: &str) -> Result<()> {
    let mut group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v varchar(10), n int NOT NULL DEFAULT 7);
             INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 20) n;
             CREATE TABLE other (id int PRIMARY KEY)",
        )
    })?;
    group.equal()?;
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    group.primary.execute(&format!(
        "INSERT INTO other VALUES (1); {change}; {rows}; INSERT INTO other VALUES (2)"
    ))?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.kind, ErrorKind::Schema, "{error:?}");
    assert_contains(&error.message, complaint);
    assert_eq!(error.table.as_deref(), Some("public.t"));
    assert!(error.transaction.is_some(), "{error:?}");
    assert_eq!(
        group
            .replica()
            .query("SELECT string_agg(id::text, ',') FROM other")?,
        "1"
    );
    let statement = error
        .advice
        .split(';')
        .next()
        .unwrap_or_default()
        .split(',')
        .next()
        .unwrap_or_default();
    if mend.is_empty() {
        group.replica().execute(statement)?;
    } else {
        group.replica().execute(mend)?;
    }
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn a_volatile_default_stops_before_its_first_row() -> Result<()> {
    stops_and_goes_on(
        "ALTER TABLE t ADD COLUMN r double precision DEFAULT random()",
        "UPDATE t SET r = id; INSERT INTO t (id, r) VALUES (100, 0.5)",
        "has no column \"r\"",
        "",
    )
}

#[test]
fn a_renamed_column_stops_before_its_first_row() -> Result<()> {
    stops_and_goes_on(
        "ALTER TABLE t RENAME v TO w",
        "UPDATE t SET w = 'x' WHERE id < 5",
        "has no column \"w\"",
        "ALTER TABLE t RENAME v TO w",
    )
}

/// The last column's new name looks most like an addition.
#[test]
fn a_renamed_last_column_stops_before_its_first_row() -> Result<()> {
    stops_and_goes_on(
        "ALTER TABLE t RENAME n TO m",
        "UPDATE t SET m = 8 WHERE id < 5",
        "has no column \"m\"",
        "ALTER TABLE t RENAME n TO m",
    )
}

#[test]
fn a_column_added_within_a_large_transaction_is_part_of_it() -> Result<()> {
    let group = Group::configured(
        1,
        |primary| {
            primary.execute(
                "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v' FROM generate_series(1, 50) n;
                 CREATE TABLE other (id int PRIMARY KEY)",
            )
        },
        |config| config.set("limits", "batch_bytes", "256KiB"),
    )?;
    group.equal()?;
    group.primary.execute(
        "BEGIN; UPDATE t SET v = 'w'; INSERT INTO other SELECT generate_series(1, 30000);
         ALTER TABLE t ADD COLUMN late int DEFAULT 5; UPDATE t SET late = id WHERE id % 2 = 0;
         INSERT INTO other SELECT generate_series(30001, 60000); COMMIT;
         INSERT INTO t VALUES (51, 'x', 51)",
    )?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn a_retyped_column_stops_before_its_first_row() -> Result<()> {
    stops_and_goes_on(
        "ALTER TABLE t ALTER n TYPE text USING 'n' || n",
        "UPDATE t SET n = 'all'",
        "has column \"n\" as integer, the primary has it as text",
        "",
    )
}

#[test]
fn a_dropped_not_null_stops_before_its_first_row() -> Result<()> {
    stops_and_goes_on(
        "ALTER TABLE t ALTER n DROP NOT NULL",
        "UPDATE t SET n = NULL WHERE id = 1",
        "NULL",
        "ALTER TABLE t ALTER n DROP NOT NULL",
    )
}

#[test]
fn a_dropped_column_and_a_wider_replica_need_no_one() -> Result<()> {
    let group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, gone int, kept text); INSERT INTO t VALUES (1, 1, 'a');
             CREATE TABLE back (b text, a int PRIMARY KEY)",
        )
    })?;
    group.equal()?;
    group.replica().execute(
        "ALTER TABLE back ADD COLUMN local timestamptz DEFAULT now(), ADD COLUMN more int",
    )?;
    group.primary.execute(
        "ALTER TABLE t DROP COLUMN gone; INSERT INTO t VALUES (2, 'b'); UPDATE t SET kept = 'c' WHERE id = 1;
         INSERT INTO back SELECT 'b' || n, n FROM generate_series(1, 20) n; UPDATE back SET b = 'x' WHERE a < 9",
    )?;
    group.caught_up()?;
    let rows = "SELECT id, kept FROM t ORDER BY 1; SELECT a, b FROM back ORDER BY 1";
    assert_eq!(group.primary.query(rows)?, group.replica().query(rows)?);
    assert_eq!(group.state(1)?.membership, Membership::Streaming);
    let waited = group
        .daemon
        .wait_replica("replica-1", "no error", PATIENCE, |one| {
            one.last_error.is_none()
        });
    waited?;
    group.daemon.finish()
}
