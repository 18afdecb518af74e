//! Replicas whose history and the log's do not join any more return by one command.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::pg::{DATABASE, Role};

use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE, replctl};
use super::planted::{WRITTEN, equal, load, plant, primary, reported, start};

/// Breaks the history by `break_it` with the daemon stopped, and brings all replicas back while the
/// primary is written to. Nearly all rows are equal, so few are written.
fn returns(break_it: impl FnOnce(&Group) -> Result<()>) -> Result<()> {
    let mut group = start()?;
    for replica in [PG, MARIADB, SQLITE] {
        plant(&group, replica)?;
    }
    ensure!(group.daemon.terminate()?.success(), "the daemon failed");
    break_it(&group)?;
    group.primary.execute(
        "UPDATE wide SET a = 'missed' WHERE id % 1000 = 0; DELETE FROM pairs WHERE id = 100;
         INSERT INTO words VALUES ('missed', 1)",
    )?;
    group.daemon.start()?;
    for replica in [PG, MARIADB, SQLITE] {
        group
            .daemon
            .wait_replica(replica, "to need a resync", PATIENCE, |replica| {
                replica.membership == Membership::NeedsResync
            })?;
    }
    let one = group
        .daemon
        .replctl(&["resync", PG, "--tables", "wide", "--yes"])?;
    ensure!(!one.status.success(), "one table is not enough: {one:?}");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| load(&primary(&group), &stop));
        let resynced = [PG, MARIADB, SQLITE].into_iter().try_for_each(|name| {
            replctl(&group.daemon, &["resync", name, "--yes", "--wait"]).map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        writer.join().ok().context("a thread panicked")??;
        resynced
    })?;
    for replica in [PG, MARIADB, SQLITE] {
        let written = reported(&group.daemon, replica)?;
        for (table, _) in WRITTEN {
            let rows: u64 = ["inserted", "updated", "deleted"]
                .iter()
                .filter_map(|what| written[table][what].as_u64())
                .sum();
            // None, where a resync that the new history overtook had begun with it.
            ensure!(rows < 3000, "{table}: {written:#}");
        }
    }
    equal(&group)
}

#[test]
fn after_the_slot_was_dropped() -> Result<()> {
    returns(|group| {
        let slot = group.daemon.config().slot_name();
        let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
        group.primary.psql(DATABASE, Role::Superuser, &drop)?;
        Ok(())
    })
}

#[test]
fn after_the_log_directory_was_lost() -> Result<()> {
    returns(|group| Ok(fs::remove_dir_all(group.daemon.config().log_dir())?))
}
