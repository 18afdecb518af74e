//! A checkpoint that was edited while the daemon was stopped, at a replica of each engine: whatever it says
//! that cannot be true is found when the replica is attached.

use anyhow::{Context, Result, ensure};
use repl_api::Membership;

use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE, replctl};
use super::planted::{number, streams};

const ALL: [&str; 3] = [PG, MARIADB, SQLITE];

/// Runs this at each replica, with its names for the table of checkpoints and the log.
fn edit(group: &Group, sql: &str) -> Result<()> {
    for (name, table, log) in [
        (PG, "repl.checkpoint", "log_id"),
        (MARIADB, "repl.checkpoint", "log_id"),
        (SQLITE, "_repl_checkpoint", "log"),
    ] {
        let sql = sql.replace("CHECKPOINT", table).replace("LOG", log);
        super::planted::at(group, name, &sql).with_context(|| format!("{name}: {sql}"))?;
    }
    Ok(())
}

/// Edits all checkpoints with the daemon stopped (in good order, or killed); every replica is then marked,
/// with one of `reasons`, and holds no more than before.
fn found(group: &mut Group, killed: bool, sql: &str, reasons: &[&str]) -> Result<()> {
    match killed {
        true => group.daemon.kill9()?,
        false => ensure!(group.daemon.terminate()?.success(), "the daemon failed"),
    }
    edit(group, sql)?;
    group
        .primary
        .execute("INSERT INTO t SELECT max(id) + 1, 0 FROM t")?;
    let newest = group.primary.query_i64("SELECT max(id) FROM t")?;
    group.daemon.start()?;
    for name in ALL {
        let marked = group
            .daemon
            .wait_replica(name, "to be marked", PATIENCE, |one| {
                one.membership == Membership::NeedsResync
            });
        marked.with_context(|| sql.to_owned())?;
        let alerts = group.daemon.status()?.alerts;
        let own = alerts
            .iter()
            .find(|alert| alert.contains(name))
            .context("no alert")?;
        ensure!(
            reasons.iter().any(|reason| own.contains(reason)),
            "{sql}: {own}"
        );
        let there = format!("SELECT count(*) FROM t WHERE id = {newest}");
        ensure!(number(group, name, &there)? == 0, "{name} went on");
    }
    let checked = group.daemon.replctl(&["status", "--check"])?;
    ensure!(checked.status.code() == Some(4), "{checked:?}");
    for name in ALL {
        replctl(&group.daemon, &["resync", name, "--yes", "--wait"])?;
        streams(&group.daemon, name)?;
    }
    group.caught_up()
}

#[test]
fn a_checkpoint_that_cannot_be_true_is_found_at_once() -> Result<()> {
    let mut group = Group::prepare(true, &[], |primary| {
        primary.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT n, n FROM generate_series(1, 100) n")
    })?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    for n in 0..5 {
        group.primary.execute(&format!("UPDATE t SET v = {n}"))?;
    }
    group.caught_up()?;
    ALL.iter()
        .try_for_each(|name| streams(&group.daemon, name))?;
    let ahead = ["ahead of the log"];
    // What is written meanwhile may get the number before the replica is looked at.
    let either = ["ahead of the log", "another position"];
    found(
        &mut group,
        false,
        "UPDATE CHECKPOINT SET seq = seq + 1000000",
        &ahead,
    )?;
    found(
        &mut group,
        true,
        "UPDATE CHECKPOINT SET seq = seq + 1",
        &either,
    )?;
    // With a position that may come, at first sight, and one that the primary has not.
    let likely = "UPDATE CHECKPOINT SET seq = seq + 1000, position = 'FFFFFFFF/00000000'";
    found(&mut group, true, likely, &ahead)?;
    let none = "UPDATE CHECKPOINT SET seq = seq + 1, position = 'nowhere'";
    found(&mut group, false, none, &either)?;
    found(
        &mut group,
        false,
        "UPDATE CHECKPOINT SET epoch = epoch + 1",
        &ahead,
    )?;
    found(
        &mut group,
        false,
        "UPDATE CHECKPOINT SET seq = seq - 1",
        &["another position"],
    )?;
    let moved = "UPDATE CHECKPOINT SET position = '00000000/00000001'";
    found(&mut group, false, moved, &["another position"])?;
    let other = "UPDATE CHECKPOINT SET LOG = '6f1d3b5e-2f4b-4f0e-9c55-7d3d8a2b9c11'";
    found(&mut group, false, other, &["follows log"])
}
