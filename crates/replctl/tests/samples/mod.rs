//! Fixed states of a group.
#![allow(dead_code, reason = "each test binary uses some of them")]

use repl_api::{
    Activity, CopyProgress, Directive, ErrorInfo, ErrorKind, FailedTransaction, IngestState,
    LogStatus, MemberStatus, Membership, Mode, ModeProblem, ModeState, ModeStatus, PrimaryState,
    PrimaryStatus, ReplicaStatus, Status, TableCopyProgress, TableCopyState, TableState,
    TableStatus, Validated, Verdict,
};

/// The present of all samples: 2026-03-01T12:00:00Z.
pub const NOW: u64 = 1_772_366_400_000;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

pub fn healthy() -> Status {
    Status {
        api_version: "v1".into(),
        group: "shop".into(),
        daemon_version: "0.1.0".into(),
        pid: 4711,
        started_at_ms: NOW - 3 * HOUR - 12 * MINUTE,
        mode: Mode::Async,
        commits: None,
        failover: None,
        epoch: 1,
        log: LogStatus {
            log_id: "0d5f3a52-7f0e-4f8e-9a55-0f6d3a1c2b11".into(),
            epoch: 1,
            first_seq: 101,
            durable_seq: 48_213,
            size_bytes: 412 << 20,
            segments: 7,
            oldest_commit_ms: Some(NOW - 2 * HOUR - 10 * MINUTE),
            ingest_state: IngestState::Ok,
            ingest_reason: None,
        },
        primary: PrimaryStatus {
            name: "main".into(),
            engine: "postgres".into(),
            state: PrimaryState::Streaming,
            endpoint: "db1.example.org:5432/shop".into(),
            captured_position: Some("0/5A3C9D8".into()),
            durable_position: Some("0/5A3C9D8".into()),
            acked_position: Some("0/5A3C9D8".into()),
            server_position: Some("0/5A3CA10".into()),
            retained_bytes: Some(16 << 20),
            last_event_ms: Some(NOW - 400),
            transactions: 48_113,
            rows: 1_204_418,
            tx_per_s: 120.4,
            rows_per_s: 4210.0,
            last_error: None,
            refusal: None,
        },
        tables: vec![
            table("public.customers", TableState::Replicated, "id"),
            table("public.orders", TableState::Replicated, "region, id"),
        ],
        replicas: vec![replica("replica-1"), replica("replica-2")],
        alerts: Vec::new(),
        configured_primary: None,
        promotion: None,
    }
}

fn table(source: &str, state: TableState, key: &str) -> TableStatus {
    TableStatus {
        source: source.into(),
        state,
        reason: None,
        remedy: None,
        key: key.into(),
    }
}

fn replica(name: &str) -> ReplicaStatus {
    ReplicaStatus {
        name: name.into(),
        engine: "postgres".into(),
        endpoint: format!("{name}.example.org:5432/shop"),
        enabled: true,
        priority: 100,
        membership: Membership::Streaming,
        paused_by: None,
        since_ms: NOW - 3 * HOUR,
        activity: Activity::Applying,
        applied_seq: 48_212,
        applied_position: Some("0/5A3C8F0".into()),
        durable_seq: 48_190,
        queue_transactions: 1,
        queue_bytes: 1740,
        lag_ms: Some(2),
        max_lag_ms: Some(30_000),
        applied_transactions: 48_112,
        applied_rows: 1_204_401,
        failed: 0,
        skipped: 0,
        tx_per_s: 120.1,
        rows_per_s: 4208.2,
        last_error: None,
        copy: None,
        validated: None,
    }
}

