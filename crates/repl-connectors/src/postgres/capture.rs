//! Capture from PostgreSQL by logical decoding: connecting, checking, keeping house.
//!
//! The flow of a change: walsender → [`super::stream`] (decodes, writes to the log) → the log's
//! fsync → acknowledgement as flushed. What has to be true before the first byte is streamed is
//! checked here: settings and privileges ([`super::admin`]), publication, slot, and that the
//! slot's position and the log's end join ([`super::verify`]).

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use repl_core::position::SourceIdentity;
use repl_core::record::History;
use repl_core::schema::TableName;
use repl_core::select::Selection;
use repl_core::{Epoch, ErrorKind, SourcePosition};

use super::admin::{Admin, ServerPosition, Slot};
use super::catalog::{self, CatalogTable};
use super::coverage::{Coverage, Settled};
use super::house::Housekeeping;
use super::lsn::Lsn;
use super::stream::Stream;
use super::target::PgTarget;
use super::verify::Overlap;
use crate::seam::{
    Capture, CaptureBoard, CapturePort, CaptureState, ConnectorError, Lacking, Result,
};

/// Names and switches of the capture.
#[derive(Clone, Debug)]
pub struct PgCaptureOptions {
    /// Name of the node in the configuration.
    pub node: String,
    /// Replication slot.
    pub slot: String,
    /// Publication.
    pub publication: String,
    /// Whether the daemon makes and alters the publication itself.
    pub manage_publication: bool,
    /// What the replication connection is called: by this name commits of the primary wait for it.
    pub standby: String,
}

/// Capture from one PostgreSQL primary.
#[derive(Clone)]
pub struct PgCapture {
    pub(super) target: PgTarget,
    pub(super) options: PgCaptureOptions,
    settled: Settled,
}

impl PgCapture {
    /// A capture that is not connected yet.
    pub fn new(target: PgTarget, options: PgCaptureOptions) -> Self {
        PgCapture {
            target,
            options,
            settled: Settled::default(),
        }
    }

    pub(super) async fn admin(&self) -> Result<Admin> {
        Admin::connect(&self.target, &self.options.slot, &self.options.publication).await
    }

    /// Compares selection, catalog and publication while a slot is there, and shows the result on the
    /// board, with incarnations in the words of the log.
    pub(super) async fn refresh_tables(
        &self,
        admin: &mut Admin,
        selection: &Selection,
        board: &CaptureBoard,
        history: Option<&History>,
    ) -> Result<()> {
        let show = |mut tables: Vec<CatalogTable>| {
            for table in &mut tables {
                table.rename_incarnation(history);
            }
            board.set_tables(tables.iter().map(CatalogTable::to_source).collect())
        };
        let manage = self.options.manage_publication;
        let mut tables = catalog::tables(&mut admin.connection, selection, None).await?;
        let published = admin.prepare_publication(manage).await?;
        cover(&mut tables, &admin.coverage().await?);
        let known = |table: &&CatalogTable| {
            board.was_settled(&told_incarnation(table, history), &table.coverage)
        };
        self.settled.accept(tables.iter().filter(known));
        self.settled.judge(admin, &mut tables).await?;
        // That it is not in the stream is remembered before it is again: what is told of it from then on
        // is not for replicas that lack what came before.
        let mut uncovered = tables.clone();
        for table in uncovered.iter_mut().filter(|table| table.is_unpublished()) {
            table.waits = "new: being added to the publication".into();
        }
        let news = |table: &CatalogTable| {
            table.is_unpublished() && !is_known_uncovered(board, table, history)
        };
        if uncovered.iter().any(news) {
            show(uncovered)?;
        }
        self.publish(admin, &mut tables, &published, true).await?;
        self.settled.judge(admin, &mut tables).await?;
        show(tables)
    }

    /// Compares selection, catalog and publication.
    pub(super) async fn publish_tables(
        &self,
        admin: &mut Admin,
        selection: &Selection,
        slot_exists: bool,
    ) -> Result<Vec<CatalogTable>> {
        let mut tables = catalog::tables(&mut admin.connection, selection, None).await?;
        let manage = self.options.manage_publication;
        let published = admin.prepare_publication(manage).await?;
        self.publish(admin, &mut tables, &published, slot_exists)
            .await?;
        if !slot_exists {
            // A slot that is made from here on waits for all transactions.
            self.settled.accept(tables.iter());
        }
        Ok(tables)
    }

