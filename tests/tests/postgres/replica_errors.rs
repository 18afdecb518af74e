//! A replica that cannot apply a transaction stops, says why, and is mended; the others go on.

use anyhow::{Context, Result};
use repl_api::{ErrorInfo, ErrorKind, Membership};
use repl_tests::content;
use repl_tests::pg::DATABASE;

use super::group::{Group, PATIENCE, assert_contains, wait_query};

const TABLES: &str = "
CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE, v text);
INSERT INTO t SELECT n, 'u' || n, 'v' FROM generate_series(1, 20) n;
CREATE TABLE other (id int PRIMARY KEY)";

fn start() -> Result<Group> {
    let mut group = Group::start(2, |primary| primary.execute(TABLES))?;
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    group.daemon.allow_log("ordered by the operator");
    group.equal()?;
    Ok(group)
}

/// After `edit` on replica-1, `change` on the primary stops replica-1 alone.
fn stop(group: &Group, edit: &str, change: &str) -> Result<ErrorInfo> {
    group.replica().execute(edit)?;
    group.primary.execute("INSERT INTO other VALUES (1)")?;
    group.primary.execute(change)?;
    group.primary.execute("INSERT INTO other VALUES (2)")?;
    let error = group.paused_by_error(1)?;
    // The other one has everything, this one exactly what came before.
    wait_query(&group.replicas[1], "SELECT count(*) FROM other", "2")?;
    content::wait_equal(
        &content::pg(&group.primary, DATABASE),
        &content::pg(&group.replicas[1], DATABASE),
        PATIENCE,
    )?;
    assert_eq!(group.replica().query("SELECT count(*) FROM other")?, "1");
    let transaction = error
        .transaction
        .clone()
        .context("the transaction at fault")?;
    let applied = group.state(1)?.applied_seq;
    assert_eq!(transaction.seq, applied + 1, "{error:?}");
    assert!(transaction.source_txid.parse::<u64>()? > 0);
    Ok(error)
}

fn goes_on(group: Group, mend: &str) -> Result<()> {
    group.replica().execute(mend)?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    assert_eq!(group.state(1)?.membership, Membership::Streaming);
    group.daemon.finish()
}

#[test]
fn a_local_row_in_the_way_is_named() -> Result<()> {
    let group = start()?;
    let error = stop(
        &group,
        "INSERT INTO t VALUES (100, 'taken', 'local')",
        "BEGIN; UPDATE t SET v = 'first' WHERE id = 1; INSERT INTO t VALUES (21, 'taken', 'new'); COMMIT",
    )?;
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert_eq!(error.table.as_deref(), Some("public.t"), "{error:?}");
    assert_eq!(error.database_code.as_deref(), Some("23505"));
    assert_contains(&error.message, "t_u_key");
    assert_contains(&format!("{:?}", error), "taken");
    // Nothing of the refused transaction is there.
    assert_eq!(group.replica().query("SELECT v FROM t WHERE id = 1")?, "v");
    let status = group.daemon.replctl(&["status", "--check"])?;
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    for part in ["paused", "public.t", "replctl retry"] {
        assert_contains(&shown, part);
    }
    assert!(
        !status.status.success(),
        "status must report that something needs attention"
    );
    goes_on(group, "DELETE FROM t WHERE id = 100")
}

#[test]
fn a_row_missing_on_the_replica_is_named() -> Result<()> {
    let group = start()?;
    let error = stop(
        &group,
        "DELETE FROM t WHERE id = 7",
        "UPDATE t SET v = 'x' WHERE id = 7",
    )?;
    assert_eq!(error.table.as_deref(), Some("public.t"), "{error:?}");
    assert_contains(error.key.as_deref().unwrap_or_default(), "7");
    goes_on(group, "INSERT INTO t VALUES (7, 'u7', 'v')")
}

#[test]
fn a_row_missing_among_many_is_found() -> Result<()> {
    let group = start()?;
    let error = stop(
        &group,
        "DELETE FROM t WHERE id = 13",
        "UPDATE t SET v = 'x' WHERE id <> 13; DELETE FROM t WHERE id IN (1, 2, 13); UPDATE t SET v = 'y'",
    )
    .context("the deletion of a row that is not there");
    // The update before the failing deletion is a transaction of its own and was applied.
    let error = error?;
    assert_eq!(error.table.as_deref(), Some("public.t"), "{error:?}");
    assert_contains(error.key.as_deref().unwrap_or_default(), "13");
    goes_on(group, "INSERT INTO t VALUES (13, 'u13', 'v')")
}

