//! What is asked of the daemon, whatever the nodes are.

use anyhow::{Context, Result, ensure};
use repl_api::{Activity, Membership, PrimaryState, PromoteRequest, PromotionInfo, PromotionState};
use repl_tests::daemon::Daemon;
use repl_tests::wait::wait_for;

use super::rig::PATIENCE;

/// All nodes hold the same, value by value.
pub fn check_equal(daemon: &Daemon) -> Result<()> {
    let compared = daemon.replctl(&["validate", "--deep", "--json"])?;
    ensure!(
        compared.status.success(),
        "not all nodes are equal: {}{}",
        String::from_utf8_lossy(&compared.stdout),
        String::from_utf8_lossy(&compared.stderr)
    );
    Ok(())
}

/// Waits until the daemon has noted that commits wait as the mode says, so that the death of the
/// primary from now on loses nothing.
pub fn wait_promised(daemon: &Daemon) -> Result<()> {
    wait_for("the promise to be noted", PATIENCE, || {
        let request = PromoteRequest {
            force: true,
            ..PromoteRequest::default()
        };
        let report = daemon.call(|client| async move { client.check_promotion(&request).await })?;
        let loss = report.may_lose.context("what may be lost is not said")?;
        Ok(loss.nothing.then_some(()))
    })
}

/// Makes `name` the primary and waits for the end.
pub fn promote(daemon: &Daemon, name: &str) -> Result<PromotionInfo> {
    let request = PromoteRequest {
        replica: name.to_owned(),
        ..PromoteRequest::default()
    };
    daemon.call(|client| async move { client.promote(&request).await })?;
    wait_promotion(daemon, name)
}

/// Makes `name`, or the best replica, the primary without the one of now, and waits for the end.
pub fn force(daemon: &Daemon, name: Option<&str>) -> Result<PromotionInfo> {
    let request = PromoteRequest {
        replica: name.unwrap_or_default().to_owned(),
        force: true,
        overrule: false,
    };
    // A primary that was just killed may take a moment to be found dead.
    let begun = wait_for("the forced promotion to begin", PATIENCE, || {
        let request = request.clone();
        let asked = daemon.call(|client| async move { client.promote(&request).await });
        Ok(asked.ok())
    })?;
    let ended = wait_promotion(daemon, &begun.target)?;
    ensure!(ended.state == PromotionState::Done, "{ended:#?}");
    Ok(ended)
}

/// The last promotion of `name`, once it has ended.
pub fn wait_promotion(daemon: &Daemon, name: &str) -> Result<PromotionInfo> {
    wait_for("the promotion to end", PATIENCE, || {
        let all = daemon.call(|client| async move { client.promotions().await })?;
        let ended = all.current.is_none().then(|| all.history.first().cloned());
        Ok(ended.flatten().filter(|last| last.to == name))
    })
}

/// Everybody follows, and no change of roles is under way.
pub fn wait_streaming(daemon: &Daemon) -> Result<()> {
    daemon.wait_status("all to stream", PATIENCE, |status| {
        let all = status
            .replicas
            .iter()
            .all(|one| one.membership == Membership::Streaming && one.activity == Activity::Idle);
        let streaming = status.primary.state == PrimaryState::Streaming;
        (all && streaming && status.promotion.is_none()).then_some(())
    })
}

/// A former primary was looked at, and waits for the operator.
pub fn held(name: &str, status: &repl_api::Status) -> bool {
    let what = format!("replctl rejoin {name}");
    status.alerts.iter().any(|alert| alert.contains(&what))
}

/// Waits until the former primary `name` is diverged, and held for the operator.
pub fn wait_held(daemon: &Daemon, name: &str) -> Result<()> {
    daemon.wait_status("it to be held", PATIENCE, |status| {
        let diverged = status.replica(name)?.membership == Membership::Diverged;
        (diverged && held(name, status)).then_some(())
    })
}

/// Has the former primary `name` join again, with a daemon that is down before and dies at each place where
/// the rows are put in place.
pub fn rejoin_through_deaths(daemon: &mut Daemon, name: &str) -> Result<()> {
    let places = [
        "worker.mend.removed=kill",
        "worker.mend.noted=kill",
        "worker.mend.written=kill",
    ];
    for (at, place) in places.into_iter().enumerate() {
        daemon.set_failpoints(place);
        // Once it was ordered the daemon may be there and dead before it answers.
        daemon.spawn()?;
        if at == 0 {
            daemon.wait_ready()?;
            let ordered = daemon.replctl(&["rejoin", name, "--yes"])?;
            ensure!(ordered.status.success(), "{ordered:?}");
        }
        daemon
            .wait_killed(PATIENCE)
            .with_context(|| format!("{place} was not reached"))?;
    }
    daemon.set_failpoints("");
    daemon.start()
}

/// Waits until it is known of everybody whether it follows; a former primary that holds what the log
/// never saw is told to join. Returns whether there was one.
pub fn join_held(daemon: &Daemon) -> Result<bool> {
    let held = daemon.wait_status("all to be known", PATIENCE, |status| {
        let known = |one: &repl_api::ReplicaStatus| match one.membership {
            Membership::Streaming => Some(None),
            Membership::Diverged if !held(one.name.as_str(), status) => None,
            Membership::Diverged => Some(Some(one.name.clone())),
            _ => None,
        };
        status
            .replicas
            .iter()
            .map(known)
            .collect::<Option<Vec<_>>>()
    })?;
    let held: Vec<String> = held.into_iter().flatten().collect();
    for name in &held {
        let done = daemon.replctl(&["rejoin", name, "--yes"])?;
        ensure!(done.status.success(), "{done:?}");
    }
    Ok(!held.is_empty())
}
