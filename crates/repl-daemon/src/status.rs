//! Puts together what `GET /v1/status` answers. Waits for no database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use repl_api::{
    Activity, ErrorInfo, IngestState, LogStatus, Membership, Mode, ModeState, PrimaryState,
    PrimaryStatus, PromotionInfo, Promotions, ReplicaStatus, Status, TableState, TableStatus,
};
use repl_connectors::seam::{CaptureBoard, CaptureState, SourceTable};
use repl_core::log::{Bounds, EventLog};
use repl_core::schema::Identity;

use crate::capture_task::CaptureErrors;
use crate::config::Config;
use crate::failover::FailoverBoard;
use crate::ingest::Ingest;
use crate::mode::Modes;
use crate::pins::Pins;
use crate::promotion::lastseen::{LastSeen, Seen, named};
use crate::promotion::record::History;
use crate::rates::Meter;
use crate::replica::Replica;
use crate::state::StateFile;
use crate::validate::Record;
use crate::wiring::engine_name;

/// How long a replica may wait for the log to be completed before somebody should look.
const AWAITING_PATIENCE: Duration = Duration::from_secs(10);

/// Everything status is read from.
pub struct Group {
    /// Configuration.
    pub config: Config,
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// What is remembered beside it.
    pub state: Arc<StateFile>,
    /// The promotions that ended.
    pub promotions: Arc<History>,
    /// What was last known of the primary.
    pub seen: Arc<LastSeen>,
    /// How automatic failover judges the primary.
    pub failover: Arc<FailoverBoard>,
    /// The first primary, as the configuration names it.
    pub configured_primary: String,
    /// The capture's board.
    pub board: Arc<CaptureBoard>,
    /// The capture's errors.
    pub capture_errors: Arc<CaptureErrors>,
    /// The capture's rates.
    pub capture_meter: Arc<Mutex<Meter>>,
    /// The replicas.
    pub replicas: Vec<Arc<Replica>>,
    /// What comparisons found.
    pub verified: Arc<Record>,
    /// What commits wait for.
    pub modes: Arc<Modes>,
    /// Holds on the log.
    pub pins: Arc<Pins>,
    /// The disk's guard.
    pub ingest: Arc<Ingest>,
    /// Commit time of the oldest transaction in the log, milliseconds since the Unix epoch; 0 while
    /// there is none, or it is not known.
    pub oldest_commit_ms: Arc<AtomicU64>,
    /// When the daemon started, milliseconds since the Unix epoch.
    pub started_ms: u64,
}

impl Group {
    /// What is known of the primary: its tables as they are, or as they were when it was last asked.
    pub fn primary_seen(&self) -> Seen {
        let epoch = u64::from(self.log.appended().epoch.0);
        let seen = self.seen.of(&self.config.primary.name, epoch);
        let mut seen = seen.unwrap_or_default();
        let tables = self.board.tables().borrow().clone();
        if !tables.is_empty() {
            seen.tables = tables.iter().filter_map(named).collect();
            let others = tables.iter().filter(|table| table.schema.is_none());
            seen.others = others.map(|table| table.name.clone()).collect();
        }
        seen
    }

    /// The state of everything.
    pub fn status(&self) -> Status {
        let bounds = self.log.bounds();
        let commits = self.modes.status();
        let epoch = u64::from(bounds.durable.epoch.0);
        let streams = self.board.status().state == CaptureState::Streaming;
        let current = streams && self.ingest.reason().is_none();
        let tables = Arc::clone(&self.board.tables().borrow());
        Status {
            api_version: repl_api::API_VERSION.to_owned(),
            group: self.config.group.name.clone(),
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_ms: self.started_ms,
            mode: match commits.state {
                ModeState::InForce => commits.asked,
                _ => Mode::Async,
            },
            commits: Some(commits),
            epoch,
            log: self.log_status(&bounds),
            primary: self.primary_status(&bounds),
            tables: tables.iter().map(table_status).collect(),
            replicas: self
                .replicas
                .iter()
                .map(|r| ReplicaStatus {
                    // What was found equal is not what is there, once history does not join.
                    validated: self.verified.of(&r.node.name).filter(|_| joins(r)),
                    ..replica_status(r, &bounds, current)
                })
                .collect(),
            alerts: self.alerts(&tables),
            configured_primary: (self.configured_primary != self.config.primary.name)
                .then(|| self.configured_primary.clone()),
            promotion: self.promotion(),
            failover: self
                .config
                .failover
                .automatic
                .then(|| self.failover.status()),
        }
    }

