//! A row whose COMMIT returned is where the mode promised it, whatever is killed.

use anyhow::Result;
use repl_tests::daemon::Toml;

use super::rig::{Rig, mode};

fn cycles(usual: u32, full: u32) -> u32 {
    if std::env::var_os("REPL_TEST_FULL").is_some() {
        full
    } else {
        usual
    }
}

#[test]
fn sync_loses_nothing_when_the_primary_is_killed_again_and_again() -> Result<()> {
    let mut rig = Rig::start(true, |config| mode(config, "sync"))?;
    // Nobody but the daemon makes the replica's commits durable before their time.
    rig.pg.set("wal_writer_delay", "10s")?;
    rig.pg.set("wal_writer_flush_after", "1GB")?;
    rig.pg.reload()?;
    let clients = rig.clients(8)?;
    for cycle in 0..cycles(10, 300) {
        rig.wait_progress(&clients, 20 + u64::from(cycle % 5) * 17)?;
        // With the daemon gone in the same moment nothing arrives any more that was on its way.
        let both = cycle % 2 == 0;
        if both {
            rig.daemon.kill9()?;
        }
        rig.primary.kill9()?;
        if cycle % 3 == 0 {
            // Whatever `commit` says, what counts is on the replica's disk.
            rig.pg.kill9()?;
            rig.pg.start()?;
        }
        rig.check_confirmed(3)?;
        rig.primary.start()?;
        if both {
            rig.daemon.start()?;
        }
    }
    rig.wait_in_force()?;
    rig.check_end(clients)
}

#[test]
fn semi_sync_keeps_every_commit_on_two_of_three() -> Result<()> {
    let mut rig = Rig::start_with("remote_apply", true, |config| {
        mode(config, "semi-sync")
            .set("replication", "min_replicas", Toml::from(2))
            .set("replication", "on_timeout", "block")
    })?;
    let clients = rig.clients(6)?;
    for cycle in 0..cycles(6, 100) {
        rig.wait_progress(&clients, 20)?;
        let frozen = cycle % 2 == 0;
        if frozen {
            rig.pg.freeze()?;
        }
        // The other two suffice.
        rig.wait_progress(&clients, 30)?;
        rig.daemon.kill9()?;
        rig.primary.kill9()?;
        if frozen {
            rig.pg.thaw()?;
        }
        rig.check_confirmed(2)?;
        rig.primary.start()?;
        rig.daemon.start()?;
    }
    rig.wait_in_force()?;
    rig.check_end(clients)
}
