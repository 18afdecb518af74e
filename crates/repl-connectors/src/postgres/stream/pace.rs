//! How the stream is read: as it comes while the server keeps up, in gulps while it is behind.
//!
//! The server sends each change by itself, and each wakes a client that waits for it, which costs
//! the server more than the decoding. A server that is behind is therefore left alone for a moment
//! whenever everything it sent has been read: it goes on meanwhile, and many changes are found at
//! the next look. Such a reader keeps its thread busy, so it has one to itself then. One that keeps
//! up shares the thread with the replicas' workers: a commit reaches them without waking another.

use std::time::Duration;

use repl_core::ErrorKind;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::time::Interval;

use super::Stream;
use crate::postgres::admin::Admin;
use crate::postgres::house::Housekeeping;
use crate::seam::{CapturePort, ConnectorError, Result};

/// A change sent this long after its transaction's commit, microseconds, tells that the server is
/// behind: it has more to send than it can send at once.
const BEHIND_US: i64 = 1_000;

/// How long a server that is behind is left alone. Measured with PostgreSQL 15: 50 to 200 µs are
/// equally good, 500 µs cost a part of the gain.
const NAP: Duration = Duration::from_micros(100);

/// So many looks in a row must agree before the way of reading changes: a single slow commit tells
/// nothing.
const STEADY: u32 = 32;

/// The present way of reading, and what speaks against it.
#[derive(Default)]
pub(super) struct Pace {
    /// The change heard last was sent long after its commit.
    late: bool,
    gulping: bool,
    /// Looks in a row that found what does not fit the present way.
    misfits: u32,
}

impl Pace {
    /// A change was sent at `sent_us` of a transaction committed at `committed_us`, both by the
    /// server's clock.
    pub(super) fn change(&mut self, sent_us: i64, committed_us: i64) {
        self.late = sent_us - committed_us >= BEHIND_US;
    }

    /// The server has nothing more to send.
    pub(super) fn idle(&mut self) {
        self.late = false;
    }

    /// What had arrived was read, all of it if `emptied`.
    pub(super) fn looked(&mut self, emptied: bool) {
        self.misfits = match self.late == self.gulping {
            true => 0,
            false => self.misfits + 1,
        };
        if emptied && self.gulping && self.late {
            // On purpose not a timer's: those are ten times too coarse.
            std::thread::sleep(NAP);
        }
    }

    /// Whether the way of reading is to change.
    pub(super) fn is_to_change(&self) -> bool {
        self.misfits >= STEADY
    }

    /// Changes it if that is due; whether the stream is read in gulps now.
    pub(super) fn choose(&mut self) -> bool {
        if self.is_to_change() {
            self.gulping = !self.gulping;
            self.misfits = 0;
        }
        self.gulping
    }
}

impl Stream {
    /// [`Stream::stream`] on this thread alone, whose other tasks move to another, and with a
    /// runtime that nobody but it waits in: whoever waits for the socket is woken by each change.
    pub(super) async fn stream_apart(
        &mut self,
        admin: &mut Admin,
        port: &mut CapturePort,
        house: &mut Housekeeping,
        tick: &mut Interval,
    ) -> Result<bool> {
        let daemon = Handle::current();
        if daemon.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return self.stream(admin, port, house, tick).await;
        }
        let ended = tokio::task::block_in_place(|| {
            let own = Builder::new_current_thread().enable_io().build();
            own.map_err(not_moved)?.block_on(async {
                self.connection.rehome().map_err(not_moved)?;
                // What is opened besides outlives this runtime.
                let _daemon = daemon.enter();
                self.stream(admin, port, house, tick).await
            })
        })?;
        self.connection.rehome().map_err(not_moved)?;
        Ok(ended)
    }
}

fn not_moved(error: std::io::Error) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Transient,
        format!("the replication stream cannot be moved to another thread: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_commit_changes_nothing_and_many_do() {
        let mut pace = Pace::default();
        let look = |pace: &mut Pace, late: bool| {
            pace.change(if late { BEHIND_US } else { BEHIND_US - 1 }, 0);
            pace.looked(false);
            pace.choose()
        };
        for _ in 0..3 {
            for _ in 1..STEADY {
                assert!(!look(&mut pace, true));
            }
            assert!(!look(&mut pace, false));
        }
        for _ in 1..STEADY {
            assert!(!look(&mut pace, true));
        }
        assert!(look(&mut pace, true));
        for _ in 1..STEADY {
            pace.idle();
            pace.looked(false);
            assert!(pace.choose());
        }
        assert!(!look(&mut pace, false));
    }
}
