//! What runs while the roles of the nodes stay as they are: capture, workers, and all that depends on
//! who is the primary. A change of roles ends it and starts another.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use repl_connectors::seam::{CaptureBoard, CaptureLimits, CapturePort, SnapshotSource};
use repl_connectors::told::ToldSnapshots;
use repl_core::backoff::BackoffPolicy;
use repl_core::deposed::AutoRejoin;
use repl_core::log::{Durable, TxWriter, Visibility};
use repl_core::select::Routing;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::{Fixed, end};
use crate::admin::audit::AuditLog;
use crate::capture_task::{CaptureErrors, CaptureTask};
use crate::config::Config;
use crate::control::Running;
use crate::coverage;
use crate::failover::Failover;
use crate::follow::Follow;
use crate::guard::Guard;
use crate::mode::{Keeper, Modes, Waiting};
use crate::promotion::lastseen::Sampler;
use crate::promotion::{Present, stays_closed};
use crate::rates::Meter;
use crate::replica::Replica;
use crate::retention::Retention;
use crate::status::Group;
use crate::validate::{Member, Shared, Validator};
use crate::wiring;
use crate::worker::copy::pace::Others;
use crate::worker::protect::Protection;
use crate::worker::{Worker, WorkerParts};

/// How long all tasks together may take to stop by themselves. One that waits for a dead server is then cut off,
/// which is no worse than a crash: the log and the replicas' checkpoints decide what was done.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// How long the capture may take to end when its primary is given up.
const CAPTURE_STOP_WAIT: Duration = Duration::from_millis(200);

/// The running tasks, with the roles in `config`.
pub(super) struct Generation {
    pub(super) present: Present,
    pub(super) running: Arc<Running>,
    tasks: JoinSet<()>,
    workers: JoinSet<()>,
    stop: watch::Sender<bool>,
    stop_capture: watch::Sender<bool>,
    /// Ends the capture for good.
    capture: watch::Sender<bool>,
    capturing: AbortHandle,
}

impl Generation {
    /// Starts everything with the roles in `config`.
    pub(super) fn start(fixed: &Fixed, config: Config) -> anyhow::Result<Generation> {
        let stop = watch::Sender::new(false);
        let stop_capture = watch::Sender::new(false);
        let capture = watch::Sender::new(false);
        let replicas: Vec<Arc<Replica>> = config
            .replicas
            .iter()
            .map(|node| Arc::new(Replica::new(node.clone(), Arc::clone(&fixed.state))))
            .collect();
        let logged = fixed.log.bounds().durable.seq;
        let modes = Modes::start(&config, &replicas, &fixed.state, logged)?;
        fixed.steer(&modes);
        let group = Arc::new(Group {
            log: Arc::clone(&fixed.log),
            state: Arc::clone(&fixed.state),
            promotions: Arc::clone(&fixed.promotions),
            seen: Arc::clone(&fixed.seen),
            failover: Arc::default(),
            configured_primary: fixed.config.primary.name.clone(),
            board: Arc::new(board(fixed, &config, &replicas)?),
            capture_errors: Arc::new(CaptureErrors::default()),
            capture_meter: Arc::new(Mutex::new(Meter::default())),
            replicas,
            modes,
            pins: Arc::default(),
            verified: Arc::clone(&fixed.verified),
            ingest: Arc::clone(&fixed.ingest),
            oldest_commit_ms: Arc::default(),
            started_ms: fixed.started_ms,
            config,
        });
        let mut parts = Parts {
            group,
            durable: fixed.durable.clone(),
            stop: stop.subscribe(),
            tasks: JoinSet::new(),
        };
        let source = parts.start_capture(fixed, &stop_capture, capture.subscribe())?;
        // Replicas that follow what is only appended do not wait for the disk.
        let awaited = source.follow.visibility() == Visibility::Durable;
        parts.group.modes.hurries(fixed.flusher.awaited(), awaited);
        let running = Arc::new(Running {
            group: Arc::clone(&parts.group),
            uninstall: source.uninstall,
            interrupt: stop_capture.clone(),
            validator: parts.validator(&source.snapshots)?,
            waiting: parts.waiting(&source.snapshots),
        });
        running
            .validator
            .start_background(&parts.group.config.validate)?;
        let workers = parts.start_workers(&source.snapshots, &source.follow)?;
        parts.start_guards()?;
        parts.start_sampler();
        parts.start_failover(fixed);
        Ok(Generation {
            present: Present {
                group: parts.group,
                snapshots: source.snapshots,
            },
            running,
            tasks: parts.tasks,
            workers,
            stop,
            stop_capture,
            capture,
            capturing: source.task,
        })
    }

