//! Follows the log: batches from the collector into the replica, and the ladder when one fails.
//!
//! The ladder: a batch is applied set-wise; if a constraint refuses it, its rows are rewritten
//! (delete all, insert all), which solves swaps of unique values; if that fails too, its source
//! transactions are applied one by one in the source's own order, so that either the batch passes
//! or the one transaction at fault is found and named. Errors that ask for a retry leave the ladder
//! at once: the batch is simply tried again.

use repl_api::Activity;
use repl_connectors::seam::{ConnectorError, Style, TableDdl};
use repl_core::batch::Route;
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::failpoint;
use repl_core::schema::TableName;
use repl_core::{ErrorKind, Seq};
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::ahead::Incoming;
use super::collect::{Batch, CollectError, Mode, Plan, TxInfo, Work};
use super::{Ended, Failure, Worker};

/// Why following ended well.
pub enum Left {
    /// A selected table is not copied yet, or all copies have joined.
    TablesChanged,
    /// The session is to end.
    Ended(Ended),
}

enum Followed {
    Left(Left),
    /// Every transaction of a one-by-one range was applied.
    RangeDone,
}

enum Trouble {
    Failure(Failure),
    /// Some transaction up to this one cannot be applied set-wise.
    Suspect(Seq),
}

impl<E: Into<Failure>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Failure(error.into())
    }
}

impl Worker {
    /// Follows the log from `checkpoint` until something else is to be done.
    pub(super) async fn stream(&mut self, checkpoint: &mut Checkpoint) -> Result<Left, Failure> {
        let mut mode = Mode::Combined;
        loop {
            match self.follow(checkpoint, mode).await {
                Ok(Followed::Left(left)) => return Ok(left),
                Ok(Followed::RangeDone) => mode = Mode::Combined,
                Err(Trouble::Failure(failure)) => return Err(failure),
                Err(Trouble::Suspect(through)) => {
                    info!(through = through.0, "applying transactions one by one");
                    self.reopen(checkpoint).await?;
                    mode = Mode::OneByOne(through);
                }
            }
        }
    }

    async fn follow(
        &mut self,
        checkpoint: &mut Checkpoint,
        mode: Mode,
    ) -> Result<Followed, Trouble> {
        let mut work = Incoming::start(self.plan(checkpoint, mode));
        loop {
            if let Some(ended) = self.interrupted() {
                return Ok(Followed::Left(Left::Ended(ended)));
            }
            let next = match work.try_recv() {
                Ok(next) => Some(next),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
                Err(mpsc::error::TryRecvError::Empty) => {
                    self.replica().show(Activity::Idle);
                    tokio::select! {
                        next = work.recv() => next,
                        _ = self.parts.tables.changed() => {
                            self.parts.tables.borrow_and_update();
                            if self.missing_tables().is_empty() {
                                continue;
                            }
                            return Ok(Followed::Left(Left::TablesChanged));
                        }
                        _ = self.orders.changed() => {
                            return Ok(Followed::Left(Left::Ended(Ended::Orders)));
                        }
                        _ = self.parts.shutdown.changed() => continue,
                    }
                }
            };
            let Some(next) = next else {
                return Ok(Followed::RangeDone);
            };
            if self.take(checkpoint, mode, next).await? {
                return Ok(Followed::Left(Left::TablesChanged));
            }
        }
    }

