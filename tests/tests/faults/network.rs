//! The network between the daemon and its servers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_tests::daemon::DaemonConfig;
use repl_tests::pg::{DATABASE, Role};
use repl_tests::proxy::{Direction, Proxy};
use repl_tests::wait::wait_until;

use super::rig::{self, REPLICA, Rig};

/// A group with a proxy on either side of the daemon.
struct Wired {
    rig: Rig,
    to_primary: Proxy,
    to_replica: Proxy,
}

impl Wired {
    fn start() -> Result<Wired> {
        let mut rig = Rig::prepare(false, |config| config)?;
        let to_primary = Proxy::start(rig.primary.port())?;
        let to_replica = Proxy::start(rig.replica.port())?;
        let config: DaemonConfig = rig::config(
            &rig.scratch,
            &rig.primary
                .url_via(to_primary.port(), DATABASE, Role::Superuser),
        )
        .with("connect_timeout", "2s")
        .replica(
            REPLICA,
            &rig.replica
                .url_via(to_replica.port(), DATABASE, Role::Superuser),
        )
        .with("connect_timeout", "2s");
        rig.daemon.set_config(config)?;
        rig.daemon.start()?;
        rig.settle()?;
        rig.install_audit()?;
        Ok(Wired {
            rig,
            to_primary,
            to_replica,
        })
    }
}

#[test]
fn connections_reset_in_the_middle_of_messages() -> Result<()> {
    let wired = Wired::start()?;
    let load = rig::spawn_load(&wired.rig.primary, 300, true)?;
    let mut random = rig::Random::from_environment();
    for round in 0..rig::cycles(20, 200) {
        std::thread::sleep(Duration::from_millis(random.below(300)));
        if random.below(2) == 0 {
            wired.to_primary.cut();
        } else {
            wired.to_replica.cut();
        }
        rig::check_snapshot(&wired.rig.replica).with_context(|| format!("round {round}"))?;
    }
    load.interrupt()?;
    wired.rig.check()
}

#[test]
fn one_byte_at_a_time() -> Result<()> {
    let wired = Wired::start()?;
    wired.to_primary.set_one_byte(true);
    wired.to_replica.set_one_byte(true);
    wired.to_primary.cut();
    wired.to_replica.cut();
    wired.rig.write_some()?;
    wired.rig.check()
}

#[test]
fn latency_slows_nothing_down_for_good() -> Result<()> {
    let wired = Wired::start()?;
    wired.to_primary.set_latency(Duration::from_millis(40));
    wired.to_replica.set_latency(Duration::from_millis(40));
    let load = rig::spawn_load(&wired.rig.primary, 200, false)?;
    std::thread::sleep(Duration::from_secs(2));
    load.interrupt()?;
    wired.rig.check()
}

/// One direction goes silent: the connection looks open, but is dead, and must be given up within
/// the idle bound (4 s here) and opened anew once the network is back.
fn silent(direction: Direction, primary: bool) -> Result<()> {
    let wired = Wired::start()?;
    let proxy = if primary {
        &wired.to_primary
    } else {
        &wired.to_replica
    };
    let load = rig::spawn_load(&wired.rig.primary, 100, false)?;
    let before = proxy.accepted();
    proxy.hold(direction, true);
    wait_until("a new connection", Duration::from_secs(15), || {
        Ok(proxy.accepted() > before)
    })
    .context("the silent connection was not given up")?;
    proxy.hold(direction, false);
    load.interrupt()?;
    wired.rig.check()
}

#[test]
fn the_primary_falls_silent() -> Result<()> {
    silent(Direction::ToClient, true)
}

#[test]
fn the_primary_stops_hearing_us() -> Result<()> {
    // The server ends such a connection by wal_sender_timeout; until then nothing is lost.
    let wired = Wired::start()?;
    let load = rig::spawn_load(&wired.rig.primary, 100, false)?;
    wired.to_primary.hold(Direction::ToServer, true);
    std::thread::sleep(Duration::from_secs(3));
    wired.to_primary.hold(Direction::ToServer, false);
    load.interrupt()?;
    wired.rig.check()
}

#[test]
fn the_replica_falls_silent() -> Result<()> {
    let wired = Wired::start()?;
    let load = rig::spawn_load(&wired.rig.primary, 100, false)?;
    for direction in [Direction::ToClient, Direction::ToServer] {
        wired.to_replica.hold(direction, true);
        std::thread::sleep(Duration::from_secs(2));
        let primary = wired.rig.daemon.status()?.primary;
        ensure!(
            primary.state == repl_api::PrimaryState::Streaming,
            "capture is {primary:?}"
        );
        wired.to_replica.hold(direction, false);
    }
    load.interrupt()?;
    wired.rig.check()
}
