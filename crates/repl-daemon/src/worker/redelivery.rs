//! A replica may be ahead of the log only by what a crash took from the log's end: the primary sends that
//! again. Whatever else a checkpoint says about the time to come is a contradiction, and found here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use repl_api::Activity;
use repl_connectors::seam::{CaptureBoard, CaptureState, RoleSwitch};
use repl_core::checkpoint::Checkpoint;
use repl_core::log::{Appended, Visibility};
use repl_core::{LogId, SourcePosition};
use tokio::time::{sleep, timeout};
use tracing::info;

use super::attach::broken;
use super::{Ended, Failure, Worker};

/// How often the primary is asked how far it is, while a replica waits.
const ASK: Duration = Duration::from_secs(1);
/// Longest wait for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Least bytes of the primary's history from one commit to the next: no engine that sends the same
/// transactions again writes less for one (PostgreSQL: 34 bytes, aligned to 8).
const LEAST_BYTES: u64 = 32;

impl Worker {
    /// What is not durable in the log may be applied already, and a crash of this host then leaves
    /// the replica ahead of the log. Nothing was acknowledged of that, so the primary sends it again,
    /// to be logged under the same sequences; until then the replica waits, and [`Worker::attach`]
    /// compares. A log that the primary does not complete is an older copy: capture finds the gap,
    /// which begins an epoch and ends the wait.
    pub(super) async fn wait_for_redelivery(&mut self) -> Result<Option<Ended>, Failure> {
        let Some(checkpoint) = self.state.checkpoint.clone() else {
            return Ok(None);
        };
        if self.attached || self.replica().record().is_some_and(|record| record.restart) {
            return Ok(None);
        }
        let ended = self.redelivered(&checkpoint).await;
        self.replica().view().awaiting = None;
        ended
    }

    async fn redelivered(&mut self, checkpoint: &Checkpoint) -> Result<Option<Ended>, Failure> {
        let (log, follow) = (Arc::clone(&self.parts.log), self.parts.follow.clone());
        let (primary, board) = (
            self.parts.primary.clone(),
            Arc::clone(&self.parts.others.board),
        );
        let mut history_end = None;
        let mut told = false;
        loop {
            let watch = follow.watch();
            let moved = watch.moved();
            let end = log.appended();
            if !awaited(log.id(), &end, checkpoint, follow.visibility()) {
                return Ok(None);
            }
            if let Some(primary) = &primary
                && let Some(why) = contradiction(primary.as_ref(), &end, checkpoint, &history_end)
            {
                return Err(broken(&why));
            }
            if let Some(ended) = self.interrupted() {
                return Ok(Some(ended));
            }
            if !told {
                info!(
                    applied = checkpoint.seq.0,
                    log_end = end.seq.0,
                    "the log lost its end in a crash; waiting for the primary to send it again"
                );
                self.replica().view().awaiting = Some((Instant::now(), checkpoint.seq));
                self.replica().show(Activity::AwaitingLog);
                told = true;
            }
            tokio::select! {
                () = moved => {}
                () = sleep(ASK) => {
                    history_end = ask(primary.as_deref(), &board).await.or(history_end);
                }
                _ = self.parts.shutdown.changed() => {}
                _ = self.orders.changed() => return Ok(Some(Ended::Orders)),
            }
        }
    }
}

/// Where the primary's history ends, if it is being captured and answers. Asking has it tell the capture
/// of a position behind that, however idle it is, so that the log comes to know that all was sent.
async fn ask(primary: Option<&dyn RoleSwitch>, board: &CaptureBoard) -> Option<SourcePosition> {
    if board.status().state != CaptureState::Streaming {
        return None;
    }
    timeout(PATIENCE, primary?.end()).await.ok()?.ok()
}

/// Whether the checkpoint may be ahead of the log only because the log lost its end.
fn awaited(log: LogId, end: &Appended, checkpoint: &Checkpoint, visibility: Visibility) -> bool {
    visibility == Visibility::Appended
        && checkpoint.log == log
        && checkpoint.epoch == end.epoch
        && checkpoint.seq > end.seq
}

/// Why the log will never come to the checkpoint, which lies ahead of its end.
fn contradiction(
    primary: &dyn RoleSwitch,
    end: &Appended,
    checkpoint: &Checkpoint,
    history_end: &Option<SourcePosition>,
) -> Option<String> {
    // A log without a position knows nothing yet.
    primary.distance(&end.position, &end.position)?;
    let (seq, position) = (checkpoint.seq, &checkpoint.position);
    let ahead = format!(
        "the replica is at transaction {seq} of epoch {}, ahead of the log's end {}, and not because the log lost \
         its end in a crash",
        checkpoint.epoch, end.seq
    );
    let altered = "its checkpoint was altered, or the log directory is an older copy";
    let Some(bytes) = primary.distance(&end.position, position) else {
        return Some(format!(
            "{ahead}: {position:?} is no position of this primary; {altered}"
        ));
    };
    let lost = seq.0 - end.seq.0;
    if bytes < lost.saturating_mul(LEAST_BYTES) {
        return Some(format!(
            "{ahead}: the primary's history between {} and {position} has {bytes} bytes, which cannot hold \
             {lost} transactions; {altered}",
            end.position
        ));
    }
    let history_end = history_end.as_ref()?;
    let beyond = primary.distance(history_end, position)?;
    (beyond > 0).then(|| {
        format!(
            "{ahead}: its position {position} is beyond the end of the primary's history, {history_end}; \
             {altered}"
        )
    })
}
