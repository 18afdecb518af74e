//! How the stream is read: as it comes while the server keeps up, in gulps while it is behind.
//!
//! The server sends each change by itself, and each wakes a client that waits for it, which costs
//! the server more than the decoding. A server that is behind is therefore left alone for a moment
//! whenever everything it sent has been read: it goes on meanwhile, and many changes are found at
//! the next look. Such a reader keeps its thread busy, so it has one to itself then. One that keeps
//! up shares the thread with the replicas' workers: a commit reaches them without waking another.

use std::ops::RangeInclusive;
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

/// How long a server that is behind is left alone at least and at most. Measured with PostgreSQL 15
/// and changes of 130 bytes, the processor time of both ends for a transaction of one: 16 µs after
/// naps of 100 µs, 11 µs after 1 ms, at the same rate. After 2 ms the server had filled the socket's
/// buffers and waited for us.
const NAP: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_millis(1);

/// A nap is as long as fits what then is found, bytes: well below the buffers that a server can fill
/// meanwhile.
const GULP: RangeInclusive<usize> = 32 << 10..=64 << 10;

/// So many looks in a row must agree before the way of reading changes: a single slow commit tells
/// nothing.
const STEADY: u32 = 32;

/// The present way of reading, and what speaks against it.
pub(super) struct Pace {
    /// The change heard last was sent long after its commit.
    late: bool,
    gulping: bool,
    /// Looks in a row that found what does not fit the present way.
    misfits: u32,
    /// The length of the next nap, and the bytes read since the last.
    nap: Duration,
    gulped: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            late: false,
            gulping: false,
            misfits: 0,
            nap: *NAP.start(),
            gulped: 0,
        }
    }
}

impl Pace {
    /// A change of so many bytes was sent at `sent_us` of a transaction committed at `committed_us`,
    /// both by the server's clock.
    pub(super) fn change(&mut self, bytes: usize, sent_us: i64, committed_us: i64) {
        self.late = sent_us - committed_us >= BEHIND_US;
        self.gulped += bytes;
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
            // On purpose not a timer's: those are too coarse.
            std::thread::sleep(self.next_nap());
        }
    }

    /// Longer after little was found, shorter after much.
    fn next_nap(&mut self) -> Duration {
        let found = std::mem::take(&mut self.gulped);
        if found > *GULP.end() {
            self.nap = (self.nap / 2).max(*NAP.start());
        } else if found < *GULP.start() {
            self.nap = (self.nap * 2).min(*NAP.end());
        }
        self.nap
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
            pace.change(1, if late { BEHIND_US } else { BEHIND_US - 1 }, 0);
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

    #[test]
    fn naps_are_as_long_as_the_server_takes_to_fill_a_gulp() {
        let mut pace = Pace::default();
        let naps = |pace: &mut Pace, found: usize| {
            for _ in 0..10 {
                pace.change(found, 0, 0);
                pace.next_nap();
            }
            pace.nap
        };
        assert_eq!(naps(&mut pace, 1_000), *NAP.end());
        assert_eq!(naps(&mut pace, 50_000), *NAP.end());
        assert_eq!(naps(&mut pace, 100_000), *NAP.start());
        assert_eq!(naps(&mut pace, 50_000), *NAP.start());
    }
}
