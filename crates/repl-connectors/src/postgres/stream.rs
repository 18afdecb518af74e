//! The replication stream of one connection: messages in, log records and acknowledgements out.

mod acknowledge;
mod messages;
mod watermark;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use repl_core::log::LogOffset;
use repl_core::record::History;
use repl_core::{ErrorKind, Seq};
use tokio::time::{Instant, sleep_until};

use self::acknowledge::Unreleased;
use self::messages::{Table, Transaction};
use self::watermark::Watermark;
use super::admin::Admin;
use super::capture::PgCapture;
use super::house::Housekeeping;
use super::lsn::Lsn;
use super::pgoutput::{self, Frame};
use super::settings::{self, Session};
use super::verify::Overlap;
use super::wire::{CopyBoth, PgClient};
use crate::seam::{CapturePort, CaptureState, ConnectorError, Result};

/// Acknowledgements are sent at least this often while there is progress. A commit waiting for us
/// is acknowledged at once; this only bounds the chatter of a busy asynchronous stream.
const ACK_INTERVAL: Duration = Duration::from_millis(100);

/// A position that became durable while the replicas are still waited for is told together with what
/// is then released, and at the latest after this: a commit may wait for the log alone.
const FLUSH_INTERVAL: Duration = Duration::from_millis(5);

/// A keepalive's position is logged at once when it moved this far, bytes, or an answer is wanted;
/// otherwise at [`MARK_INTERVAL`]: idle keepalives must not fill the log.
const MARK_DISTANCE: u64 = 1 << 20;

/// How long a keepalive's position may stay unlogged.
const MARK_INTERVAL: Duration = Duration::from_millis(500);

/// A question that comes so soon after an answer is one that the answer did not satisfy; and after so
/// many of them the server is shutting down. Otherwise it asks after half of `wal_sender_timeout`.
const AT_ONCE: Duration = Duration::from_millis(250);
const ASKED_IN_VAIN: u32 = 20;

/// Messages handled between two looks at timers and acknowledgements.
const BURST: usize = 512;

/// A running stream.
pub(super) struct Stream {
    connection: CopyBoth,
    tables: HashMap<u32, Table>,
    overlap: Overlap,
    transaction: Transaction,
    /// Last position written to the log (or already there).
    logged: Lsn,
    /// Last position of a keepalive.
    heard: Lsn,
    last_mark: Instant,
    /// Last transaction in the log, durable or not.
    last: Seq,
    /// Positions appended and not yet durable, oldest first, each with the last transaction at it.
    pending: VecDeque<(LogOffset, Lsn, Seq)>,
    /// Last position that is durable in the log.
    flushed: Lsn,
    /// Durable positions that may not be acknowledged as applied yet.
    unreleased: Unreleased,
    /// Last position that may be.
    applied: Lsn,
    /// Flush and apply position last told to the server.
    acknowledged: (Lsn, Lsn),
    last_ack: Instant,
    /// When it is looked next for what became durable, where that is not told at once.
    next_look: Instant,
    answer_wanted: bool,
    /// So many questions in a row followed at once upon an answer that told nothing new.
    asked: u32,
    /// Whatever had arrived was read.
    emptied: bool,
    last_heard: Instant,
    watermark: Watermark,
    counters: (u64, u64),
    max_row_bytes: usize,
    /// The span that is written to.
    history: Option<History>,
}

