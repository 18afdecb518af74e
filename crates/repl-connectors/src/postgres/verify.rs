//! Proof that the source's history is the one in the log.
//!
//! The stream is always started at the slot's `confirmed_flush`, never at the log's own end: what
//! lies between the two is delivered again and compared, transaction by transaction, with what
//! the log holds. A primary restored from an older copy, or a promoted standby whose slot was
//! behind, delivers something else at those positions and is found out here, even if it has
//! written past them since (invariant I9).

use repl_core::ErrorKind;
use repl_core::log::{EventLog, LogError, Reader, TxPoint};
use repl_core::position::Seq;
use repl_core::record::Body;

use super::lsn::Lsn;
use crate::seam::{ConnectorError, Result};

/// Compares delivered transactions with the log until the log's end is reached.
pub struct Overlap {
    reader: Option<Box<dyn Reader>>,
    txid: u64,
    committed_us: i64,
    /// Everything up to here was logged, applied by every replica and trimmed: it cannot be
    /// compared any more. The slot may stand before it, since a server that crashed forgets the
    /// acknowledgements since its last checkpoint.
    trimmed: Lsn,
    /// End of what the log holds.
    end: Lsn,
}

impl Overlap {
    /// Prepares to compare what lies after `from` with the log, whose last position is `end`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn new(log: &dyn EventLog, from: Lsn, end: Lsn) -> Result<Overlap> {
        let reader = if from < end {
            Some(log.reader(seek(log, from)?)?)
        } else {
            None
        };
        Ok(Overlap {
            reader,
            txid: 0,
            committed_us: 0,
            trimmed: trimmed(log)?,
            end,
        })
    }

    /// True until the log's end was passed.
    pub fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// A transaction was delivered that begins its commit before the log's end: the log must hold
    /// exactly this one next, unless it was trimmed. Id, end and time of the commit are compared: a
    /// restored primary that repeats like work gives the same ids and positions to it.
    ///
    /// # Errors
    /// [`ErrorKind::History`] when the log holds something else.
    pub fn matches(&mut self, xid: u32, committed_us: i64, end: Lsn) -> Result<()> {
        if end <= self.trimmed {
            return Ok(());
        }
        match self.next()? {
            Some(logged)
                if logged.txid == u64::from(xid)
                    && self.committed_us == committed_us
                    && Lsn::from_position(&logged.position) == Some(end) =>
            {
                Ok(())
            }
            Some(logged) => Err(diverged(&format!(
                "the primary delivers transaction {xid} ending at {end}, committed at {committed_us}, \
                 where the log holds transaction {} ending at {}, committed at {} (sequence {})",
                logged.txid, logged.position, self.committed_us, logged.seq
            ))),
            None => Err(diverged(&format!(
                "the primary delivers transaction {xid} ending at {end}, before the log's end {}, \
                 but the log does not hold it",
                self.end
            ))),
        }
    }

    /// The source has delivered everything up to `position`: if that is past the log's end, every
    /// logged transaction must have been seen.
    ///
    /// # Errors
    /// [`ErrorKind::History`] when the log holds one the source did not deliver.
    pub fn passed(&mut self, position: Lsn) -> Result<()> {
        if self.reader.is_none() || position < self.end {
            return Ok(());
        }
        if let Some(logged) = self.next()? {
            return Err(diverged(&format!(
                "the log holds transaction {} ending at {} (sequence {}), which the primary no \
                 longer has",
                logged.txid, logged.position, logged.seq
            )));
        }
        self.reader = None;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<TxPoint>> {
        let Some(reader) = &mut self.reader else {
            return Ok(None);
        };
        while let Some(record) = reader.next()? {
            let Body::Fragment(fragment) = record.body else {
                continue;
            };
            if let Some(header) = fragment.header {
                self.txid = header.txid;
                self.committed_us = header.commit_time_us;
            }
            if let Some(position) = fragment.position {
                let (epoch, seq) = (record.epoch, record.seq);
                return Ok(Some(TxPoint {
                    epoch,
                    seq,
                    txid: self.txid,
                    position,
                }));
            }
        }
        Ok(None)
    }
}

/// Position before the oldest transaction held; zero when that began the present epoch, since
/// positions of an epoch before say nothing about this one's.
fn trimmed(log: &dyn EventLog) -> Result<Lsn, LogError> {
    let bounds = log.bounds();
    let before = log.point(Seq(bounds.first_seq.0.saturating_sub(1)))?;
    Ok(before
        .filter(|point| point.epoch == bounds.durable.epoch)
        .and_then(|_| Lsn::from_position(&bounds.before_first))
        .unwrap_or_default())
}

/// The last logged transaction that ends at or before `from` or belongs to an epoch before, found
/// by bisection.
fn seek(log: &dyn EventLog, from: Lsn) -> Result<Seq, LogError> {
    let bounds = log.bounds();
    // Invariant: everything through `low` is before, everything above `high` is not.
    let mut low = bounds.first_seq.0.saturating_sub(1);
    let mut high = bounds.durable.seq.0;
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let before = log.point(Seq(middle))?.is_some_and(|point| {
            point.epoch < bounds.durable.epoch
                || Lsn::from_position(&point.position).is_some_and(|lsn| lsn <= from)
        });
        if before {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(Seq(low))
}

fn diverged(what: &str) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::History,
        format!("the primary's history is not the one in the event log: {what}"),
    )
    .advice(
        "the primary was probably restored from an older copy or failed over without its slot: the replicas may hold \
         commits that it lost, and a resync removes them. Check it, save what is needed, then copy the replicas anew \
         with: replctl resync <replica>",
    )
}
