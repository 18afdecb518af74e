//! The thread that makes the log durable: group commit of whatever is pending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use repl_core::log::{EventLog, LogError};
use tracing::{error, warn};

use crate::ingest::Ingest;

/// How long the thread sleeps when nothing wakes it; bounds only the time to notice a stop.
const IDLE: Duration = Duration::from_millis(500);

/// Wait between attempts while the device is full.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// How long records are gathered for one fsync while nobody waits for it: it would take processor
/// and disk from the changes on their way to the replicas, and from the primary if that is near.
const GATHER: Duration = Duration::from_millis(10);

/// Pending bytes that are written without gathering more.
const ENOUGH: u64 = 256 * 1024;

/// The running thread.
pub struct Flusher {
    stop: Arc<AtomicBool>,
    awaited: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts it. `fatal` is called when the log cannot go on: an fsync failed, and what the
    /// device holds is unknown.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        log: Arc<dyn EventLog>,
        ingest: Arc<Ingest>,
        fatal: impl Fn(String) + Send + 'static,
    ) -> std::io::Result<Flusher> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let awaited = Arc::new(AtomicBool::new(true));
        let at_once = Arc::clone(&awaited);
        let thread = std::thread::Builder::new()
            .name("log-flush".into())
            .spawn(move || {
                let fatal = Fatal(fatal);
                while !stopping.load(Ordering::Acquire) {
                    let pending = log.wait_for_work(IDLE);
                    let awaited = at_once.load(Ordering::Acquire);
                    if pending < ENOUGH && !awaited {
                        std::thread::sleep(GATHER);
                    }
                    if let Err(error) = flush_once(log.as_ref(), &ingest, awaited) {
                        error!(%error, "the event log cannot go on");
                        (fatal.0)(error.to_string());
                        return;
                    }
                }
                // What was captured before the stop is worth keeping; a failure only loses the work.
                if let Err(error) = log.flush() {
                    warn!(%error, "last flush of the event log failed");
                }
            })?;
        Ok(Flusher {
            stop,
            awaited,
            thread: Some(thread),
        })
    }

    /// Whether somebody waits for each fsync, so that nothing is gathered first; true at first.
    pub fn awaited(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.awaited)
    }

    /// Stops the thread after a last flush.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the flushing thread panicked");
        }
    }
}

/// Tells of a panic too: without this thread nothing becomes durable any more.
struct Fatal<F: Fn(String)>(F);

impl<F: Fn(String)> Drop for Fatal<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)("the thread that makes the event log durable panicked".into());
        }
    }
}

fn flush_once(log: &dyn EventLog, ingest: &Ingest, awaited: bool) -> Result<(), LogError> {
    match log.flush() {
        Ok(flushed) => {
            // Also with nothing to write: what could not be written was taken back by the capture, which
            // has to try again to find out.
            ingest.log_written();
            // Behind what was waited for, and before what will be.
            if flushed && awaited {
                log.prepare()
            } else {
                Ok(())
            }
        }
        Err(error @ LogError::Full(_)) => {
            ingest.log_full(&error.to_string());
            std::thread::sleep(FULL_RETRY);
            Ok(())
        }
        Err(error @ LogError::Io { .. }) => {
            // Nothing was published and nothing lost: the same bytes are written again.
            ingest.log_full(&error.explained());
            std::thread::sleep(FULL_RETRY);
            Ok(())
        }
        Err(error) => Err(error),
    }
}
