//! Trims the log below what every replica has made durable, watches its limits, and keeps the measured
//! figures (queue, lag, rates) of status fresh. One look a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use repl_connectors::seam::CaptureBoard;
use repl_core::Seq;
use repl_core::log::{Durable, EventLog, LogError, SegmentInfo};
use repl_core::membership::Membership;
use repl_core::record::Body;
use std::sync::Mutex;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::clock::now_ms;
use crate::config::LogConfig;
use crate::ingest::Ingest;
use crate::pins::Pins;
use crate::rates::Meter;
use crate::replica::Replica;

/// Interval of the look.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long after the start a replica whose place in the log is not known yet is not taken for one
/// that is behind: it may only not have been reached.
const UNKNOWN_WAIT: Duration = Duration::from_secs(300);

/// The task's parts.
pub struct Retention {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Its durable end.
    pub durable: watch::Receiver<Durable>,
    /// Holds on what a comparison still reads.
    pub pins: Arc<Pins>,
    /// The replicas.
    pub replicas: Vec<Arc<Replica>>,
    /// Limits.
    pub limits: LogConfig,
    /// The disk's guard.
    pub ingest: Arc<Ingest>,
    /// The capture's figures.
    pub board: Arc<CaptureBoard>,
    /// The capture's rates.
    pub capture_meter: Arc<Mutex<Meter>>,
    /// Commit time of the oldest transaction in the log, for status.
    pub oldest_commit_ms: Arc<AtomicU64>,
    /// When the replicas' workers were started.
    pub started: Instant,
    /// The daemon stops.
    pub shutdown: watch::Receiver<bool>,
}

