//! The daemon replaces a dead primary by itself, and leaves one that lives alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use repl_tests::daemon::DaemonConfig;

use super::modes::wait_in_force;
use super::probes::{Probes, turns};
use super::rig::{NODES, PATIENCE, Rig};

fn long(short: usize, full: usize) -> usize {
    match std::env::var_os("REPL_TEST_FULL") {
        Some(_) => full,
        None => short,
    }
}

/// Defaults, but that several failovers may follow each other.
pub fn automatic(config: DaemonConfig, relies_on: &str) -> DaemonConfig {
    config
        .set("failover", "automatic", true)
        .set("failover", "relies_on", relies_on)
        .set("failover", "cool_down", "0s")
}

/// Waits for the failover of `old`; the node that took its place.
pub fn wait_failover(rig: &Rig, old: &str) -> Result<String> {
    rig.daemon.wait_status("a failover", PATIENCE, |status| {
        let over = status.promotion.is_none() && status.primary.name != old;
        over.then(|| status.primary.name.clone())
    })
}

#[test]
fn in_sync_mode_primaries_that_die_are_replaced_and_nothing_acknowledged_is_lost() -> Result<()> {
    let mut rig =
        Rig::start(|config| automatic(config.set("replication", "mode", "sync"), "commits"))?;
    wait_in_force(&rig)?;
    let probes = Probes::start(&rig.all(), Some(Duration::from_millis(20)));
    let mut gaps = Vec::new();
    for _ in 0..long(2, 100) {
        let old = rig.primary()?;
        probes.wait_write(&old, PATIENCE)?;
        rig.wait_promised()?;
        let died = Instant::now();
        rig.server_mut(&old).kill9()?;
        let new = wait_failover(&rig, &old)?;
        probes.wait_write(&new, PATIENCE)?;
        gaps.push(died.elapsed());
        rig.server_mut(&old).start()?;
        let ordered = rig.wait_joined();
        let ordered = ordered.with_context(|| format!("{old} → {new}"))?;
        ensure!(!ordered, "{old} waited for an order");
        wait_in_force(&rig)?;
    }
    rig.check_all(probes)?;
    gaps.sort();
    println!("from kill -9 to a write at the new primary: {gaps:?}");
    // About three seconds on a machine that does nothing else, which the measurements hold it to.
    ensure!(gaps.iter().all(|gap| *gap < PATIENCE / 4), "{gaps:?}");
    let history = rig.daemon.replctl(&["history"])?;
    let text = String::from_utf8_lossy(&history.stdout).into_owned();
    ensure!(
        text.contains("automatic · ") && text.contains("did not answer for"),
        "{text}"
    );
    ensure!(text.contains("nothing acknowledged is lost"), "{text}");
    Ok(())
}

/// With one replica standing still, only the other holds what was acknowledged.
#[test]
fn in_semi_sync_mode_the_replica_that_holds_most_takes_the_place() -> Result<()> {
    let mut rig = Rig::start(|config| {
        let config = config.set("replication", "mode", "semi-sync");
        let config = config.set("replication", "min_replicas", 1);
        automatic(config.set("replication", "on_timeout", "block"), "commits")
    })?;
    wait_in_force(&rig)?;
    let probes = Probes::start(&rig.all(), None);
    for round in 0..long(2, 50) {
        let old = rig.primary()?;
        let others: Vec<&str> = NODES.into_iter().filter(|node| *node != old).collect();
        let (still, holds) = (others[round % 2], others[1 - round % 2]);
        probes.wait_write(&old, PATIENCE)?;
        rig.server_mut(still).freeze()?;
        probes.wait_write(&old, PATIENCE)?;
        rig.wait_promised()?;
        rig.server_mut(&old).kill9()?;
        let new = wait_failover(&rig, &old)?;
        rig.server_mut(still).thaw()?;
        ensure!(new == holds, "{new} took the place, {still} stood still");
        rig.server_mut(&old).start()?;
        rig.wait_joined()
            .with_context(|| format!("{old} → {new}"))?;
        wait_in_force(&rig)?;
        probes.wait_write(&new, PATIENCE)?;
    }
    rig.check_all(probes).map(drop)
}

#[test]
fn a_new_primary_that_dies_before_it_was_opened_is_replaced_in_turn() -> Result<()> {
    let mut rig =
        Rig::prepare(|config| automatic(config.set("replication", "mode", "sync"), "commits"))?;
    rig.daemon
        .set_failpoints("promotion.open.begun=sleep(2000)@1");
    rig.daemon.start()?;
    rig.wait_streaming()?;
    wait_in_force(&rig)?;
    let probes = Probes::start(&rig.all(), None);
    probes.wait_write("main", PATIENCE)?;
    rig.wait_promised()?;
    rig.server_mut("main").kill9()?;
    let first = rig
        .daemon
        .wait_status("the new primary to be opened", PATIENCE, |status| {
            let now = status.promotion.as_ref()?;
            (now.step.as_deref() == Some("open")).then(|| now.to.clone())
        })?;
    rig.server_mut(&first).kill9()?;
    let second = rig
        .daemon
        .wait_status("the third one", PATIENCE, |status| {
            let now = &status.primary.name;
            let over = status.promotion.is_none() && !["main", &first].contains(&now.as_str());
            over.then(|| now.clone())
        })?;
    rig.server_mut("main").start()?;
    rig.server_mut(&first).start()?;
    rig.wait_joined()?;
    wait_in_force(&rig)?;
    probes.wait_write(&second, PATIENCE)?;
    let writes = rig.check_all(probes)?;
    ensure!(turns(&writes)? == ["main", second.as_str()]);
    let all = rig
        .daemon
        .call(|client| async move { client.promotions().await })?;
    let last = &all.history[0];
    let loss = last.may_lose.as_ref();
    ensure!(loss.is_some_and(|loss| loss.nothing), "{last:#?}");
    Ok(())
}

