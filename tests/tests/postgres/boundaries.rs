//! Where following ends, as the README says it: what is not repeated, what is not captured, what no
//! stream tells, and what ends the history for good.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::pg::{DATABASE, Role};
use repl_tests::wait::{wait_for, wait_until};

use super::group::{Group, PATIENCE, assert_contains};

/// Dropped columns stay with what they held; objects made later stay at the primary; nothing of it
/// stops the replica. Some kinds of tables are never captured.
#[test]
fn what_is_not_repeated_stays_at_the_primary() -> Result<()> {
    let group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, gone int, kept text);
             INSERT INTO t VALUES (1, 41, 'a'), (2, 42, 'b');
             CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);
             CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
             CREATE FOREIGN TABLE abroad (id int) SERVER far;
             SELECT lo_from_bytea(4711, 'large')",
        )
    })?;
    group.equal()?;
    let mut client = group.primary.session(DATABASE, Role::Superuser)?;
    client.execute(
        "CREATE TEMPORARY TABLE brief (id int PRIMARY KEY); INSERT INTO brief VALUES (1);
         ALTER TABLE t DROP COLUMN gone;
         ALTER TABLE t ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED;
         CREATE INDEX later ON t (kept);
         ALTER TABLE t ADD CONSTRAINT short CHECK (length(kept) < 9);
         CREATE VIEW seen AS SELECT id FROM t;
         CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER acts BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION own()",
    )?;
    client.execute(
        "UPDATE t SET kept = 'c' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t (id, kept) VALUES (3, 'd')",
    )?;
    group.caught_up()?;
    let replica = group.replica();
    assert_eq!(
        replica.query("SELECT id, gone, kept FROM t ORDER BY id")?,
        "1|41|c\n3||d"
    );
    // Whatever hung on the dropped column's table is there; of what came later, nothing.
    let later = "SELECT (SELECT count(*) FROM pg_class WHERE relname IN ('later', 'seen', 'brief', 'abroad'))
        + (SELECT count(*) FROM pg_constraint WHERE conname = 'short')
        + (SELECT count(*) FROM pg_proc WHERE proname = 'own')
        + (SELECT count(*) FROM pg_trigger WHERE tgname = 'acts')
        + (SELECT count(*) FROM pg_attribute WHERE attname = 'twice')
        + (SELECT count(*) FROM pg_largeobject_metadata)";
    assert_eq!(replica.query_i64(later)?, 0);
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated";
    assert_eq!(replica.query_i64(keys)?, 1, "foreign keys are NOT VALID");
    let named: Vec<String> = group
        .daemon
        .status()?
        .tables
        .into_iter()
        .map(|t| t.source)
        .collect();
    ensure!(
        !named
            .iter()
            .any(|name| name.contains("brief") || name.contains("abroad")),
        "{named:?}"
    );
    assert_eq!(group.state(1)?.membership, Membership::Streaming);
    group.daemon.finish()
}

/// The shape is what it was, the rows are not: no stream says so. A comparison finds it, the resync of
/// the table mends it. Likewise where a column that a replica lacked is added there by hand.
#[test]
fn values_that_change_without_the_shape_are_found_and_mended_by_a_resync() -> Result<()> {
    let mut group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int, w int);
             INSERT INTO t SELECT n, n, -n FROM generate_series(1, 100) n",
        )
    })?;
    group.equal()?;
    group.daemon.ignore_log();
    for change in [
        "ALTER TABLE t ALTER COLUMN v TYPE int USING v + 1000",
        "ALTER TABLE t RENAME v TO x; ALTER TABLE t RENAME w TO v; ALTER TABLE t RENAME x TO w",
    ] {
        group.primary.execute(change)?;
        group.primary.execute("UPDATE t SET v = 0 WHERE id = 1")?;
        group.caught_up()?;
        // The capture may have to look at the catalog again before a comparison can tell.
        let said = wait_for("a comparison that can tell", PATIENCE, || {
            let found = group.daemon.replctl(&["validate", "--deep"])?;
            let said = String::from_utf8_lossy(&found.stdout).into_owned();
            println!("{change}: {:?}: {said}", found.status.code());
            Ok((found.status.code() != Some(2)).then_some(said))
        })?;
        ensure!(said.contains("id=2"), "after {change}: {said}");
        group.replctl(&["resync", "replica-1", "--tables", "t", "--yes", "--wait"])?;
        group.equal().with_context(|| change.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_dropped_slot_ends_the_history() -> Result<()> {
    let mut group = Group::start(1, |primary| {
        primary.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    })?;
    group.equal()?;
    group.daemon.ignore_log();
    let unasked = group.daemon.replctl(&["slot", "drop"])?;
    assert_eq!(unasked.status.code(), Some(2), "{unasked:?}");
    group.replctl(&["slot", "drop", "--yes"])?;
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";
    assert_eq!(group.primary.query_i64(left)?, 0);
    // Nothing comes back unasked, and what is written now is nowhere but at the primary.
    group.primary.execute("INSERT INTO t VALUES (2)")?;
    group.daemon.terminate()?;
    group.daemon.start()?;
    group
        .daemon
        .wait_replica("replica-1", "to need a resync", PATIENCE, |replica| {
            replica.membership == Membership::NeedsResync
        })?;
    group.replctl(&["resync", "replica-1", "--yes", "--wait"])?;
    group.equal()
}

/// A transaction that stays open keeps the primary's log, however far the capture has come.
#[test]
fn a_copy_waits_while_the_primary_retains_too_much() -> Result<()> {
    let mut group = Group::configured(
        1,
        |primary| {
            primary.execute(
                "CREATE TABLE big (id int PRIMARY KEY, v text);
                 INSERT INTO big SELECT n, md5(n::text) FROM generate_series(1, 20000) n;
                 CREATE TABLE other (id int PRIMARY KEY, v text)",
            )
        },
        |config| {
            config
                .set("copy", "max_retained", "2MiB")
                .set("copy", "max_rows_per_second", 10_000)
                .set("copy", "part_rows", 1_000)
        },
    )?;
    group.equal()?;
    group.daemon.ignore_log();
    let mut open = group.primary.session(DATABASE, Role::Superuser)?;
    open.execute("BEGIN; INSERT INTO other VALUES (1, 'open')")?;
    // The slot keeps from here on what the open transaction may need.
    group.primary.execute(
        "INSERT INTO other SELECT n, repeat(md5(n::text), 40) FROM generate_series(10, 5000) n",
    )?;
    wait_until("the primary to retain much", PATIENCE, || {
        Ok(group.daemon.status()?.primary.retained_bytes > Some(3 << 20))
    })?;
    group.replctl(&["resync", "replica-1", "--full", "--yes"])?;
    let waits = group
        .daemon
        .wait_replica("replica-1", "to wait", PATIENCE, |replica| {
            replica
                .copy
                .as_ref()
                .is_some_and(|copy| copy.paused.is_some())
        })?;
    let why = waits.copy.and_then(|copy| copy.paused).unwrap_or_default();
    assert_contains(&why, "the primary retains");
    open.execute("COMMIT")?;
    // What was kept is let go with the next record of running transactions.
    wait_until("the primary to retain little", PATIENCE, || {
        group
            .primary
            .execute("SELECT pg_log_standby_snapshot()")
            .or_else(|_| group.primary.execute("CHECKPOINT"))?;
        std::thread::sleep(Duration::from_millis(100));
        Ok(group.state(1)?.membership == Membership::Streaming)
    })?;
    group.equal()
}
