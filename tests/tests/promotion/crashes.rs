//! The daemon dies within a promotion, or a node does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::{PromoteRequest, PromotionState};
use repl_tests::pg::StopMode;

use super::probes::{Probes, turns};
use super::rig::{NODES, PATIENCE, Rig};

/// Every place at which the daemon is killed; forward …
pub const FORWARD: [&str; 19] = [
    "promotion.prepare.begun",
    "promotion.prepare.done",
    "promotion.fence.begun",
    "promotion.fence.done",
    "promotion.drain.begun",
    "promotion.drain.done",
    "promotion.counters.begun",
    "promotion.counters.done",
    "promotion.capture.begun",
    "promotion.capture.done",
    "promotion.commit.begun",
    "promotion.commit.appended",
    "promotion.open.begun",
    "promotion.open.done",
    "promotion.retire.begun",
    "promotion.retire.done",
    "worker.handover.adopted",
    "state.before_rename@8",
    "state.after_rename@8",
];

/// … and on the way back.
pub const BACK: [&str; 6] = [
    "promotion.reopen.begun",
    "promotion.reopen.done",
    "promotion.undo-capture.begun",
    "promotion.undo-capture.done",
    "promotion.undo-prepare.begun",
    "promotion.undo-prepare.done",
];

/// Kills at each of `places`; the other failpoints are `beside`.
fn kill_at(places: &[&str], beside: &str) -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    let probes = Probes::start(&rig.all(), None);
    for place in places {
        let before = rig.primary()?;
        let next = NODES.into_iter().find(|node| *node != before);
        let next = next.context("no other node")?;
        rig.daemon.terminate()?;
        let (name, nth) = place.split_once('@').unwrap_or((place, ""));
        let at = if nth.is_empty() {
            String::new()
        } else {
            format!("@{nth}")
        };
        rig.daemon
            .set_failpoints(&format!("{beside}{name}=kill{at}"));
        rig.daemon.start()?;
        rig.wait_streaming()?;
        probes.wait_write(&before, PATIENCE)?;
        let request = PromoteRequest {
            replica: next.to_owned(),
            ..PromoteRequest::default()
        };
        // The answer may be lost with the daemon.
        let _ = rig
            .daemon
            .call(|client| async move { client.promote(&request).await });
        rig.daemon
            .wait_killed(PATIENCE)
            .with_context(|| format!("{place} was not reached"))?;
        rig.daemon.set_failpoints("");
        rig.daemon.start()?;
        rig.wait_streaming()
            .with_context(|| format!("after {place}"))?;
        let after = rig.primary()?;
        println!("{place}: {before} → {next}: {after} is the primary");
        ensure!(
            after == before || after == next,
            "{after} is the primary after {place}"
        );
        probes
            .wait_write(&after, PATIENCE)
            .with_context(|| format!("after {place}"))?;
    }
    rig.check_all(probes).map(drop)
}

#[test]
fn killed_at_every_step_forward() -> Result<()> {
    kill_at(&FORWARD, "")
}

#[test]
fn killed_at_every_step_back() -> Result<()> {
    kill_at(&BACK, "promotion.capture.begun=error;")
}

#[test]
fn every_step_before_the_point_of_no_return_leads_back() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    let probes = Probes::start(&rig.all(), None);
    for place in FORWARD.iter().filter(|place| place.ends_with(".begun")) {
        let committed = place.contains("open") || place.contains("retire");
        rig.daemon.terminate()?;
        let failpoint = match committed {
            true => format!("{place}=error@1"),
            false => format!("{place}=error"),
        };
        rig.daemon.set_failpoints(&failpoint);
        rig.daemon.start()?;
        rig.wait_streaming()?;
        let before = rig.primary()?;
        let next = NODES.into_iter().find(|node| *node != before);
        let ended = rig.promote(next.context("no other node")?)?;
        let state = match committed {
            true => repl_api::PromotionState::Done,
            false => repl_api::PromotionState::RolledBack,
        };
        ensure!(ended.state == state, "{place}: {ended:#?}");
        rig.wait_streaming()?;
        probes.wait_write(&rig.primary()?, PATIENCE)?;
    }
    rig.check_all(probes).map(drop)
}