impl Stream {
    /// Connects and starts replication at `from`, the slot's confirmed position.
    pub(super) async fn start(
        capture: &PgCapture,
        admin: &mut Admin,
        from: Lsn,
        logged: Lsn,
        overlap: Overlap,
        port: &mut CapturePort,
    ) -> Result<Stream> {
        let mut target = capture.target.clone();
        target.application_name.clone_from(&capture.options.standby);
        let mut client = PgClient::connect_narrow(&target, &[("replication", "database")]).await?;
        settings::pin(&mut client, Session::Stream).await?;
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {}, \
             messages 'true')",
            repl_core::schema::quote_identifier(&capture.options.slot),
            quote_publication(&capture.options.publication),
        );
        let connection = client.copy_both(&sql).await?;
        // Only the holder can move the slot, so this closes the gap between looking and starting.
        let held = admin
            .slot()
            .await?
            .map_or(Lsn(u64::MAX), |slot| slot.confirmed);
        if held > logged {
            return Err(ConnectorError::new(
                ErrorKind::History,
                format!("the slot was advanced to {held} while connecting, past {logged}"),
            ));
        }
        let now = Instant::now();
        let end = port.writer.log().bounds().durable.seq;
        let (applied, unreleased) = acknowledge::released_at_start(port, end, logged)?;
        // What the log holds beyond the slot's position may be of another history than the server's:
        // the server is told of it when the overlap is compared. A slot that was moved to it before
        // would hide the break from the next connection, if this one ends in between.
        let flushed = if overlap.is_open() { from } else { logged };
        Ok(Stream {
            connection,
            tables: HashMap::new(),
            overlap,
            transaction: Transaction::default(),
            logged,
            heard: logged,
            last_mark: now,
            last: end,
            pending: VecDeque::new(),
            flushed,
            unreleased,
            applied,
            acknowledged: (from, Lsn(0)),
            last_ack: now,
            next_look: now,
            answer_wanted: true,
            asked: 0,
            emptied: false,
            last_heard: now,
            watermark: Watermark::default(),
            counters: (0, 0),
            max_row_bytes: usize::MAX,
            history: port.writer.log().bounds().history,
        })
    }

    /// Streams until shutdown, a pause of ingest or an error. `house` is what looks after the rest beside it, whose failure ends the stream.
    pub(super) async fn run(
        &mut self,
        admin: &mut Admin,
        port: &mut CapturePort,
        house: &mut Housekeeping,
    ) -> Result<()> {
        self.max_row_bytes = usize::try_from(port.limits.max_row_bytes).unwrap_or(usize::MAX);
        self.connection
            .set_message_limit(self.max_row_bytes.saturating_mul(2).saturating_add(1 << 20));
        let mut tick = tokio::time::interval(ACK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.show_state(port);
        loop {
            if *port.shutdown.borrow() {
                return self.last_ack(port).await;
            }
            if !*port.ingest_allowed.borrow() {
                return Err(paused());
            }
            // The rule is still to move for what is in the log, which wakes us: one message then tells
            // the server both, and its sender is not woken twice for a commit.
            let together = self.last > port.released.borrow().seq;
            let reading = self.reading(port, together)?;
            let held = reading.gathers || reading.pauses;
            tokio::select! {
                () = port.demand.wait(), if reading.gathers => {}
                () = sleep_until(reading.until), if reading.waits => self.watermark.tired(Instant::now()),
                received = self.connection.recv(), if !held => {
                    let Some(bytes) = received? else {
                        return Err(ConnectorError::new(
                            ErrorKind::Connection,
                            "the primary ended the replication stream",
                        ));
                    };
                    self.last_heard = Instant::now();
                    self.handle(&bytes, admin, port).await?;
                    self.drain(admin, port).await?;
                }
                changed = port.durable.changed(), if !together => {
                    changed.map_err(|_| stopped())?;
                    self.progress(port).await?;
                }
                changed = port.released.changed() => {
                    changed.map_err(|_| stopped())?;
                    self.progress(port).await?;
                }
                () = sleep_until(self.next_look), if together && !self.pending.is_empty() => {
                    self.next_look = Instant::now() + FLUSH_INTERVAL;
                    self.progress(port).await?;
                }
                _ = tick.tick() => {
                    self.mark_if_due(port)?;
                    self.note_durable(port);
                    self.acknowledge(port, true).await?;
                    self.check_silence(port)?;
                }
                failed = house.failed() => return Err(failed),
                _ = port.shutdown.changed() => {}
                _ = port.ingest_allowed.changed() => {}
            }
        }
    }

    /// Ends the stream politely, so that the server frees the slot at once.
    pub(super) async fn close(self) {
        self.connection.close().await;
    }

    /// Handles what has already arrived, without waiting, up to a bound.
    async fn drain(&mut self, admin: &mut Admin, port: &mut CapturePort) -> Result<()> {
        let mut left = BURST;
        while left > 0
            && let Some(bytes) = self.connection.recv_arrived().await?
        {
            self.handle(&bytes, admin, port).await?;
            left -= 1;
        }
        self.emptied = left > 0;
        self.watermark
            .looked(1 + BURST - left, self.emptied, Instant::now());
        while port.writer.pending_bytes() > port.limits.pending_bytes && !*port.shutdown.borrow() {
            self.wait_for_log(port).await?;
        }
        Ok(())
    }

    /// Back-pressure: waits for the log's fsync, still answering the server.
    async fn wait_for_log(&mut self, port: &mut CapturePort) -> Result<()> {
        if !*port.ingest_allowed.borrow() {
            return Err(paused());
        }
        tokio::select! {
            changed = port.durable.changed() => changed.map_err(|_| stopped())?,
            _ = port.shutdown.changed() => {}
            () = tokio::time::sleep(ACK_INTERVAL) => {}
        }
        // It is we who do not read.
        self.last_heard = Instant::now();
        self.note_durable(port);
        self.acknowledge(port, true).await
    }

    async fn handle(
        &mut self,
        bytes: &[u8],
        admin: &mut Admin,
        port: &mut CapturePort,
    ) -> Result<()> {
        match pgoutput::frame(bytes)? {
            Frame::Data { sent_us, message } => {
                let message = pgoutput::message(message)?;
                self.message(message, admin, port).await?;
                if self.transaction.open {
                    let committed_us = self.transaction.committed_us;
                    self.watermark.change(sent_us, committed_us);
                }
                Ok(())
            }
            Frame::Keepalive { end, reply } => {
                self.watermark.idle(end > self.logged);
                self.keepalive(end, reply, port)
            }
        }
    }

    /// A keepalive tells that everything up to `end` was sent: a progress mark, queued in order
    /// behind the transactions before it.
    fn keepalive(&mut self, end: Lsn, reply: bool, port: &mut CapturePort) -> Result<()> {
        self.answer_wanted |= reply;
        if reply {
            self.asked_again(port)?;
        }
        if self.transaction.open {
            return Ok(());
        }
        self.passed(end)?;
        if self.overlap.is_open() || end <= self.logged {
            return Ok(());
        }
        self.show_state(port);
        self.heard = end;
        if reply || end.0 - self.logged.0 >= MARK_DISTANCE {
            return self.mark(end, port);
        }
        self.mark_if_due(port)
    }

    /// A server that shuts down asks for an answer again and again until everything is acknowledged,
    /// which may be for ever where replicas are away. Its clients are gone by then.
    fn asked_again(&mut self, port: &CapturePort) -> Result<()> {
        let at_once = self.last_ack.elapsed() < AT_ONCE;
        // On a busy machine some of them come late.
        self.asked = if at_once {
            self.asked + 1
        } else {
            self.asked / 2
        };
        if self.asked < ASKED_IN_VAIN || !port.released.borrow().withheld {
            return Ok(());
        }
        Err(ConnectorError::new(
            ErrorKind::Connection,
            "the primary is shutting down, and commits wait for replicas: disconnected, so that it \
             does not wait for them too",
        ))
    }

    /// The server has delivered everything up to `position`. With the overlap compared, what the log
    /// held before is the server's own.
    fn passed(&mut self, position: Lsn) -> Result<()> {
        let compares = self.overlap.is_open();
        self.overlap.passed(position)?;
        if compares && !self.overlap.is_open() {
            self.flushed = self.flushed.max(self.logged);
        }
        Ok(())
    }

    /// Logs the last keepalive's position when it stayed unlogged for a while. Where commits wait,
    /// one of another database or of no published table may wait for this: at once, but with one
    /// mark on its way to the disk at most.
    fn mark_if_due(&mut self, port: &mut CapturePort) -> Result<()> {
        let waited = port.released.borrow().waited && self.pending.is_empty();
        let due = self.heard > self.logged && (waited || self.last_mark.elapsed() >= MARK_INTERVAL);
        if due && !self.transaction.open && !self.overlap.is_open() {
            self.mark(self.heard, port)?;
        }
        Ok(())
    }

    fn mark(&mut self, position: Lsn, port: &mut CapturePort) -> Result<()> {
        let offset = port.writer.mark(&position.position())?;
        self.logged = position;
        self.last_mark = Instant::now();
        self.pending.push_back((offset, position, self.last));
        port.board
            .update(|status| status.captured = position.position().0);
        Ok(())
    }

    fn check_silence(&self, port: &CapturePort) -> Result<()> {
        if self.last_heard.elapsed() <= port.limits.idle_timeout {
            return Ok(());
        }
        Err(ConnectorError::new(
            ErrorKind::Connection,
            format!(
                "nothing heard from the primary for {} s",
                port.limits.idle_timeout.as_secs()
            ),
        ))
    }

    fn show_state(&self, port: &mut CapturePort) {
        let state = if self.overlap.is_open() {
            CaptureState::Verifying
        } else {
            CaptureState::Streaming
        };
        port.board.update(|status| status.state = state);
    }
}

/// Longest silence on our side, and from the server before an answer is asked for.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A publication name as an element of the option's comma-separated list of identifiers.
fn quote_publication(name: &str) -> String {
    postgres_protocol::escape::escape_literal(&repl_core::schema::quote_identifier(name))
}

fn protocol(what: &str) -> ConnectorError {
    ConnectorError::new(ErrorKind::Internal, format!("replication stream: {what}"))
}

fn paused() -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Transient,
        "ingest is paused (see the event log's state): disconnected from the primary, which keeps \
         its WAL for us",
    )
}

fn stopped() -> ConnectorError {
    ConnectorError::new(ErrorKind::Internal, "the event log's writer has stopped")
}

fn injected(error: std::io::Error) -> ConnectorError {
    ConnectorError::new(ErrorKind::Connection, error.to_string())
}
