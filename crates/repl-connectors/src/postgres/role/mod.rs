//! A PostgreSQL server changes its role: it refuses writes ([`fence`]), takes over the sequences
//! ([`counters`]), and begins or ends being captured from. What speaks against it is in [`findings`],
//! what becomes of one that was replaced without being asked in [`deposed`].

mod counters;
mod deposed;
mod fence;
mod findings;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use repl_core::deposed::{Deposed, Found};
use repl_core::schema::TableName;
use repl_core::select::Selection;
use repl_core::{ErrorKind, SourcePosition};
use sqlx::{AssertSqlSafe, Executor};

use self::fence::Fence;
pub(in crate::postgres) use self::findings::listed;
use super::admin::Admin;
use super::capture::{PgCapture, within};
use super::catalog::CatalogTable;
use super::catalog_error::from_sqlx;
use super::gate::PgGate;
use super::lsn::Lsn;
use crate::seam::{
    CaptureStart, CommitGate, ConnectorError, Counter, Finding, Part, Result, RoleSwitch, Sample,
    SourceTable, StraySink,
};

/// How long the server may take to follow its own changed settings.
const RELOAD: Duration = Duration::from_secs(5);

/// One server, as far as its role is concerned.
pub struct PgRole {
    capture: PgCapture,
    gate: tokio::sync::Mutex<PgGate>,
    group: String,
    /// Whether standby names may be changed by us.
    manage_names: bool,
    /// Kept for [`RoleSwitch::answer`].
    probe: tokio::sync::Mutex<Option<Admin>>,
    /// Kept for [`RoleSwitch::sample`].
    sampler: tokio::sync::Mutex<Option<Admin>>,
}

impl PgRole {
    /// The role of the server that `capture` and `gate` would be of.
    pub fn new(capture: PgCapture, gate: PgGate, group: &str, manage_names: bool) -> Self {
        PgRole {
            capture,
            gate: tokio::sync::Mutex::new(gate),
            group: group.to_owned(),
            manage_names,
            probe: tokio::sync::Mutex::default(),
            sampler: tokio::sync::Mutex::default(),
        }
    }

    fn fence(&self) -> Fence {
        Fence::new(&self.group)
    }

    async fn admin(&self) -> Result<Admin> {
        self.capture.admin().await.map_err(|error| self.at(error))
    }

    /// Names the server in an error.
    fn at(&self, mut error: ConnectorError) -> ConnectorError {
        error.message = format!("{}: {}", self.capture.options.node, error.message);
        error
    }

