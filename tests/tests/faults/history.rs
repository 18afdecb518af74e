//! Invariant I9: history is continuous, or known not to be. Whatever happens to the slot, the log
//! directory or the primary while the daemon is down, either everything arrives or the replica is
//! shown as needing a new copy; no row is skipped in silence.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_tests::pg::binaries::Installation;
use repl_tests::pg::{PgServer, StopMode};
use repl_tests::process::{run, tied_command};
use repl_tests::wait::wait_until;

use super::failpoints::{OVERLAP, die_at};
use super::rig::{self, Rig};

pub const SLOT: &str = "repl_faults";
const STOP: Duration = Duration::from_secs(30);

/// Makes a break while the daemon is down, with rows written before and after it, and expects the
/// replica to be marked; then a resync makes everything equal.
fn breaks(
    reasons: &[&str],
    adapt: impl FnOnce(repl_tests::daemon::DaemonConfig) -> repl_tests::daemon::DaemonConfig,
    accident: impl FnOnce(&mut Rig) -> Result<()>,
) -> Result<()> {
    let mut rig = Rig::start_with(false, adapt)?;
    rig.write_some()?;
    rig.settle()?;
    ensure!(
        rig.daemon.terminate()?.success(),
        "the daemon did not stop cleanly"
    );
    rig.write_some()?;
    accident(&mut rig)?;
    rig.write_some()?;
    let before = rig
        .replica
        .query_i64("SELECT count(*) FROM public.journal")?;
    rig.daemon.start()?;
    let reason = rig.expect_needs_resync()?;
    println!("reason shown: {reason}");
    ensure!(
        reasons.iter().any(|expected| reason.contains(expected)),
        "the reason {reason:?} names none of {reasons:?}"
    );
    // Nothing of the new history may reach the replica beside the lost part.
    rig.write_some()?;
    rig.daemon.crash_and_restart()?;
    rig.expect_needs_resync()?;
    let after = rig
        .replica
        .query_i64("SELECT count(*) FROM public.journal")?;
    ensure!(
        before == after,
        "{after} rows on a replica that had {before} when history broke"
    );
    rig.resync()?;
    rig.write_some()?;
    rig.settle()
}

fn plain(reasons: &[&str], accident: impl FnOnce(&mut Rig) -> Result<()>) -> Result<()> {
    breaks(reasons, |config| config, accident)
}

#[test]
fn slot_advanced() -> Result<()> {
    plain(&["ahead of the log"], |rig| {
        let end = rig.primary.query("SELECT pg_current_wal_insert_lsn()")?;
        rig.primary
            .query(&format!(
                "SELECT pg_replication_slot_advance('{SLOT}', '{end}')"
            ))
            .map(drop)
    })
}

#[test]
fn slot_dropped() -> Result<()> {
    plain(&["slot is gone"], |rig| {
        rig.primary
            .query(&format!("SELECT pg_drop_replication_slot('{SLOT}')"))
            .map(drop)
    })
}

#[test]
fn slot_dropped_and_recreated() -> Result<()> {
    plain(&["ahead of the log"], |rig| {
        rig.primary
            .query(&format!("SELECT pg_drop_replication_slot('{SLOT}')"))?;
        rig.primary
            .query(&format!(
                "SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"
            ))
            .map(drop)
    })
}

#[test]
fn slot_invalidated() -> Result<()> {
    plain(&["invalidated"], |rig| {
        rig.primary.set("max_slot_wal_keep_size", "1MB")?;
        rig.primary.reload()?;
        for _ in 0..6 {
            rig.primary.query("SELECT pg_switch_wal()")?;
            rig.write_some()?;
        }
        rig.primary.execute("CHECKPOINT")?;
        let lost =
            format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        wait_until("the slot to be invalidated", rig::ARRIVAL, || {
            rig.primary.execute("SELECT pg_switch_wal(); CHECKPOINT")?;
            Ok(rig.primary.query(&lost)? == "lost")
        })?;
        rig.primary.set("max_slot_wal_keep_size", "-1")?;
        rig.primary.reload()
    })
}

#[test]
fn log_directory_deleted() -> Result<()> {
    plain(&["log directory was replaced or deleted"], |rig| {
        fs::remove_dir_all(rig.scratch.join("log")).context("delete the log")
    })
}

#[test]
fn log_directory_restored_from_an_old_copy() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.settle()?;
    ensure!(
        rig.daemon.terminate()?.success(),
        "the daemon did not stop cleanly"
    );
    let (log, copy) = (rig.scratch.join("log"), rig.scratch.join("copy"));
    copy_dir(&log, &copy)?;
    rig.daemon.start()?;
    rig.write_some()?;
    rig.settle()?;
    ensure!(
        rig.daemon.terminate()?.success(),
        "the daemon did not stop cleanly"
    );
    rig.write_some()?;
    fs::remove_dir_all(&log)?;
    copy_dir(&copy, &log)?;
    rig.daemon.start()?;
    let reason = rig.expect_needs_resync()?;
    ensure!(
        reason.contains("older copy") || reason.contains("ahead of the log"),
        "another reason: {reason}"
    );
    rig.resync()
}

