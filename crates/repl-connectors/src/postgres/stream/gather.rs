//! While commits wait for replicas, and every replica is committing, the stream is left alone.
//!
//! What the server sends then could not be applied before a replica is back. Read as it comes, it would
//! cost a wakeup of the capture and of the log for each commit; read when a replica asks for more, it is
//! read, written and applied as one group.

use std::time::Duration;

use super::Stream;
use crate::seam::CapturePort;

/// How long the stream is left alone at most, but for the timer's own millisecond: some of what is in it may
/// wait for the log only.
pub(super) const GATHER: Duration = Duration::from_millis(1);

impl Stream {
    /// Whether what comes next may wait for a replica that asks for it, while something is still to be
    /// released.
    pub(super) fn gathers(&self, port: &CapturePort) -> bool {
        // A server that is behind is read without a pause.
        if !self.emptied || self.transaction.open {
            return false;
        }
        port.released.borrow().grouped && !port.demand.is_there()
    }
}
