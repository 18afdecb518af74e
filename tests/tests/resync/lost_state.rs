//! What the daemon remembers of its replicas is gone, or an older copy of it: nothing is then taken for
//! healthy, and nothing goes on without an order.

use std::fs;

use anyhow::{Context, Result, ensure};
use repl_api::{Membership, Status};
use repl_tests::daemon::DaemonConfig;
use repl_tests::pg::{DATABASE, Role};

use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE, paused_by_error, replctl};
use super::planted::{at, number, streams};

const ALL: [&str; 3] = [PG, MARIADB, SQLITE];

fn check_code(group: &Group) -> Result<Option<i32>> {
    Ok(group.daemon.replctl(&["status", "--check"])?.status.code())
}

/// Stops the daemon, does this to the directory of the log, and starts it again.
fn restart_with(
    group: &mut Group,
    accident: impl FnOnce(&std::path::Path) -> Result<()>,
) -> Result<()> {
    ensure!(group.daemon.terminate()?.success(), "the daemon failed");
    accident(group.daemon.config().log_dir())?;
    group.daemon.start()
}

/// Every replica is held, and status says that, and what, is not known.
fn expect_held(group: &Group, why: &str) -> Result<()> {
    let lost = |status: &Status| status.alerts.iter().any(|alert| alert.contains(why));
    let held = |status: &Status| {
        let paused = |one: &repl_api::ReplicaStatus| one.membership == Membership::Paused;
        status.replicas.iter().all(paused)
    };
    group
        .daemon
        .wait_status("all to be held", PATIENCE, |status| {
            (lost(status) && held(status)).then_some(())
        })?;
    ensure!(check_code(group)? == Some(4), "nothing needs attention");
    for name in ALL {
        let error = paused_by_error(&group.daemon, name)?;
        for wanted in [
            "replctl resume",
            "replctl validate --deep",
            "replctl resync",
        ] {
            ensure!(error.advice.contains(wanted), "{error:?}");
        }
    }
    ensure!(group.daemon.log_contains(why)?, "it is not in the log");
    Ok(())
}

/// One replica leaves a transaction out, one is paused by the operator; then the file is lost.
#[test]
fn a_lost_file_makes_nothing_healthy_and_lifts_nothing() -> Result<()> {
    let mut group = Group::prepare(true, &[], |primary| {
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT n, n FROM generate_series(1, 100) n",
        )
    })?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    group.caught_up()?;
    ALL.iter()
        .try_for_each(|name| streams(&group.daemon, name))?;
    at(&group, SQLITE, "INSERT INTO t VALUES (101, -1)")?;
    group.primary.execute("INSERT INTO t VALUES (101, 1)")?;
    let error = paused_by_error(&group.daemon, SQLITE)?;
    let seq = error.transaction.context("no transaction")?.seq.to_string();
    replctl(
        &group.daemon,
        &["skip", SQLITE, "--seq", &seq, "--reason", "a test"],
    )?;
    group.caught_up()?;
    replctl(&group.daemon, &["pause", PG])?;

    restart_with(&mut group, |dir| {
        Ok(fs::remove_file(dir.join("state.json"))?)
    })?;
    expect_held(&group, "state.json was missing")?;
    group.primary.execute("INSERT INTO t VALUES (102, 1)")?;
    for name in ALL {
        ensure!(
            number(&group, name, "SELECT count(*) FROM t WHERE id = 102")? == 0,
            "{name} went on"
        );
    }
    // Nor does another restart.
    restart_with(&mut group, |_| Ok(()))?;
    expect_held(&group, "state.json was missing")?;
    // Going on is not being equal, and only what is equal is taken for it.
    for name in ALL {
        replctl(&group.daemon, &["resume", name])?;
    }
    group.caught_up()?;
    let status = group.daemon.status()?;
    for one in &status.replicas {
        ensure!(one.membership == Membership::Diverged, "{one:#?}");
    }
    ensure!(check_code(&group)? == Some(4), "nothing needs attention");
    let compared = group.daemon.replctl(&["validate", "--deep"])?;
    ensure!(compared.status.code() == Some(1), "{compared:?}");
    streams(&group.daemon, PG)?;
    streams(&group.daemon, MARIADB)?;
    let status = group.daemon.status()?;
    let skipped = status.replica(SQLITE).context("it is there")?;
    ensure!(skipped.membership == Membership::Diverged, "{skipped:#?}");
    ensure!(
        status
            .alerts
            .iter()
            .any(|alert| alert.contains("state.json")),
        "{:?}",
        status.alerts
    );
    replctl(&group.daemon, &["resync", SQLITE, "--yes", "--wait"])?;
    ALL.iter()
        .try_for_each(|name| streams(&group.daemon, name))?;
    group.caught_up()?;
    ensure!(
        group.daemon.status()?.alerts.is_empty(),
        "{:?}",
        group.daemon.status()?.alerts
    );
    group.same("public.t")?;
    older_copies(&mut group)
}

