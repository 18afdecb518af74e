//! One replica's worker: attaches, copies what is missing, then follows the log.
//!
//! Each session goes through the same states: connect → [`attach`] (do the replica's checkpoint
//! and the log join?) → [`copy`] (tables whose rows are not there yet) → [`stream`] (batches from
//! [`collect`] by way of [`send`], with the ladder of [`stream`] when one fails). Any error ends the
//! session; its directive decides whether the worker waits and comes back by itself, pauses for the operator or
//! needs a new copy.

mod ahead;
pub mod attach;
pub mod collect;
pub mod copy;
mod enums;
mod flight;
mod mend;
pub mod protect;
pub mod received;
mod redelivery;
mod rejoin;
mod repair;
mod routes;
mod send;
pub mod stream;
mod touched;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use repl_api::Activity;
use repl_connectors::seam::{
    Applier, Commit, ConnectorError, Inherits, Released, ReplicaState, RoleSwitch, SnapshotSource,
    SourceTable,
};
use repl_core::backoff::{Backoff, BackoffPolicy};
use repl_core::checkpoint::Checkpoint;
use repl_core::deposed::AutoRejoin;
use repl_core::failpoint;
use repl_core::log::{Durable, EventLog};
use repl_core::membership::Membership;
use repl_core::schema::{SchemaId, TableName};
use repl_core::select::Routing;
use repl_core::{Directive, ErrorKind};
use tokio::sync::watch;
use tracing::{Instrument, error, info, info_span, warn};

use crate::admin::audit::AuditLog;
use crate::config::{CopyConfig, LimitsConfig};
use crate::conversion::Conversion;
use crate::errors;
use crate::follow::Follow;
use crate::replica::{Orders, Replica};
use crate::state::Pause;
use collect::TxInfo;

/// What a worker is made of.
pub struct WorkerParts {
    /// The replica.
    pub replica: Arc<Replica>,
    /// Its connector.
    pub applier: Box<dyn Applier>,
    /// What changes its role; none for an engine that has one role only.
    pub role: Option<Arc<dyn RoleSwitch>>,
    /// Has it refuse writes of others; none where it need not.
    pub protection: Option<protect::Protection>,
    /// The primary, as far as its history is to be judged; none for an engine whose cannot be.
    pub primary: Option<Arc<dyn RoleSwitch>>,
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The log's durable end.
    pub durable: watch::Receiver<Durable>,
    /// How it is followed.
    pub follow: Follow,
    /// Through where commits of the primary need not wait any more.
    pub released: watch::Receiver<Released>,
    /// Takes cuts of the primary.
    pub snapshots: Arc<dyn SnapshotSource>,
    /// The primary's selected tables.
    pub tables: watch::Receiver<Arc<Vec<SourceTable>>>,
    /// Names at this replica.
    pub routing: Routing,
    /// How rows of other engines' tables are converted for it.
    pub conversion: Arc<Conversion>,
    /// Which former primaries join without being told to.
    pub auto_rejoin: AutoRejoin,
    /// Where it is written down what such a one had committed that the log never saw.
    pub log_dir: PathBuf,
    /// Batch limits.
    pub limits: LimitsConfig,
    /// How existing rows are copied.
    pub copy: CopyConfig,
    /// Where it is recorded what a resync wrote.
    pub audit: AuditLog,
    /// Whom a copy may burden.
    pub others: copy::pace::Others,
    /// Backoff between attempts.
    pub retry: BackoffPolicy,
    /// Turns true at shutdown.
    pub shutdown: watch::Receiver<bool>,
}

/// How long a session must have followed for the waits between attempts to begin anew.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// The worker of one replica.
pub struct Worker {
    parts: WorkerParts,
    orders: watch::Receiver<Orders>,
    backoff: Backoff,
    /// Session state: what the replica said of itself, kept up to date.
    state: ReplicaState,
    /// The replica's checkpoint was found in the log since the daemon started: from then on the log
    /// loses nothing that a replica may have.
    attached: bool,
    /// Rows that are to be put in place in this session.
    mending: Option<mend::Mending>,
    /// The inheritance that was last seen to in this session.
    inherited: Option<Vec<Inherits>>,
    /// The schema versions that the replica's tables were made to fit in this session.
    fitted: HashMap<SchemaId, TableName>,
    /// The tables that were copied since no foreign keys were due; none where that is not known.
    without_keys: Option<BTreeSet<TableName>>,
}

