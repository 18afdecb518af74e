//! A resync that is killed at every step, or interrupted by the operator, goes on and ends exact.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::group::{Group, MARIADB, PG, SQLITE, replctl};
use super::planted::{equal, load, number, plant, primary, start, streams};

/// How long a failpoint may take to be reached.
const REACHED: Duration = Duration::from_secs(40);

fn die_at(group: &mut Group, name: &str, nth: u64) -> Result<()> {
    group.daemon.set_failpoints(&format!("{name}=kill@{nth}"));
    group.daemon.spawn()?;
    let died = group.daemon.wait_killed(REACHED);
    died.with_context(|| format!("failpoint {name}"))
}

/// Parts of the large table that are recorded as done.
fn parts_done(group: &Group, replica: &str) -> Result<i64> {
    let parts = match replica {
        SQLITE => "_repl_copy_parts WHERE tab_name = 'wide'",
        _ => "repl.copy_parts WHERE table_name = 'wide'",
    };
    number(group, replica, &format!("SELECT count(*) FROM {parts}"))
}

/// Dies at each step, and loses no part that was done. `lead` begins the names of the failpoints.
fn killed_at_every_step(replica: &str, lead: &str) -> Result<()> {
    let mut group = start()?;
    plant(&group, replica)?;
    let stop = AtomicBool::new(false);
    let primary = primary(&group);
    let steps = [
        ("parts.before_begin", 1),
        ("parts.begun", 1),
        ("load.before_commit", 1),
        ("load.after_commit", 1),
        ("part.before_commit", 2),
        ("part.after_commit", 2),
        ("parts.resumed", 1),
        ("part.after_commit", 2),
        ("parts.before_end", 1),
        ("parts.ended", 1),
        ("parts.before_finish", 1),
        ("parts.finished", 1),
    ];
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| load(&primary, &stop));
        let died = (|| {
            group.daemon.kill9()?;
            order(&mut group, replica)?;
            let mut before = 0;
            for (step, nth) in steps {
                die_at(&mut group, &format!("{lead}.{step}"), nth)?;
                let done = parts_done(&group, replica)?;
                println!("{step}: {done} parts done");
                let ended = step.contains("end") || step.contains("finish");
                ensure!(
                    ended || done >= before,
                    "{step}: {done} parts are done, {before} were"
                );
                before = done;
            }
            group.daemon.set_failpoints("");
            group.daemon.start()?;
            streams(&group.daemon, replica)
        })();
        stop.store(true, Ordering::Relaxed);
        writer.join().ok().context("a thread panicked")??;
        died
    })?;
    ensure!(
        parts_done(&group, replica)? == 0,
        "parts are still recorded"
    );
    equal(&group)
}

/// Orders a resync that dies before anything was done.
fn order(group: &mut Group, replica: &str) -> Result<()> {
    group.daemon.set_failpoints("worker.copy.started=kill@1");
    group.daemon.start()?;
    let ordered = group.daemon.replctl(&["resync", replica, "--yes"]);
    drop(ordered);
    group.daemon.wait_killed(REACHED)
}

#[test]
fn killed_at_every_step_in_postgres() -> Result<()> {
    killed_at_every_step(PG, "pg")
}

#[test]
fn killed_at_every_step_in_mariadb() -> Result<()> {
    killed_at_every_step(MARIADB, "mysql")
}

#[test]
fn killed_at_every_step_in_sqlite() -> Result<()> {
    killed_at_every_step(SQLITE, "sqlite")
}

/// Single tables: the order is durable, and carried out once.
#[test]
fn killed_when_the_resync_of_a_table_begins() -> Result<()> {
    let mut group = start()?;
    plant(&group, PG)?;
    group.daemon.kill9()?;
    group.daemon.set_failpoints("worker.resync.begun=kill@1");
    group.daemon.start()?;
    group.caught_up()?;
    let ordered = group
        .daemon
        .replctl(&["resync", PG, "--tables", "public.*", "--yes"]);
    drop(ordered);
    group.daemon.wait_killed(REACHED)?;
    die_at(&mut group, "pg.part.before_commit", 3)?;
    group.daemon.set_failpoints("");
    group.daemon.start()?;
    streams(&group.daemon, PG)?;
    equal(&group)
}

/// A pause, or a stop of the daemon, in the middle: what is left goes on by difference.
#[test]
fn paused_and_stopped_in_the_middle() -> Result<()> {
    let mut group = start()?;
    let config = group.daemon.config().clone();
    ensure!(group.daemon.terminate()?.success(), "the daemon failed");
    let slow = config.clone().set("copy", "max_rows_per_second", 8_000);
    group.daemon.set_config(slow)?;
    group.daemon.start()?;
    plant(&group, PG)?;
    replctl(&group.daemon, &["resync", PG, "--yes"])?;
    let middle = |group: &Group| {
        repl_tests::wait::wait_until("parts to be done", REACHED, || {
            Ok(parts_done(group, PG)? >= 2)
        })
    };
    middle(&group)?;
    replctl(&group.daemon, &["pause", PG])?;
    replctl(&group.daemon, &["resume", PG])?;
    middle(&group)?;
    ensure!(group.daemon.terminate()?.success(), "the daemon failed");
    group.daemon.set_config(config)?;
    group.daemon.start()?;
    streams(&group.daemon, PG)?;
    equal(&group)
}