    /// Ends the capture, and nothing else: what the log holds is all that it will of this primary.
    pub(super) async fn stop_capture(&mut self) {
        self.capture.send_replace(true);
        self.stop_capture.send_replace(true);
        let until = tokio::time::Instant::now() + CAPTURE_STOP_WAIT;
        while !self.capturing.is_finished() {
            if tokio::time::Instant::now() >= until {
                // It waits for a server that does not answer.
                self.capturing.abort();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Completes when a task panics, with what it said: nobody else would notice, and status would go on
    /// showing the last it did.
    pub(super) async fn panicked(&mut self) -> String {
        loop {
            let ended = tokio::select! {
                Some(ended) = self.tasks.join_next() => ended,
                Some(ended) = self.workers.join_next() => ended,
                else => return std::future::pending().await,
            };
            if let Err(error) = ended
                && error.is_panic()
            {
                return error.to_string();
            }
        }
    }

    /// Stops the capture and the workers, then the rest.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.capture.send_replace(true);
        self.stop_capture.send_replace(true);
        self.stop.send_replace(true);
        let until = tokio::time::Instant::now() + STOP_WAIT;
        end(&mut self.workers, "worker", until).await?;
        end(&mut self.tasks, "task", until).await
    }
}

/// The board of the capture, which notes what covers the tables before anybody sees them.
fn board(
    fixed: &Fixed,
    config: &Config,
    replicas: &[Arc<Replica>],
) -> anyhow::Result<CaptureBoard> {
    let board = CaptureBoard::telling(wiring::teller(config, Arc::clone(&fixed.log))?);
    let received = |replica: &Arc<Replica>| -> anyhow::Result<(Arc<Replica>, Routing)> {
        let routing = wiring::routing(config, &replica.node)?;
        Ok((Arc::clone(replica), routing))
    };
    let replicas = replicas.iter().map(received).collect::<Result<_, _>>()?;
    let (log, state) = (Arc::clone(&fixed.log), Arc::clone(&fixed.state));
    Ok(coverage::noting(board, log, state, replicas))
}

/// What the running capture gives to the others.
struct Source {
    snapshots: Arc<dyn SnapshotSource>,
    uninstall: mpsc::Sender<crate::capture_task::Uninstall>,
    follow: Follow,
    task: AbortHandle,
}

struct Parts {
    group: Arc<Group>,
    durable: watch::Receiver<Durable>,
    stop: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Parts {
    fn retry(&self) -> BackoffPolicy {
        let retry = &self.group.config.retry;
        BackoffPolicy {
            initial: retry.initial,
            max: retry.max,
            jitter: retry.jitter,
        }
    }

    /// Starts capture and the log's housekeeping.
    fn start_capture(
        &mut self,
        fixed: &Fixed,
        stop_capture: &watch::Sender<bool>,
        shutdown: watch::Receiver<bool>,
    ) -> anyhow::Result<Source> {
        let group = &self.group;
        let config = &group.config;
        let (requests, snapshots) = mpsc::channel(1);
        let source = wiring::source(config, requests)?;
        let teller = wiring::teller(config, Arc::clone(&group.log))?;
        let visibility = if source.capture.repeats_exactly() {
            Visibility::Appended
        } else {
            Visibility::Durable
        };
        let port = CapturePort {
            writer: TxWriter::new(Arc::clone(&group.log))
                .context("cannot write the event log")?
                .telling(teller.telling.clone()),
            durable: self.durable.clone(),
            released: group.modes.released(),
            selection: wiring::selection(config, &config.primary)?,
            limits: CaptureLimits {
                pending_bytes: config.limits.pending_bytes,
                max_row_bytes: config.limits.max_row_bytes,
                heartbeat_interval: config.capture.heartbeat_interval,
                table_refresh_interval: config.capture.table_refresh_interval,
                idle_timeout: config.capture.idle_timeout,
                poll_interval_max: config.capture.poll_interval_max,
            },
            board: Arc::clone(&group.board),
            demand: fixed.follow(visibility).demand(),
            shutdown: stop_capture.subscribe(),
            ingest_allowed: group.ingest.allowed(),
            snapshots,
        };
        let (uninstall_sender, uninstall) = mpsc::channel(1);
        let task = CaptureTask {
            primary: group.config.primary.name.clone(),
            capture: source.capture,
            port,
            retry: self.retry(),
            replicas: group.replicas.clone(),
            errors: Arc::clone(&group.capture_errors),
            uninstall,
            interrupt: stop_capture.clone(),
            shutdown,
        };
        let retention = Retention {
            log: Arc::clone(&group.log),
            durable: self.durable.clone(),
            pins: Arc::clone(&group.pins),
            replicas: group.replicas.clone(),
            limits: config.log.clone(),
            ingest: Arc::clone(&group.ingest),
            board: Arc::clone(&group.board),
            capture_meter: Arc::clone(&group.capture_meter),
            oldest_commit_ms: Arc::clone(&group.oldest_commit_ms),
            started: Instant::now(),
            shutdown: self.stop.clone(),
        };
        let keeper = Keeper {
            modes: Arc::clone(&group.modes),
            gate: source.gate,
            board: Arc::clone(&group.board),
            shutdown: self.stop.clone(),
        };
        let task = self.tasks.spawn(task.run());
        self.tasks.spawn(retention.run());
        self.tasks.spawn(keeper.run());
        Ok(Source {
            snapshots: Arc::new(ToldSnapshots::new(source.snapshots, teller)),
            uninstall: uninstall_sender,
            follow: fixed.follow(visibility),
            task,
        })
    }

    /// What clients that wait are answered from.
    fn waiting(&self, snapshots: &Arc<dyn SnapshotSource>) -> Waiting {
        Waiting {
            modes: Arc::clone(&self.group.modes),
            replicas: self.group.replicas.clone(),
            durable: self.durable.clone(),
            source: Arc::clone(snapshots),
        }
    }

    /// What compares the replicas with the primary.
    fn validator(&self, snapshots: &Arc<dyn SnapshotSource>) -> anyhow::Result<Validator> {
        let (group, config) = (&self.group, &self.group.config);
        let member = |replica: &Arc<Replica>| -> anyhow::Result<Member> {
            Ok(Member {
                replica: Arc::clone(replica),
                contents: wiring::contents(config, &replica.node),
                routing: wiring::routing(config, &replica.node)?,
                conversion: wiring::conversion(config, &replica.node)?,
            })
        };
        Ok(Validator::new(Shared {
            log: Arc::clone(&group.log),
            durable: self.durable.clone(),
            snapshots: Arc::clone(snapshots),
            pins: Arc::clone(&group.pins),
            board: Arc::clone(&group.board),
            capture_errors: Arc::clone(&group.capture_errors),
            members: group
                .replicas
                .iter()
                .map(member)
                .collect::<Result<_, _>>()?,
            tables: group.board.tables(),
            default_schema: wiring::default_schema(config.home).to_owned(),
            verified: Arc::clone(&group.verified),
            stop: self.stop.clone(),
        }))
    }

    /// Whom a copy into `replica` may burden.
    fn others(&self, replica: &Arc<Replica>) -> Others {
        let enabled = self.group.replicas.iter().filter(|r| r.node.enabled);
        Others {
            replicas: enabled
                .filter(|other| !Arc::ptr_eq(other, replica))
                .cloned()
                .collect(),
            board: Arc::clone(&self.group.board),
        }
    }

    fn start_workers(
        &self,
        snapshots: &Arc<dyn SnapshotSource>,
        follow: &Follow,
    ) -> anyhow::Result<JoinSet<()>> {
        let config = &self.group.config;
        let primary = wiring::role(config, &config.primary);
        let mut workers = JoinSet::new();
        for replica in self
            .group
            .replicas
            .iter()
            .filter(|replica| replica.node.enabled)
        {
            let role = wiring::role(config, &replica.node);
            let closed = stays_closed(&replica.node, &self.group.state);
            let protection = role.clone().filter(|_| closed).map(|role| Protection {
                role,
                naming: wiring::naming(config, &replica.node),
            });
            let worker = Worker::new(WorkerParts {
                replica: Arc::clone(replica),
                protection,
                applier: wiring::applier(config, &replica.node),
                role,
                primary: primary.clone(),
                log: Arc::clone(&self.group.log),
                durable: self.durable.clone(),
                follow: follow.clone(),
                released: self.group.modes.released(),
                snapshots: Arc::clone(snapshots),
                tables: self.group.board.tables(),
                routing: wiring::routing(config, &replica.node)?,
                conversion: wiring::conversion(config, &replica.node)?,
                auto_rejoin: AutoRejoin {
                    allowed: config.promotion.auto_rejoin,
                    unacknowledged: config.failover.rejoin_unacknowledged,
                },
                log_dir: config.log.dir.clone(),
                limits: config.limits.clone(),
                copy: config.copy.clone(),
                audit: AuditLog::new(&config.log.dir),
                others: self.others(replica),
                retry: self.retry(),
                shutdown: self.stop.clone(),
            });
            workers.spawn(worker.run());
        }
        Ok(workers)
    }

    /// Remembers what will have to be known of the primary when it does not answer any more.
    fn start_sampler(&mut self) {
        let group = Arc::clone(&self.group);
        let can = |replica: &Arc<Replica>| wiring::role(&group.config, &replica.node).is_some();
        let primary = wiring::role(&group.config, &group.config.primary);
        let Some(role) = primary.filter(|_| group.replicas.iter().any(can)) else {
            return;
        };
        let sampler = Sampler {
            seen: Arc::clone(&group.seen),
            node: group.config.primary.name.clone(),
            role,
            board: Arc::clone(&group.board),
            log: Arc::clone(&group.log),
            modes: Arc::clone(&group.modes),
            state: Arc::clone(&group.state),
            shutdown: self.stop.clone(),
        };
        self.tasks.spawn(sampler.run());
    }

    /// Watches the primary, where it is to be replaced without being told to.
    fn start_failover(&mut self, fixed: &Fixed) {
        let config = &self.group.config;
        let role = wiring::role(config, &config.primary);
        let watched = config.failover.automatic && config.primary.endpoint.follows_failover();
        let Some(role) = role.filter(|_| watched) else {
            return;
        };
        let failover = Failover {
            group: Arc::clone(&self.group),
            role,
            orders: fixed.orders.clone(),
            shutdown: self.stop.clone(),
        };
        self.tasks.spawn(failover.run());
    }

    /// Sees to it that replicas which must not be written to are not.
    fn start_guards(&mut self) -> anyhow::Result<()> {
        let group = Arc::clone(&self.group);
        let guarded = |replica: &&Arc<Replica>| {
            replica.node.enabled && stays_closed(&replica.node, &group.state)
        };
        for replica in group.replicas.iter().filter(guarded) {
            let Some(role) = wiring::role(&group.config, &replica.node) else {
                continue;
            };
            let guard = Guard {
                replica: Arc::clone(replica),
                role,
                tables: group.board.tables(),
                routing: wiring::routing(&group.config, &replica.node)?,
                naming: wiring::naming(&group.config, &replica.node),
                shutdown: self.stop.clone(),
            };
            self.tasks.spawn(guard.run());
        }
        Ok(())
    }
}
