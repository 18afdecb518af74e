//! The way out when the daemon is lost.

use anyhow::{Result, ensure};
use repl_tests::wait::wait_until;

use super::rig::{PATIENCE, Rig, mode};

#[test]
fn the_primary_is_freed_without_the_daemon() -> Result<()> {
    let mut rig = Rig::start(false, |config| mode(config, "sync"))?;
    let clients = rig.clients(4)?;
    rig.wait_progress(&clients, 20)?;
    rig.daemon.kill9()?;
    rig.expect_blocked(&clients)?;
    let file = rig.daemon.config_file().display().to_string();
    let released = rig.replctl(&["release", "--offline", "--yes", "--config", &file])?;
    let said = String::from_utf8_lossy(&released.stdout).into_owned();
    ensure!(released.status.success(), "{released:?}");
    ensure!(said.contains("without being on any replica"), "{said}");
    rig.wait_progress(&clients, 50)?;
    // It comes back by itself.
    rig.daemon.start()?;
    rig.wait_in_force()?;
    let names = "SELECT current_setting('synchronous_standby_names')";
    wait_until("the daemon's name", PATIENCE, || {
        Ok(rig.primary.query(names)? == "repl_modes")
    })?;
    rig.daemon.kill9()?;
    rig.expect_blocked(&clients)?;
    rig.daemon.start()?;
    rig.check_end(clients)
}
