//! More than one daemon, and daemons that are told to stop.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use repl_api::Membership;
use repl_tests::daemon::Daemon;
use repl_tests::pg::{DATABASE, Role};
use repl_tests::proxy::Proxy;

use super::rig::{self, REPLICA, Rig};

/// A stop is quick: nothing that waits for another machine may delay it.
const QUICK: Duration = Duration::from_secs(6);

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() -> Result<()> {
    let rig = Rig::start()?;
    let load = rig::spawn_load(&rig.primary, 100, false)?;
    let mut second = Daemon::new(rig.daemon.config().clone())?;
    second.ignore_log();
    second.spawn()?;
    let status = second.wait_exit(Duration::from_secs(10))?;
    ensure!(
        status.code() == Some(1),
        "the second daemon ended with {status}"
    );
    ensure!(
        second.log_contains("in use")? || second.log_contains("another")?,
        "no clear refusal: {}",
        second.log_tail(5)
    );
    load.interrupt()?;
    rig.check()
}

#[test]
fn a_second_daemon_with_another_log_does_no_harm() -> Result<()> {
    let rig = Rig::start()?;
    let load = rig::spawn_load(&rig.primary, 100, false)?;
    let log = rig.scratch.join("other-log");
    let config = rig
        .daemon
        .config()
        .clone()
        .set("log", "dir", log.display().to_string().as_str());
    let mut second = Daemon::new(config)?;
    second.ignore_log();
    second.start()?;
    // It holds neither the slot nor a log that the replica follows, and says so.
    second.wait_status("an error of the capture", rig::ARRIVAL, |status| {
        let error = status.primary.last_error.as_ref()?;
        error.message.contains("slot").then_some(())
    })?;
    second.wait_replica(
        REPLICA,
        "to belong to another log",
        rig::ARRIVAL,
        |replica| replica.membership == Membership::NeedsResync,
    )?;
    ensure!(
        second.terminate()?.success(),
        "the second daemon did not stop cleanly"
    );
    load.interrupt()?;
    rig.check()?;
    let first = rig.daemon.status()?;
    ensure!(
        first
            .replica(REPLICA)
            .is_some_and(|r| r.membership == Membership::Streaming),
        "the first daemon was disturbed: {first:?}"
    );
    Ok(())
}

#[test]
fn a_stop_under_load_is_clean_and_quick() -> Result<()> {
    let mut rig = Rig::start()?;
    let load = rig::spawn_load(&rig.primary, 300, true)?;
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(500));
        stop_quickly(&mut rig.daemon)?;
        rig::check_snapshot(&rig.replica)?;
        rig.daemon.start()?;
    }
    load.interrupt()?;
    rig.check()
}

#[test]
fn a_stop_does_not_wait_for_dead_servers() -> Result<()> {
    let mut rig = Rig::prepare(false, |config| config)?;
    let (to_primary, to_replica) = (
        Proxy::start(rig.primary.port())?,
        Proxy::start(rig.replica.port())?,
    );
    let config = rig::config(
        &rig.scratch,
        &rig.primary
            .url_via(to_primary.port(), DATABASE, Role::Superuser),
    )
    .replica(
        REPLICA,
        &rig.replica
            .url_via(to_replica.port(), DATABASE, Role::Superuser),
    );
    rig.daemon.set_config(config)?;
    rig.daemon.start()?;
    rig.settle()?;
    rig.install_audit()?;

    // Silent while connected, with work outstanding.
    to_replica.blackhole(true);
    rig.write_some()?;
    std::thread::sleep(Duration::from_millis(300));
    to_primary.blackhole(true);
    stop_quickly(&mut rig.daemon)?;
    // Silent from the start: the connections are never established.
    rig.daemon.start()?;
    std::thread::sleep(Duration::from_millis(300));
    stop_quickly(&mut rig.daemon)?;
    // Gone altogether.
    to_primary.blackhole(false);
    to_replica.blackhole(false);
    to_primary.refuse(true);
    to_replica.refuse(true);
    rig.daemon.start()?;
    std::thread::sleep(Duration::from_millis(300));
    stop_quickly(&mut rig.daemon)?;

    to_primary.refuse(false);
    to_replica.refuse(false);
    rig.daemon.start()?;
    rig.check()
}

fn stop_quickly(daemon: &mut Daemon) -> Result<()> {
    let started = Instant::now();
    let status = daemon.terminate()?;
    let took = started.elapsed();
    ensure!(
        status.code() == Some(0),
        "after SIGTERM: {status}\n{}",
        daemon.log_tail(10)
    );
    ensure!(
        took < QUICK,
        "the stop took {took:?}\n{}",
        daemon.log_tail(10)
    );
    Ok(())
}
