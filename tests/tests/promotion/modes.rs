//! Promotions while commits wait for replicas.

use anyhow::{Context, Result, ensure};
use repl_api::{ModeState, PromotionState};

use super::probes::{Probes, check_rows, turns};
use repl_tests::daemon::Daemon;

use super::rig::{PATIENCE, Rig};

pub fn wait_in_force(rig: &Rig) -> Result<()> {
    wait_in_force_by(&rig.daemon)
}

/// Commits wait for every replica.
pub fn wait_in_force_by(daemon: &Daemon) -> Result<()> {
    daemon.wait_status("the mode to be in force", PATIENCE, |status| {
        let commits = status.commits.as_ref()?;
        let all = commits.members.iter().all(|member| member.counts);
        (commits.state == ModeState::InForce && all).then_some(())
    })
}

/// What commits wait for at a node.
fn names(rig: &Rig, node: &str) -> Result<String> {
    rig.server(node)
        .query("SELECT current_setting('synchronous_standby_names')")
}

#[test]
fn the_promise_moves_with_the_primary() -> Result<()> {
    let mut rig = Rig::start(|config| config.set("replication", "mode", "sync"))?;
    wait_in_force(&rig)?;
    let probes = Probes::start(&rig.all(), None);
    for next in ["r1", "main", "r2"] {
        probes.wait_write(&rig.primary()?, PATIENCE)?;
        let before = rig.primary()?;
        let ended = rig.promote(next)?;
        ensure!(ended.state == PromotionState::Done, "{ended:#?}");
        // From the first one on its commits wait.
        ensure!(
            names(&rig, next)? == "repl_promo",
            "{next} waits for nobody"
        );
        probes.wait_write(next, PATIENCE)?;
        rig.wait_streaming()?;
        wait_in_force(&rig)?;
        ensure!(
            names(&rig, &before)?.is_empty(),
            "{before} still waits for the daemon"
        );
    }
    // What was confirmed is on the others, whatever becomes of the primary.
    rig.daemon.kill9()?;
    rig.server_mut("r2").kill9()?;
    let writes = probes.stop()?;
    turns(&writes)?;
    for node in ["main", "r1"] {
        check_rows(&writes, rig.server(node)).with_context(|| node.to_owned())?;
    }
    Ok(())
}