#[test]
fn a_column_dropped_on_the_replica_is_named() -> Result<()> {
    let group = start()?;
    let error = stop(
        &group,
        "ALTER TABLE t DROP COLUMN v",
        "UPDATE t SET v = 'x' WHERE id = 7",
    )?;
    assert_eq!(error.kind, ErrorKind::Schema, "{error:?}");
    assert_contains(&error.message, "\"v\"");
    goes_on(group, "ALTER TABLE t ADD COLUMN v text DEFAULT 'v'")
}

#[test]
fn a_stricter_replica_is_named() -> Result<()> {
    let group = start()?;
    let error = stop(
        &group,
        "ALTER TABLE t ADD CHECK (length(v) < 5)",
        "UPDATE t SET v = 'too long' WHERE id = 7",
    )?;
    assert_eq!(error.kind, ErrorKind::Constraint, "{error:?}");
    assert_eq!(error.table.as_deref(), Some("public.t"), "{error:?}");
    goes_on(group, "ALTER TABLE t DROP CONSTRAINT t_v_check")
}

#[test]
fn a_skipped_transaction_marks_the_replica_until_a_resync() -> Result<()> {
    let mut group = start()?;
    group.daemon.ignore_log();
    let error = stop(
        &group,
        "DELETE FROM t WHERE id = 7",
        "BEGIN; UPDATE t SET v = 'x' WHERE id = 7; UPDATE t SET v = 'x' WHERE id = 8; COMMIT",
    )?;
    let seq = error.transaction.context("a transaction")?.seq;
    let wrong = group.daemon.replctl(&[
        "skip",
        "replica-1",
        "--seq",
        &(seq + 1).to_string(),
        "--reason",
        "no",
    ])?;
    assert!(
        !wrong.status.success(),
        "only the transaction at fault can be skipped"
    );
    group.replctl(&[
        "skip",
        "replica-1",
        "--seq",
        &seq.to_string(),
        "--reason",
        "the row was removed by hand",
    ])?;
    let replica = group
        .daemon
        .wait_replica("replica-1", "diverged", PATIENCE, |one| {
            one.membership == Membership::Diverged && one.queue_transactions == 0
        })?;
    assert_eq!(replica.skipped, 1);
    assert_eq!(group.replica().query("SELECT count(*) FROM other")?, "2");
    // Whole transactions: nothing of the skipped one is there.
    assert_eq!(group.replica().query("SELECT v FROM t WHERE id = 8")?, "v");
    group.daemon.terminate()?;
    group.daemon.start()?;
    group
        .daemon
        .wait_replica("replica-1", "diverged after a restart", PATIENCE, |one| {
            one.membership == Membership::Diverged
        })?;
    group.replctl(&["resync", "replica-1", "--yes"])?;
    group
        .daemon
        .wait_replica("replica-1", "streaming again", PATIENCE, |one| {
            one.membership == Membership::Streaming && one.skipped == 0
        })?;
    group
        .primary
        .execute("INSERT INTO t VALUES (50, 'u50', 'after')")?;
    group.equal()
}

#[test]
fn a_resync_heals_local_edits_while_writes_go_on() -> Result<()> {
    let mut group = start()?;
    group.daemon.ignore_log();
    group.replica().execute(
        "DELETE FROM t WHERE id < 5; UPDATE t SET v = 'edited'; INSERT INTO t VALUES (900, 'local', 'x');
         INSERT INTO other SELECT generate_series(500, 600)",
    )?;
    group.replctl(&["resync", "replica-1", "--yes"])?;
    for n in 30..60 {
        group.primary.execute(&format!(
            "INSERT INTO t VALUES ({n}, 'u{n}', 'v'); UPDATE t SET v = v || '.'"
        ))?;
    }
    group
        .daemon
        .wait_replica("replica-1", "streaming", PATIENCE, |one| {
            one.membership == Membership::Streaming
        })?;
    group.equal()
}

