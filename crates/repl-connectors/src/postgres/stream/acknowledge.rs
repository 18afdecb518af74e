//! What the server is told of our progress (invariant I1): as flushed what is durable in the log,
//! as applied what the mode's rule has released of it. Where commits are to be on replicas, nothing
//! is told before it is released: a commit waits for the flush alone by default, and may ask for less.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use repl_core::Seq;
use repl_core::failpoint;
use tokio::time::Instant;

use super::{ACK_INTERVAL, KEEP_ALIVE, Stream, injected};
use crate::postgres::lsn::Lsn;
use crate::postgres::pgoutput;
use crate::seam::{CapturePort, Result};

/// Most positions kept that are durable and not released.
const MAX_UNRELEASED: usize = 1 << 16;

/// Durable positions that may not be acknowledged as applied yet, oldest first.
#[derive(Default)]
pub(super) struct Unreleased(VecDeque<(Seq, Lsn)>);

impl Unreleased {
    /// Notes a position, behind which `seq` is the last transaction.
    fn push(&mut self, seq: Seq, position: Lsn) {
        if let Some(last) = self.0.back_mut().filter(|last| last.0 == seq) {
            last.1 = position;
            return;
        }
        if self.0.len() >= MAX_UNRELEASED {
            // A commit at a position left out is released with the next one.
            let mut keep = false;
            self.0.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.0.push_back((seq, position));
    }

    /// Takes out what is released; returns the last position of it.
    fn release(&mut self, through: Seq) -> Option<Lsn> {
        let mut released = None;
        while let Some(&(_, position)) = self.0.front().filter(|(seq, _)| *seq <= through) {
            released = Some(position);
            self.0.pop_front();
        }
        released
    }
}

/// What is released of a log that ends, durably, with the transaction `end` at `logged`, and what
/// is not.
pub(super) fn released_at_start(
    port: &CapturePort,
    end: Seq,
    logged: Lsn,
) -> Result<(Lsn, Unreleased)> {
    let released = port.released.borrow().seq;
    let log = port.writer.log();
    // A position of an epoch before says nothing of this server.
    let epoch = log.bounds().durable.epoch;
    let point = log.point(released.min(end))?;
    let point = point.filter(|point| point.epoch == epoch);
    let applied = point.and_then(|point| Lsn::from_position(&point.position));
    let mut unreleased = Unreleased::default();
    unreleased.push(end, logged);
    Ok((applied.unwrap_or_default(), unreleased))
}

impl Stream {
    /// Moves what became durable from pending to flushed.
    pub(super) fn note_durable(&mut self, port: &mut CapturePort) {
        let durable = port.durable.borrow_and_update().offset;
        while let Some(&(offset, position, seq)) = self.pending.front() {
            // The deliberately broken build acknowledges what only lies in memory.
            if offset > durable && !failpoint::sabotage("ack-before-fsync") {
                break;
            }
            self.flushed = position;
            self.unreleased.push(seq, position);
            self.pending.pop_front();
        }
        // A broken build: positions that the log does not have.
        if failpoint::sabotage("slot-past-the-log") {
            self.flushed = self.flushed.max(self.heard);
        }
    }

    fn note_released(&mut self, port: &mut CapturePort) {
        let through = port.released.borrow_and_update().seq;
        if let Some(position) = self.unreleased.release(through) {
            self.applied = self.applied.max(position);
        }
        // A broken build: what has arrived counts as applied.
        if failpoint::sabotage("ack-at-receipt") {
            self.applied = self.logged;
        }
        if failpoint::sabotage("slot-past-the-log") {
            self.applied = self.applied.max(self.heard);
        }
    }

    /// What may be told as flushed.
    fn tellable(&self, port: &CapturePort) -> Lsn {
        match port.released.borrow().withheld {
            true => self.flushed.min(self.applied),
            false => self.flushed,
        }
    }

