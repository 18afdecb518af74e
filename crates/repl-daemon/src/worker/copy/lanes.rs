//! Loading in parallel: each lane has a reader of the snapshot and a session to the replica, and
//! takes the next thing to load when it is done with one.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use repl_connectors::seam::{
    Applier, BulkForm, BulkInto, BulkPiece, ConnectorError, Load, LoadPart, Result as SeamResult,
    Snapshot, TableDdl,
};
use repl_core::ErrorKind;
use repl_core::convert::TablePlan;
use repl_core::convert::ddl::TableDescription;
use repl_core::copy::KeyRange;
use repl_core::cut::Cut;
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema};
use tokio::task::JoinSet;
use tracing::{debug, info};

use super::pace::Pace;
use super::plan::{Parts, TableCopy};
use super::progress::Shown;
use crate::conversion;
use crate::worker::{Failure, Worker};

/// A round of copying, shared by its lanes.
pub(super) struct Round {
    pub(super) tables: Vec<TableCopy>,
    jobs: Mutex<VecDeque<Job>>,
    pace: Pace,
    pub(super) shown: Shown,
}

#[derive(Clone, Copy)]
enum Job {
    /// A table in one piece.
    Whole(usize),
    /// One part of a table.
    Part(usize, u32),
    /// What follows the last part of a table: all of them were loaded before.
    End(usize),
}

impl Round {
    pub(super) fn new(tables: Vec<TableCopy>, pace: Pace, shown: Shown) -> Round {
        let jobs = tables.iter().enumerate().flat_map(|(at, table)| {
            let jobs: Vec<Job> = match &table.parts {
                None => vec![Job::Whole(at)],
                Some(parts) if parts.open.is_empty() => vec![Job::End(at)],
                Some(parts) => parts.open.iter().map(|part| Job::Part(at, *part)).collect(),
            };
            jobs
        });
        Round {
            jobs: Mutex::new(jobs.collect()),
            tables,
            pace,
            shown,
        }
    }

    /// The next thing to load. Further lanes get parts only: what else there is makes tables, and
    /// with them schemas, types and partitioned parents that several tables share, which two
    /// transactions cannot make at the same time.
    fn next(&self, first_lane: bool) -> Option<Job> {
        let mut jobs = self.jobs();
        if first_lane {
            return jobs.pop_front();
        }
        let part = jobs.iter().position(|job| matches!(job, Job::Part(..)))?;
        jobs.remove(part)
    }

    fn parts_waiting(&self) -> usize {
        let is_part = |job: &&Job| matches!(job, Job::Part(..));
        self.jobs().iter().filter(is_part).count()
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads until nothing is left.
    async fn lane(
        &self,
        applier: &mut dyn Applier,
        reader: &mut dyn Snapshot,
        first_lane: bool,
    ) -> Result<(), Failure> {
        while let Some(job) = self.next(first_lane) {
            let (Job::Whole(at) | Job::Part(at, _) | Job::End(at)) = job;
            let table = &self.tables[at];
            let outcome = match (job, &table.parts) {
                (Job::Part(_, part), Some(parts)) => {
                    self.part(at, parts, part, applier, reader).await
                }
                (Job::End(_), Some(parts)) => self.end(at, parts, applier).await,
                _ => self.whole(at, applier, reader).await,
            };
            outcome.map_err(|error| match error.table {
                Some(_) => error,
                None => error.table(table.name.to_string()),
            })?;
        }
        Ok(())
    }

    async fn whole(
        &self,
        at: usize,
        applier: &mut dyn Applier,
        reader: &mut dyn Snapshot,
    ) -> SeamResult<()> {
        let table = &self.tables[at];
        reader
            .open_range(&table.source, &KeyRange::default())
            .await?;
        let progress = self.shown.table(at);
        let mut rows = self.rows(table, reader);
        let loaded = applier
            .load(Load {
                route: &table.route,
                ddl: &table.ddl,
                create: table.create,
                existing: table.existing,
                copied: &table.copied,
                rows: &mut rows,
                progress: &|rows| progress.loaded(rows),
            })
            .await?;
        progress.written(loaded.written);
        progress.done();
        Ok(())
    }

    async fn part(
        &self,
        at: usize,
        parts: &Parts,
        part: u32,
        applier: &mut dyn Applier,
        reader: &mut dyn Snapshot,
    ) -> SeamResult<()> {
        let table = &self.tables[at];
        reader
            .open_range(&table.source, &parts.copy.range(part))
            .await?;
        let progress = self.shown.table(at);
        let mut rows = self.rows(table, reader);
        let loaded = applier
            .load_part(LoadPart {
                route: &table.route,
                copy: &parts.copy,
                part,
                rows: &mut rows,
                progress: &|rows| progress.loaded(rows),
            })
            .await?;
        progress.written(loaded.written);
        progress.part_done(loaded.rows);
        if parts.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.end(at, parts, applier).await?;
        }
        Ok(())
    }

