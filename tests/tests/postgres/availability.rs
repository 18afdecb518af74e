//! Servers that are away: nobody else suffers, and nothing is missing afterwards.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use repl_api::{IngestState, Membership, PrimaryState};
use repl_tests::pg::StopMode;
use repl_tests::small_disk::SmallDisk;
use repl_tests::wait::wait_until;
use repl_tests::workload::{Load, Until, shop};

use super::group::{Group, PATIENCE};

/// What a fast shutdown of the primary may take.
const SHUTDOWN: Duration = Duration::from_secs(10);

fn shop_group(replicas: usize) -> Result<Group> {
    let mut group = Group::start(replicas, shop::create)?;
    group.caught_up()?;
    group.daemon.ignore_log();
    Ok(group)
}

/// Stops the primary fast, starts it again, and waits until the daemon streams from it.
fn bounce(group: &mut Group, what: &str) -> Result<()> {
    let took = group.primary.stop(StopMode::Fast, SHUTDOWN)?;
    eprintln!("fast shutdown {what}: {took:?}");
    group
        .daemon
        .wait_status("the loss to be seen", PATIENCE, |status| {
            (status.primary.state != PrimaryState::Streaming).then_some(())
        })?;
    group.primary.start()?;
    group.streams()
}

#[test]
fn a_stopped_replica_harms_nobody_and_catches_up() -> Result<()> {
    let mut group = shop_group(2)?;
    group.replicas[1].stop(StopMode::Fast, Duration::from_secs(20))?;
    shop::run(&group.primary, Load::new(4, Until::Transactions(150)))?;
    group
        .daemon
        .wait_status("the other to have everything", PATIENCE, |status| {
            let one = status.replica("replica-1")?;
            (one.applied_seq == status.log.durable_seq && one.queue_transactions == 0).then_some(())
        })?;
    // The primary keeps nothing for it: what waits, waits in the log.
    wait_until("the slot to advance", PATIENCE, || {
        let kept = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint FROM pg_replication_slots";
        Ok(group.primary.query_i64(kept)? < 100_000)
    })?;
    let away = group.state(2)?;
    ensure!(away.queue_transactions > 100, "{away:?}");
    ensure!(away.last_error.is_some(), "{away:?}");
    assert_eq!(
        away.membership,
        Membership::Streaming,
        "a server that is away is tried again"
    );
    group.replicas[1].start()?;
    group.equal()
}

#[test]
fn the_primary_shuts_down_fast_and_is_followed_again() -> Result<()> {
    let mut group = shop_group(2)?;
    bounce(&mut group, "when idle")?;

    let load = shop::spawn(&group.primary, Load::new(6, Until::Seconds(60)))?;
    std::thread::sleep(Duration::from_secs(1));
    bounce(&mut group, "under load")?;
    // Its clients were cut off.
    drop(load);
    group.equal()?;

    group.replicas[1].stop(StopMode::Fast, Duration::from_secs(20))?;
    shop::run(&group.primary, Load::new(4, Until::Transactions(50)))?;
    bounce(&mut group, "with a replica stopped")?;
    group.replicas[1].start()?;
    group.equal()
}

#[test]
fn the_primary_shuts_down_fast_with_the_disk_of_the_log_full() -> Result<()> {
    let scratch = repl_tests::scratch::Scratch::new()?;
    let Some(disk) = SmallDisk::mount(&scratch.join("small"), 64 * 1024)? else {
        return Ok(());
    };
    let dir = disk.path().join("log").display().to_string();
    let mut group = Group::configured(1, shop::create, |config| {
        config
            .set("log", "dir", dir.as_str())
            .set("log", "segment_size", "1MiB")
            .set("log", "min_free_disk", "8MiB")
    })?;
    group.daemon.ignore_log();
    group.caught_up()?;
    disk.fill()?;
    shop::run(&group.primary, Load::new(4, Until::Transactions(100)))?;
    group
        .daemon
        .wait_status("ingest to pause", PATIENCE, |status| {
            (status.log.ingest_state == IngestState::Paused && status.log.ingest_reason.is_some())
                .then_some(())
        })?;
    let took = group.primary.stop(StopMode::Fast, SHUTDOWN)?;
    eprintln!("fast shutdown with the log's disk full: {took:?}");
    group.primary.start()?;
    disk.free()?;
    group.streams()?;
    group.equal()
}

#[test]
fn an_idle_daemon_takes_almost_no_processor_time() -> Result<()> {
    let mut group = shop_group(2)?;
    // As installed: the defaults of both intervals.
    let config = group.daemon.config().clone();
    group.daemon.terminate()?;
    group
        .daemon
        .set_config(config.set("capture", "heartbeat_interval", "10s").set(
            "capture",
            "table_refresh_interval",
            "5s",
        ))?;
    group.daemon.start()?;
    group.streams()?;
    group.caught_up()?;
    let (before, started) = (group.daemon.cpu_time()?, Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    let used = group
        .daemon
        .cpu_time()?
        .saturating_sub(before)
        .as_secs_f64();
    let share = used / started.elapsed().as_secs_f64();
    eprintln!("idle: {:.2} % of a core", share * 100.0);
    // One tick of the kernel's clock is 10 ms, hence 0.17 % of this time.
    ensure!(share < 0.01, "{:.2} % of a core while idle", share * 100.0);
    Ok(())
}
