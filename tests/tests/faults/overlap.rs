//! Replicas apply what the log holds but has not fsynced: what a crash takes from the log then comes
//! again, and is applied once.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_tests::wait::wait_until;

use super::history::SLOT;
use super::rig::{self, REPLICA, Rig};
use super::sqlite_rig::SqliteRig;

/// Said by a replica that is ahead of the log.
const WAITING: &str = "waiting for the primary to send it again";

/// Kills the daemon when the replica has applied transactions whose flush hangs at `failpoint`.
fn killed_ahead_of_the_log(failpoint: &str) -> Result<Rig> {
    let mut rig = Rig::start()?;
    ensure!(rig.daemon.terminate()?.success(), "the daemon did not stop");
    rig.daemon
        .set_failpoints(&format!("{failpoint}=sleep(60000)"));
    rig.daemon.start()?;
    rig.write_some()?;
    let newest = "SELECT max(n) FROM public.journal";
    let written = rig.primary.query_i64(newest)?;
    wait_until("the replica to be ahead of the log", rig::ARRIVAL, || {
        Ok(rig.replica.query_i64(newest)? == written)
    })?;
    let status = rig.daemon.status()?;
    let applied = status.replica(REPLICA).map_or(0, |r| r.applied_seq);
    ensure!(
        applied > status.log.durable_seq,
        "nothing was applied before it was durable: {status:?}"
    );
    rig.daemon.kill9()?;
    rig.daemon.set_failpoints("");
    Ok(rig)
}

fn comes_again(mut rig: Rig) -> Result<()> {
    rig.daemon.start()?;
    rig.check()?;
    ensure!(
        rig.daemon.log_contains(WAITING)?,
        "the replica was not ahead of the log"
    );
    rig.write_some()?;
    rig.check()
}

#[test]
fn killed_before_what_is_applied_was_written() -> Result<()> {
    comes_again(killed_ahead_of_the_log("log.flush.before_write")?)
}

#[test]
fn the_host_crashes_before_what_is_applied_was_fsynced() -> Result<()> {
    let rig = killed_ahead_of_the_log("log.flush.before_sync")?;
    lose_undurable(&rig.scratch.join("log"))?;
    comes_again(rig)
}

/// A killed process loses nothing that it wrote, so nothing has to come again.
#[test]
fn killed_before_what_is_applied_was_fsynced() -> Result<()> {
    let mut rig = killed_ahead_of_the_log("log.flush.before_sync")?;
    rig.daemon.start()?;
    rig.check()
}

#[test]
fn the_host_crashes_under_load_again_and_again() -> Result<()> {
    let mut rig = Rig::start()?;
    let load = rig::spawn_load(&rig.primary, 400, true)?;
    for cycle in 0..rig::cycles(5, 60) {
        rig.daemon.kill9()?;
        lose_undurable(&rig.scratch.join("log"))?;
        rig::check_snapshot(&rig.replica)?;
        // Most of the time there is something that is applied and not durable.
        rig.daemon.set_failpoints(&format!(
            "log.flush.before_sync=sleep({})",
            100 + 30 * cycle
        ));
        rig.daemon.start()?;
        thread::sleep(Duration::from_millis(900));
    }
    rig.daemon.kill9()?;
    lose_undurable(&rig.scratch.join("log"))?;
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    load.interrupt()?;
    rig.check()
}

#[test]
fn what_never_comes_again_needs_a_resync() -> Result<()> {
    let mut rig = killed_ahead_of_the_log("log.flush.before_write")?;
    rig.primary.execute(&format!(
        "SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())"
    ))?;
    rig.daemon.start()?;
    rig.expect_needs_resync()?;
    rig.resync()
}

/// SQLite's transactions are what one look finds, so they come again in other units: they are
/// applied only when they cannot be lost.
#[test]
fn a_sqlite_primary_is_never_ahead_of_the_log() -> Result<()> {
    let mut rig = SqliteRig::start()?;
    ensure!(rig.daemon.terminate()?.success(), "the daemon did not stop");
    rig.daemon
        .set_failpoints("log.flush.before_write=sleep(1500)");
    rig.daemon.start()?;
    rig.write_some()?;
    for _ in 0..40 {
        let status = rig.daemon.status()?;
        let applied = status.replica(REPLICA).map_or(0, |r| r.applied_seq);
        ensure!(applied <= status.log.durable_seq, "{status:?}");
        thread::sleep(Duration::from_millis(20));
    }
    rig.daemon.kill9()?;
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    rig.check()
}

/// Does to the log what a crash of the host may: what was not fsynced is gone.
fn lose_undurable(log: &Path) -> Result<()> {
    let note = fs::read(log.join("durable"))?;
    let durable = u64_at(&note, 24)?;
    let mut segments: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(log)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let base = path.file_stem().and_then(|stem| stem.to_str());
            segments.push((base.context("a segment's name")?.parse()?, path));
        }
    }
    segments.sort();
    let (base, newest) = segments.last().context("a log without segments")?;
    if *base > durable {
        // It was made, durably, for what was lost.
        return Ok(());
    }
    let head = fs::read(newest)?;
    let preamble = u32::from_le_bytes(head.get(12..16).context("a head")?.try_into()?);
    let length = 64 + u64::from(preamble) + (durable - base);
    if length < head.len() as u64 {
        let file = OpenOptions::new().write(true).open(newest)?;
        file.set_len(length)?;
    }
    Ok(())
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..at + 8).context("a note of the durable end")?;
    Ok(u64::from_le_bytes(field.try_into()?))
}
