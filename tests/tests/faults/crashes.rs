//! SIGKILL at random moments: of the daemon, of a replica's server, of the primary's server.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use repl_tests::wait::wait_until;
use repl_tests::workload::history::{self, Clients};

use super::rig::{self, Random, Rig};

#[test]
fn the_daemon_killed_at_random() -> Result<()> {
    let mut rig = Rig::start()?;
    let load = rig::spawn_load(&rig.primary, 300, true)?;
    let mut random = Random::from_environment();
    for cycle in 0..rig::cycles(25, 400) {
        // Some lives are too short to connect, some long enough to catch up.
        let life = if random.below(4) == 0 { 600 } else { 150 };
        thread::sleep(Duration::from_millis(random.below(life)));
        rig.daemon.kill9()?;
        rig::check_snapshot(&rig.replica).with_context(|| format!("cycle {cycle}"))?;
        rig.daemon.spawn()?;
    }
    rig.daemon.wait_ready()?;
    load.interrupt()?;
    rig.check()
}

#[test]
fn a_replica_server_killed_at_random() -> Result<()> {
    let mut rig = Rig::start_with(true, |config| config)?;
    let load = rig::spawn_load(&rig.primary, 200, false)?;
    let mut random = Random::from_environment();
    for cycle in 0..rig::cycles(4, 60) {
        thread::sleep(Duration::from_millis(300 + random.below(700)));
        rig.replica.kill9()?;
        rig.replica.start()?;
        rig::check_snapshot(&rig.replica).with_context(|| format!("cycle {cycle}"))?;
    }
    load.interrupt()?;
    rig.check()
}

#[test]
fn the_primary_server_killed_at_random() -> Result<()> {
    let mut rig = Rig::start_with(true, |config| config)?;
    history::create(&rig.primary)?;
    rig.primary
        .execute("ALTER TABLE public.history REPLICA IDENTITY FULL")?;
    let clients = Clients::start_on(&rig.primary, 4, &rig.scratch.join("history"))?;
    let mut random = Random::from_environment();
    for _ in 0..rig::cycles(4, 60) {
        let goal = clients.confirmed() + 20 + random.below(200);
        wait_until("clients to write", rig::ARRIVAL, || {
            Ok(clients.confirmed() > goal)
        })?;
        rig.write_some()?;
        rig.primary.kill9()?;
        rig.primary.start()?;
    }
    let history = clients.stop()?;
    rig.check()?;
    history.check(&rig.primary)?;
    history.check(&rig.replica)
}

#[test]
fn all_three_killed_at_once() -> Result<()> {
    let mut rig = Rig::start_with(true, |config| config)?;
    history::create(&rig.primary)?;
    rig.primary
        .execute("ALTER TABLE public.history REPLICA IDENTITY FULL")?;
    let clients = Clients::start_on(&rig.primary, 4, &rig.scratch.join("history"))?;
    for _ in 0..rig::cycles(2, 30) {
        let goal = clients.confirmed() + 100;
        wait_until("clients to write", rig::ARRIVAL, || {
            Ok(clients.confirmed() > goal)
        })?;
        rig.daemon.kill9()?;
        rig.replica.kill9()?;
        rig.primary.kill9()?;
        rig.primary.start()?;
        // The daemon comes back before its replica does.
        rig.daemon.start()?;
        rig.replica.start()?;
    }
    let history = clients.stop()?;
    rig.check()?;
    history.check(&rig.replica)
}