    fn plan(&self, checkpoint: &Checkpoint, mode: Mode) -> Plan {
        Plan {
            log: std::sync::Arc::clone(&self.parts.log),
            follow: self.parts.follow.clone(),
            after: checkpoint.seq,
            epoch: checkpoint.epoch,
            routing: self.parts.routing.clone(),
            conversion: self.parts.conversion.clone(),
            tables: self.state.tables.clone(),
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
        checkpoint: &mut Checkpoint,
        mode: Mode,
        work: Result<Work, CollectError>,
    ) -> Result<bool, Trouble> {
        let work = match work {
            Ok(work) => work,
            Err(CollectError::Log(error)) => return Err(error.into()),
            // Those before it are applied first, so that the one at fault is met by itself.
            Err(CollectError::Convert(transaction, _)) if mode == Mode::Combined => {
                return Err(Trouble::Suspect(transaction.seq));
            }
            Err(CollectError::Convert(transaction, error)) => {
                return Err(Trouble::Failure(blame(*error, &transaction)));
            }
        };
        match work {
            Work::Broken(epoch, reason) => Err(ConnectorError::new(
                ErrorKind::History,
                format!("history broke when epoch {epoch} began: {reason}"),
            )
            .into()),
            Work::Joined(tables, position) => {
                // A mark's position is not that of the transaction the checkpoint names, so the
                // checkpoint stays and only the cuts are cleared.
                self.parts.applier.begin(checkpoint).await?;
                self.parts.applier.commit(checkpoint, &tables).await?;
                debug!(%position, "copies joined the stream");
                Ok(self.joined(&tables))
            }
            Work::Batch(batch) => {
                self.replica().show(Activity::Applying);
                self.batch(checkpoint, mode, batch).await
            }
        }
    }

    /// Clears the cuts that the checkpoint has passed already: on an idle primary nothing follows
    /// that would show it.
    pub(super) async fn join_passed(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let passed: Vec<TableName> = self
            .state
            .tables
            .iter()
            // Positions do not tell: where a copy starts may lie in another span of history.
            .filter(|(_, table)| {
                matches!(table.cut, Some(Cut::Through(last)) if last <= checkpoint.seq)
            })
            .map(|(name, _)| name.clone())
            .collect();
        if !passed.is_empty() {
            self.parts.applier.begin(checkpoint).await?;
            self.parts.applier.commit(checkpoint, &passed).await?;
            self.joined(&passed);
        }
        Ok(())
    }

    fn joined(&mut self, tables: &[TableName]) -> bool {
        for table in tables {
            if let Some(copied) = self.state.tables.get_mut(table) {
                copied.cut = None;
            }
        }
        !tables.is_empty() && self.state.tables.values().all(|table| table.cut.is_none())
    }

    async fn batch(
        &mut self,
        checkpoint: &mut Checkpoint,
        mode: Mode,
        batch: Batch,
    ) -> Result<bool, Trouble> {
        let through = batch.end.as_ref().map_or(batch.first.seq, |end| end.seq);
        if batch.reduced.needs_order {
            return Err(Trouble::Suspect(through));
        }
        for route in &batch.new_routes {
            if let Err(error) = self.fit(route).await {
                return Err(Trouble::Failure(blame(error, &batch.first)));
            }
        }
        let mut outcome = self.apply(checkpoint, &batch, Style::SetWise).await;
        let whole = batch.end.is_some() && !batch.continues;
        if let (Err(error), Mode::Combined, true) = (&outcome, mode, whole)
            && error.kind == ErrorKind::Constraint
        {
            debug!(error = %error.message, "set-wise application refused; rewriting the rows");
            self.reopen(checkpoint).await?;
            outcome = self.apply(checkpoint, &batch, Style::Rewrite).await;
        }
        match outcome {
            Ok(()) => Ok(self.applied(checkpoint, &batch)),
            Err(error) if !blames_a_transaction(error.kind) => Err(error.into()),
            Err(error) => match mode {
                Mode::Combined => Err(Trouble::Suspect(through)),
                Mode::OneByOne(_) => Err(Trouble::Failure(blame(error, &batch.first))),
            },
        }
    }

    async fn apply(
        &mut self,
        checkpoint: &Checkpoint,
        batch: &Batch,
        style: Style,
    ) -> Result<(), ConnectorError> {
        if !batch.continues {
            self.parts.applier.begin(checkpoint).await?;
        }
        for step in &batch.reduced.steps {
            self.parts.applier.apply(step, style).await?;
        }
        if let Some(end) = &batch.end {
            let next = Checkpoint {
                log: checkpoint.log,
                epoch: end.epoch,
                seq: end.seq,
                position: end.position.clone(),
            };
            self.parts.applier.commit(&next, &end.joined).await?;
        }
        Ok(())
    }

    /// Notes what a batch brought; true when the last open cut was joined.
    fn applied(&mut self, checkpoint: &mut Checkpoint, batch: &Batch) -> bool {
        {
            let mut view = self.replica().view();
            view.rows += batch.reduced.rows;
            view.transactions += batch.transactions;
        }
        let Some(end) = &batch.end else { return false };
        self.backoff.succeeded();
        checkpoint.epoch = end.epoch;
        checkpoint.seq = end.seq;
        checkpoint.position = end.position.clone();
        self.state.checkpoint = Some(checkpoint.clone());
        self.note_applied(checkpoint);
        self.joined(&end.joined)
    }

    /// A fresh session on the same checkpoint; where an attempt was committed after all, the
    /// stored one decides.
    async fn reopen(&mut self, checkpoint: &mut Checkpoint) -> Result<(), Failure> {
        self.parts.applier.close().await;
        self.open().await?;
        *checkpoint = self.attach().await?;
        self.note_applied(checkpoint);
        failpoint::hit("worker.reopened")
            .map_err(|error| ConnectorError::new(ErrorKind::Connection, error.to_string()))?;
        Ok(())
    }

    /// Makes the replica's table fit a schema version seen for the first time.
    async fn fit(&mut self, route: &Route) -> Result<(), ConnectorError> {
        let refused = match self.parts.applier.fit(route, None).await {
            Err(error) if error.kind == ErrorKind::Schema => error,
            other => return other,
        };
        let ddl = self.alterations(route).await?;
        if ddl.create.is_empty() {
            return Err(refused);
        }
        self.parts.applier.fit(route, Some(&ddl)).await
    }

    async fn alterations(&mut self, route: &Route) -> Result<TableDdl, ConnectorError> {
        if self.parts.conversion.is_some() {
            // The source's own statements are not the replica's language.
            return Ok(TableDdl::default());
        }
        self.parts
            .snapshots
            .added_columns(&route.schema, &route.target)
            .await
    }
}

fn blames_a_transaction(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Constraint | ErrorKind::Data | ErrorKind::Conflict | ErrorKind::Schema
    )
}

fn blame(error: ConnectorError, transaction: &TxInfo) -> Failure {
    Failure {
        error,
        transaction: Some(transaction.clone()),
    }
}