/// Semi-sync is degraded: one replica is slow, the other does not count.
pub fn degraded() -> Status {
    let mut status = healthy();
    let member = |name: &str, why_not: Option<&str>, durable_seq| MemberStatus {
        name: name.into(),
        counts: why_not.is_none(),
        why_not: why_not.map(str::to_owned),
        durable_seq: Some(durable_seq),
    };
    status.commits = Some(ModeStatus {
        asked: Mode::SemiSync,
        rule: "semi-sync (any 1)".into(),
        state: ModeState::Degraded,
        reason: Some("replica-1 did not apply a commit within 10s".into()),
        since_ms: Some(NOW - 3 * MINUTE),
        needed: 1,
        blocked_ms: None,
        timeout_ms: 10_000,
        released_seq: 48_213,
        waiting: 2,
        oldest_ms: Some(4),
        members: vec![
            member("replica-1", None, 47_000),
            member("replica-2", Some("its server has fsync = off"), 48_213),
        ],
        problems: vec![ModeProblem {
            what: "2 replication connections are called repl_shop".into(),
            remedy: "end the other: its acknowledgements would count for ours".into(),
        }],
        weaker: vec!["role batch: synchronous_commit = local".into()],
    });
    status
}

/// One replica is paused by a constraint, the other has recovered from a lost connection; one table is
/// refused and one is new.
pub fn paused() -> Status {
    let mut status = healthy();
    status.replicas[0].last_error = Some(ErrorInfo {
        at_ms: NOW - 47 * MINUTE,
        kind: ErrorKind::Connection,
        message: "connection to replica-1.example.org:5432 lost: reset by peer".into(),
        advice: String::new(),
        transaction: None,
        table: None,
        key: None,
        database_code: None,
        directive: Directive::Retry,
        attempts: 3,
        past: true,
    });
    let broken = &mut status.replicas[1];
    broken.membership = Membership::Paused;
    broken.paused_by = Some("error".into());
    broken.activity = Activity::Stopped;
    broken.since_ms = NOW - 2 * MINUTE;
    broken.applied_seq = 33_999;
    broken.queue_transactions = 14_214;
    broken.queue_bytes = 21 << 20;
    broken.lag_ms = Some(2 * MINUTE + 3_000);
    broken.failed = 1;
    broken.skipped = 2;
    (broken.tx_per_s, broken.rows_per_s) = (0.0, 0.0);
    broken.last_error = Some(ErrorInfo {
        at_ms: NOW - 2 * MINUTE,
        kind: ErrorKind::Constraint,
        message: "cannot insert into public.orders: duplicate key value violates unique constraint \
                  \"orders_number_key\"\nKey (number)=(A-1042) already exists. The row was written on the \
                  replica by somebody else, or the constraint does not exist on the primary."
            .into(),
        advice: "remove the row or the constraint on replica-2, then: replctl retry replica-2\n\
                 or leave the transaction out (the replica becomes diverged): replctl skip replica-2 --seq 34000 --reason TEXT"
            .into(),
        transaction: Some(FailedTransaction {
            seq: 34_000,
            source_txid: "77102".into(),
            position: "0/5A01F20".into(),
        }),
        table: Some("public.orders".into()),
        key: Some("region=eu, id=1042".into()),
        database_code: Some("23505".into()),
        directive: Directive::Pause,
        attempts: 1,
        past: false,
    });
    status.tables.push(TableStatus {
        source: "public.audit".into(),
        state: TableState::Refused,
        reason: Some("its REPLICA IDENTITY is NOTHING, so UPDATE and DELETE carry no key".into()),
        remedy: Some("ALTER TABLE public.audit REPLICA IDENTITY FULL;".into()),
        key: String::new(),
    });
    status.tables.push(TableStatus {
        source: "public.coupons".into(),
        state: TableState::New,
        reason: Some("created 3s ago; it is being copied to the replicas".into()),
        remedy: None,
        key: "id".into(),
    });
    status
}

