//! The replica's own memory goes wrong: restored from old, its checkpoint deleted or edited.

use std::time::Duration;

use anyhow::{Result, ensure};
use repl_api::Membership;
use repl_tests::pg::StopMode;

use super::rig::{REPLICA, Rig};

#[test]
fn a_replica_restored_from_an_old_copy_catches_up() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.settle()?;
    let stop = Duration::from_secs(30);
    rig.replica.stop(StopMode::Fast, stop)?;
    let copy = rig.replica.save_copy()?;
    rig.replica.start()?;
    rig.write_some()?;
    rig.settle()?;
    // With the daemon running: its session is lost, the next one starts at the older checkpoint.
    rig.replica.stop(StopMode::Fast, stop)?;
    rig.replica.restore_copy(&copy)?;
    rig.replica.start()?;
    rig.write_some()?;
    rig.check()?;
    // And once more with the daemon down.
    rig.daemon.kill9()?;
    rig.replica.stop(StopMode::Fast, stop)?;
    rig.replica.restore_copy(&copy)?;
    rig.replica.start()?;
    rig.daemon.start()?;
    rig.check()
}

#[test]
fn a_replica_older_than_the_log_needs_a_new_copy() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.settle()?;
    let stop = Duration::from_secs(30);
    rig.replica.stop(StopMode::Fast, stop)?;
    let copy = rig.replica.save_copy()?;
    rig.replica.start()?;
    let first = rig.daemon.status()?.log.first_seq;
    // Segments of 1 MiB fill, and go once they are applied.
    repl_tests::wait::wait_until("the log to be trimmed", Duration::from_secs(20), || {
        rig.primary.execute(
            "INSERT INTO public.bulk SELECT n, repeat(md5(random()::text), 1000) \
             FROM generate_series(1, 10) n ON CONFLICT (id) DO UPDATE SET payload = excluded.payload",
        )?;
        Ok(rig.daemon.status()?.log.first_seq > first + 2)
    })?;
    rig.settle()?;
    rig.replica.stop(StopMode::Fast, stop)?;
    rig.replica.restore_copy(&copy)?;
    rig.replica.start()?;
    rig.write_some()?;
    let reason = rig.expect_needs_resync()?;
    ensure!(reason.contains("log starts at"), "another reason: {reason}");
    rig.resync()
}

fn tampered(sql: &str, expected: &str, running: bool) -> Result<()> {
    let mut rig = Rig::start()?;
    rig.write_some()?;
    rig.settle()?;
    if !running {
        rig.daemon.kill9()?;
    }
    rig.replica.execute(sql)?;
    rig.write_some()?;
    if !running {
        rig.daemon.start()?;
    }
    let reason = rig.expect_needs_resync()?;
    ensure!(reason.contains(expected), "another reason: {reason}");
    rig.resync()
}

#[test]
fn a_deleted_checkpoint_is_noticed() -> Result<()> {
    tampered("DELETE FROM repl.checkpoint", "checkpoint is gone", false)
}

#[test]
fn a_checkpoint_deleted_under_the_daemon_is_noticed() -> Result<()> {
    tampered("DELETE FROM repl.checkpoint", "checkpoint is gone", true)
}

#[test]
fn a_dropped_checkpoint_table_is_noticed() -> Result<()> {
    tampered("DROP SCHEMA repl CASCADE", "checkpoint is gone", false)
}

#[test]
fn an_edited_checkpoint_is_noticed() -> Result<()> {
    tampered(
        "UPDATE repl.checkpoint SET seq = seq - 3",
        "another position",
        false,
    )
}

#[test]
fn a_checkpoint_edited_under_the_daemon_is_noticed() -> Result<()> {
    tampered(
        "UPDATE repl.checkpoint SET seq = seq + 1000",
        "ahead of the log",
        true,
    )
}

#[test]
fn a_broken_replica_is_shown_and_goes_on_after_it_is_mended() -> Result<()> {
    let rig = Rig::start()?;
    rig.settle()?;
    rig.replica
        .execute("ALTER TABLE public.journal RENAME TO journal_hidden")?;
    rig.write_some()?;
    let status = rig
        .daemon
        .wait_replica(REPLICA, "to pause", super::rig::ARRIVAL, |r| {
            r.membership == Membership::Paused && r.last_error.is_some()
        })?;
    let error = status
        .last_error
        .map(|error| error.message)
        .unwrap_or_default();
    ensure!(
        error.contains("journal"),
        "the error does not name the table: {error}"
    );
    rig.replica
        .execute("ALTER TABLE public.journal_hidden RENAME TO journal")?;
    let output = rig.daemon.replctl(&["retry", REPLICA])?;
    ensure!(output.status.success(), "replctl retry: {output:?}");
    rig.check()
}
