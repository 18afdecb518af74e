//! Copies and resyncs while transactions are held up in every way, and a replica is down.

use std::thread;

use anyhow::{Context, Result, ensure};
use repl_tests::canon;
use repl_tests::pg::{DATABASE, PgServer, Role, Session};
use repl_tests::wait::wait_until;

use super::ask::validate;
use super::group::{Group, PATIENCE, PG, SQLITE, replctl};
use super::planted::{equal, number, plant, primary, start, streams};

/// A replica of its own, added to the group.
const LATE: &str = "r-late";

fn same(primary: &PgServer, replica: &PgServer) -> Result<()> {
    for table in ["wide", "grid", "pairs", "words", "twins"] {
        let columns = canon::pg_columns(primary, table)?;
        let expected = canon::pg_rows(primary, table, &columns)?;
        canon::assert_same(table, &expected, &canon::pg_rows(replica, table, &columns)?)?;
    }
    Ok(())
}

/// Counts the row whose commit is withheld.
const ARRIVED: &str = "SELECT count(*) FROM words WHERE word = 'withheld'";

/// Commits a row at the primary, which waits for a standby that does not exist: the commit is in its
/// log, and so at the replicas, and nobody sees it there. Ends when it is let go.
fn withhold(group: &mut Group) -> Result<thread::JoinHandle<Result<()>>> {
    group.primary.set("synchronous_standby_names", "nobody")?;
    group.primary.reload()?;
    wait_until("the setting", PATIENCE, || {
        Ok(group.primary.query("SHOW synchronous_standby_names")? == "nobody")
    })?;
    let url = primary(group);
    let withheld = thread::spawn(move || -> Result<()> {
        let mut session = Session::open(&url)?;
        session.execute("SET synchronous_commit = on")?;
        session.execute("INSERT INTO words VALUES ('withheld', 1)")?;
        Ok(())
    });
    wait_until("the withheld commit to arrive", PATIENCE, || {
        Ok(number(group, PG, ARRIVED)? == 1 && number(group, SQLITE, ARRIVED)? == 1)
    })?;
    ensure!(group.primary.query_i64(ARRIVED)? == 0, "it is not withheld");
    Ok(withheld)
}

/// An idle transaction that has written, one that is prepared, a commit that is in the primary's log
/// and withheld from everybody, a replica that is down: a new replica is copied and an old one
/// resynced all the same, and both are exact when these commit.
#[test]
fn transactions_that_are_held_up_hold_up_no_copy() -> Result<()> {
    let mut group = start()?;
    let late = PgServer::builder("late").start()?;
    let mut idle = group.primary.session(DATABASE, Role::Superuser)?;
    idle.execute(
        "BEGIN; INSERT INTO words VALUES ('idle', 1); UPDATE wide SET a = 'idle' WHERE id = 1",
    )?;
    let mut two = group.primary.session(DATABASE, Role::Superuser)?;
    two.execute("BEGIN; DELETE FROM words WHERE word = 'word 2'; PREPARE TRANSACTION 'p'")?;
    let withheld = withhold(&mut group)?;
    group.mariadb.kill9()?;

    ensure!(group.daemon.terminate()?.success(), "the daemon failed");
    let config = group.daemon.config().clone();
    let config = config.replica(LATE, &late.url(DATABASE, Role::Superuser));
    group.daemon.set_config(config)?;
    group.daemon.start()?;
    streams(&group.daemon, LATE)?;
    plant(&group, SQLITE)?;
    replctl(&group.daemon, &["resync", SQLITE, "--yes", "--wait"])?;
    for copied in [
        late.query_i64("SELECT count(*) FROM words WHERE word IN ('withheld', 'word 2', 'idle')")?,
        number(
            &group,
            SQLITE,
            "SELECT count(*) FROM words WHERE word IN ('withheld', 'word 2', 'idle')",
        )?,
    ] {
        ensure!(
            copied == 2,
            "{copied} of the rows are there\n{}",
            late.query(
                "SELECT * FROM words WHERE n = 1 OR word IN ('withheld', 'word 2', 'idle')"
            )?
        );
    }

    group.primary.set("synchronous_standby_names", "")?;
    group.primary.reload()?;
    withheld.join().ok().context("a thread panicked")??;
    idle.execute("COMMIT")?;
    two.execute("COMMIT PREPARED 'p'")?;
    group.mariadb.start()?;
    group.caught_up()?;
    same(&group.primary, &late)?;
    let found = validate(&group.daemon, true)?;
    super::ask::all_equal(&found, 4)?;
    group.same_schemas(&["public"]).map(drop)
}

/// The resync of a single table waits for a withheld commit that the replica has applied already: no
/// snapshot shows it.
#[test]
fn a_table_waits_for_a_withheld_commit() -> Result<()> {
    let mut group = start()?;
    plant(&group, PG)?;
    let withheld = withhold(&mut group)?;
    replctl(&group.daemon, &["resync", PG, "--tables", "*", "--yes"])?;
    thread::sleep(std::time::Duration::from_millis(500));
    ensure!(
        number(&group, PG, ARRIVED)? == 1,
        "a row was lost meanwhile"
    );
    group.primary.set("synchronous_standby_names", "")?;
    group.primary.reload()?;
    withheld.join().ok().context("a thread panicked")??;
    streams(&group.daemon, PG)?;
    equal(&group)
}