    /// The promotion under way, and those before.
    pub fn promotions(&self) -> Promotions {
        Promotions {
            current: self.promotion(),
            history: self.promotions.all(),
        }
    }

    fn promotion(&self) -> Option<PromotionInfo> {
        let promotion = self.state.promotion();
        promotion.map(|promotion| crate::promotion::record::info(&promotion, None))
    }

    fn log_status(&self, bounds: &Bounds) -> LogStatus {
        let reason = self.ingest.reason();
        LogStatus {
            log_id: self.log.id().to_string(),
            epoch: u64::from(bounds.durable.epoch.0),
            first_seq: bounds.first_seq.0,
            durable_seq: bounds.durable.seq.0,
            size_bytes: bounds.bytes,
            segments: self.log.segments().len() as u64,
            oldest_commit_ms: match self.oldest_commit_ms.load(Ordering::Relaxed) {
                0 => None,
                known => Some(known).filter(|_| bounds.first_seq <= bounds.durable.seq),
            },
            ingest_state: if reason.is_some() {
                IngestState::Paused
            } else {
                IngestState::Ok
            },
            ingest_reason: reason,
        }
    }

    fn primary_status(&self, bounds: &Bounds) -> PrimaryStatus {
        let node = &self.config.primary;
        let capture = self.board.status();
        let (last_error, refusal) = self.capture_errors.get();
        let meter = self
            .capture_meter
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (tx_per_s, rows_per_s) = meter.rates();
        let shown = |text: String| (!text.is_empty()).then_some(text);
        PrimaryStatus {
            name: node.name.clone(),
            engine: engine_name(node.endpoint.engine()).to_owned(),
            state: match capture.state {
                CaptureState::Disconnected => PrimaryState::Disconnected,
                CaptureState::Connecting => PrimaryState::Connecting,
                CaptureState::Verifying => PrimaryState::Verifying,
                CaptureState::Streaming => PrimaryState::Streaming,
                CaptureState::Stopped => PrimaryState::Stopped,
            },
            endpoint: node.endpoint.to_string(),
            captured_position: shown(capture.captured),
            durable_position: shown(bounds.durable.position.0.clone()),
            acked_position: shown(capture.acknowledged),
            server_position: shown(capture.server),
            retained_bytes: capture.retained_bytes,
            last_event_ms: capture.heard_ms,
            transactions: capture.transactions,
            rows: capture.rows,
            tx_per_s,
            rows_per_s,
            last_error,
            refusal,
        }
    }

    fn alerts(&self, tables: &[SourceTable]) -> Vec<String> {
        let mut alerts = Vec::new();
        let doubted = |replica: &Arc<Replica>| {
            replica.node.enabled && replica.record().is_some_and(|record| record.doubted)
        };
        let lost = self.state.lost();
        let lost = lost.filter(|_| self.replicas.iter().any(doubted));
        alerts.extend(lost.map(|lost| lost.alert()));
        alerts.extend(self.modes.kept_alert());
        alerts.extend(self.promotions.alert());
        alerts.extend(self.seen.alert());
        alerts.extend(self.seen.closed_alert());
        alerts.extend(self.verified.alert());
        let waits = self.board.status().waits;
        if !waits.is_empty() {
            alerts.push(format!("primary {}: {waits}", self.config.primary.name));
        }
        if self.board.listed() && tables.iter().all(|table| table.schema.is_none()) {
            alerts.push(
                "nothing is replicated: no table of the primary matches the selection, or none of those that do can \
                 be replicated (replctl tables; tables.include and tables.exclude in the configuration)"
                    .to_owned(),
            );
        }
        for replica in &self.replicas {
            let name = &replica.node.name;
            let reason = replica.record().map(|record| record.reason);
            if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
                alerts.push(format!("replica {name}: {reason}"));
            }
            if let Some((since, seq)) = replica.view().awaiting
                && since.elapsed() > AWAITING_PATIENCE
            {
                alerts.push(format!(
                    "replica {name} is at transaction {seq}, ahead of the event log, and the primary has not sent \
                     what lies between for {} s",
                    since.elapsed().as_secs()
                ));
            }
            if let Some(why) = &replica.view().unguarded {
                alerts.push(format!(
                    "replica {name} may take writes of others than the daemon: {why}"
                ));
            }
        }
        alerts
    }
}