    /// What is durable, or released, has changed: goes on with what waits for that.
    pub(super) async fn progress(&mut self, port: &mut CapturePort) -> Result<()> {
        self.note_durable(port);
        self.mark_if_due(port)?;
        self.acknowledge(port, false).await
    }

    /// Tells the server what is written, flushed and applied. Never moves backwards.
    pub(super) async fn acknowledge(
        &mut self,
        port: &mut CapturePort,
        regular: bool,
    ) -> Result<()> {
        self.note_released(port);
        let (flushed, applied) = self.acknowledged;
        let tellable = self.tellable(port);
        let progress = tellable > flushed || self.applied.min(tellable) > applied;
        let due = regular
            || self.last_ack.elapsed() >= ACK_INTERVAL
            // Somebody's COMMIT waits for this.
            || port.released.borrow().waited;
        // An answer to the server's question waits until what it asks for is durable. One that shuts
        // down asks again at once, as long as something is not released.
        let answer = self.answer_wanted
            && self.pending.is_empty()
            && (progress || regular || self.last_ack.elapsed() >= ACK_INTERVAL);
        if progress {
            self.asked = 0;
        }
        if !(answer || (progress && due) || self.last_ack.elapsed() >= KEEP_ALIVE) {
            return Ok(());
        }
        self.send_status(port).await?;
        self.answer_wanted &= !answer;
        Ok(())
    }

    async fn send_status(&mut self, port: &mut CapturePort) -> Result<()> {
        failpoint::hit("pg.capture.before_ack").map_err(injected)?;
        let flush = self.tellable(port).max(self.acknowledged.0);
        let apply = self.applied.min(flush).max(self.acknowledged.1);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_micros() as i64);
        let write = match self.overlap.is_open() || port.released.borrow().withheld {
            true => flush,
            false => self.logged.max(flush),
        };
        let status = pgoutput::status_update(write, flush, apply, now, self.silent());
        self.connection.send(&status);
        self.connection.flush().await?;
        self.acknowledged = (flush, apply);
        self.last_ack = Instant::now();
        let (transactions, rows) = std::mem::take(&mut self.counters);
        let logged = self.logged;
        port.board.update(|board| {
            board.acknowledged = flush.position().0;
            board.captured = logged.position().0;
            board.transactions += transactions;
            board.rows += rows;
        });
        port.board.heard(self.last_heard.elapsed());
        Ok(())
    }

    /// The server was silent for so long that an answer should be asked for.
    fn silent(&self) -> bool {
        self.last_heard.elapsed() >= KEEP_ALIVE
    }

    pub(super) async fn last_ack(&mut self, port: &mut CapturePort) -> Result<()> {
        self.note_durable(port);
        self.note_released(port);
        self.send_status(port).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_released_in_order_and_marks_with_the_transaction_before_them() {
        let mut unreleased = Unreleased::default();
        for (seq, lsn) in [(1, 10), (2, 20), (2, 25), (3, 30)] {
            unreleased.push(Seq(seq), Lsn(lsn));
        }
        assert_eq!(unreleased.release(Seq(0)), None);
        assert_eq!(unreleased.release(Seq(2)), Some(Lsn(25)));
        assert_eq!(unreleased.release(Seq(9)), Some(Lsn(30)));
        assert_eq!(unreleased.release(Seq(9)), None);
    }

    #[test]
    fn what_is_kept_is_bounded_and_nothing_is_released_early() {
        let mut unreleased = Unreleased::default();
        let last = MAX_UNRELEASED as u64 * 3;
        for seq in 1..=last {
            unreleased.push(Seq(seq), Lsn(seq));
        }
        assert!(unreleased.0.len() <= MAX_UNRELEASED);
        for seq in (0..last).step_by(1000) {
            assert!(unreleased.release(Seq(seq)).is_none_or(|lsn| lsn.0 <= seq));
        }
        assert_eq!(unreleased.release(Seq(last)), Some(Lsn(last)));
    }
}