/// What happens to the primary between the copy and its restoration, and after that.
struct Restored {
    /// Transactions after the copy that the log has and the restored primary lost.
    lost: u32,
    /// Transactions written to the restored primary before the daemon looks at it.
    written_since: u32,
    /// The daemon dies before it has compared anything, having told the primary how far it is.
    killed: bool,
}

fn primary_restored(course: &Restored) -> Result<()> {
    let mut rig = Rig::start()?;
    rig.settle()?;
    rig.primary.stop(StopMode::Fast, STOP)?;
    let copy = rig.primary.save_copy()?;
    rig.primary.start()?;
    for _ in 0..course.lost {
        rig.write_some()?;
    }
    rig.settle()?;
    ensure!(
        rig.daemon.terminate()?.success(),
        "the daemon did not stop cleanly"
    );
    rig.primary.stop(StopMode::Fast, STOP)?;
    rig.primary.restore_copy(&copy)?;
    rig.primary.start()?;
    for _ in 0..course.written_since {
        rig.write_some()?;
    }
    if course.killed {
        die_at(&mut rig.daemon, OVERLAP, 1)?;
        rig.daemon.set_failpoints("");
    }
    rig.daemon.start()?;
    let reason = rig.expect_needs_resync()?;
    println!("reason shown: {reason}");
    rig.resync()?;
    rig.write_some()?;
    rig.settle()
}

#[test]
fn primary_restored_from_an_old_copy() -> Result<()> {
    primary_restored(&Restored {
        lost: 20,
        written_since: 0,
        killed: false,
    })
}

#[test]
fn primary_restored_and_written_past_the_logs_end() -> Result<()> {
    primary_restored(&Restored {
        lost: 4,
        written_since: 30,
        killed: false,
    })
}

/// What a first connection began to compare, the next one does: the slot is not moved meanwhile.
#[test]
fn primary_restored_and_the_daemon_killed_while_it_compares() -> Result<()> {
    primary_restored(&Restored {
        lost: 4,
        written_since: 30,
        killed: true,
    })
}

#[test]
fn primary_restored_from_a_copy_of_a_moment_ago() -> Result<()> {
    primary_restored(&Restored {
        lost: 1,
        written_since: 1,
        killed: false,
    })
}

/// The same, with the daemon running all the time: it reconnects by itself.
#[test]
fn primary_restored_under_a_running_daemon() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.settle()?;
    rig.primary.stop(StopMode::Fast, STOP)?;
    let copy = rig.primary.save_copy()?;
    rig.primary.start()?;
    rig.write_some()?;
    rig.settle()?;
    rig.primary.stop(StopMode::Fast, STOP)?;
    rig.primary.restore_copy(&copy)?;
    rig.primary.start()?;
    rig.write_some()?;
    rig.expect_needs_resync()?;
    rig.resync()
}

#[test]
fn another_cluster_behind_the_same_url() -> Result<()> {
    plain(&["another database cluster"], |rig| {
        rig.primary.stop(StopMode::Fast, STOP)?;
        let dump = rig.scratch.join("settings");
        fs::copy(rig.primary.data_dir().join("postgresql.conf"), &dump)?;
        let hba = fs::read(rig.primary.data_dir().join("pg_hba.conf"))?;
        fs::remove_dir_all(rig.primary.data_dir())?;
        initdb(&rig.primary)?;
        fs::copy(&dump, rig.primary.data_dir().join("postgresql.conf"))?;
        fs::write(rig.primary.data_dir().join("pg_hba.conf"), hba)?;
        rig.primary.start()?;
        let password = repl_tests::pg::Role::Superuser.password();
        rig.primary.psql(
            "postgres",
            repl_tests::pg::Role::Superuser,
            &format!("ALTER ROLE postgres PASSWORD '{password}'; CREATE DATABASE app;"),
        )?;
        rig::create_tables(&rig.primary)
    })
}

/// A cluster of its own; those of the harness are copies of one template.
fn initdb(server: &PgServer) -> Result<()> {
    let installation = Installation::get()?;
    let data = server.data_dir();
    fs::create_dir(&data)?;
    installation.give(&data)?;
    let mut initdb = tied_command(&installation.program("initdb"), "KILL", installation.user());
    initdb.args([
        "--no-sync",
        "-A",
        "trust",
        "-U",
        "postgres",
        "--encoding=UTF8",
    ]);
    initdb
        .args(["--locale=C.UTF-8", "-D"])
        .arg(&data)
        .current_dir("/");
    run(&mut initdb).map(drop)
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg("-T").arg(from).arg(to)).map(drop)
}