/// A copy of the file that was put back from before says less than what happened since.
fn older_copies(group: &mut Group) -> Result<()> {
    let mut copy = Vec::new();
    restart_with(group, |dir| {
        copy = fs::read(dir.join("state.json"))?;
        Ok(())
    })?;
    replctl(&group.daemon, &["pause", PG])?;
    restart_with(group, |dir| Ok(fs::write(dir.join("state.json"), copy)?))?;
    expect_held(group, "older copy")?;
    for name in ALL {
        replctl(&group.daemon, &["resume", name])?;
    }
    group.caught_up()?;
    ensure!(
        group
            .daemon
            .replctl(&["validate", "--deep"])?
            .status
            .success()
    );
    ALL.iter()
        .try_for_each(|name| streams(&group.daemon, name))?;
    // The file and the count of its versions together: the log remembers that there was one.
    restart_with(group, |dir| {
        fs::remove_file(dir.join("state-mark.json"))?;
        Ok(fs::remove_file(dir.join("state.json"))?)
    })?;
    expect_held(group, "state.json was missing")?;
    forgotten(group)?;
    // Damaged, it is refused, with what moving it away would mean.
    ensure!(group.daemon.terminate()?.success(), "the daemon failed");
    fs::write(group.daemon.config().log_dir().join("state.json"), "{")?;
    group.daemon.spawn()?;
    ensure!(!group.daemon.wait_exit(PATIENCE)?.success(), "it started");
    ensure!(
        group.daemon.log_contains("every replica is then held")?,
        "{}",
        group.daemon.log_tail(5)
    );
    Ok(())
}

/// What comparisons found is lost, and a replica is called otherwise in the configuration.
fn forgotten(group: &mut Group) -> Result<()> {
    let found = |group: &Group, wanted: &str| -> Result<bool> {
        let alerts = group.daemon.status()?.alerts;
        Ok(alerts.iter().any(|alert| alert.contains(wanted)))
    };
    restart_with(group, |dir| {
        Ok(fs::remove_file(dir.join("validation.json"))?)
    })?;
    // The file that knew of it was lost as well.
    ensure!(!found(group, "validation.json")?);
    for name in ALL {
        replctl(&group.daemon, &["resume", name])?;
    }
    group.caught_up()?;
    ensure!(
        group
            .daemon
            .replctl(&["validate", "--deep"])?
            .status
            .success()
    );
    restart_with(group, |dir| {
        Ok(fs::remove_file(dir.join("validation.json"))?)
    })?;
    ensure!(
        found(group, "validation.json")?,
        "{:?}",
        group.daemon.status()?.alerts
    );
    group.caught_up()?;
    ensure!(
        group
            .daemon
            .replctl(&["validate", "--deep"])?
            .status
            .success()
    );
    ensure!(!found(group, "validation.json")?);

    ensure!(group.daemon.terminate()?.success(), "the daemon failed");
    let renamed = DaemonConfig::new("cross", group.daemon.config().log_dir())
        .set("log", "min_free_disk", "0B")
        .primary("main", &group.primary.url(DATABASE, Role::Superuser))
        .replica("renamed", &group.sqlite.url());
    group.daemon.set_config(renamed)?;
    group.daemon.start()?;
    let error = paused_by_error(&group.daemon, "renamed")?;
    ensure!(error.message.contains("nothing is remembered"), "{error:?}");
    Ok(())
}