/// Why a session failed.
pub struct Failure {
    /// The error.
    pub error: ConnectorError,
    /// The transaction at fault, when it is known to be this one.
    pub transaction: Option<TxInfo>,
}

impl Failure {
    /// Names the table concerned, unless it is named already.
    fn at(mut self, table: &TableName) -> Self {
        self.error.table.get_or_insert_with(|| table.to_string());
        self
    }
}

impl From<ConnectorError> for Failure {
    fn from(error: ConnectorError) -> Self {
        Failure {
            error,
            transaction: None,
        }
    }
}

impl From<repl_core::log::LogError> for Failure {
    fn from(error: repl_core::log::LogError) -> Self {
        let trimmed = matches!(error, repl_core::log::LogError::Trimmed { .. });
        let mut error = ConnectorError::from(error);
        if trimmed {
            error.kind = ErrorKind::History;
        }
        error.into()
    }
}

/// Why a session ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The daemon stops.
    Shutdown,
    /// The operator gave an order.
    Orders,
}

impl Worker {
    /// A worker that has not started.
    pub fn new(parts: WorkerParts) -> Self {
        let orders = parts.replica.orders.subscribe();
        let backoff = Backoff::new(parts.retry);
        Worker {
            parts,
            orders,
            backoff,
            state: ReplicaState::default(),
            attached: false,
            mending: None,
            inherited: None,
            fitted: HashMap::new(),
            without_keys: None,
        }
    }

    /// Works until shutdown.
    pub async fn run(self) {
        let span = info_span!("replica", name = %self.parts.replica.node.name);
        self.work().instrument(span).await;
    }

    async fn work(mut self) {
        while !*self.parts.shutdown.borrow() {
            self.orders.borrow_and_update();
            let record = self.replica().record();
            let standing = record
                .as_ref()
                .map_or(Membership::Copying, |record| record.standing);
            let paused = record.as_ref().is_some_and(|record| record.pause.is_some());
            if paused || standing == Membership::NeedsResync || self.is_held() {
                self.replica().show(Activity::Stopped);
                self.wait_for_orders(None).await;
                continue;
            }
            let begun = std::time::Instant::now();
            match self.session().await {
                Ok(ended) => {
                    self.parts.applier.close().await;
                    if ended == Ended::Shutdown {
                        break;
                    }
                }
                Err(failure) => {
                    let followed = matches!(
                        self.replica().view().activity,
                        Some(Activity::Idle | Activity::Applying)
                    );
                    if followed && begun.elapsed() >= GOOD_SESSION.min(self.parts.retry.max) {
                        // What failed before is over: this is a first failure again.
                        self.backoff.succeeded();
                    }
                    self.parts.applier.close().await;
                    self.failed(failure).await;
                }
            }
        }
        self.replica().show(Activity::Stopped);
    }

    fn replica(&self) -> &Arc<Replica> {
        &self.parts.replica
    }

    async fn session(&mut self) -> Result<Ended, Failure> {
        self.replica().show(Activity::Connecting);
        if let Some(ended) = self.wait_for_history().await {
            return Ok(ended);
        }
        if let Some(ended) = self.rejoin().await? {
            return Ok(ended);
        }
        self.take_over().await?;
        self.open().await?;
        if self.is_unknown()? {
            return Ok(Ended::Orders);
        }
        if let Some(ended) = self.wait_for_redelivery().await? {
            return Ok(ended);
        }
        let mut checkpoint = self.attach().await?;
        self.note_committed(&checkpoint, Commit::Durable);
        self.begin_mend(&checkpoint).await?;
        self.check_received().await?;
        self.begin_resync(&checkpoint).await?;
        if let Some(ended) = self.repair(&checkpoint).await {
            return Ok(ended);
        }
        loop {
            if let Some(ended) = self.interrupted() {
                return Ok(ended);
            }
            self.copy_missing_tables(&checkpoint).await?;
            self.join_passed(&checkpoint).await?;
            self.finish_copies().await?;
            self.finish_mend(&checkpoint).await?;
            self.protect().await?;
            self.settle_standing()?;
            match self.stream(&mut checkpoint).await? {
                stream::Left::TablesChanged => {}
                stream::Left::Ended(ended) => return Ok(ended),
            }
        }
    }

