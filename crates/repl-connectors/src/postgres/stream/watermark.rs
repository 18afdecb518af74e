//! How much of the stream is waited for before it is read.
//!
//! The server sends each BEGIN, change and COMMIT by itself, and waking a reader for each costs both
//! sides more than the message: the server, whose send has to wake somebody, more than the decoding.
//! So the socket is given a low watermark (see [`CopyBoth::wake_at`]): what belongs to one commit is
//! read at once, what a server sends that is behind in gulps, and what nobody can apply yet not at
//! all. Nothing waits longer than [`PATIENCE`] for it, and while nothing happens no timer runs.
//!
//! A server on this machine that is behind is also left alone for a while after [`EARNED`] messages.
//! Within one machine a send does the work of both ends, unless the receiver's window is closed, as it
//! soon is then (see [`CopyBoth::is_narrow`]): it only adds to what is sent in one piece when we look
//! again. Only there something stays unread for longer, for [`REST`].
//!
//! [`CopyBoth::wake_at`]: crate::postgres::wire::CopyBoth::wake_at
//! [`CopyBoth::is_narrow`]: crate::postgres::wire::CopyBoth::is_narrow

use std::time::Duration;

use tokio::time::Instant;

use super::Stream;
use crate::seam::{CapturePort, Result};

/// Longest time that something stays unread, but for the timer's own millisecond: it may be a keepalive
/// that somebody's commit waits for.
const PATIENCE: Duration = Duration::from_millis(1);

/// How long a server on this machine that is behind is left alone; 3 ms brought 6 to 10 % more
/// than 1 ms.
const REST: Duration = Duration::from_millis(3);

/// So many messages are read before the server is left alone again: what is saved is their sends, and a
/// window holds some 300, or two large rows. A pacing congestion control (BBR) may take our pauses for the
/// network's, and go on for ever to send one window's worth after each: so a pause after which they take
/// longer than [`REST`] doubles the price of the next one, up to [`DOUBLINGS`] times, and any other halves it.
const EARNED: usize = 1_000;
const DOUBLINGS: u32 = 6;

/// More than a BEGIN (51 bytes on the wire) and two keepalives (23), less than the smallest transaction with
/// a change: its COMMIT has 56 bytes and its change at least 40.
const TRANSACTION: usize = 128;

/// What is read at once of a server that is behind.
const GULP: usize = 64 << 10;

/// A change sent this long after its transaction's commit, microseconds, tells that the server is
/// behind: it has more to send than it can send at once.
const BEHIND_US: i64 = 1_000;

/// So many looks in a row must find the server behind before it is read in gulps: a single slow
/// commit tells nothing. And so many must not until it is read as it comes again.
const BEHIND_LOOKS: u32 = 32;
const ABREAST_LOOKS: u32 = 4;

/// How much is waited for.
#[derive(Default)]
pub(super) struct Watermark {
    /// The change heard last was sent long after its commit.
    late: bool,
    /// The server is read in gulps.
    gulping: bool,
    /// Looks in a row that speak against that.
    misfits: u32,
    /// More is likely to come soon.
    expectant: bool,
    /// Messages read since the server was left alone last.
    read: usize,
    /// When it ceased to be left alone, until [`EARNED`] messages are read.
    resumed: Option<Instant>,
    /// How often [`EARNED`] is doubled before it is left alone again.
    doublings: u32,
    /// It is left alone.
    pausing: bool,
    /// End of the present wait.
    until: Option<Instant>,
}

impl Watermark {
    /// A change was sent at `sent_us` of a transaction committed at `committed_us`, both by the
    /// server's clock.
    pub(super) fn change(&mut self, sent_us: i64, committed_us: i64) {
        self.late = sent_us - committed_us >= BEHIND_US;
        self.expectant = true;
    }

    /// The server has nothing more to send. With `news`, a keepalive was all that told of commits
    /// that are not for us: so may the next, which somebody may wait for.
    pub(super) fn idle(&mut self, news: bool) {
        self.late = false;
        self.expectant &= !news;
    }

    /// So many messages that had arrived were read, which was all if `emptied`.
    pub(super) fn looked(&mut self, messages: usize, emptied: bool, now: Instant) {
        self.until = None;
        self.read += messages;
        self.judge();
        self.reckon(now);
        let earned = self.read >= EARNED << self.doublings;
        self.pausing = emptied && self.gulping && self.expectant && earned;
        if self.pausing {
            self.read = 0;
        }
    }

    /// What the next pause costs, once it is known what the last one brought.
    fn reckon(&mut self, now: Instant) {
        if self.read < EARNED {
            return;
        }
        let Some(resumed) = self.resumed.take() else {
            return;
        };
        self.doublings = match now - resumed > REST {
            true => DOUBLINGS.min(self.doublings + 1),
            false => self.doublings.saturating_sub(1),
        };
    }

    /// Whether the server is to be read in gulps, after another look.
    fn judge(&mut self) {
        if self.late == self.gulping {
            self.misfits = 0;
            return;
        }
        self.misfits += 1;
        let enough = match self.gulping {
            true => ABREAST_LOOKS,
            false => BEHIND_LOOKS,
        };
        if self.misfits >= enough {
            self.gulping = !self.gulping;
            self.misfits = 0;
        }
    }

