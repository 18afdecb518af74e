//! Follows the log: batches from the collector into the replica, and the ladder when one fails.
//!
//! Batches are sent without waiting for the replica's answers to those before ([`flight`] says how
//! far), so that the way to the replica and its commits cost latency but no throughput. A small
//! batch leaves at once even so; only when all that may be on its way is, does the collector
//! combine what comes meanwhile.
//!
//! The ladder: batches are applied set-wise; if a constraint refuses one, its rows are rewritten
//! (delete all, insert all), which solves swaps of unique values; if that fails too, its source
//! transactions are applied one by one in the source's own order, so that either the batch passes
//! or the one transaction at fault is found and named. Each rung begins with a new session, whose
//! checkpoint says what was committed, and reads the log again from there. Errors that ask for a
//! retry leave the ladder at once.
//!
//! [`flight`]: super::flight

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use repl_api::Activity;
use repl_connectors::seam::{Commit, ConnectorError};
use repl_core::checkpoint::Checkpoint;
use repl_core::{ErrorKind, Seq};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info};

use super::ahead::Incoming;
use super::collect::{CollectError, Mode, Plan, TxInfo, Work};
use super::flight::Flight;
use super::{Ended, Failure, Worker};
use crate::config::CommitMode;

/// Why following ended well.
pub enum Left {
    /// A selected table is not copied yet, or all copies have joined.
    TablesChanged,
    /// The session is to end.
    Ended(Ended),
}

enum Followed {
    Left(Left),
    /// Every transaction of a range was applied.
    RangeDone,
}

pub(super) enum Trouble {
    Failure(Failure),
    /// The replica refused a transaction on its way.
    Refused(ConnectorError),
    /// Some transaction up to this one cannot be applied set-wise.
    Suspect(Seq),
}

impl<E: Into<Failure>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Failure(error.into())
    }
}

/// What happened next.
enum Event {
    /// Whether the oldest transaction on its way was committed.
    Settled(Result<(), ConnectorError>),
    /// More to apply; none at the end of a range.
    Work(Option<Result<Work, CollectError>>),
    /// The selected tables changed.
    Tables,
    /// The operator gave an order.
    Orders,
    /// The daemon may be stopping.
    Shutdown,
    /// What was sent must become durable.
    FlushDue,
    /// There was nothing to do for a while.
    Quiet,
}

/// With nothing to do for so long it is asked whether the replica is still there.
const QUIET: Duration = Duration::from_secs(8);

/// One pass over the log, in one mode and one session.
pub(super) struct Course<'a> {
    /// Where the replica is known to be.
    pub(super) checkpoint: &'a mut Checkpoint,
    pub(super) flight: Flight,
    pub(super) mode: Mode,
}

impl Worker {
    /// Follows the log from `checkpoint` until something else is to be done.
    pub(super) async fn stream(&mut self, checkpoint: &mut Checkpoint) -> Result<Left, Failure> {
        let mut mode = Mode::Combined;
        loop {
            let mut course = self.course(checkpoint, mode);
            let trouble = match self.follow(&mut course).await {
                Ok(Followed::Left(left)) => return Ok(left),
                Ok(Followed::RangeDone) => {
                    mode = Mode::Combined;
                    continue;
                }
                Err(trouble) => trouble,
            };
            let flight = course.flight;
            mode = match trouble {
                Trouble::Failure(failure) => return Err(failure),
                Trouble::Suspect(through) => {
                    self.reopen(checkpoint).await?;
                    Mode::OneByOne(through)
                }
                Trouble::Refused(error) => {
                    self.reopen(checkpoint).await?;
                    match flight.next_rung(checkpoint.seq, mode, error.kind) {
                        Some(rung) => {
                            debug!(error = %error.message, ?rung, "transactions refused");
                            rung
                        }
                        None => return Err(error.into()),
                    }
                }
            };
            if let Mode::OneByOne(through) = mode {
                info!(through = through.0, "applying transactions one by one");
            }
        }
    }