#[test]
fn pausing_holds_one_replica_and_the_log_shows_what_waits() -> Result<()> {
    let mut group = start()?;
    group.daemon.ignore_log();
    group.replctl(&["pause", "replica-1"])?;
    group
        .daemon
        .wait_replica("replica-1", "paused", PATIENCE, |one| {
            one.membership == Membership::Paused
        })?;
    group.primary.execute("INSERT INTO t VALUES (31, 'u31', 'v'); UPDATE t SET v = 'w' WHERE id < 4; INSERT INTO other VALUES (9)")?;
    wait_query(&group.replicas[1], "SELECT count(*) FROM other", "1")?;
    let replica = group
        .daemon
        .wait_replica("replica-1", "a queue", PATIENCE, |one| {
            one.queue_transactions == 3 && one.queue_bytes > 0
        })?;
    assert!(replica.lag_ms.is_some(), "{replica:?}");
    assert_eq!(group.replica().query("SELECT count(*) FROM other")?, "0");
    let log: serde_json::Value = serde_json::from_str(&group.replctl(&["log", "--json"])?)?;
    let text = log.to_string();
    for part in ["public.t", "public.other"] {
        assert_contains(&text, part);
    }
    assert_contains(&group.replctl(&["tables"])?, "public.other");
    // A pause outlives the daemon.
    group.daemon.terminate()?;
    group.daemon.start()?;
    assert_eq!(group.state(1)?.membership, Membership::Paused);
    group.replctl(&["resume", "replica-1"])?;
    group.equal()
}

/// A trigger of the replica's own that acts on replicated rows and leaves one out.
#[test]
fn a_row_that_a_trigger_keeps_out_is_named() -> Result<()> {
    let group = start()?;
    let error = stop(
        &group,
        "CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
         CREATE TRIGGER keep_out BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION keep_out();
         ALTER TABLE t ENABLE ALWAYS TRIGGER keep_out",
        "BEGIN; UPDATE t SET v = 'first' WHERE id = 1; INSERT INTO t VALUES (21, 'new', 'new'); COMMIT",
    )?;
    assert_eq!(error.kind, ErrorKind::Schema, "{error:?}");
    assert_eq!(error.table.as_deref(), Some("public.t"), "{error:?}");
    assert_contains(&error.message, "\"keep_out\"");
    let statement = "ALTER TABLE \"public\".\"t\" ENABLE TRIGGER \"keep_out\";";
    assert_contains(&error.advice, statement);
    assert_eq!(group.replica().query("SELECT v FROM t WHERE id = 1")?, "v");
    assert!(
        !group
            .daemon
            .replctl(&["status", "--check"])?
            .status
            .success()
    );
    goes_on(group, statement)
}

/// Nor does a copy bring rows into a table that has one, and a resync does not call it equal.
#[test]
fn a_copy_into_a_table_that_keeps_rows_out_is_refused() -> Result<()> {
    let mut group = Group::prepared(1, |primary| primary.execute(TABLES), |config| config)?;
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    group.daemon.allow_log("ordered by the operator");
    group.replica().execute(
        "CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE, v text);
         CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS
           $$BEGIN IF NEW.id = 7 THEN RETURN NULL; END IF; RETURN NEW; END$$;
         CREATE TRIGGER keep_out BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION keep_out();
         ALTER TABLE t ENABLE REPLICA TRIGGER keep_out",
    )?;
    group.daemon.start()?;
    let error = group.paused_by_error(1)?;
    assert_contains(&error.message, "\"keep_out\"");
    assert_eq!(group.replica().query("SELECT count(*) FROM t")?, "0");
    group
        .replica()
        .execute("ALTER TABLE t ENABLE TRIGGER keep_out")?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    group
        .replica()
        .execute("DELETE FROM t WHERE id = 7; ALTER TABLE t ENABLE ALWAYS TRIGGER keep_out")?;
    group.replctl(&["resync", "replica-1", "--tables", "public.t", "--yes"])?;
    let error = group.paused_by_error(1)?;
    assert_contains(&error.message, "\"keep_out\"");
    goes_on(group, "DROP TRIGGER keep_out ON t")
}
