//! Whether the log may take in more: pauses capture while the disk is full or nearly so.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tracing::{error, info};

/// The guard of the log's disk.
pub struct Ingest {
    dir: PathBuf,
    min_free: u64,
    /// A write failed, and what it was to write is still to be written.
    write_failed: Mutex<Option<String>>,
    /// Why ingest is paused; empty when it is not.
    reason: Mutex<String>,
    allowed: watch::Sender<bool>,
}

impl Ingest {
    /// Guards the file system of `dir`; `min_free` is in bytes.
    pub fn new(dir: PathBuf, min_free: u64) -> Self {
        Ingest {
            dir,
            min_free,
            write_failed: Mutex::new(None),
            reason: Mutex::new(String::new()),
            allowed: watch::Sender::new(true),
        }
    }

    /// Watched by the capture.
    pub fn allowed(&self) -> watch::Receiver<bool> {
        self.allowed.subscribe()
    }

    /// Why ingest is paused, if it is.
    pub fn reason(&self) -> Option<String> {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        (!reason.is_empty()).then(|| reason.clone())
    }

    /// Nothing is left that the log could not write.
    pub fn log_written(&self) {
        *self
            .write_failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A write to the log failed for lack of space.
    pub fn log_full(&self, why: &str) {
        *self
            .write_failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        self.check();
    }

    /// Looks at the disk; called once a second.
    pub fn check(&self) {
        let failed = self
            .write_failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let reason = failed.or_else(|| self.short_of_space()).unwrap_or_default();
        let mut shown = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        match (shown.is_empty(), reason.is_empty()) {
            (true, false) => error!(
                %reason,
                "ingest paused; the primary keeps its history for us until that is over"
            ),
            (false, true) => info!("ingest resumed"),
            _ => {}
        }
        let allowed = reason.is_empty();
        *shown = reason;
        drop(shown);
        self.allowed
            .send_if_modified(|now| std::mem::replace(now, allowed) != allowed);
    }

    fn short_of_space(&self) -> Option<String> {
        let stat = rustix::fs::statvfs(&self.dir).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        // Once paused, a tenth more must be free before it goes on, so that it does not flap.
        let paused = !*self.allowed.borrow();
        let wanted = if paused {
            self.min_free + self.min_free / 10
        } else {
            self.min_free
        };
        (free < wanted).then(|| {
            format!(
                "only {free} bytes are free in {}, less than log.min_free_disk = {}",
                self.dir.display(),
                self.min_free
            )
        })
    }
}