fn table_status(table: &SourceTable) -> TableStatus {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let key = match table.schema.as_deref() {
        Some(schema) => match &schema.identity {
            Identity::FullRow => "full row".to_owned(),
            Identity::Key(columns) => columns
                .iter()
                .filter_map(|&index| schema.columns.get(index))
                .map(|column| column.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        },
        None => String::new(),
    };
    let state = match &table.schema {
        Some(_) if table.refusal.is_empty() => TableState::Replicated,
        None if table.refusal.starts_with("new") => TableState::New,
        _ => TableState::Refused,
    };
    TableStatus {
        source: table.name.to_string(),
        state,
        reason: text(&table.refusal),
        remedy: text(&table.remedy),
        key,
    }
}

fn joins(replica: &Replica) -> bool {
    use repl_core::membership::Membership::NeedsResync;
    replica
        .record()
        .is_none_or(|record| record.standing != NeedsResync)
}

/// Whether a replica works again, so that its last error is history.
fn is_overcome(membership: Membership, activity: Activity) -> bool {
    matches!(
        membership,
        Membership::Streaming
            | Membership::Filtered
            | Membership::Copying
            | Membership::Resyncing
            | Membership::Diverged
    ) && matches!(
        activity,
        Activity::Idle | Activity::Applying | Activity::Copying
    )
}

/// `current` tells whether the log has, or is about to get, what the primary has committed.
fn replica_status(replica: &Replica, bounds: &Bounds, current: bool) -> ReplicaStatus {
    let node = &replica.node;
    let record = replica.record();
    let view = replica.view().clone();
    let applied = replica.applied();
    let applied_seq = applied.as_ref().map_or(0, |(seq, _)| seq.0);
    let (tx_per_s, rows_per_s) = replica
        .meter
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .rates();
    let membership =
        record
            .as_ref()
            .map_or(Membership::Copying, |record| match record.membership() {
                repl_core::membership::Membership::Copying => Membership::Copying,
                repl_core::membership::Membership::Streaming => Membership::Streaming,
                repl_core::membership::Membership::Paused => Membership::Paused,
                repl_core::membership::Membership::Parked => Membership::Parked,
                repl_core::membership::Membership::Diverged => Membership::Diverged,
                repl_core::membership::Membership::Resyncing => Membership::Resyncing,
                repl_core::membership::Membership::NeedsResync => Membership::NeedsResync,
                repl_core::membership::Membership::Filtered => Membership::Filtered,
            });
    let known = applied.is_some();
    let follows = record.as_ref().is_some_and(|record| {
        use repl_core::membership::Membership::{Filtered, Streaming};
        matches!(record.standing, Streaming | Filtered)
    });
    let queue = bounds.durable.seq.0.saturating_sub(applied_seq);
    let pause = record.as_ref().and_then(|record| record.pause.as_ref());
    let paused_by = pause.map(|pause| match pause.error {
        Some(_) => "error".to_owned(),
        None => "operator".to_owned(),
    });
    let held = pause.and_then(|pause| pause.error.clone());
    let activity = view.activity.unwrap_or(Activity::Stopped);
    let last_error = held.or_else(|| {
        let error = view.last_error?;
        let past = error.past || is_overcome(membership, activity);
        Some(ErrorInfo { past, ..error })
    });
    // Where it does not follow the log, how far behind it is means nothing.
    let lost = record
        .as_ref()
        .is_some_and(|record| record.standing == repl_core::membership::Membership::NeedsResync);
    ReplicaStatus {
        name: node.name.clone(),
        engine: engine_name(node.endpoint.engine()).to_owned(),
        endpoint: node.endpoint.to_string(),
        enabled: node.enabled,
        priority: node.priority,
        membership,
        since_ms: record.as_ref().map_or(0, |record| {
            record
                .pause
                .as_ref()
                .map_or(record.since_ms, |p| p.since_ms)
        }),
        paused_by,
        activity,
        applied_seq,
        applied_position: applied.map(|(_, position)| position.0),
        durable_seq: replica.durable().map_or(0, |seq| seq.0),
        queue_transactions: queue,
        // Measured once a second; a queue that is empty now has neither size nor age. What the primary
        // has beyond the log, or a copy beyond the queue, nobody knows.
        queue_bytes: if queue == 0 { 0 } else { view.queue_bytes },
        lag_ms: match queue {
            _ if lost => None,
            0 => (current && follows && known).then_some(0),
            _ => view.lag_ms,
        },
        max_lag_ms: Some(node.max_lag.as_millis() as u64),
        applied_transactions: view.transactions,
        applied_rows: view.rows,
        failed: view.failed,
        skipped: record.as_ref().map_or(0, |record| record.skipped),
        tx_per_s,
        rows_per_s,
        last_error,
        copy: view.copy,
        validated: None,
    }
}
