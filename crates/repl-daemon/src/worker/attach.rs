//! Do the replica's checkpoint and the log join? (Invariants I3 and I9.)

use std::sync::Arc;

use repl_connectors::seam::{ConnectorError, CopiedTable};
use repl_core::checkpoint::Checkpoint;
use repl_core::log::{Bounds, EventLog, LogError};
use repl_core::membership::Membership;
use repl_core::record::History;
use repl_core::schema::TableName;
use repl_core::{Epoch, ErrorKind, Seq, SourcePosition};
use tracing::{error, info};

use super::{Failure, Worker, pass};
use crate::errors;
use crate::state::{ReplicaRecord, lost};

impl Worker {
    /// A replica that follows this log and of which nothing is remembered: what it was is not known, and
    /// it is held until that is decided. A record is there before a checkpoint is.
    pub(super) fn is_unknown(&self) -> Result<bool, Failure> {
        let replica = self.replica();
        let own = |checkpoint: &Checkpoint| checkpoint.log == self.parts.log.id();
        if replica.record().is_some() || !self.state.checkpoint.as_ref().is_some_and(own) {
            return Ok(false);
        }
        let name = &replica.node.name;
        let why = format!("it follows this log, and nothing is remembered of a replica {name}");
        error!(
            why,
            "replica held: replctl resume {name}, or replctl resync {name}"
        );
        let record = lost::doubted(name, &why, false, crate::clock::now_ms());
        let changed = replica.change(|now| *now = record);
        changed.map_err(errors::state)?;
        Ok(true)
    }

    /// Finds where to go on: at the replica's own checkpoint if it belongs to this log, or from
    /// the beginning of a new copy.
    pub(super) async fn attach(&mut self) -> Result<Checkpoint, Failure> {
        let record = match self.replica().record() {
            Some(record) => record,
            None => self.replica().change(|_| {}).map_err(errors::state)?,
        };
        if record.restart {
            return self.start_copy().await;
        }
        match self.state.checkpoint.clone() {
            None if record.standing == Membership::Copying => self.start_copy().await,
            None => Err(broken(
                "the replica's checkpoint is gone: its table was emptied or dropped",
            )),
            Some(mut checkpoint) => {
                let log = Arc::clone(&self.parts.log);
                check(log.as_ref(), &checkpoint)?;
                self.attached = true;
                let bounds = log.bounds();
                let epoch = bounds.durable.epoch;
                if checkpoint.epoch < epoch && checkpoint.seq >= epoch_start(log.as_ref(), &bounds)?
                {
                    // The record that says so may have been trimmed with the last transaction before.
                    let open = |(name, table): (&TableName, &CopiedTable)| {
                        table.cut.is_some().then(|| name.clone())
                    };
                    let tables: Vec<_> = self.state.tables.iter().filter_map(open).collect();
                    let succession = bounds.history.and_then(|history| history.succession);
                    let logged = succession.is_none_or(|succession| !succession.forced);
                    self.cross(&mut checkpoint, &tables, epoch, logged).await?;
                }
                Ok(checkpoint)
            }
        }
    }

    /// Goes on in the epoch of another primary, which begins where the replica is. All that the one
    /// before had committed was logged before, so the cuts of its tables are passed; unless that one
    /// was not asked (not all was `logged`): what a copy has read there may be in no log, so it is compared
    /// anew.
    pub(super) async fn cross(
        &mut self,
        checkpoint: &mut Checkpoint,
        tables: &[TableName],
        epoch: Epoch,
        logged: bool,
    ) -> Result<(), Failure> {
        if !logged {
            self.doubt(tables)?;
        }
        if !tables.is_empty() {
            self.clear_cuts(checkpoint, tables).await?;
        }
        let next = Checkpoint {
            epoch,
            ..checkpoint.clone()
        };
        let moved = self.parts.applier.set_checkpoint(Some(checkpoint), &next);
        moved.await?;
        *checkpoint = next;
        self.state.checkpoint = Some(checkpoint.clone());
        info!(%epoch, "following another primary from here on");
        // What is in doubt begins anew at once.
        self.begin_resync(checkpoint).await
    }

    /// Remembers that these tables, and those whose copy has not settled, may hold what no log does.
    fn doubt(&self, tables: &[TableName]) -> Result<(), Failure> {
        let copies = self.state.copies.keys();
        let doubted: Vec<TableName> = tables.iter().chain(copies).cloned().collect();
        if doubted.is_empty() {
            return Ok(());
        }
        self.replica()
            .change(|record| {
                record.standing = Membership::Resyncing;
                record.replace = true;
                record.resync.extend(doubted);
            })
            .map(drop)
            .map_err(|error| errors::state(error).into())
    }

    /// What was the primary until now takes what it holds for what the log holds through its last
    /// transaction, and is a replica like any other.
    pub(super) async fn take_over(&mut self) -> Result<(), Failure> {
        let record = self.replica().record();
        let Some(handover) = record.and_then(|record| record.handover) else {
            return Ok(());
        };
        if let Some(role) = &self.parts.role {
            // First of all: with its own standby name set, each of our commits would wait for us.
            for done in role.end_capture().await? {
                info!(done, "no longer the primary");
            }
        }
        self.open().await?;
        self.parts.applier.adopt(&handover).await?;
        pass("worker.handover.adopted")?;
        self.replica()
            .change(|record| record.handover = None)
            .map_err(errors::state)?;
        info!(
            seq = handover.checkpoint.seq.0,
            "the old primary is a replica"
        );
        self.parts.applier.close().await;
        Ok(())
    }

