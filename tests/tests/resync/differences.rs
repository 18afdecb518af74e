//! Differences of every kind, found and written, and nothing else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;

use repl_tests::pg::PgServer;
use repl_tests::wait::wait_until;

use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE, replctl};
use super::planted::{self, ROWS, WRITTEN, equal, load, number, plant, primary, reported, start};

/// Only the rows that differ are written: the replica reports as many, and PostgreSQL's own counters
/// say no more.
fn only_what_differs(replica: &str) -> Result<()> {
    let group = start()?;
    plant(&group, replica)?;
    ensure!(planted::differs(&group.daemon)?, "nothing was planted");
    if let (PG, Some(pg)) = (replica, &group.pg) {
        // Sessions report what they did when they end.
        replctl(&group.daemon, &["pause", PG])?;
        no_session(pg)?;
        pg.execute("SELECT pg_stat_reset()")?;
        replctl(&group.daemon, &["resume", PG])?;
    }
    let text = replctl(&group.daemon, &["resync", replica, "--yes", "--wait"])?;
    ensure!(text.contains("resynced"), "{text}");
    let written = reported(&group.daemon, replica)?;
    for (table, [inserted, updated, deleted]) in WRITTEN {
        let expected = serde_json::json!({
            "inserted": inserted, "updated": updated, "deleted": deleted
        });
        ensure!(written[table] == expected, "{table}: {written:#}");
    }
    if let (PG, Some(pg)) = (replica, &group.pg) {
        let touched = |table: &str| {
            pg.query_i64(&format!(
                "SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
                  WHERE relname = '{table}'"
            ))
        };
        replctl(&group.daemon, &["pause", PG])?;
        no_session(pg)?;
        // A row whose unique value moves is deleted and inserted.
        for (table, most) in [("wide", 12), ("grid", 53), ("pairs", 8), ("words", 4)] {
            let rows = touched(table)?;
            ensure!(
                (1..=most).contains(&rows),
                "{rows} rows of {table} were written"
            );
        }
        replctl(&group.daemon, &["resume", PG])?;
    }
    equal(&group)?;
    // What is equal already is not written at all.
    replctl(&group.daemon, &["resync", replica, "--yes", "--wait"])?;
    let written = reported(&group.daemon, replica)?;
    for (table, _) in WRITTEN {
        let nothing = serde_json::json!({"inserted": 0, "updated": 0, "deleted": 0});
        ensure!(written[table] == nothing, "{table}: {written:#}");
    }
    equal(&group)
}

#[test]
fn only_what_differs_is_written_in_postgres() -> Result<()> {
    only_what_differs(PG)
}

#[test]
fn only_what_differs_is_written_in_mariadb() -> Result<()> {
    only_what_differs(MARIADB)
}

#[test]
fn only_what_differs_is_written_in_sqlite() -> Result<()> {
    only_what_differs(SQLITE)
}

/// Waits until the daemon writes over no session any more.
fn no_session(pg: &PgServer) -> Result<()> {
    wait_until("the sessions to end", PATIENCE, || {
        let sessions = pg.query_i64(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'repl-daemon apply%'",
        )?;
        Ok(sessions == 0)
    })
}

/// Counts a table's rows at the replica again and again; the fewest seen.
fn fewest(group: &Group, replica: &str, table: &str, stop: &AtomicBool) -> Result<i64> {
    let mut fewest = i64::MAX;
    while !stop.load(Ordering::Relaxed) {
        let rows = number(group, replica, &format!("SELECT count(*) FROM {table}"))?;
        fewest = fewest.min(rows);
    }
    Ok(fewest)
}

/// While the primary is written to and the replica read: everything ends equal, a reader never misses
/// rows, and the other replicas go on streaming.
fn under_load(replica: &'static str, how: &[&str]) -> Result<()> {
    let group = start()?;
    let stop = AtomicBool::new(false);
    let (read, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| load(&primary(&group), &stop));
        plant(&group, replica)?;
        let wide = scope.spawn(|| fewest(&group, replica, "wide", &read));
        let twins = scope.spawn(|| fewest(&group, replica, "twins", &read));
        let others = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                for other in group.daemon.status()?.replicas {
                    ensure!(
                        other.name == replica || other.membership == Membership::Streaming,
                        "{other:#?}"
                    );
                }
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        let resync = [&["resync", replica, "--yes", "--wait"], how].concat();
        let resynced = replctl(&group.daemon, &resync);
        for flag in [&read, &done, &stop] {
            flag.store(true, Ordering::Relaxed);
        }
        let join = "a thread panicked";
        let seen = wide.join().ok().context(join)??;
        ensure!(seen > ROWS * 9 / 10, "a reader saw {seen} rows of wide");
        let seen = twins.join().ok().context(join)??;
        ensure!(seen >= 40, "a reader saw {seen} rows of twins");
        others.join().ok().context(join)??;
        writer.join().ok().context(join)??;
        resynced.map(drop)
    })?;
    equal(&group)
}

#[test]
fn under_load_in_postgres() -> Result<()> {
    under_load(PG, &[])
}

#[test]
fn in_full_under_load_in_postgres() -> Result<()> {
    under_load(PG, &["--full"])
}

#[test]
fn under_load_in_mariadb() -> Result<()> {
    under_load(MARIADB, &[])
}

#[test]
fn in_full_under_load_in_mariadb() -> Result<()> {
    under_load(MARIADB, &["--full"])
}

#[test]
fn under_load_in_sqlite() -> Result<()> {
    under_load(SQLITE, &[])
}

#[test]
fn in_full_under_load_in_sqlite() -> Result<()> {
    under_load(SQLITE, &["--full"])
}

/// Rows that no comparison could tell apart are written too.
#[test]
fn full_copies_everything_anew() -> Result<()> {
    let group = start()?;
    for replica in [PG, MARIADB, SQLITE] {
        plant(&group, replica)?;
        let text = replctl(
            &group.daemon,
            &["resync", replica, "--full", "--yes", "--wait"],
        )?;
        ensure!(text.contains("copied again"), "{text}");
    }
    equal(&group)
}