    /// Makes the publication hold the tables that can be captured, and says of each what covers it.
    async fn publish(
        &self,
        admin: &mut Admin,
        tables: &mut [CatalogTable],
        published: &BTreeSet<TableName>,
        slot_exists: bool,
    ) -> Result<()> {
        let fit = tables.iter().filter(|table| table.refusal.is_empty());
        let wanted: BTreeSet<TableName> = fit.map(|table| table.schema.table.clone()).collect();
        let manage = self.options.manage_publication;
        let mut left_out = admin
            .fill_publication(&wanted, published, manage, slot_exists)
            .await?;
        cover(tables, &admin.coverage().await?);
        let added = |table: &&CatalogTable| {
            let name = &table.schema.table;
            !published.contains(name) && !left_out.contains_key(name)
        };
        self.settled.accept(tables.iter().filter(added));
        for table in tables {
            if let Some(error) = left_out.remove(&table.schema.table) {
                table.refusal = error.message;
                table.remedy = error.advice;
            }
        }
        Ok(())
    }

    /// Checks that the slot can deliver everything after the log's end (invariant I9).
    fn check_continuity(
        port: &mut CapturePort,
        server: &ServerPosition,
        slot: Option<&Slot>,
    ) -> Result<Lsn> {
        let bounds = port.writer.log().bounds();
        let history = bounds
            .history
            .ok_or_else(|| broken("the event log holds no history yet"))?;
        if history.source.system != server.system {
            return Err(broken(&format!(
                "the primary is another database cluster or database (system {} instead of {})",
                server.system, history.source.system
            )));
        }
        let logged = Lsn::from_position(&bounds.durable.position)
            .ok_or_else(|| broken("the log's last position is not a PostgreSQL position"))?;
        let Some(slot) = slot else {
            return Err(broken("the replication slot is gone"));
        };
        if slot.wal_status == "lost" {
            return Err(broken(
                "the replication slot was invalidated: the WAL it needs was removed \
                 (max_slot_wal_keep_size)",
            ));
        }
        if slot.confirmed > logged {
            return Err(broken(&format!(
                "the slot stands at {}, ahead of the log's end {logged}: the slot was advanced or \
                 made anew, or the log directory is an older copy",
                slot.confirmed
            )));
        }
        if server.flushed < logged {
            return Err(broken(&format!(
                "the primary's WAL ends at {}, before the log's end {logged}: the primary was \
                 restored from an older copy",
                server.flushed
            )));
        }
        Ok(logged)
    }

    /// Whether the server failed on a change that was made while there was no publication (before
    /// PostgreSQL 18, which passes over it).
    fn lost_publication(&self, error: &ConnectorError) -> bool {
        error.code.as_deref() == Some(UNDEFINED_OBJECT)
            && error.message.contains(&self.options.publication)
    }

    /// No stream from the present slot gets past such a change: it is dropped, and history begins anew
    /// behind it.
    async fn begin_behind(&self, admin: &mut Admin) -> Result<ConnectorError> {
        // The server may not have noticed yet that the stream has ended.
        let until = tokio::time::Instant::now() + SLOT_RELEASE;
        while let Some(Slot {
            active_pid: Some(_),
            ..
        }) = admin.slot().await?
            && tokio::time::Instant::now() < until
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        admin.drop_slot().await?;
        Ok(broken(&format!(
            "publication {} was missing while rows were written, which cannot be decoded: the slot is \
             made anew behind them",
            self.options.publication
        )))
    }

    pub(super) fn identity(&self, server: &ServerPosition) -> SourceIdentity {
        SourceIdentity {
            node: self.options.node.clone(),
            engine: "postgres".into(),
            system: server.system.clone(),
            timeline: server.timeline.clone(),
        }
    }
}

/// SQLSTATE of an object that is not there.
const UNDEFINED_OBJECT: &str = "42704";

/// How long a slot may go on being in use after its stream has ended.
const SLOT_RELEASE: Duration = Duration::from_secs(5);

/// Adding tables to the publication waits for their writers, one after the other: it may take this
/// many times as long as another answer.
pub(super) const REFRESH_FACTOR: u32 = 10;

/// Gives up on a server that accepted a request and never answers.
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(ConnectorError::new(
            ErrorKind::Connection,
            format!(
                "no answer from the primary for {} s while {what}",
                limit.as_secs()
            ),
        ))
    })
}

/// Says of each table what covers it.
fn cover(tables: &mut [CatalogTable], coverage: &Coverage) {
    for table in tables {
        let covered = coverage.get(&table.schema.incarnation);
        table.coverage = covered.cloned().unwrap_or_default();
    }
}

/// The table's incarnation as the log knows it.
fn told_incarnation(table: &CatalogTable, history: Option<&History>) -> String {
    let own = &table.schema.incarnation;
    history.map_or_else(|| own.clone(), |history| history.incarnation(own))
}

