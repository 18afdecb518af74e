//! Other modes at run time, under load.

use anyhow::{Result, ensure};
use repl_api::{MinReplicas, Mode, ModeRequest, ModeState};
use repl_tests::daemon::Toml;
use repl_tests::wait::wait_until;

use super::rig::{Rig, check, mode};

#[test]
fn the_mode_is_switched_under_load_and_promises_what_status_says() -> Result<()> {
    let mut rig = Rig::start(true, |config| mode(config, "sync"))?;
    let clients = rig.clients(6)?;
    rig.wait_progress(&clients, 30)?;
    rig.order(ModeRequest::new(Mode::Async))?;
    rig.wait_state(ModeState::Off)?;
    rig.daemon.kill9()?;
    // Nothing waits for a daemon that is away.
    rig.wait_progress(&clients, 100)?;
    rig.daemon.start()?;
    for (wanted, min_replicas) in [
        (Mode::Sync, None),
        (Mode::SemiSync, Some(2)),
        (Mode::Sync, None),
    ] {
        rig.order(ModeRequest {
            min_replicas: min_replicas.map(MinReplicas::Number),
            on_timeout: Some("block".into()),
            ..ModeRequest::new(wanted)
        })?;
        rig.wait_in_force()?;
        let before = rig.confirmed()?;
        rig.wait_progress(&clients, 60)?;
        rig.daemon.kill9()?;
        rig.primary.kill9()?;
        let mut since = rig.confirmed()?;
        since.retain(|row| !before.contains(row));
        check(&since, &rig.rows()?, min_replicas.unwrap_or(3) as usize)?;
        rig.primary.start()?;
        // An order outlives the daemon.
        rig.daemon.start()?;
        ensure!(rig.commits()?.asked == wanted, "{:?}", rig.commits()?);
    }
    rig.wait_in_force()?;
    rig.check_end(clients)
}

#[test]
fn what_cannot_be_promised_is_refused_and_who_counts_is_explicit() -> Result<()> {
    let rig = Rig::start(true, |config| {
        mode(config, "semi-sync")
            .set("replication", "min_replicas", Toml::from(2))
            .with_of(super::rig::SQLITE, "counts", false)
    })?;
    let refused = rig.replctl(&["mode", "semi-sync", "--min-replicas", "3"])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(1) && text.contains("2 may count"),
        "{text}"
    );
    let paused = rig.replctl(&["pause", super::rig::PG])?;
    ensure!(paused.status.success(), "{paused:?}");
    let commits = rig.commits()?;
    let member = commits
        .members
        .iter()
        .find(|member| member.name == super::rig::PG);
    let why = member.and_then(|member| member.why_not.clone());
    ensure!(why.as_deref() == Some("paused"), "{commits:?}");
    let resumed = rig.replctl(&["resume", super::rig::PG])?;
    ensure!(resumed.status.success(), "{resumed:?}");
    rig.wait_in_force()
}

#[test]
fn a_table_that_appears_is_copied_and_the_mode_returns() -> Result<()> {
    a_table_appears(Rig::start(false, |config| mode(config, "sync"))?)
}

/// What the replica has applied is not let go yet when it ceases to count for the copy.
#[test]
fn so_it_is_where_the_log_is_slower_than_the_replica() -> Result<()> {
    a_table_appears(start_with_a_slow_log()?)
}

#[test]
fn so_it_is_where_a_table_is_resynced() -> Result<()> {
    let rig = start_with_a_slow_log()?;
    let clients = rig.clients(2)?;
    rig.wait_progress(&clients, 20)?;
    let ordered = rig.replctl(&[
        "resync",
        super::rig::PG,
        "--tables",
        "public.history",
        "--yes",
    ])?;
    ensure!(ordered.status.success(), "{ordered:?}");
    rig.wait_in_force()?;
    rig.wait_progress(&clients, 20)?;
    rig.check_end(clients)
}

fn start_with_a_slow_log() -> Result<Rig> {
    let mut rig = Rig::prepare(false, |config| mode(config, "sync"))?;
    rig.daemon
        .set_failpoints("log.flush.before_sync=sleep(150)");
    rig.daemon.start()?;
    rig.wait_in_force()?;
    Ok(rig)
}

fn a_table_appears(rig: Rig) -> Result<()> {
    let clients = rig.clients(2)?;
    rig.wait_progress(&clients, 20)?;
    rig.primary.execute(
        "CREATE TABLE public.appeared (id int PRIMARY KEY);
         INSERT INTO public.appeared SELECT generate_series(1, 1000);",
    )?;
    let count = "SELECT count(*) FROM public.appeared";
    wait_until("the new table's rows", super::rig::PATIENCE, || {
        Ok(rig.pg.query_i64(count).unwrap_or_default() == 1000)
    })?;
    rig.wait_in_force()?;
    rig.wait_progress(&clients, 20)?;
    rig.primary
        .execute("INSERT INTO public.appeared VALUES (1001)")?;
    ensure!(
        rig.pg.query_i64(count)? == 1001,
        "the COMMIT returned early"
    );
    rig.check_end(clients)
}

#[test]
fn a_replica_that_does_not_flush_does_not_count() -> Result<()> {
    let mut rig = Rig::prepare(false, |config| mode(config, "sync"))?;
    rig.pg.set("fsync", "off")?;
    rig.pg.reload()?;
    rig.daemon.start()?;
    rig.daemon
        .wait_status("the reason", super::rig::PATIENCE, |status| {
            let member = status.commits.as_ref()?.members.first()?;
            let why = member.why_not.as_deref().unwrap_or_default();
            (!member.counts && why.contains("fsync = off")).then_some(())
        })?;
    ensure!(
        rig.commits()?.state == ModeState::Enabling,
        "{:?}",
        rig.commits()?
    );
    // Nothing waits for a mode that is not in force, and nothing is kept at the primary for it.
    rig.primary
        .execute("INSERT INTO public.history VALUES (1, 1)")?;
    rig.primary.wait_acknowledged(super::rig::PATIENCE)
}

/// The order is lost, and with it what commits are to wait for: they go on waiting until it is given again.
#[test]
fn commits_go_on_waiting_when_the_order_is_lost() -> Result<()> {
    let mut rig = Rig::prepare(false, |config| config)?;
    rig.daemon.start()?;
    rig.wait_state(ModeState::Off)?;
    rig.order(ModeRequest::new(Mode::Sync))?;
    rig.wait_in_force()?;
    rig.daemon.terminate()?;
    let log = rig.daemon.config().log_dir();
    std::fs::remove_file(log.join("state.json"))?;
    rig.daemon.start()?;
    let names = || rig.primary.query("SHOW synchronous_standby_names");
    rig.daemon
        .wait_status("the alert", super::rig::PATIENCE, |status| {
            let said = |alert: &String| alert.contains("replctl mode async");
            status.alerts.iter().any(said).then_some(())
        })?;
    ensure!(names()?.contains("repl_modes"), "{}", names()?);
    // They do return, once they are logged.
    rig.primary
        .execute("INSERT INTO public.unpublished DEFAULT VALUES")?;
    rig.order(ModeRequest::new(Mode::Async))?;
    wait_until("the name to be taken out", super::rig::PATIENCE, || {
        Ok(!names()?.contains("repl_modes"))
    })?;
    let said = rig.daemon.status()?.alerts.join("; ");
    ensure!(!said.contains("replctl mode async"), "{said}");
    Ok(())
}