    /// Takes us out of the server's standby names, and waits until it has understood.
    async fn free_commits(&self) -> Result<()> {
        let until = tokio::time::Instant::now() + RELOAD;
        loop {
            let report = self.gate.lock().await.keep(Some(false)).await?;
            if let Some(problem) = report.problems.first() {
                return Err(
                    ConnectorError::new(ErrorKind::Configuration, problem.what.clone())
                        .advice(problem.remedy.clone()),
                );
            }
            let mut admin = self.capture.admin().await?;
            let waits = admin
                .commits_wait_for(&self.capture.options.standby)
                .await?;
            if !waits && !report.closed {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                return Err(ConnectorError::new(
                    ErrorKind::Transient,
                    "its commits still wait for the daemon (synchronous_standby_names)",
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn start_capture(
        &self,
        admin: &mut Admin,
        selection: &Selection,
    ) -> Result<CaptureStart> {
        // What an earlier time as primary left would hold back, and hand out, that time's history.
        admin.drop_slot().await?;
        let tables = self.capture.publish_tables(admin, selection, false).await?;
        let slot = self.capture.create_slot(admin).await?;
        let server = admin.position().await?;
        Ok(CaptureStart {
            source: self.capture.identity(&server),
            position: slot.confirmed.position(),
            tables: tables.iter().map(CatalogTable::to_source).collect(),
        })
    }
}

#[async_trait]
impl RoleSwitch for PgRole {
    async fn findings(&self, part: Part, tables: &[SourceTable]) -> Result<Vec<Finding>> {
        let mut admin = self.admin().await?;
        let found = self.look(&mut admin, part, tables).await;
        found.map_err(|error| self.at(error))
    }

    async fn beside(&self) -> Result<BTreeSet<(String, String)>> {
        let mut admin = self.admin().await?;
        let beside = findings::beside(&mut admin.connection).await;
        beside.map_err(|error| self.at(error))
    }

    async fn close(
        &self,
        tables: &[TableName],
        sessions: bool,
        patience: Duration,
    ) -> Result<Vec<String>> {
        let mut admin = self.admin().await?;
        let fence = self.fence();
        let closed = fence.close(&mut admin, tables, patience).await;
        let mut notes = closed.map_err(|error| self.at(error))?;
        let rest = async {
            if sessions {
                notes.extend(fence.end_sessions(&mut admin).await?);
                fence.refuse_prepared(&mut admin).await?;
            }
            // Over a connection that was never anything but a client.
            let mut probe = self.capture.admin().await?;
            fence.probe(&mut probe, tables).await
        };
        if let Err(error) = rest.await {
            fence
                .open(&mut admin)
                .await
                .map_err(|error| self.at(error))?;
            return Err(self.at(error));
        }
        Ok(notes)
    }

    async fn answer(&self) -> Result<()> {
        let mut kept = self.probe.lock().await;
        // One whose answer is not awaited any more is used up.
        if let Some(mut admin) = kept.take()
            && admin.connection.execute("SELECT 1").await.is_ok()
        {
            *kept = Some(admin);
            return Ok(());
        }
        match self.admin().await {
            Ok(admin) => {
                *kept = Some(admin);
                Ok(())
            }
            Err(error) if deposed::is_answer(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn depose(&self, tables: &[TableName], patience: Duration) -> Result<Vec<String>> {
        let work = async {
            let mut admin = self.capture.admin().await?;
            let fence = self.fence();
            let notes = fence.depose(&mut admin, tables, patience).await?;
            fence.refuse_prepared(&mut admin).await?;
            fence
                .probe(&mut self.capture.admin().await?, tables)
                .await?;
            Ok(notes)
        };
        work.await.map_err(|error| self.at(error))
    }

    async fn beyond(&self, deposed: &Deposed, sink: &mut dyn StraySink) -> Result<Found> {
        let mut admin = self.admin().await?;
        let found = self.look_beyond(&mut admin, deposed, sink).await;
        found.map_err(|error| self.at(error))
    }

    async fn open(&self) -> Result<()> {
        let mut admin = self.admin().await?;
        let opened = self.fence().open(&mut admin).await;
        opened.map_err(|error| self.at(error))
    }

    async fn is_closed(&self, tables: &[TableName]) -> Result<bool> {
        let mut admin = self.admin().await?;
        let closed = self.fence().is_closed(&mut admin, tables).await;
        closed.map_err(|error| self.at(error))
    }

    async fn end(&self) -> Result<SourcePosition> {
        let mut admin = self.admin().await?;
        let work = async {
            let end = admin.insert_position().await?;
            // Flushes it, and gives the capture something behind it to be told of.
            admin.prompt_heartbeat().await?;
            Ok(end.position())
        };
        work.await.map_err(|error| self.at(error))
    }

    fn distance(&self, from: &SourcePosition, to: &SourcePosition) -> Option<u64> {
        let (from, to) = (Lsn::from_position(from)?, Lsn::from_position(to)?);
        Some(to.0.saturating_sub(from.0))
    }

    fn commits_can_wait(&self) -> bool {
        true
    }

    async fn all_commits_wait(&self) -> Result<bool> {
        let looked = self.gate.lock().await.keep(None).await;
        let report = looked.map_err(|error| self.at(error))?;
        Ok(report.closed && report.weaker.is_empty())
    }

    async fn sample(&self) -> Result<Sample> {
        // Taken out, so that one that failed or is not awaited any more is not used again.
        let mut kept = self.sampler.lock().await;
        let mut admin = match kept.take() {
            Some(admin) => admin,
            None => self.admin().await?,
        };
        let work = async {
            Ok(Sample {
                position: admin.position().await?.flushed.position(),
                counters: counters::read(&mut admin.connection).await?,
            })
        };
        let sample = work.await.map_err(|error| self.at(error))?;
        *kept = Some(admin);
        Ok(sample)
    }

    async fn used(&self, patience: Duration) -> Result<(Vec<Counter>, Vec<String>)> {
        let mut admin = self.admin().await?;
        let used = counters::used(&mut admin.connection, patience).await;
        used.map_err(|error| self.at(error))
    }

    async fn counters(&self) -> Result<Vec<Counter>> {
        let mut admin = self.admin().await?;
        let read = counters::read(&mut admin.connection).await;
        read.map_err(|error| self.at(error))
    }

    async fn advance(&self, counters: &[Counter], margin: u64) -> Result<Vec<String>> {
        let mut admin = self.admin().await?;
        let advanced = counters::advance(&mut admin.connection, counters, margin).await;
        advanced.map_err(|error| self.at(error))
    }

    async fn prepare_capture(&self, selection: &Selection) -> Result<()> {
        let mut admin = self.admin().await?;
        let work = async {
            admin.preflight().await?;
            self.capture
                .publish_tables(&mut admin, selection, false)
                .await
        };
        work.await.map(drop).map_err(|error| self.at(error))
    }

    async fn begin_capture(
        &self,
        selection: &Selection,
        patience: Duration,
    ) -> Result<CaptureStart> {
        let mut admin = self.admin().await?;
        // A slot waits for all running transactions; the server must not go on with it alone.
        let limit = format!("SET statement_timeout = {}", patience.as_millis());
        let limited = admin.connection.execute(AssertSqlSafe(limit)).await;
        limited.map_err(|e| self.at(from_sqlx(&e, "preparing to make the slot")))?;
        let started = self.start_capture(&mut admin, selection);
        let started = within(patience * 2, "making the replication slot", started).await;
        started.map_err(|error| self.at(error))
    }

    async fn end_capture(&self) -> Result<Vec<String>> {
        let work = async {
            self.free_commits().await?;
            let mut admin = self.capture.admin().await?;
            let mut done = Vec::new();
            let options = &self.capture.options;
            if admin.drop_slot().await? {
                done.push(format!("dropped replication slot {}", options.slot));
            }
            if options.manage_publication && admin.drop_publication().await? {
                done.push(format!("dropped publication {}", options.publication));
            }
            Ok(done)
        };
        work.await.map_err(|error| self.at(error))
    }
}
