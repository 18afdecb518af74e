//! Deliberately broken behaviour must be noticed: each scenario passes with the real daemon and
//! fails its check with the defect switched on.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::failpoints::die_at;
use super::rig::{REPLICA, Rig};

/// Runs `scenario` without and with `defect`; the second must fail with `complaint` in its error.
fn caught(defect: &str, complaints: &[&str], scenario: fn(&str) -> Result<()>) -> Result<()> {
    scenario("")?;
    match scenario(defect) {
        Ok(()) => anyhow::bail!("the checks did not notice {defect}"),
        Err(error) => {
            let error = format!("{error:#}");
            println!("{defect} was noticed: {error}");
            ensure!(
                complaints.iter().any(|complaint| error.contains(complaint)),
                "{defect} failed in another way than by a check: {error}"
            );
            Ok(())
        }
    }
}

#[test]
fn a_checkpoint_outside_the_transaction_is_noticed() -> Result<()> {
    caught(
        "checkpoint-outside-transaction",
        &["applied twice", "executed", "no whole-transaction state"],
        |defect| {
            let mut rig = Rig::start()?;
            rig.daemon.kill9()?;
            rig.daemon.set_sabotage(defect);
            rig.write_some()?;
            let place = if defect.is_empty() {
                "pg.apply.after_commit"
            } else {
                "pg.apply.outside"
            };
            die_at(&mut rig.daemon, place, 1)?;
            rig.daemon.set_failpoints("");
            rig.daemon.start()?;
            rig.check()
        },
    )
}

#[test]
fn an_acknowledgement_before_the_fsync_is_noticed() -> Result<()> {
    caught(
        "ack-before-fsync",
        &["needs-resync", "in vain", "ahead of the log"],
        |defect| {
            let mut rig = Rig::start()?;
            rig.daemon.kill9()?;
            rig.daemon.set_sabotage(defect);
            // Every flush takes its time, as on a slow disk, so that there is a before.
            rig.daemon
                .set_failpoints("log.flush.before_write=sleep(700)");
            rig.daemon.start()?;
            for _ in 0..4 {
                rig.write_some()?;
                // The moment it says so, it must be able to keep its word.
                rig.primary.wait_acknowledged(Duration::from_secs(20))?;
                rig.daemon.crash_and_restart()?;
            }
            rig.daemon.kill9()?;
            rig.daemon.set_failpoints("");
            rig.daemon.start()?;
            rig.check()
        },
    )
}

#[test]
fn a_torn_tail_that_is_kept_is_noticed() -> Result<()> {
    let complaints = [
        "needs-resync",
        "in vain",
        "ended with",
        "paused",
        "rows",
        "differ",
    ];
    caught("keep-torn-tail", &complaints, |defect| {
        let mut rig = Rig::start()?;
        rig.daemon.kill9()?;
        rig.write_some()?;
        die_at(&mut rig.daemon, "log.flush.mid_write", 1)?;
        rig.daemon.set_failpoints("");
        rig.daemon.set_sabotage(defect);
        rig.daemon.start()?;
        rig.write_some()?;
        rig.check()?;
        // What is in the log must also be readable after another crash.
        rig.daemon.crash_and_restart()?;
        rig.write_some()?;
        rig.check()
    })
}

#[test]
fn transactions_out_of_order_are_noticed() -> Result<()> {
    caught(
        "reorder",
        &["no prefix", "rows differ", "differ"],
        |defect| {
            let mut rig = Rig::prepare(false, |config| {
                // An odd number: pairs of neighbours fall into different batches.
                config.set("limits", "batch_transactions", 7)
            })?;
            rig.daemon.set_sabotage(defect);
            rig.daemon.start()?;
            rig.settle()?;
            rig.install_audit()?;
            rig.daemon
                .call(|client| async move { client.pause(REPLICA).await })?;
            // One transaction each, in a known order.
            let line = "INSERT INTO public.journal SELECT max(n) + 1 FROM public.journal;\n";
            rig.primary.execute(&line.repeat(60))?;
            rig.daemon
                .call(|client| async move { client.resume(REPLICA).await })?;
            rig.check()
        },
    )
}
