//! Keeps the capture running: starts it, waits between attempts, and draws the line when history
//! breaks.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use repl_api::ErrorInfo;
use repl_connectors::seam::{Capture, CapturePort, CaptureState, ConnectorError};
use repl_core::backoff::{Backoff, BackoffPolicy};
use repl_core::failpoint;
use repl_core::membership::Membership;
use repl_core::{Directive, Epoch, ErrorKind};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::errors;
use crate::replica::Replica;

/// Errors of the capture, for status.
#[derive(Default)]
pub struct CaptureErrors {
    shown: Mutex<Shown>,
}

#[derive(Clone, Default)]
struct Shown {
    last: Option<ErrorInfo>,
    refusal: Option<ErrorInfo>,
}

impl CaptureErrors {
    /// The last error, which may be past, and, while capture is stopped for the operator, why.
    pub fn get(&self) -> (Option<ErrorInfo>, Option<ErrorInfo>) {
        let shown = self
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        (shown.last, shown.refusal)
    }

    fn set(&self, info: ErrorInfo, refused: bool) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.refusal = refused.then(|| info.clone());
        shown.last = Some(info);
    }

    fn accepted(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.refusal = None;
        if let Some(last) = &mut shown.last {
            last.past = true;
        }
    }
}

/// An order to remove what is installed at the primary; answered with what was done.
pub type Uninstall = oneshot::Sender<Result<Vec<String>, ConnectorError>>;

/// How long a stream must have lasted for the waits between attempts to begin anew.
const GOOD_STREAMING: Duration = Duration::from_secs(10);

/// The task's parts.
pub struct CaptureTask {
    /// The primary's name.
    pub primary: String,
    /// The connector.
    pub capture: Box<dyn Capture>,
    /// What it works with.
    pub port: CapturePort,
    /// Backoff between attempts.
    pub retry: BackoffPolicy,
    /// All replicas: they are marked when history breaks.
    pub replicas: Vec<Arc<Replica>>,
    /// Where errors are shown.
    pub errors: Arc<CaptureErrors>,
    /// Orders to uninstall.
    pub uninstall: mpsc::Receiver<Uninstall>,
    /// Turns true to interrupt the running capture for an uninstall; shared with the port.
    pub interrupt: watch::Sender<bool>,
    /// The daemon stops.
    pub shutdown: watch::Receiver<bool>,
}

impl CaptureTask {
    /// Captures until shutdown.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(self.retry);
        let good = self.retry.max.min(GOOD_STREAMING);
        while !*self.shutdown.borrow() {
            if let Ok(answer) = self.uninstall.try_recv() {
                self.uninstall(answer).await;
                continue;
            }
            let streamed = Arc::new(OnceLock::new());
            let outcome = self.attempt(&streamed).await;
            let since = streamed.get();
            if since.is_some_and(|since: &Instant| since.elapsed() >= good) {
                // What failed before is over: this is a first failure again.
                backoff.succeeded();
            }
            self.port
                .board
                .update(|status| status.state = CaptureState::Disconnected);
            match outcome {
                Ok(()) => backoff.succeeded(),
                Err(error) => self.failed(error, &mut backoff).await,
            }
        }
    }

    async fn attempt(&mut self, streamed: &Arc<OnceLock<Instant>>) -> Result<(), ConnectorError> {
        let bounds = self.port.writer.log().bounds();
        if bounds.history.is_none() {
            return self.begin_history(Epoch(1), "the event log is new").await;
        }
        let streaming = self.watch_streaming(Arc::clone(streamed));
        let result = self.capture.run(&mut self.port).await;
        streaming.abort();
        match result {
            Err(error) if error.kind == ErrorKind::History => {
                self.break_history(bounds.durable.epoch.next(), error).await
            }
            other => other,
        }
    }

    /// As soon as the capture streams again, what was shown as wrong is past.
    fn watch_streaming(&self, streamed: Arc<OnceLock<Instant>>) -> tokio::task::JoinHandle<()> {
        let (board, errors) = (Arc::clone(&self.port.board), Arc::clone(&self.errors));
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(500));
            loop {
                tick.tick().await;
                if board.status().state == CaptureState::Streaming {
                    errors.accepted();
                    let _ = streamed.set(Instant::now());
                    return;
                }
            }
        })
    }

    async fn begin_history(&mut self, epoch: Epoch, reason: &str) -> Result<(), ConnectorError> {
        let pause = !*self.port.ingest_allowed.borrow();
        if pause {
            return Err(ConnectorError::new(
                ErrorKind::Transient,
                "ingest is paused",
            ));
        }
        self.capture.rebase(&mut self.port, epoch, reason).await?;
        self.wait_durable().await;
        info!(epoch = epoch.0, reason, "a span of history begins");
        Ok(())
    }

    /// History is not continuous: every replica is marked, durably, before anything of the new
    /// history enters the log.
    async fn break_history(
        &mut self,
        epoch: Epoch,
        broken: ConnectorError,
    ) -> Result<(), ConnectorError> {
        error!(error = %broken.message, advice = %broken.advice, "history broke");
        self.errors
            .set(errors::of_primary(&self.primary, &broken, 1), false);
        for replica in &self.replicas {
            let reason = broken.message.clone();
            replica
                .change(|record| {
                    record.standing = Membership::NeedsResync;
                    record.reason = reason;
                })
                .map_err(errors::state)?;
            let name = &replica.node.name;
            replica.view().last_error = Some(errors::of_replica(name, &broken, None, 1));
            replica.order(|_| {});
        }
        failpoint::hit("capture.history.marked")
            .map_err(|error| ConnectorError::new(ErrorKind::Transient, error.to_string()))?;
        self.begin_history(epoch, &broken.message).await
    }

    async fn wait_durable(&mut self) {
        while self.port.writer.pending_bytes() > 0 && !*self.shutdown.borrow() {
            tokio::select! {
                _ = self.port.durable.changed() => {}
                _ = self.shutdown.changed() => {}
            }
        }
    }

    async fn failed(&mut self, error: ConnectorError, backoff: &mut Backoff) {
        if *self.shutdown.borrow() {
            return;
        }
        let wait = errors::wait_after(&error, backoff.failed(crate::random::unit()));
        let attempts = backoff.attempts();
        let refused = error.kind.directive() != Directive::Retry;
        let info = errors::of_primary(&self.primary, &error, attempts);
        if refused {
            // Only the operator can mend it, but then capture goes on by itself.
            self.port
                .board
                .update(|status| status.state = CaptureState::Stopped);
            if attempts == 1 {
                error!(error = %error.message, advice = %info.advice, "capture refused");
            }
        } else {
            warn!(
                kind = error.kind.name(),
                error = %error.message,
                attempts,
                wait_ms = wait.as_millis() as u64,
                "capture interrupted; trying again"
            );
        }
        self.errors.set(info, refused);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = self.shutdown.changed() => {}
            order = self.uninstall.recv() => {
                if let Some(answer) = order {
                    self.uninstall(answer).await;
                }
            }
        }
    }

    async fn uninstall(&mut self, answer: Uninstall) {
        let result = self.capture.uninstall().await;
        if let Ok(done) = &result {
            warn!(
                done = done.join("; "),
                "removed from the primary on the operator's word"
            );
        }
        // Whoever asked may be gone; what was done is in the log line above.
        let _ = answer.send(result);
        // Starting again would make everything anew, so the capture waits for a restart.
        self.port
            .board
            .update(|status| status.state = CaptureState::Stopped);
        let _ = self.interrupt.send(false);
        let _ = self.shutdown.wait_for(|stop| *stop).await;
    }
}
