//! What the server is told of our progress (invariant I1).

use std::time::{SystemTime, UNIX_EPOCH};

use repl_core::failpoint;
use tokio::time::Instant;

use super::{ACK_INTERVAL, KEEP_ALIVE, Stream, injected};
use crate::postgres::lsn::Lsn;
use crate::postgres::pgoutput;
use crate::seam::{CapturePort, Result};

impl Stream {
    /// Moves what became durable from pending to flushed.
    pub(super) fn note_durable(&mut self, port: &mut CapturePort) {
        let durable = port.durable.borrow_and_update().offset;
        while let Some(&(offset, position)) = self.pending.front() {
            // The deliberately broken build acknowledges what only lies in memory.
            if offset > durable && !failpoint::sabotage("ack-before-fsync") {
                break;
            }
            self.flushed = position;
            self.pending.pop_front();
        }
    }

    /// Tells the server what is written, flushed and applied. Never moves backwards.
    pub(super) async fn acknowledge(
        &mut self,
        port: &mut CapturePort,
        regular: bool,
    ) -> Result<()> {
        let progress = self.flushed > self.acknowledged;
        let due = self.last_ack.elapsed() >= ACK_INTERVAL;
        // An answer to the server's question waits until what it asks for is durable.
        let answer = self.answer_wanted && self.pending.is_empty();
        if !(answer || (progress && (regular || due)) || self.last_ack.elapsed() >= KEEP_ALIVE) {
            return Ok(());
        }
        self.send_status(port).await?;
        self.answer_wanted &= !answer;
        Ok(())
    }

    async fn send_status(&mut self, port: &mut CapturePort) -> Result<()> {
        failpoint::hit("pg.capture.before_ack").map_err(injected)?;
        let applied = Lsn::from_position(&port.released.borrow()).unwrap_or_default();
        let flush = self.flushed.max(self.acknowledged);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_micros() as i64);
        let write = self.logged.max(flush);
        let status = pgoutput::status_update(write, flush, applied.min(flush), now, self.silent());
        self.connection.send(&status);
        self.connection.flush().await?;
        self.acknowledged = flush;
        self.last_ack = Instant::now();
        let (transactions, rows) = std::mem::take(&mut self.counters);
        let logged = self.logged;
        port.board.update(|board| {
            board.acknowledged = flush.position().0;
            board.captured = logged.position().0;
            board.transactions += transactions;
            board.rows += rows;
        });
        Ok(())
    }

    /// The server was silent for so long that an answer should be asked for.
    fn silent(&self) -> bool {
        self.last_heard.elapsed() >= KEEP_ALIVE
    }

    pub(super) async fn last_ack(&mut self, port: &mut CapturePort) -> Result<()> {
        self.note_durable(port);
        self.send_status(port).await
    }
}