/// Orders the promotion of r1, and returns when it is at `step`, where `failpoints` hold it.
fn promote_until(rig: &mut Rig, failpoints: &str, step: &str) -> Result<()> {
    rig.daemon.terminate()?;
    rig.daemon.set_failpoints(failpoints);
    rig.daemon.start()?;
    rig.wait_streaming()?;
    let request = PromoteRequest {
        replica: "r1".to_owned(),
        ..PromoteRequest::default()
    };
    rig.daemon
        .call(|client| async move { client.promote(&request).await })?;
    rig.daemon.wait_status("the step", PATIENCE, |status| {
        let now = status.promotion.as_ref()?.step.clone()?;
        (now == step).then_some(())
    })?;
    Ok(())
}

#[test]
fn a_new_primary_that_dies_before_the_point_of_no_return_leaves_the_old_one() -> Result<()> {
    let mut rig = Rig::start(|config| config.set("promotion", "drain_timeout", "2s"))?;
    let probes = Probes::start(&rig.all(), None);
    promote_until(&mut rig, "promotion.counters.begun=sleep(1500)", "counters")?;
    rig.server_mut("r1")
        .stop(StopMode::Immediate, Duration::from_secs(20))?;
    // Its fence stands in nobody's way.
    probes.wait_write("main", PATIENCE)?;
    rig.server_mut("r1").start()?;
    rig.wait_streaming()?;
    ensure!(rig.primary()? == "main");
    let writes = probes.stop()?;
    ensure!(turns(&writes)? == ["main"]);
    rig.check_equal()
}

#[test]
fn an_old_primary_that_dies_before_it_is_replaced_by_force() -> Result<()> {
    let mut rig = Rig::start(|config| config.set("promotion", "drain_timeout", "2s"))?;
    let probes = Probes::start(&rig.all(), None);
    promote_until(&mut rig, "promotion.drain.begun=sleep(1500)", "drain")?;
    rig.server_mut("main").kill9()?;
    rig.daemon.wait_status("the way back", PATIENCE, |status| {
        let now = status.promotion.as_ref()?.step.clone()?;
        (now == "reopen").then_some(())
    })?;
    let other = rig.daemon.replctl(&["promote", "r2", "--force", "--yes"])?;
    ensure!(other.status.code() == Some(1), "{other:?}");
    let ended = rig.force(None)?;
    ensure!(ended.to == "r1" && ended.cause == "forced", "{ended:#?}");
    probes.wait_write("r1", PATIENCE)?;
    rig.server_mut("main").start()?;
    rig.wait_joined()?;
    let writes = probes.stop()?;
    ensure!(turns(&writes)? == ["main", "r1"]);
    let all = rig
        .daemon
        .call(|client| async move { client.promotions().await })?;
    let given_up = &all.history[1];
    ensure!(
        given_up.state == PromotionState::RolledBack && given_up.cause == "planned",
        "{given_up:#?}"
    );
    rig.check_equal()
}

#[test]
fn a_new_primary_that_dies_before_it_was_opened_gives_way_to_another() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    let probes = Probes::start(&rig.all(), None);
    promote_until(&mut rig, "promotion.open.begun=sleep(1500)@1", "open")?;
    rig.server_mut("r1").kill9()?;
    let planned = rig.daemon.replctl(&["promote", "r2", "--yes"])?;
    ensure!(planned.status.code() == Some(1), "{planned:?}");
    let ended = rig.force(Some("r2"))?;
    ensure!(ended.from == "r1" && ended.epoch == 3, "{ended:#?}");
    probes.wait_write("r2", PATIENCE)?;
    rig.server_mut("r1").start()?;
    ensure!(
        !rig.wait_joined()?,
        "r1 was held, which had taken no writes"
    );
    let writes = rig.check_all(probes)?;
    ensure!(turns(&writes)? == ["main", "r2"]);
    let all = rig
        .daemon
        .call(|client| async move { client.promotions().await })?;
    let given_up = &all.history[1];
    ensure!(given_up.to == "r1", "{given_up:#?}");
    let steps: Vec<_> = given_up.steps.iter().map(|step| &step.result).collect();
    ensure!(
        steps
            .last()
            .is_some_and(|last| last.contains("given up: r2")),
        "{steps:?}"
    );
    Ok(())
}

#[test]
fn an_old_primary_that_dies_behind_it_follows_when_it_returns() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    let probes = Probes::start(&rig.all(), None);
    promote_until(&mut rig, "promotion.open.begun=sleep(1500)@1", "open")?;
    rig.server_mut("main").kill9()?;
    probes.wait_write("r1", PATIENCE)?;
    rig.daemon.crash_and_restart()?;
    rig.server_mut("main").start()?;
    rig.wait_streaming()?;
    rig.check_all(probes).map(drop)
}
