//! SQLite to SQLite: SIGKILL at every failpoint and at random, and history that breaks.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_tests::sqlite::SqliteDb;

use super::failpoints::{self, die_at};
use super::rig::{self, REPLICA, Random};
use super::sqlite_rig::{Load, SqliteRig, check_snapshot, create_tables};

/// Passed by SQLite's capture, copy and apply.
pub const SQLITE: [&str; 9] = [
    "sqlite.capture.after_triggers",
    "sqlite.capture.after_read",
    "sqlite.capture.before_prune",
    "sqlite.load.before_commit",
    "sqlite.load.after_commit",
    "sqlite.apply.before_begin",
    "sqlite.apply.after_cas",
    "sqlite.apply.before_commit",
    "sqlite.apply.after_commit",
];

/// Those the copy passes, and those streaming passes.
const COPY: [&str; 2] = ["sqlite.load.before_commit", "sqlite.load.after_commit"];
const STREAM: [&str; 7] = [
    "sqlite.capture.after_triggers",
    "sqlite.capture.after_read",
    "sqlite.capture.before_prune",
    "sqlite.apply.before_begin",
    "sqlite.apply.after_cas",
    "sqlite.apply.before_commit",
    "sqlite.apply.after_commit",
];

#[test]
fn killed_while_a_group_is_made_and_copied() -> Result<()> {
    let mut rig = SqliteRig::prepare()?;
    let load = Load::start(&rig.primary)?;
    for name in failpoints::CREATE.into_iter().chain(COPY) {
        die_at(&mut rig.daemon, name, 1)?;
    }
    for name in COPY {
        die_at(&mut rig.daemon, name, 2)?;
    }
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    rig.settle()?;
    load.stop()?;
    rig.check()
}

#[test]
fn killed_at_every_step_under_load() -> Result<()> {
    let mut rig = SqliteRig::start()?;
    let load = Load::start(&rig.primary)?;
    let mut random = Random::from_environment();
    rig.daemon.kill9()?;
    for name in failpoints::LOG.into_iter().chain(STREAM) {
        let rare = ["log.roll", "log.trim", "sqlite.capture"]
            .iter()
            .any(|p| name.starts_with(p));
        let nth = if rare { 1 } else { 1 + random.below(10) };
        die_at(&mut rig.daemon, name, nth)?;
        check_snapshot(&rig.replica).with_context(|| format!("after {name}@{nth}"))?;
    }
    for name in failpoints::RECOVER {
        die_at(&mut rig.daemon, "log.flush.mid_write", 5)?;
        die_at(&mut rig.daemon, name, 1)?;
    }
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    load.stop()?;
    rig.check()
}

#[test]
fn the_daemon_killed_at_random() -> Result<()> {
    let mut rig = SqliteRig::start()?;
    let load = Load::start(&rig.primary)?;
    let mut random = Random::from_environment();
    for cycle in 0..rig::cycles(25, 400) {
        let life = if random.below(4) == 0 { 500 } else { 120 };
        thread::sleep(Duration::from_millis(random.below(life)));
        rig.daemon.kill9()?;
        check_snapshot(&rig.replica).with_context(|| format!("cycle {cycle}"))?;
        rig.daemon.spawn()?;
    }
    rig.daemon.wait_ready()?;
    load.stop()?;
    rig.check()
}

/// The daemon is stopped, `accident` happens to the files, and the replica must be marked.
fn breaks(expected: &[&str], accident: impl FnOnce(&SqliteRig) -> Result<()>) -> Result<()> {
    let mut rig = SqliteRig::start()?;
    rig.write_some()?;
    rig.settle()?;
    let copy = rig.scratch.join("old.db");
    backup(&rig.primary, &copy)?;
    rig.write_some()?;
    rig.settle()?;
    ensure!(
        rig.daemon.terminate()?.success(),
        "the daemon did not stop cleanly"
    );
    accident(&rig)?;
    rig.write_some()?;
    rig.daemon.start()?;
    let reason = rig::expect_needs_resync(&rig.daemon, REPLICA)?;
    println!("reason shown: {reason}");
    ensure!(
        expected.iter().any(|text| reason.contains(text)),
        "another reason: {reason}"
    );
    rig.resync()?;
    rig.write_some()?;
    rig.check()
}

/// A file of its own with everything in it.
fn backup(db: &SqliteDb, to: &Path) -> Result<()> {
    db.execute(&format!("VACUUM INTO '{}'", to.display()))
}

/// Puts another file in the primary's place.
fn replace(primary: &SqliteDb, with: &Path) -> Result<()> {
    for ending in ["-wal", "-shm"] {
        let mut name = primary.path().as_os_str().to_owned();
        name.push(ending);
        // Absent when the last connection was closed.
        let _ = std::fs::remove_file(name);
    }
    std::fs::rename(with, primary.path())?;
    primary.execute("PRAGMA journal_mode = wal")
}

#[test]
fn a_primary_replaced_by_an_older_copy() -> Result<()> {
    breaks(
        &["older", "behind", "restored", "incarnation", "another"],
        |rig| replace(&rig.primary, &rig.scratch.join("old.db")),
    )
}

#[test]
fn a_primary_replaced_by_an_older_copy_and_written_past_the_logs_end() -> Result<()> {
    breaks(
        &["older", "behind", "restored", "incarnation", "another"],
        |rig| {
            replace(&rig.primary, &rig.scratch.join("old.db"))?;
            for _ in 0..5 {
                rig.write_some()?;
            }
            Ok(())
        },
    )
}

#[test]
fn a_primary_replaced_by_another_file() -> Result<()> {
    breaks(&["another", "incarnation", "file was replaced"], |rig| {
        let other = SqliteDb::create(&rig.scratch.join("other.db"))?;
        create_tables(&other)?;
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")?;
        replace(&rig.primary, other.path())
    })
}

#[test]
fn a_log_directory_deleted() -> Result<()> {
    breaks(&["replaced or deleted"], |rig| {
        std::fs::remove_dir_all(rig.scratch.join("log")).context("delete the log")
    })
}

#[test]
fn a_deleted_checkpoint_is_noticed() -> Result<()> {
    breaks(&["checkpoint is gone"], |rig| {
        rig.replica.execute("DELETE FROM _repl_checkpoint")
    })
}

#[test]
fn a_checkpoint_outside_the_transaction_is_noticed() -> Result<()> {
    let scenario = |defect: &str| -> Result<()> {
        let mut rig = SqliteRig::start()?;
        rig.daemon.kill9()?;
        rig.daemon.set_sabotage(defect);
        rig.write_some()?;
        die_at(&mut rig.daemon, "sqlite.apply.after_commit", 1)?;
        rig.daemon.set_failpoints("");
        rig.daemon.start()?;
        rig.check()
    };
    scenario("")?;
    match scenario("checkpoint-outside-transaction") {
        Ok(()) => anyhow::bail!("the checks did not notice the defect"),
        Err(error) => println!("noticed: {error:#}"),
    }
    Ok(())
}
