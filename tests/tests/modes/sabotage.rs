//! Broken promises are noticed: each scenario passes with the real daemon and fails its check with
//! the defect switched on. (`ack-before-fsync` is caught by the fault programme.)

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use repl_tests::daemon::Toml;
use repl_tests::pg::Role;

use super::rig::{PATIENCE, Rig, mode};

fn caught(defect: &str, complaint: &str, scenario: fn(&str) -> Result<()>) -> Result<()> {
    scenario("")?;
    match scenario(defect) {
        Ok(()) => bail!("the checks did not notice {defect}"),
        Err(error) => {
            let error = format!("{error:#}");
            println!("{defect} was noticed: {error}");
            ensure!(
                error.contains(complaint),
                "{defect} failed in another way: {error}"
            );
            Ok(())
        }
    }
}

/// Starts the daemon, and stops a replica once clients commit: their commits must wait.
fn blocked_without_a_replica(rig: &mut Rig) -> Result<()> {
    rig.daemon.start()?;
    rig.wait_in_force()?;
    let clients = rig.clients(2)?;
    rig.wait_progress(&clients, 20)?;
    rig.pg.freeze()?;
    let blocked = rig.expect_blocked(&clients);
    rig.pg.thaw()?;
    blocked
}

#[test]
fn an_acknowledgement_at_receipt_is_noticed() -> Result<()> {
    caught("ack-at-receipt", "commits returned although", |defect| {
        let mut rig = Rig::prepare(false, |config| mode(config, "sync"))?;
        rig.daemon.set_sabotage(defect);
        blocked_without_a_replica(&mut rig)
    })
}

#[test]
fn one_replica_too_few_is_noticed() -> Result<()> {
    caught(
        "one-replica-too-few",
        "commits returned although",
        |defect| {
            let mut rig = Rig::prepare(true, |config| {
                mode(config, "semi-sync")
                    .set("replication", "min_replicas", Toml::from(3))
                    .set("replication", "on_timeout", "block")
            })?;
            rig.daemon.set_sabotage(defect);
            blocked_without_a_replica(&mut rig)
        },
    )
}

#[test]
fn a_slot_past_the_log_is_noticed() -> Result<()> {
    caught("slot-past-the-log", "ahead of the log", |defect| {
        let mut rig = Rig::start(false, |config| mode(config, "sync"))?;
        rig.daemon.kill9()?;
        rig.daemon.set_sabotage(defect);
        // Every flush takes its time, as on a slow disk, so that there is a before.
        rig.daemon
            .set_failpoints("log.flush.before_write=sleep(700)");
        rig.daemon.start()?;
        for _ in 0..4 {
            let sql = "SET synchronous_commit = local; CREATE TABLE IF NOT EXISTS elsewhere (id int); \
                       INSERT INTO elsewhere VALUES (1)";
            rig.primary.psql("postgres", Role::Superuser, sql)?;
            rig.primary.wait_acknowledged(Duration::from_secs(20))?;
            // The moment it says so, it must be able to keep its word.
            rig.daemon.crash_and_restart()?;
        }
        rig.daemon.kill9()?;
        rig.daemon.set_failpoints("");
        rig.daemon.start()?;
        rig.daemon.wait_caught_up(&rig.primary, PATIENCE)?;
        let status = rig.daemon.status()?;
        ensure!(status.alerts.is_empty(), "{:?}", status.alerts);
        Ok(())
    })
}