/// Whether the board says already that the table is not in the stream.
fn is_known_uncovered(
    board: &CaptureBoard,
    table: &CatalogTable,
    history: Option<&History>,
) -> bool {
    let told = told_incarnation(table, history);
    let shown = board.tables();
    let shown = shown.borrow();
    let mut same = shown.iter().filter(|one| one.incarnation == told);
    same.any(|one| one.coverage.is_empty())
}

fn broken(what: &str) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::History,
        format!("history is not continuous: {what}"),
    )
    .advice(
        "the daemon goes on capturing under a new epoch; if the primary is the one it should be (a resync removes what \
         a replica has and it has not), copy the replicas anew with: replctl resync <replica>",
    )
}

#[async_trait]
impl Capture for PgCapture {
    async fn run(&mut self, port: &mut CapturePort) -> Result<()> {
        port.board
            .update(|status| status.state = CaptureState::Connecting);
        let limit = port.limits.idle_timeout;
        let mut admin = self.admin().await?;
        within(limit, "checking its settings", admin.preflight()).await?;
        let server = within(limit, "asking for its position", admin.position()).await?;
        port.board
            .update(|status| status.instance.clone_from(&server.instance));
        let slot = within(limit, "looking at the slot", admin.slot()).await?;
        let logged = Self::check_continuity(port, &server, slot.as_ref())?;
        let history = port.writer.log().bounds().history;
        let refreshed =
            self.refresh_tables(&mut admin, &port.selection, &port.board, history.as_ref());
        within(limit * REFRESH_FACTOR, "comparing the tables", refreshed).await?;
        // Present since `check_continuity`; asked again because the publication may have waited.
        let slot = within(limit, "looking at the slot", admin.slot()).await?;
        let from = slot.map_or(Lsn(0), |slot| slot.confirmed);
        let overlap = Overlap::new(port.writer.log().as_ref(), from, logged)?;
        let started = Stream::start(self, &mut admin, from, logged, overlap, port);
        let mut stream = within(limit, "starting replication", started).await?;
        port.board.update(|status| {
            status.server = server.flushed.position().0;
            status.captured = logged.position().0;
            status.acknowledged = from.position().0;
        });
        let mut house = Housekeeping::start(self, port);
        let result = stream.run(&mut admin, port, &mut house).await;
        stream.close().await;
        port.writer.abandon()?;
        match result {
            Err(error) if self.lost_publication(&error) => {
                drop(house);
                Err(self.begin_behind(&mut admin).await?)
            }
            other => other,
        }
    }

    async fn rebase(&mut self, port: &mut CapturePort, epoch: Epoch, reason: &str) -> Result<()> {
        port.board
            .update(|status| status.state = CaptureState::Connecting);
        let mut admin = self.admin().await?;
        admin.preflight().await?;
        // The publication must be there before the slot: a slot decodes with the catalog of the
        // time of each change, and fails on changes older than its publication.
        let existing = self.made_slot(&mut admin).await?;
        let there = existing.is_some();
        // Shown by their new names once the span has begun.
        self.publish_tables(&mut admin, &port.selection, there)
            .await?;
        let slot = match existing {
            Some(slot) if slot.wal_status != "lost" => slot,
            Some(_) => {
                admin.drop_slot().await?;
                self.make_slot(&mut admin, port).await?
            }
            None => self.make_slot(&mut admin, port).await?,
        };
        let server = admin.position().await?;
        port.writer.history(History {
            epoch,
            source: self.identity(&server),
            position: slot.confirmed.position(),
            reason: reason.to_owned(),
            succession: None,
        })?;
        Ok(())
    }

    async fn lacking(&mut self, tables: &[TableName]) -> Result<Lacking> {
        let mut admin = self.admin().await?;
        let mut lacking = admin
            .lacking(tables, self.options.manage_publication)
            .await?;
        lacking.some.extend(admin.loose_encoding().await?);
        Ok(lacking)
    }

    /// The slot stays at what is durable here, and the server decodes the same commits in the same
    /// order from its log, of which it only ever sends what it has flushed.
    fn repeats_exactly(&self) -> bool {
        true
    }

    fn compare(&self, a: &SourcePosition, b: &SourcePosition) -> Option<Ordering> {
        Some(Lsn::from_position(a)?.cmp(&Lsn::from_position(b)?))
    }

    async fn uninstall(&mut self) -> Result<Vec<String>> {
        let mut admin = self.admin().await?;
        let mut done = Vec::new();
        if admin.drop_slot().await? {
            done.push(format!("dropped replication slot {}", self.options.slot));
        }
        if self.options.manage_publication && admin.drop_publication().await? {
            done.push(format!("dropped publication {}", self.options.publication));
        }
        Ok(done)
    }
}
