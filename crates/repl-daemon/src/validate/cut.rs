//! One consistent cut of the primary and its replicas, while all of them go on.
//!
//! The primary's snapshot says which transactions it holds; once a replica has applied everything
//! the snapshot can hold, a view of it is opened, which says how far it has come. What lies
//! between the two is in the log. Nobody waits for anybody: the replica is simply a little ahead.

use std::sync::Arc;
use std::time::Duration;

use repl_api::Activity;
use repl_connectors::content::Content;
use repl_connectors::seam::{CaptureState, Snapshot};
use repl_core::Seq;
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::membership::Membership;
use repl_core::validate::changes::{Changes, Span};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::member::Member;
use crate::pins::Pin;
use crate::replica::Replica;

/// How long the primary's changes may take to arrive in the log, and a replica to apply them.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a replica that cannot be reached is waited for.
const RETRY_PATIENCE: Duration = Duration::from_secs(3);
/// How often a waited-for replica's state is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Most memory for what changed between the snapshots, bytes.
const CHANGES_BYTES: u64 = 64 * 1024 * 1024;

/// A replica's view, at its own point of the stream.
pub struct View {
    /// Which member.
    pub member: usize,
    /// Its content.
    pub content: Box<dyn Content>,
    /// Everything through here is in it.
    pub checkpoint: Checkpoint,
}

/// The cut.
pub struct JointCut {
    /// The primary's side.
    pub snapshot: Box<dyn Snapshot>,
    /// The replicas that could be looked at.
    pub views: Vec<View>,
    /// The others, with the reason.
    pub failed: Vec<(usize, String)>,
    /// What the replicas have applied beyond the snapshot.
    pub changes: Arc<Changes>,
    /// When it was taken.
    pub taken: Instant,
    /// Keeps the log after the replicas' points.
    pub pin: Arc<Pin>,
}

impl JointCut {
    /// Takes a cut of the primary and these members.
    ///
    /// # Errors
    /// Why none can be had now, in words.
    pub async fn take(shared: &Shared, members: &[usize]) -> Result<JointCut, String> {
        let log = &shared.log;
        let first = log.bounds().first_seq;
        let pin = shared.pins.hold(Seq(first.0.saturating_sub(1)));
        let bounds = log.bounds();
        let (before, epoch) = (bounds.durable.seq, bounds.durable.epoch);
        if bounds.history.is_none() {
            return Err("the primary is not captured yet".to_owned());
        }
        if let Some(why) = unfollowed(shared, Duration::ZERO) {
            return Err(why);
        }
        let snapshot = timeout(PATIENCE, shared.snapshots.snapshot()).await;
        let snapshot = snapshot.map_err(|_| late("the primary gave no snapshot"))?;
        let mut snapshot = snapshot.map_err(|error| error.message)?;
        let withheld = snapshot.withheld().await.map_err(|error| error.message)?;
        let horizon = passed(shared, snapshot.cut()).await?;
        let mut failed = Vec::new();
        let ready = reached(shared, members, horizon, &mut failed).await;
        let views = open(shared, &ready, horizon, &mut failed).await;
        let through = views.iter().map(|view| view.checkpoint.seq).max();
        let span = Span {
            cut: snapshot.cut(),
            before,
            through: through.unwrap_or(horizon),
            epoch,
            withheld,
            limit: CHANGES_BYTES,
        };
        // A replica may be ahead of the log's durable end by an fsync.
        wait_durable(shared, span.through).await?;
        let (log, through) = (Arc::clone(log), span.through);
        let collected = tokio::task::spawn_blocking(move || Changes::collect(log.as_ref(), &span));
        let changes = collected.await.map_err(|error| error.to_string())?;
        let changes = Arc::new(changes.map_err(|error| error.to_string())?);
        let lowest = views.iter().map(|view| view.checkpoint.seq).min();
        pin.advance(lowest.unwrap_or(through));
        Ok(JointCut {
            snapshot,
            views,
            failed,
            changes,
            taken: Instant::now(),
            pin: Arc::new(pin),
        })
    }

    /// Ends both sides in good order.
    pub async fn end(mut self) {
        self.snapshot.end().await;
        for view in &mut self.views {
            view.content.end().await;
        }
    }
}

fn late(what: &str) -> String {
    format!("{what} within {} s", PATIENCE.as_secs())
}

/// Waits until the log has passed everything the snapshot can hold; its last transaction then.
async fn passed(shared: &Shared, cut: Cut) -> Result<Seq, String> {
    let mut durable = shared.durable.clone();
    let started = Instant::now();
    loop {
        let wait = durable.wait_for(|now| cut.passed(now.seq, now.position.as_str()));
        match timeout(LOOK, wait).await {
            Ok(Ok(now)) => return Ok(now.seq),
            Ok(Err(_)) => return Err("the event log's writer has stopped".to_owned()),
            Err(_) => {}
        }
        if let Some(why) = unfollowed(shared, started.elapsed()) {
            return Err(why);
        }
        if started.elapsed() > PATIENCE {
            return Err(late("the primary's changes did not reach the event log"));
        }
    }
}