impl Retention {
    /// Looks once a second until shutdown.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*self.shutdown.borrow() {
            tokio::select! {
                _ = tick.tick() => {}
                _ = self.shutdown.changed() => continue,
            }
            // Reads and deletes files, so not on a thread that serves connections.
            let Ok((back, failed)) = tokio::task::spawn_blocking(move || {
                let failed = self.look();
                (self, failed)
            })
            .await
            else {
                error!("the log's housekeeping panicked; nothing is trimmed any more");
                return;
            };
            self = back;
            if let Err(error) = failed {
                warn!(%error, "the log's housekeeping failed; trying again");
            }
        }
    }

    fn look(&self) -> Result<(), LogError> {
        self.ingest.check();
        self.measure()?;
        self.enforce_limits()?;
        self.trim()
    }

    /// What no replica that holds the log can need again; none while that of one is unknown. What
    /// is applied does not count: a crash of the replica may take it back, with its checkpoint.
    fn durable_at_all(&self) -> Option<Seq> {
        let mut lowest = self.durable.borrow().seq;
        for replica in self.replicas.iter().filter(|replica| replica.holds_log()) {
            lowest = lowest.min(replica.durable()?);
        }
        Some(lowest)
    }

    fn trim(&self) -> Result<(), LogError> {
        let Some(through) = self.durable_at_all() else {
            return Ok(());
        };
        let freed = self
            .pins
            .trimming(through, |through| self.log.trim(through))?;
        if freed > 0 {
            info!(through = through.0, freed, "log trimmed");
        }
        Ok(())
    }

    /// Past a stated limit the slowest replicas give up their hold, visibly.
    fn enforce_limits(&self) -> Result<(), LogError> {
        let bounds = self.log.bounds();
        let too_large = self
            .limits
            .retention_max_size
            .is_some_and(|max| bounds.bytes > max);
        let too_old = match self.limits.retention_max_age {
            Some(max) => self
                .oldest_age_ms(Seq(bounds.first_seq.0.saturating_sub(1)))?
                .is_some_and(|age| age > max.as_millis() as u64),
            None => false,
        };
        if !too_large && !too_old {
            return Ok(());
        }
        // Only a whole segment can be freed, so whoever needs the oldest one is given up.
        let oldest_end = self
            .log
            .segments()
            .first()
            .and_then(|segment| segment.last_seq);
        let Some(oldest_end) = oldest_end.filter(|_| self.log.segments().len() > 1) else {
            return Ok(());
        };
        let unknown_is_behind = self.started.elapsed() >= UNKNOWN_WAIT;
        for replica in self.replicas.iter().filter(|replica| replica.holds_log()) {
            let durable = replica.durable();
            if durable.map_or(unknown_is_behind, |seq| seq < oldest_end) {
                self.give_up(replica, if too_large { "size" } else { "age" });
            }
        }
        Ok(())
    }

    fn give_up(&self, replica: &Replica, limit: &str) {
        let reason = format!(
            "the event log reached log.retention_max_{limit} and gives up what this replica has \
             not applied"
        );
        error!(replica = %replica.node.name, %reason, "replica needs a new copy");
        let changed = replica.change(|record| {
            record.standing = Membership::NeedsResync;
            record.reason = reason;
        });
        if let Err(error) = changed {
            error!(
                error = format!("{error:#}"),
                "cannot remember the replica's state"
            );
            return;
        }
        replica.order(|_| {});
    }

    fn measure(&self) -> Result<(), LogError> {
        let now = now_ms();
        let status = self.board.status();
        self.capture_meter
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .sample(now, status.transactions, status.rows);
        let durable = self.durable.borrow().seq;
        let segments = self.log.segments();
        let first = self.log.bounds().first_seq;
        if first <= durable
            && let Some(committed) = self.oldest_commit_ms(Seq(first.0.saturating_sub(1)))?
        {
            self.oldest_commit_ms.store(committed, Ordering::Relaxed);
        }
        for replica in &self.replicas {
            let applied = replica.applied().map(|(seq, _)| seq);
            let lag = match applied {
                Some(seq) if seq < durable => self.oldest_age_ms(seq)?,
                Some(_) => Some(0),
                None => None,
            };
            let mut view = replica.view();
            view.lag_ms = lag;
            view.queue_bytes = queue_bytes(&segments, applied.unwrap_or_default());
            let (transactions, rows) = (view.transactions, view.rows);
            drop(view);
            replica
                .meter
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .sample(now, transactions, rows);
        }
        Ok(())
    }

    /// Age of the first transaction after `after`, milliseconds.
    fn oldest_age_ms(&self, after: Seq) -> Result<Option<u64>, LogError> {
        let committed = self.oldest_commit_ms(after)?;
        Ok(committed.map(|committed| now_ms().saturating_sub(committed)))
    }

    /// Commit time of the first transaction after `after`, milliseconds since the Unix epoch.
    fn oldest_commit_ms(&self, after: Seq) -> Result<Option<u64>, LogError> {
        let mut reader = match self.log.reader(after) {
            Ok(reader) => reader,
            Err(LogError::Trimmed { .. } | LogError::Beyond { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        while let Some(record) = reader.next()? {
            if let Body::Fragment(fragment) = record.body
                && let Some(header) = fragment.header
            {
                return Ok(Some((header.commit_time_us / 1000).max(0) as u64));
            }
        }
        Ok(None)
    }
}

/// Bytes of log after `applied`; within a segment by the share of its transactions.
fn queue_bytes(segments: &[SegmentInfo], applied: Seq) -> u64 {
    segments
        .iter()
        .map(|segment| match (segment.first_seq, segment.last_seq) {
            (Some(first), Some(last)) if last > applied => {
                let all = last.0 - first.0 + 1;
                let left = (last.0 - applied.0.max(first.0.saturating_sub(1))).min(all);
                (segment.bytes as f64 * (left as f64 / all as f64)) as u64
            }
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_counts_what_lies_behind_the_replica() {
        let segment = |first, last| SegmentInfo {
            name: String::new(),
            first_seq: Some(Seq(first)),
            last_seq: Some(Seq(last)),
            bytes: 100,
            sealed: true,
        };
        let segments = [segment(1, 10), segment(11, 20)];
        assert_eq!(queue_bytes(&segments, Seq(0)), 200);
        assert_eq!(queue_bytes(&segments, Seq(10)), 100);
        assert_eq!(queue_bytes(&segments, Seq(15)), 50);
        assert_eq!(queue_bytes(&segments, Seq(20)), 0);
    }
}