    /// Opens a session at the replica and takes in what it says of itself.
    async fn open(&mut self) -> Result<(), Failure> {
        self.state = self.parts.applier.open().await?;
        self.inherited = None;
        self.fitted.clear();
        self.check_distinct()?;
        self.note_forgetful()?;
        let options = &mut Arc::make_mut(&mut self.parts.conversion).options;
        self.parts.applier.complete_conversion(options);
        Ok(())
    }

    /// What is applied to the primary itself would be captured and applied again, for ever.
    fn check_distinct(&self) -> Result<(), ConnectorError> {
        let primary = self.parts.others.board.status().instance;
        if self.state.instance.as_ref() != Some(&primary) {
            return Ok(());
        }
        let node = &self.replica().node;
        Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!(
                "{}: this is the primary's own database, under another address",
                node.endpoint
            ),
        )
        .advice(format!(
            "nothing was written to its tables; correct the url of node {} and restart the daemon",
            node.name
        )))
    }

    /// A replica that can lose what it calls durable does not count, from before its next commit on.
    fn note_forgetful(&self) -> Result<(), Failure> {
        let replica = self.replica();
        let forgetful = self.state.forgetful.clone();
        if forgetful.is_some() && replica.counted() {
            replica
                .change(|record| record.counted = false)
                .map_err(errors::state)?;
        }
        replica.view().forgetful = forgetful;
        Ok(())
    }

    /// Until capture has begun the log's history there is nothing to attach to.
    async fn wait_for_history(&mut self) -> Option<Ended> {
        loop {
            if self.parts.log.bounds().history.is_some() {
                return None;
            }
            if let Some(ended) = self.interrupted() {
                return Some(ended);
            }
            tokio::select! {
                _ = self.parts.durable.changed() => {}
                _ = self.parts.shutdown.changed() => {}
                _ = self.orders.changed() => return Some(Ended::Orders),
            }
        }
    }

    /// Shutdown or an order came while working.
    fn interrupted(&self) -> Option<Ended> {
        if *self.parts.shutdown.borrow() {
            return Some(Ended::Shutdown);
        }
        self.orders
            .has_changed()
            .unwrap_or(false)
            .then_some(Ended::Orders)
    }

    async fn wait_for_orders(&mut self, at_most: Option<Duration>) {
        let limit = async {
            match at_most {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.orders.changed() => {}
            _ = self.parts.shutdown.changed() => {}
            () = limit => {}
        }
    }

    /// Notes that the replica is at `checkpoint`, and whether it can lose that again.
    fn note_committed(&self, checkpoint: &Checkpoint, how: Commit) {
        self.replica().committed(checkpoint, how);
    }

    async fn failed(&mut self, mut failure: Failure) {
        if self.gained_labels(&mut failure).await {
            return;
        }
        let name = &self.parts.replica.node.name;
        failure.error.advice = failure.error.advice.replace("<replica>", name);
        match failure.error.directive() {
            Directive::Retry => self.retry_later(failure).await,
            // An order given meanwhile may be the answer to it; if not, it is met again.
            _ if self.orders.has_changed().unwrap_or(false) => {}
            Directive::Pause => self.pause_for_operator(failure),
            Directive::Resync => self.needs_resync(failure),
        }
    }

    fn shown(&self, failure: &Failure, attempts: u32) -> repl_api::ErrorInfo {
        let name = &self.replica().node.name;
        errors::of_replica(name, &failure.error, failure.transaction.as_ref(), attempts)
    }

    async fn retry_later(&mut self, failure: Failure) {
        let wait = errors::wait_after(&failure.error, self.backoff.failed(crate::random::unit()));
        let attempts = self.backoff.attempts();
        let info = self.shown(&failure, attempts);
        // The first attempt of a zombie's successor finds the checkpoint moved: no news.
        if attempts > 1 || failure.error.kind != ErrorKind::CheckpointMoved {
            warn!(
                kind = failure.error.kind.name(),
                error = %failure.error.message,
                attempts,
                wait_ms = wait.as_millis() as u64,
                "replica failed for now; trying again"
            );
        }
        {
            let mut view = self.replica().view();
            view.last_error = Some(info);
            view.activity = Some(Activity::Retrying);
        }
        self.wait_for_orders(Some(wait)).await;
    }

    fn pause_for_operator(&mut self, failure: Failure) {
        let info = self.shown(&failure, 1);
        error!(
            kind = failure.error.kind.name(),
            error = %failure.error.message,
            advice = %info.advice,
            table = failure.error.table.as_deref().unwrap_or_default(),
            seq = failure.transaction.as_ref().map(|tx| tx.seq.0),
            "replica paused until the operator decides"
        );
        let pause = Pause {
            since_ms: crate::clock::now_ms(),
            error: Some(info.clone()),
        };
        self.remember(|record| record.pause = Some(pause));
        let mut view = self.replica().view();
        view.failed += 1;
        view.last_error = Some(info);
    }

    fn needs_resync(&mut self, failure: Failure) {
        let info = self.shown(&failure, 1);
        error!(
            error = %failure.error.message,
            "replica needs a new copy: replctl resync {}",
            self.replica().node.name
        );
        let reason = failure.error.message.clone();
        self.remember(|record| {
            record.standing = Membership::NeedsResync;
            record.reason = reason;
        });
        self.replica().view().last_error = Some(info);
    }

    /// Changes the durable record. If that fails the worker goes on in the old state: it will meet
    /// the same error again and try again.
    fn remember(&self, change: impl FnOnce(&mut crate::state::ReplicaRecord)) {
        if let Err(error) = self.replica().change(change) {
            error!(
                error = format!("{error:#}"),
                "cannot remember the replica's state"
            );
        }
    }

    /// Moves between copying and streaming as the tables' cuts say.
    fn settle_standing(&mut self) -> Result<(), Failure> {
        // An interrupted copy has left some out.
        let joined = self.missing_tables().is_empty()
            && !self.awaits_tables()
            && self.state.tables.values().all(|table| table.cut.is_none());
        // Before the capture has told which tables there are, having copied none means nothing.
        let told = self.parts.others.board.listed();
        let record = self.replica().record();
        let standing = record
            .as_ref()
            .map_or(Membership::Copying, |record| record.standing);
        let replacing = record.is_some_and(|record| record.replace);
        let next = match (standing, joined) {
            (Membership::Copying | Membership::Resyncing, true) if told => Membership::Streaming,
            (Membership::Streaming, false) => Membership::Copying,
            (Membership::Diverged, true) if told && replacing => Membership::Diverged,
            _ => return Ok(()),
        };
        let held: BTreeSet<TableName> = self.state.tables.keys().cloned().collect();
        self.replica()
            .change(|record| {
                // A resync was ordered meanwhile: what the replica holds is the state before it.
                if record.restart || !record.resync.is_empty() || record.mend.is_some() {
                    return;
                }
                record.standing = next;
                if joined {
                    (record.replace, record.full) = (false, false);
                    record.lacking.retain(|(table, _)| !held.contains(table));
                }
                if next == Membership::Streaming {
                    record.reason.clear();
                    record.skipped = 0;
                }
            })
            .map_err(errors::state)?;
        info!(standing = next.name(), "replica changed its standing");
        Ok(())
    }
}

/// A failpoint of the tests: dies here, or fails as a lost connection does.
fn pass(name: &str) -> Result<(), ConnectorError> {
    failpoint::hit(name)
        .map_err(|error| ConnectorError::new(ErrorKind::Connection, error.to_string()))
}