/// One replica receives its initial copy, the other one's copy has no estimate yet.
pub fn copying() -> Status {
    let mut status = healthy();
    for replica in &mut status.replicas {
        replica.membership = Membership::Copying;
        replica.activity = Activity::Copying;
        replica.applied_seq = 0;
        replica.applied_position = None;
        replica.applied_transactions = 0;
        replica.queue_transactions = 913;
        replica.queue_bytes = 3 << 20;
        replica.lag_ms = None;
        (replica.tx_per_s, replica.rows_per_s) = (0.0, 52_000.0);
    }
    status.replicas[0].copy = Some(CopyProgress {
        table: Some("public.orders".into()),
        tables_done: 3,
        tables_total: 12,
        rows_done: 1_200_000,
        rows_estimate: Some(4_000_000),
        rows_written: None,
        rows_per_s: 52_000.0,
        eta_s: Some(53.8),
        paused: None,
        tables: vec![TableCopyProgress {
            table: "public.orders".into(),
            state: TableCopyState::Copying,
            rows_done: 700_000,
            rows_estimate: Some(3_000_000),
        }],
    });
    status.replicas[1].membership = Membership::Resyncing;
    status.replicas[1].copy = Some(CopyProgress {
        table: None,
        tables_done: 0,
        tables_total: 12,
        rows_done: 0,
        rows_estimate: None,
        rows_written: Some(0),
        rows_per_s: 0.0,
        eta_s: None,
        paused: None,
        tables: Vec::new(),
    });
    status
}

/// One replica's history no longer joins; another was skipped on and has diverged; a third is disabled.
pub fn needs_resync() -> Status {
    let mut status = healthy();
    let lost = &mut status.replicas[0];
    lost.membership = Membership::NeedsResync;
    lost.activity = Activity::Stopped;
    lost.since_ms = NOW - 5 * MINUTE;
    lost.lag_ms = None;
    (lost.tx_per_s, lost.rows_per_s) = (0.0, 0.0);
    lost.last_error = Some(ErrorInfo {
        at_ms: NOW - 5 * MINUTE,
        kind: ErrorKind::History,
        message:
            "the replica's checkpoint is at transaction 90, but the log begins at 101: what lies \
                  between is gone"
                .into(),
        advice: "replctl resync replica-1".into(),
        transaction: None,
        table: None,
        key: None,
        database_code: None,
        directive: Directive::Stop,
        attempts: 1,
        past: false,
    });
    // What was found before is not what is there.
    lost.validated = Some(Validated {
        verdict: Verdict::Equal,
        oldest_ms: NOW - HOUR,
        tables: 2,
        different: Vec::new(),
    });
    let diverged = &mut status.replicas[1];
    diverged.membership = Membership::Diverged;
    diverged.skipped = 1;
    let mut disabled = replica("replica-3");
    disabled.enabled = false;
    disabled.membership = Membership::Paused;
    disabled.activity = Activity::Stopped;
    disabled.lag_ms = None;
    (disabled.tx_per_s, disabled.rows_per_s) = (0.0, 0.0);
    status.replicas.push(disabled);
    status
}

/// The primary does not answer and the log's disk is full.
pub fn primary_down() -> Status {
    let mut status = healthy();
    status.primary.state = PrimaryState::Disconnected;
    status.primary.acked_position = Some("0/5A3C8F0".into());
    status.primary.last_event_ms = Some(NOW - 90_000);
    (status.primary.tx_per_s, status.primary.rows_per_s) = (0.0, 0.0);
    status.primary.last_error = Some(ErrorInfo {
        at_ms: NOW - 1_500,
        kind: ErrorKind::Connection,
        message: "cannot connect to db1.example.org:5432: connection refused".into(),
        advice: "start the primary; the daemon connects by itself".into(),
        transaction: None,
        table: None,
        key: None,
        database_code: None,
        directive: Directive::Retry,
        attempts: 14,
        past: false,
    });
    status.log.ingest_state = IngestState::Paused;
    status.log.ingest_reason =
        Some("512.0 MiB are free in /var/lib/repl-daemon, min_free_disk is 1 GiB".into());
    for replica in &mut status.replicas {
        replica.activity = Activity::Idle;
        (
            replica.queue_transactions,
            replica.queue_bytes,
            replica.lag_ms,
        ) = (0, 0, Some(0));
        (replica.tx_per_s, replica.rows_per_s) = (0.0, 0.0);
    }
    status.replicas[1].activity = Activity::Retrying;
    status.replicas[1].lag_ms = Some(45_000);
    status.alerts = vec!["the primary has not been heard for 1m 30s".into()];
    status
}