    async fn end(&self, at: usize, parts: &Parts, applier: &mut dyn Applier) -> SeamResult<()> {
        let (table, progress) = (&self.tables[at], self.shown.table(at));
        progress.indexing();
        applier
            .end_parts(table.making(), &parts.copy, &table.copied)
            .await?;
        progress.done();
        Ok(())
    }

    fn rows<'a>(&'a self, table: &'a TableCopy, inner: &'a mut dyn Snapshot) -> Rows<'a> {
        Rows {
            inner,
            plan: table.plan.as_ref(),
            pace: &self.pace,
            shown: &self.shown,
        }
    }
}

impl Worker {
    /// Loads everything; false when an order or shutdown came in between.
    pub(super) async fn load_round(
        &mut self,
        round: &Arc<Round>,
        snapshot: &mut dyn Snapshot,
    ) -> Result<bool, Failure> {
        let mut others = self.more_lanes(round, snapshot).await;
        let mut shutdown = self.parts.shutdown.clone();
        let lane = round.lane(self.parts.applier.as_mut(), snapshot, true);
        let others = async {
            while let Some(ended) = others.join_next().await {
                ended.unwrap_or_else(|error| {
                    let what = format!("a loading task ended early: {error}");
                    Err(ConnectorError::new(ErrorKind::Internal, what).into())
                })?;
            }
            Ok::<(), Failure>(())
        };
        tokio::select! {
            outcome = async { tokio::try_join!(lane, others) } => {
                outcome?;
                Ok(true)
            }
            _ = self.orders.changed() => {
                // Seen again by whoever decides what the order means.
                self.orders.mark_changed();
                Ok(false)
            }
            _ = shutdown.changed() => Ok(false),
        }
    }

    /// Starts further lanes, as many as configured and of use. Where there is no room for one more
    /// session the copy goes on with those there are.
    async fn more_lanes(
        &mut self,
        round: &Arc<Round>,
        snapshot: &mut dyn Snapshot,
    ) -> JoinSet<Result<(), Failure>> {
        let mut lanes = JoinSet::new();
        let most = round.parts_waiting().min(self.parts.copy.workers as usize);
        for number in 1..most {
            let (mut applier, mut reader) = match self.more(number, snapshot).await {
                Ok(Some(lane)) => lane,
                Ok(None) => break,
                Err(error) => {
                    info!(%error, lanes = number, "no further lane for the copy");
                    break;
                }
            };
            let round = Arc::clone(round);
            lanes.spawn(async move {
                let outcome = round.lane(applier.as_mut(), reader.as_mut(), false).await;
                reader.end().await;
                applier.close().await;
                outcome
            });
        }
        debug!(lanes = lanes.len() + 1, "copying");
        lanes
    }

    async fn more(
        &mut self,
        number: usize,
        snapshot: &mut dyn Snapshot,
    ) -> SeamResult<Option<(Box<dyn Applier>, Box<dyn Snapshot>)>> {
        let Some(mut applier) = self.parts.applier.loader(number) else {
            return Ok(None);
        };
        let Some(reader) = snapshot.share().await? else {
            return Ok(None);
        };
        applier.open().await?;
        Ok(Some((applier, reader)))
    }
}

/// Rows on their way: paced, and converted for the replica.
struct Rows<'a> {
    inner: &'a mut dyn Snapshot,
    plan: Option<&'a TablePlan>,
    pace: &'a Pace,
    shown: &'a Shown,
}

#[async_trait]
impl Snapshot for Rows<'_> {
    fn cut(&self) -> Cut {
        self.inner.cut()
    }

    async fn ddl(&mut self, table: &TableName, target: &TableName) -> SeamResult<TableDdl> {
        self.inner.ddl(table, target).await
    }

    async fn describe(&mut self, table: &TableName) -> SeamResult<TableDescription> {
        self.inner.describe(table).await
    }

    async fn open(&mut self, table: &TableName) -> SeamResult<(TableSchema, Option<u64>)> {
        self.inner.open(table).await
    }

    async fn begin_bulk(&mut self, into: &BulkInto<'_>) -> SeamResult<Option<BulkForm>> {
        match self.plan {
            Some(_) => Ok(None),
            None => self.inner.begin_bulk(into).await,
        }
    }

    async fn next_bulk(&mut self) -> SeamResult<Option<BulkPiece>> {
        self.pace.wait_for_relief(self.shown).await;
        let piece = self.inner.next_bulk().await?;
        let rows = piece.as_ref().map_or(0, |piece| piece.rows);
        self.pace.passed(rows).await;
        Ok(piece)
    }

    async fn next_rows(&mut self) -> SeamResult<Vec<Row>> {
        self.pace.wait_for_relief(self.shown).await;
        let rows = self.inner.next_rows().await?;
        self.pace.passed(rows.len() as u64).await;
        match self.plan {
            Some(plan) => conversion::rows(plan, &rows),
            None => Ok(rows),
        }
    }
}