#[test]
fn pauses_are_left_alone_and_one_that_was_given_up_is_fenced_when_it_goes_on() -> Result<()> {
    let mut rig =
        Rig::start(|config| automatic(config, "roles").set("failover", "dead_time", "4s"))?;
    let probes = Probes::start(&rig.all(), None);
    for pause in (0..long(4, 100)).map(|n| 300 + 700 * (n as u64 % 4)) {
        probes.wait_write("main", PATIENCE)?;
        rig.server_mut("main").freeze()?;
        std::thread::sleep(Duration::from_millis(pause));
        rig.server_mut("main").thaw()?;
    }
    probes.wait_write("main", PATIENCE)?;
    ensure!(rig.primary()? == "main", "a pause was taken for death");
    rig.server_mut("main").freeze()?;
    let new = wait_failover(&rig, "main")?;
    probes.wait_write(&new, PATIENCE)?;
    ensure!(rig.role_check("/primary?node=main")?.0 == 503);
    rig.server_mut("main").thaw()?;
    let thawed = Instant::now();
    rig.wait_joined()?;
    // What it took while it was not fenced is written down, and there was not much time for it.
    let writes = probes.stop()?;
    let late = rig.check_kept(&writes)?;
    let last = writes.iter().rfind(|write| write.node == "main");
    let open = last.map(|last| last.ended.saturating_duration_since(thawed));
    println!("{late} writes in the {open:?} before main was fenced");
    ensure!(open.is_some_and(|open| open < PATIENCE / 4), "{open:?}");
    Ok(())
}

#[test]
fn what_stands_against_it_is_told_and_the_operator_can_still_order_it() -> Result<()> {
    let mut rig =
        Rig::start(|config| automatic(config, "roles").set("failover", "cool_down", "1h"))?;
    rig.server_mut("main").kill9()?;
    let new = wait_failover(&rig, "main")?;
    rig.server_mut("main").start()?;
    rig.wait_joined()?;
    rig.server_mut(&new).kill9()?;
    let why = rig.daemon.wait_status("the reason", PATIENCE, |status| {
        status.failover.as_ref()?.held.clone()
    })?;
    ensure!(why.contains("cool_down"), "{why}");
    ensure!(rig.role_check(&format!("/primary?node={new}"))?.0 == 503);
    rig.force(None)?;
    rig.server_mut(&new).start()?;
    rig.wait_joined()?;
    rig.check_equal()
}

#[test]
fn a_primary_that_only_the_daemon_cannot_reach_acknowledges_nothing_any_more() -> Result<()> {
    let rig =
        Rig::start_apart(|config| automatic(config.set("replication", "mode", "sync"), "commits"))?;
    cut_off_and_back(&rig)
}

#[test]
fn nor_does_one_behind_a_network_that_loses_everything() -> Result<()> {
    let sync = |config: DaemonConfig| config.set("replication", "mode", "sync");
    let patient = |config: DaemonConfig| config.set("failover", "dead_time", "4s");
    let rig = Rig::start_in_network(|config| patient(automatic(sync(config), "commits")))?;
    let Some(rig) = rig else { return Ok(()) };
    // What is lost for a shorter time is no death.
    let probes = Probes::start(&rig.all(), None);
    for pause in (0..long(4, 100)).map(|n| 300 + 700 * (n as u64 % 4)) {
        probes.wait_write("main", PATIENCE)?;
        rig.cut_off(true)?;
        std::thread::sleep(Duration::from_millis(pause));
        rig.cut_off(false)?;
    }
    probes.wait_write("main", PATIENCE)?;
    ensure!(
        rig.primary()? == "main",
        "lost packets were taken for death"
    );
    let writes = probes.stop()?;
    ensure!(turns(&writes)? == ["main"]);
    cut_off_and_back(&rig)
}

/// The daemon is cut off from the primary, whose clients are not, until another has its place.
fn cut_off_and_back(rig: &Rig) -> Result<()> {
    wait_in_force(rig)?;
    let probes = Probes::start(&rig.all(), None);
    probes.wait_write("main", PATIENCE)?;
    rig.wait_promised()?;
    rig.cut_off(true)?;
    let new = wait_failover(rig, "main")?;
    probes.wait_write(&new, PATIENCE)?;
    rig.cut_off(false)?;
    rig.wait_joined()?;
    wait_in_force(rig)?;
    probes.wait_write(&new, PATIENCE)?;
    let writes = rig.check_all(probes)?;
    ensure!(turns(&writes)? == ["main", new.as_str()]);
    Ok(())
}