    /// The wait is over: the next byte is news.
    pub(super) fn tired(&mut self, now: Instant) {
        self.until = None;
        if std::mem::take(&mut self.pausing) {
            self.resumed = Some(now);
        }
        self.expectant = false;
    }

    /// Bytes; 1 for all that comes. `within` a transaction its end is waited for, and while it is
    /// `held` none of it is.
    fn bytes(&self, within: bool, held: bool) -> usize {
        match self.expectant {
            true if self.gulping || held => GULP,
            true if !within => TRANSACTION,
            _ => 1,
        }
    }
}

/// How the stream is to be read next.
pub(super) struct Reading {
    /// Not before a replica asks for it, or the wait is over.
    pub(super) gathers: bool,
    /// Not before the wait is over.
    pub(super) pauses: bool,
    /// Not all that comes is read at once, so the wait's end is to be heeded.
    pub(super) waits: bool,
    /// End of the wait, which began when the stream was looked at last, whatever woke us since.
    pub(super) until: Instant,
}

impl Stream {
    /// How to read on, which the socket is told; `together`: something is still to be released.
    pub(super) fn reading(&mut self, port: &CapturePort, together: bool) -> Result<Reading> {
        let expectant = self.emptied && self.watermark.expectant;
        let gathers = together && expectant && self.gathers(port);
        let pauses = self.watermark.pausing && self.connection.is_narrow();
        let held = gathers || pauses;
        let watermark = self.watermark.bytes(self.transaction.open, held);
        self.connection.wake_at(watermark)?;
        let patience = if pauses { REST } else { PATIENCE };
        let until = &mut self.watermark.until;
        Ok(Reading {
            gathers,
            pauses,
            waits: watermark > 1,
            until: *until.get_or_insert_with(|| Instant::now() + patience),
        })
    }

    /// Whether what comes next may wait for a replica that asks for it.
    fn gathers(&self, port: &CapturePort) -> bool {
        // A server that is behind is read without asking.
        !self.watermark.gulping
            && !self.transaction.open
            && port.released.borrow().grouped
            && !port.demand.is_there()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(watermark: &mut Watermark, late: bool) -> bool {
        watermark.change(if late { BEHIND_US } else { BEHIND_US - 1 }, 0);
        watermark.looked(1, true, Instant::now());
        watermark.gulping
    }

    #[test]
    fn one_slow_commit_changes_nothing_and_many_do() {
        let mut watermark = Watermark::default();
        for _ in 0..3 {
            for _ in 1..BEHIND_LOOKS {
                assert!(!look(&mut watermark, true));
            }
            assert!(!look(&mut watermark, false));
        }
        for _ in 1..BEHIND_LOOKS {
            assert!(!look(&mut watermark, true));
        }
        assert!(look(&mut watermark, true));
        assert_eq!(watermark.bytes(true, false), GULP);
        for _ in 1..ABREAST_LOOKS {
            assert!(look(&mut watermark, false));
        }
        assert!(!look(&mut watermark, false));
        assert_eq!(watermark.bytes(true, false), 1);
    }

    #[test]
    fn a_transaction_is_waited_for_and_a_keepalive_with_news_is_not() {
        let mut watermark = Watermark::default();
        assert_eq!(watermark.bytes(false, false), 1);
        watermark.change(0, 0);
        watermark.idle(false);
        assert_eq!(watermark.bytes(false, false), TRANSACTION);
        assert_eq!(watermark.bytes(true, false), 1);
        watermark.idle(true);
        assert_eq!(watermark.bytes(false, false), 1);
    }

    #[test]
    fn what_is_held_waits_but_not_for_ever() {
        let mut watermark = Watermark::default();
        watermark.change(0, 0);
        assert_eq!(watermark.bytes(false, true), GULP);
        watermark.tired(Instant::now());
        assert_eq!(watermark.bytes(false, true), 1);
    }

    #[test]
    fn a_server_is_left_alone_once_for_more_than_its_window() {
        let mut watermark = Watermark::default();
        while !look(&mut watermark, true) {}
        watermark.read = 0;
        let mut pauses = |messages, emptied| {
            watermark.change(BEHIND_US, 0);
            watermark.looked(messages, emptied, Instant::now());
            watermark.pausing
        };
        assert!(!pauses(EARNED - 1, true));
        assert!(!pauses(1, false));
        assert!(pauses(1, true));
        watermark.tired(Instant::now());
        assert!(!watermark.pausing);
    }

    #[test]
    fn a_server_that_is_slow_after_a_pause_is_left_alone_less_and_less() {
        let mut watermark = Watermark::default();
        while !look(&mut watermark, true) {}
        let mut now = Instant::now();
        let mut messages_to_pause = |each: Duration| {
            let mut messages = 0;
            while !watermark.pausing {
                now += each;
                watermark.change(BEHIND_US, 0);
                watermark.looked(100, true, now);
                messages += 100;
            }
            watermark.tired(now);
            messages
        };
        let (slow, quick) = (REST / 9, REST / 10);
        messages_to_pause(quick);
        let dearer = [2, 4, 8, 16, 32, 64, 64].map(|times| times * EARNED);
        assert_eq!([slow; 7].map(&mut messages_to_pause), dearer);
        let cheaper = [32, 16, 8, 4, 2, 1, 1].map(|times| times * EARNED);
        assert_eq!([quick; 7].map(&mut messages_to_pause), cheaper);
    }
}
