//! The log's stated limits: who gives up their hold on it, and who does not.

use std::time::Duration;

use anyhow::{Result, ensure};
use repl_api::Membership;
use repl_tests::daemon::DaemonConfig;
use repl_tests::sqlite::SqliteDb;
use rusqlite::TransactionBehavior;

use super::rig::{ARRIVAL, resync};
use super::sqlite_rig::SqliteRig;

const BEHIND: &str = "behind";
/// The log's limit, bytes.
const LIMIT: u64 = 3 << 20;

/// A group with a second replica, which is paused.
fn with_one_behind(adapt: impl FnOnce(DaemonConfig) -> DaemonConfig) -> Result<SqliteRig> {
    let mut rig = SqliteRig::prepare()?;
    let second = SqliteDb::at(&rig.scratch.join("behind.db"));
    let config = rig.daemon.config().clone().replica(BEHIND, &second.url());
    rig.daemon.set_config(adapt(config))?;
    rig.daemon.start()?;
    rig.settle()?;
    rig.daemon
        .wait_replica(BEHIND, "to stream", ARRIVAL, |replica| {
            replica.membership == Membership::Streaming
        })?;
    rig.daemon
        .call(|client| async move { client.pause(BEHIND).await })?;
    Ok(rig)
}

/// Twice the limit.
fn write_much(rig: &SqliteRig) -> Result<()> {
    for _ in 0..60 {
        rig.primary.execute(
            "INSERT INTO bulk SELECT lower(hex(randomblob(16))), randomblob(100000);
             INSERT INTO journal SELECT max(n) + 1 FROM journal;",
        )?;
    }
    rig.arrive()
}

fn limited(config: DaemonConfig) -> DaemonConfig {
    config.set("log", "retention_max_size", "3MiB")
}

#[test]
fn past_the_limit_only_who_is_behind_is_given_up() -> Result<()> {
    let rig = with_one_behind(limited)?;
    write_much(&rig)?;
    rig.daemon
        .wait_status("the log to be trimmed", ARRIVAL, |status| {
            (status.log.size_bytes <= LIMIT).then_some(())
        })?;
    let alerts = rig.daemon.status()?.alerts;
    ensure!(
        alerts.len() == 1 && alerts[0].contains(BEHIND) && alerts[0].contains("retention_max_size"),
        "alerts: {alerts:?}"
    );
    rig.compare()?;
    let resumed = rig
        .daemon
        .call(|client| async move { client.resume(BEHIND).await });
    ensure!(resumed.is_err(), "it was resumed with a gap in its history");
    resync(&rig.daemon, BEHIND)
}

/// At the start nobody is known to be where they were: that is not the same as to be behind.
#[test]
fn who_was_not_reached_yet_is_not_given_up() -> Result<()> {
    let mut rig = with_one_behind(|config| config)?;
    write_much(&rig)?;
    ensure!(rig.daemon.terminate()?.success());
    rig.daemon
        .set_config(limited(rig.daemon.config().clone()))?;
    let mut busy = rig.replica.connect()?;
    let lock = busy.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    rig.daemon.start()?;
    // The limit is looked at once a second, the first time at once.
    std::thread::sleep(Duration::from_secs(3));
    lock.rollback()?;
    rig.write_some()?;
    rig.arrive()?;
    rig.compare()
}