    /// Sets the checkpoint to where a new copy joins the log: the oldest transaction of the
    /// present epoch still held. A snapshot taken later may lack a transaction that is already in
    /// the log, so nothing later would be safe; what the snapshot has is skipped by its id.
    async fn start_copy(&mut self) -> Result<Checkpoint, Failure> {
        let (seq, epoch, position) = copy_start(self.parts.log.as_ref())?;
        let next = Checkpoint {
            log: self.parts.log.id(),
            epoch,
            seq,
            position,
        };
        let copies = self.state.copies.keys();
        let tables: Vec<_> = self.state.tables.keys().chain(copies).cloned().collect();
        self.parts.applier.forget_tables(&tables).await?;
        self.state.tables.clear();
        for copy in self.state.copies.values_mut() {
            copy.copy = None;
        }
        let before = self.state.checkpoint.take();
        self.parts
            .applier
            .set_checkpoint(before.as_ref(), &next)
            .await?;
        self.state.checkpoint = Some(next.clone());
        pass("worker.copy.started")?;
        self.replica()
            .change(|record: &mut ReplicaRecord| {
                record.restart = false;
                record.mend = None;
                record.resync.clear();
            })
            .map_err(errors::state)?;
        info!(seq = seq.0, "copy of existing rows begins");
        self.attached = true;
        Ok(next)
    }
}

/// Refuses a checkpoint that is not a point of this log.
fn check(log: &dyn EventLog, checkpoint: &Checkpoint) -> Result<(), Failure> {
    let bounds = log.bounds();
    if checkpoint.log != log.id() {
        let mut foreign = broken(&format!(
            "the replica follows log {}, this is log {}: the log directory was replaced or \
             deleted, or the replica belongs to another daemon",
            checkpoint.log,
            log.id()
        ));
        foreign.error.advice =
            "if no other daemon feeds it (its checkpoint stands still while this one is \
                                stopped), copy it anew with: replctl resync <replica>"
                .to_owned();
        return Err(foreign);
    }
    let end = log.appended();
    if checkpoint.seq > end.seq || checkpoint.epoch > end.epoch {
        return Err(broken(&format!(
            "the replica is at transaction {} of epoch {}, ahead of the log's end {} of epoch {}: \
             the log directory is an older copy, or the checkpoint was altered",
            checkpoint.seq, checkpoint.epoch, end.seq, end.epoch
        )));
    }
    // A change of primary breaks nothing.
    let since = bounds.history.as_ref().map(History::since);
    let since = since.unwrap_or(bounds.durable.epoch);
    if checkpoint.epoch < since && checkpoint.seq <= last_before(log, &bounds, since)? {
        return Err(broken(&format!(
            "the replica is in epoch {}; history broke when epoch {} began",
            checkpoint.epoch, bounds.durable.epoch
        )));
    }
    if checkpoint.seq.next() < bounds.first_seq {
        return Err(broken(&format!(
            "the log starts at transaction {}, the replica is at {}",
            bounds.first_seq, checkpoint.seq
        )));
    }
    // Only a transaction has a position to compare: the one before the first moves with the marks.
    let Some(point) = log.point(checkpoint.seq)? else {
        return Ok(());
    };
    // A copy begins behind the last transaction of the epoch before its own.
    if point.epoch > checkpoint.epoch {
        return Err(broken(&format!(
            "the replica is at transaction {} of epoch {}, which the log lost in a crash and the \
             primary did not send again: history broke, and epoch {} has another one",
            checkpoint.seq, checkpoint.epoch, point.epoch
        )));
    }
    if point.position != checkpoint.position {
        return Err(broken(&format!(
            "transaction {} ends at another position in the log ({}) than in the replica's \
             checkpoint ({}): one of them was altered or restored, or the primary sent something \
             else after a crash",
            checkpoint.seq, point.position, checkpoint.position
        )));
    }
    Ok(())
}

/// What the log knows of the position after `seq`.
fn known_position(
    log: &dyn EventLog,
    bounds: &Bounds,
    seq: Seq,
) -> Result<Option<SourcePosition>, LogError> {
    if let Some(point) = log.point(seq)? {
        return Ok(Some(point.position));
    }
    Ok(
        (seq.next() == bounds.first_seq && !bounds.before_first.as_str().is_empty())
            .then(|| bounds.before_first.clone()),
    )
}

/// Where a new copy joins: (sequence, epoch, position).
fn copy_start(log: &dyn EventLog) -> Result<(Seq, Epoch, SourcePosition), LogError> {
    let bounds = log.bounds();
    let seq = epoch_start(log, &bounds)?;
    let position = known_position(log, &bounds, seq)?.unwrap_or_default();
    Ok((seq, bounds.durable.epoch, position))
}

/// The last transaction before the present epoch, or before the oldest held.
pub(super) fn epoch_start(log: &dyn EventLog, bounds: &Bounds) -> Result<Seq, LogError> {
    last_before(log, bounds, bounds.durable.epoch)
}

/// The last transaction before `epoch`, or before the oldest held.
fn last_before(log: &dyn EventLog, bounds: &Bounds, epoch: Epoch) -> Result<Seq, LogError> {
    let mut low = bounds.first_seq.0.saturating_sub(1);
    let mut high = bounds.durable.seq.0;
    // Invariant: everything through `low` is of an earlier epoch or not held.
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let earlier = log
            .point(Seq(middle))?
            .is_some_and(|point| point.epoch < epoch);
        if earlier {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(Seq(low))
}

/// The replica and the log do not join.
pub(super) fn broken(what: &str) -> Failure {
    ConnectorError::new(ErrorKind::History, what.to_owned())
        .advice("copy it anew with: replctl resync <replica>")
        .into()
}