/// Why nothing of the primary arrives in the log, once that was waited for so long.
fn unfollowed(shared: &Shared, waited: Duration) -> Option<String> {
    let state = shared.board.status().state;
    let (last, refusal) = shared.capture_errors.get();
    let hopeless = match state {
        CaptureState::Streaming => false,
        CaptureState::Stopped => true,
        _ => refusal.is_some() || waited > RETRY_PATIENCE,
    };
    hopeless.then(|| {
        let why = refusal.or(last.filter(|error| !error.past));
        let why = why.map_or(String::new(), |error| format!(": {}", error.message));
        format!("the primary is not being followed{why}")
    })
}

async fn wait_durable(shared: &Shared, seq: Seq) -> Result<(), String> {
    let mut durable = shared.durable.clone();
    let wait = durable.wait_for(|now| now.seq >= seq);
    match timeout(PATIENCE, wait).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err("the event log's writer has stopped".to_owned()),
        Err(_) => Err(late("the event log was not made durable")),
    }
}

/// Waits for the members to have applied everything through `horizon`; those that have.
async fn reached(
    shared: &Shared,
    members: &[usize],
    horizon: Seq,
    failed: &mut Vec<(usize, String)>,
) -> Vec<usize> {
    let mut waits = JoinSet::new();
    for &at in members {
        let replica = Arc::clone(&shared.members[at].replica);
        waits.spawn(async move { (at, applied(&replica, horizon).await) });
    }
    let mut ready = Vec::new();
    while let Some(ended) = waits.join_next().await {
        match ended {
            Ok((at, Ok(()))) => ready.push(at),
            Ok((at, Err(reason))) => failed.push((at, reason)),
            Err(error) => tracing::error!(%error, "waiting for a replica ended in a defect"),
        }
    }
    ready.sort_unstable();
    ready
}

async fn applied(replica: &Replica, horizon: Seq) -> Result<(), String> {
    let mut progress = replica.progress.subscribe();
    let started = Instant::now();
    loop {
        let now = progress.borrow_and_update().applied.clone();
        let behind = match &now {
            Some((seq, _)) if *seq >= horizon => return Ok(()),
            Some((seq, _)) => format!("{} transactions behind", horizon.0 - seq.0),
            None => "not connected".to_owned(),
        };
        if let Some(reason) = hopeless(replica, started.elapsed()) {
            return Err(format!("{reason}, and {behind}"));
        }
        let look = Instant::now() + LOOK;
        if let Ok(Err(_)) = timeout_at(look, progress.changed()).await {
            return Err("its worker has ended".to_owned());
        }
    }
}

/// Why waiting any longer is of no use.
fn hopeless(replica: &Replica, waited: Duration) -> Option<String> {
    if !replica.node.enabled {
        return Some("it is disabled in the configuration".to_owned());
    }
    let record = replica.record();
    if record.as_ref().is_some_and(|record| record.pause.is_some()) {
        return Some("it is paused".to_owned());
    }
    if record.is_some_and(|record| record.standing == Membership::NeedsResync) {
        return Some("it needs a resync".to_owned());
    }
    let activity = replica.view().activity.unwrap_or(Activity::Stopped);
    let retrying = matches!(activity, Activity::Retrying | Activity::Connecting);
    if retrying && waited > RETRY_PATIENCE {
        let error = replica.view().last_error.clone();
        let why = error.map_or(String::new(), |error| format!(" ({})", error.message));
        return Some(format!("it cannot be reached{why}"));
    }
    (waited > PATIENCE).then(|| format!("it lags more than {} s", PATIENCE.as_secs()))
}

/// Opens the views, all at the same time: the nearer they are, the less lies between them.
async fn open(
    shared: &Shared,
    ready: &[usize],
    horizon: Seq,
    failed: &mut Vec<(usize, String)>,
) -> Vec<View> {
    let mut opening = JoinSet::new();
    for &at in ready {
        let contents = Arc::clone(&shared.members[at].contents);
        opening.spawn(async move { (at, timeout(PATIENCE, contents.content()).await) });
    }
    let mut views = Vec::new();
    while let Some(ended) = opening.join_next().await {
        let Ok((at, outcome)) = ended else { continue };
        let opened = match outcome {
            Ok(Ok(content)) => usable(shared, &shared.members[at], content, horizon),
            Ok(Err(error)) => Err(error.message),
            Err(_) => Err(late("it could not be opened")),
        };
        match opened {
            Ok((content, checkpoint)) => views.push(View {
                member: at,
                content,
                checkpoint,
            }),
            Err(reason) => failed.push((at, reason)),
        }
    }
    views.sort_by_key(|view| view.member);
    views
}

fn usable(
    shared: &Shared,
    member: &Member,
    content: Box<dyn Content>,
    horizon: Seq,
) -> Result<(Box<dyn Content>, Checkpoint), String> {
    let Some(checkpoint) = content.state().checkpoint.clone() else {
        return Err("it holds no checkpoint".to_owned());
    };
    if checkpoint.log != shared.log.id() {
        return Err(format!(
            "its checkpoint belongs to log {}, not to this one",
            checkpoint.log
        ));
    }
    // The worker said that it had come this far; the replica itself decides.
    if checkpoint.seq < horizon {
        return Err(format!(
            "replica {} went back to transaction {}",
            member.replica.node.name, checkpoint.seq
        ));
    }
    Ok((content, checkpoint))
}