    fn course<'a>(&self, checkpoint: &'a mut Checkpoint, mode: Mode) -> Course<'a> {
        let commit = match self.parts.replica.node.commit {
            CommitMode::Durable => Commit::Durable,
            CommitMode::Asynchronous => Commit::Asynchronous,
        };
        // What joins last has to be the last that is sent: there are rows to be put in place then.
        let depth = match self.mending {
            Some(_) => 1,
            None => self.parts.applier.depth(),
        };
        Course {
            flight: Flight::new(checkpoint.clone(), mode, depth, commit),
            checkpoint,
            mode,
        }
    }

    async fn follow(&mut self, course: &mut Course<'_>) -> Result<Followed, Trouble> {
        let mut work = Incoming::start(self.plan(course.checkpoint, course.mode));
        loop {
            if let Some(ended) = self.interrupted() {
                return Ok(Followed::Left(Left::Ended(self.leave(course, ended).await)));
            }
            let changed = match self.next_event(&mut work, &course.flight).await {
                Event::Settled(outcome) => {
                    outcome.map_err(|error| course.trouble(error))?;
                    self.settled(course)
                }
                Event::Work(Some(work)) => self.take(course, work).await?,
                Event::Work(None) => return Ok(Followed::RangeDone),
                Event::Tables => {
                    self.parts.tables.borrow_and_update();
                    let copied = self.is_copied() || self.foreign_keys_due();
                    copied || self.inheritance_due() || !self.missing_tables().is_empty()
                }
                Event::Orders => {
                    let ended = self.leave(course, Ended::Orders).await;
                    return Ok(Followed::Left(Left::Ended(ended)));
                }
                Event::Shutdown => false,
                Event::FlushDue => {
                    self.flush(course).await?;
                    false
                }
                Event::Quiet => {
                    self.parts.applier.ping().await?;
                    false
                }
            };
            if changed {
                self.land(course).await?;
                return Ok(Followed::Left(Left::TablesChanged));
            }
        }
    }

    async fn next_event(&mut self, work: &mut Incoming, flight: &Flight) -> Event {
        if flight.is_empty() {
            match work.try_recv() {
                Ok(next) => return Event::Work(Some(next)),
                Err(mpsc::error::TryRecvError::Disconnected) => return Event::Work(None),
                Err(mpsc::error::TryRecvError::Empty) => self.replica().show(Activity::Idle),
            }
        }
        // Where commits of the primary wait, each of ours is one of the disk: what comes meanwhile
        // forms the next.
        let waited = self.parts.replica.waited.load(Ordering::Relaxed);
        let has_room = flight.has_room() && (flight.is_open() || flight.is_empty() || !waited);
        let flush_due = flight.flush_due().filter(|_| has_room);
        tokio::select! {
            biased;
            _ = self.orders.changed() => Event::Orders,
            _ = self.parts.shutdown.changed() => Event::Shutdown,
            outcome = self.parts.applier.settle(), if flight.is_waiting() => Event::Settled(outcome),
            next = work.recv(), if has_room => Event::Work(next),
            // Not within a transaction: what a copy would do then is part of it.
            _ = self.parts.tables.changed(), if !flight.is_open() => Event::Tables,
            () = reached(flush_due) => Event::FlushDue,
            () = tokio::time::sleep(QUIET), if flight.is_empty() => Event::Quiet,
        }
    }

    fn plan(&self, checkpoint: &Checkpoint, mode: Mode) -> Plan {
        Plan {
            log: Arc::clone(&self.parts.log),
            follow: self.parts.follow.clone(),
            after: checkpoint.seq,
            epoch: checkpoint.epoch,
            routing: self.parts.routing.clone(),
            conversion: Arc::clone(&self.parts.conversion),
            tables: self.state.tables.clone(),
            fitted: self.fitted.keys().copied().collect(),
            skip: self
                .orders
                .borrow()
                .skip
                .filter(|skip| *skip > checkpoint.seq),
            mode,
            batch_bytes: self.parts.limits.batch_bytes,
            batch_transactions: self.parts.limits.batch_transactions,
        }
    }

    /// Does the work; true when the last open cut was joined, which changes the standing.
    async fn take(
        &mut self,
        course: &mut Course<'_>,
        work: Result<Work, CollectError>,
    ) -> Result<bool, Trouble> {
        let work = match work {
            Ok(Work::Batch(batch)) => return self.batch(course, batch).await,
            other => other,
        };
        // What else there is comes behind everything on its way.
        let joined = self.settle_all(course).await?;
        match work {
            Ok(Work::Batch(_)) => Ok(joined),
            Ok(Work::Broken(epoch, reason)) => {
                // A resync that was ordered before the new span had begun is meant for that.
                let kind = match self.begin_anew()? {
                    true => ErrorKind::Transient,
                    false => ErrorKind::History,
                };
                let what = format!("history broke when epoch {epoch} began: {reason}");
                Err(ConnectorError::new(kind, what).into())
            }
            Ok(Work::Joined(tables, position)) => {
                // A mark's position is not that of the transaction the checkpoint names, so the
                // checkpoint stays and only the cuts are cleared.
                let last = self.clear_cuts(course.checkpoint, &tables).await?;
                debug!(%position, "copies joined the stream");
                Ok(last || joined)
            }
            Ok(Work::Crossed(tables, epoch, logged)) => {
                self.land(course).await?;
                self.cross(course.checkpoint, &tables, epoch, logged)
                    .await?;
                // Begins anew from the moved checkpoint; and tables that are not there yet could not be
                // copied before.
                Ok(true)
            }
            Err(CollectError::Log(error)) => Err(error.into()),
            Err(CollectError::Unsettled(table)) => {
                self.copy_anew(&table).await?;
                Ok(true)
            }
            Err(CollectError::Elsewhere(table, name)) => {
                self.written_elsewhere(course.checkpoint, table, &name)
                    .await?;
                Ok(true)
            }
            Err(CollectError::Convert(transaction, error)) => Err(match course.mode {
                Mode::OneByOne(_) => blame(*error, &transaction).into(),
                // Those before it are applied first, so that the one at fault is met by itself.
                Mode::Combined | Mode::Rewritten(_) => Trouble::Suspect(transaction.seq),
            }),
        }
    }
}

/// Completes at `instant`; never without one.
async fn reached(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl Course<'_> {
    /// What an error of the replica means for the ladder. In a range that is applied one by one
    /// only one transaction is on its way, and so it is the one at fault.
    pub(super) fn trouble(&self, error: ConnectorError) -> Trouble {
        if !blames_a_transaction(error.kind) {
            return error.into();
        }
        match (self.mode, self.flight.oldest()) {
            (Mode::OneByOne(_), Some(transaction)) => blame(error, transaction).into(),
            _ => Trouble::Refused(error),
        }
    }
}

fn blames_a_transaction(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Constraint | ErrorKind::Data | ErrorKind::Conflict | ErrorKind::Schema
    )
}

pub(super) fn blame(error: ConnectorError, transaction: &TxInfo) -> Failure {
    Failure {
        error,
        transaction: Some(transaction.clone()),
    }
}
