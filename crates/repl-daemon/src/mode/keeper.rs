//! The task beside the commits: timeouts, who begins to count, the primary's own settings.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use repl_api::Activity;
use repl_connectors::seam::{CaptureBoard, CaptureState, CommitGate, ConnectorError, GateReport};
use repl_core::membership::Membership;
use repl_core::mode::{Mode, Phase};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, warn};

use super::Modes;
use crate::replica::Replica;

/// How often it is looked who may begin to count.
const ROUND: Duration = Duration::from_millis(200);
/// How often the primary's settings are verified …
const VERIFY: Duration = Duration::from_secs(1);
/// … and where no commit is to wait.
const VERIFY_OFF: Duration = Duration::from_secs(10);
/// Longest wait for an answer of the primary about them.
const PATIENCE: Duration = Duration::from_secs(10);

/// The task's parts.
pub struct Keeper {
    /// The mode.
    pub modes: Arc<Modes>,
    /// Where the primary's commits are made to wait; none where they cannot.
    pub gate: Option<Box<dyn CommitGate>>,
    /// The capture's state.
    pub board: Arc<CaptureBoard>,
    /// The daemon stops.
    pub shutdown: watch::Receiver<bool>,
}

impl Keeper {
    /// Keeps the mode until shutdown.
    pub async fn run(mut self) {
        self.modes.gate().exists = self.gate.is_some();
        let gate = self.gate.take();
        let modes = Arc::clone(&self.modes);
        let board = Arc::clone(&self.board);
        let mut stop = self.shutdown.clone();
        tokio::select! {
            // Apart: a primary that does not answer must not hold up the timeouts.
            () = keep_time(Arc::clone(&modes)) => {}
            () = keep_gate(gate, modes, board) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Lets time pass for the rule, and replicas begin to count.
async fn keep_time(modes: Arc<Modes>) {
    let mut changes = modes.changes.subscribe();
    loop {
        if modes.settings().mode == Mode::Async {
            // Time changes nothing, and nobody counts for anything.
            let _ = changes.changed().await;
            continue;
        }
        let due = modes.with(|rule, now| {
            rule.tick(now);
            rule.due().map(|due| due.saturating_sub(now))
        });
        tokio::select! {
            () = tokio::time::sleep(due.map_or(ROUND, |due| due.min(ROUND))) => {}
            _ = changes.changed() => {}
        }
        if modes.roster.iter().all(|replica| replica.counted()) {
            continue;
        }
        let joining = Arc::clone(&modes);
        // Writes the state file.
        let joined = tokio::task::spawn_blocking(move || joining.let_replicas_join()).await;
        if joined.is_err() {
            error!("looking for replicas that may count panicked");
            return std::future::pending().await;
        }
    }
}

impl Modes {
    /// Lets every replica count that may and is near enough; remembered before the rule is told.
    fn let_replicas_join(&self) {
        let settings = self.settings();
        for (index, replica) in self.roster.iter().enumerate() {
            let near = || {
                let queue = self.lock().queue(index);
                queue.is_some_and(|queue| queue <= settings.max_queue)
            };
            if replica.counted() || hindrance(replica).is_some() || !near() {
                continue;
            }
            if let Err(error) = replica.change(|record| record.counted = true) {
                warn!(
                    replica = replica.node.name,
                    error = format!("{error:#}"),
                    "cannot remember that the replica counts"
                );
            }
        }
    }
}

/// Why a replica cannot begin to count; none when only its queue decides.
pub(super) fn hindrance(replica: &Replica) -> Option<String> {
    if !replica.node.enabled {
        return Some("disabled".into());
    }
    if !replica.node.counts {
        return Some("counts = false in its configuration".into());
    }
    let membership = replica
        .record()
        .map_or(Membership::Copying, |r| r.membership());
    if membership != Membership::Streaming {
        return Some(membership.name().into());
    }
    let view = replica.view();
    if let Some(why) = &view.forgetful {
        return Some(why.clone());
    }
    match view.activity {
        Some(Activity::Applying | Activity::Idle) => None,
        _ => Some("not connected".into()),
    }
}

/// Keeps the primary's settings as the mode needs them, and looks whether they are.
async fn keep_gate(gate: Option<Box<dyn CommitGate>>, modes: Arc<Modes>, board: Arc<CaptureBoard>) {
    let Some(mut gate) = gate else {
        return std::future::pending().await;
    };
    let mut changes = modes.changes.subscribe();
    loop {
        let begun = Instant::now();
        let wanted = modes.wants_gate(&board);
        let looked = timeout(PATIENCE, gate.keep(wanted)).await;
        if let Ok(Ok(report)) = &looked {
            // Before it can be in force: what is told from now on is told as that needs.
            modes.named.store(report.named, Ordering::Release);
            modes.with(|_, _| {});
        }
        modes
            .gate()
            .note(looked.map_err(|_| "the primary does not answer".to_owned()));
        let idle = wanted == Some(false) && !modes.gate().report.closed;
        let next = begun + if idle { VERIFY_OFF } else { VERIFY };
        tokio::select! {
            () = sleep_until(next) => {}
            _ = changes.changed() => {}
        }
    }
}

impl super::Gate {
    fn note(&mut self, looked: Result<Result<GateReport, ConnectorError>, String>) {
        self.error = None;
        match looked {
            Ok(Ok(report)) => {
                self.closed = report.closed && self.report.closed;
                self.report = report;
            }
            Ok(Err(error)) => self.fail(error.message),
            Err(why) => self.fail(why),
        }
    }

    fn fail(&mut self, error: String) {
        self.closed = false;
        self.report.closed = false;
        self.error = Some(error);
    }
}

impl Modes {
    /// Whether commits are to wait, or wait no longer; none to leave it as it is: commits that wait
    /// since before go on waiting until the rule is met, and none begin to before it can be.
    fn wants_gate(&self, board: &CaptureBoard) -> Option<bool> {
        match self.lock().phase() {
            Phase::Off if self.kept.load(Ordering::Acquire) => None,
            Phase::Off => Some(false),
            Phase::InForce if board.status().state == CaptureState::Streaming => Some(true),
            Phase::InForce | Phase::Enabling | Phase::Degraded(_) => None,
        }
    }
}
