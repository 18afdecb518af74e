//! Starts everything in order and stops it in reverse.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use repl_connectors::seam::{CaptureBoard, CaptureLimits, CapturePort, SnapshotSource};
use repl_core::backoff::BackoffPolicy;
use repl_core::log::disk::HostDisk;
use repl_core::log::file::{FileLog, FileLogOptions, Opened};
use repl_core::log::{Durable, EventLog, TxWriter, Visibility};
use repl_core::position::LogId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::admin::audit::AuditLog;
use crate::admin::{AdminConfig, AdminServer};
use crate::capture_task::{CaptureErrors, CaptureTask};
use crate::config::Config;
use crate::control::GroupControl;
use crate::flusher::Flusher;
use crate::follow::Follow;
use crate::ingest::Ingest;
use crate::mode::{Keeper, Modes, Waiting};
use crate::rates::Meter;
use crate::replica::Replica;
use crate::retention::Retention;
use crate::state::StateFile;
use crate::status::Group;
use crate::validate::{Member, Record, Shared, Validator};
use crate::wiring;
use crate::worker::copy::pace::Others;
use crate::worker::{Worker, WorkerParts};

/// Runs the group until `shutdown` completes.
///
/// # Errors
/// When it cannot start (the log is in use or damaged, the socket is taken) or cannot go on (an
/// fsync failed).
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("configuration: {warning}");
    }
    let log = open_log(&config)?;
    let state = Arc::new(StateFile::open(&config.log.dir, &config.group.name)?);
    let host = Host::start(config, log, state).await?;
    host.announce_ready();
    tokio::select! {
        () = shutdown => info!("stopping"),
        () = host.fatal() => {}
    }
    host.stop().await
}

fn open_log(config: &Config) -> anyhow::Result<Arc<dyn EventLog>> {
    let dir = &config.log.dir;
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot create the log directory {}", dir.display()))?;
    let options = FileLogOptions {
        segment_bytes: config.log.segment_size,
        tail_bytes: config.log.memory_tail,
        new_id: LogId(uuid::Uuid::new_v4()),
        created_us: clock_us(),
        ..FileLogOptions::default()
    };
    let Opened {
        log,
        created,
        cut_bytes,
    } = FileLog::open(dir, options, Arc::new(HostDisk)).context("cannot open the event log")?;
    let bounds = log.bounds();
    info!(
        log = %log.id(),
        created,
        first = bounds.first_seq.0,
        last = bounds.durable.seq.0,
        bytes = bounds.bytes,
        "event log open"
    );
    if cut_bytes > 0 {
        info!(
            cut_bytes,
            "unfinished end of the log cut off; the primary sends it again"
        );
    }
    Ok(log)
}

fn clock_us() -> i64 {
    crate::clock::now_ms() as i64 * 1000
}

struct Host {
    tasks: JoinSet<()>,
    workers: JoinSet<()>,
    flusher: Flusher,
    stop: watch::Sender<bool>,
    stop_capture: watch::Sender<bool>,
    broken: Arc<Mutex<Option<String>>>,
    broke: Arc<tokio::sync::Notify>,
    admin: watch::Sender<bool>,
}

impl Host {
    async fn start(
        config: Config,
        log: Arc<dyn EventLog>,
        state: Arc<StateFile>,
    ) -> anyhow::Result<Host> {
        let stop = watch::Sender::new(false);
        let stop_capture = watch::Sender::new(false);
        let admin_stop = watch::Sender::new(false);
        let durable = watch_durable(log.as_ref());
        let ingest = Arc::new(Ingest::new(
            config.log.dir.clone(),
            config.log.min_free_disk,
        ));
        ingest.check();
        let broken = Arc::new(Mutex::new(None));
        let broke = Arc::new(tokio::sync::Notify::new());

        // The socket is bound first: a second daemon is refused before anything is touched.
        let mut admin_config = AdminConfig::new(&config.api.socket, &config.log.dir);
        admin_config.socket_mode = config.api.socket_mode;
        admin_config.socket_group = config.api.socket_group.clone();
        let admin = AdminServer::bind(admin_config)
            .await
            .context("cannot serve the admin API")?;

        let replicas: Vec<Arc<Replica>> = config
            .replicas
            .iter()
            .map(|node| Arc::new(Replica::new(node.clone(), Arc::clone(&state))))
            .collect();
        let logged = log.bounds().durable.seq;
        let modes = Modes::start(&config, &replicas, &state, logged)?;
        let released = Arc::clone(&modes);
        log.on_durable(Box::new(move |durable| released.logged(durable.seq)));
        let verified = Arc::new(Record::open(&config.log.dir, &config.group.name)?);
        let group = Arc::new(Group {
            log: Arc::clone(&log),
            board: Arc::new(CaptureBoard::default()),
            capture_errors: Arc::new(CaptureErrors::default()),
            capture_meter: Arc::new(Mutex::new(Meter::default())),
            replicas,
            modes,
            pins: Arc::default(),
            verified,
            ingest: Arc::clone(&ingest),
            started_ms: crate::clock::now_ms(),
            config,
        });
        let flusher = Flusher::start(Arc::clone(&log), Arc::clone(&ingest), {
            let (broken, broke) = (Arc::clone(&broken), Arc::clone(&broke));
            move |why| {
                *broken
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(why);
                broke.notify_one();
            }
        })
        .context("cannot start the log's thread")?;

        let mut parts = Parts {
            group,
            durable,
            stop: stop.subscribe(),
            tasks: JoinSet::new(),
        };
        let source = parts.start_capture(&stop_capture)?;
        // Replicas that follow what is only appended do not wait for the disk.
        let awaited = source.follow.visibility() == Visibility::Durable;
        parts.group.modes.hurries(flusher.awaited(), awaited);
        let control = GroupControl::new(
            Arc::clone(&parts.group),
            source.uninstall,
            stop_capture.clone(),
            parts.validator(&source.snapshots)?,
            parts.waiting(&source.snapshots),
        );
        control
            .validator()
            .start_background(&parts.group.config.validate)?;
        parts.serve(admin, control, admin_stop.subscribe());
        let workers = parts.start_workers(&source.snapshots, &source.follow)?;
        Ok(Host {
            tasks: parts.tasks,
            workers,
            flusher,
            stop,
            stop_capture,
            broken,
            broke,
            admin: admin_stop,
        })
    }

    fn announce_ready(&self) {
        info!("ready");
        // Only systemd listens; elsewhere there is no socket to tell.
        if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
            warn!(%error, "cannot notify the service manager");
        }
    }

    /// Completes when the log cannot go on.
    async fn fatal(&self) {
        self.broke.notified().await;
    }

    /// Stops workers and capture, then makes the rest of the log durable, then the API.
    async fn stop(mut self) -> anyhow::Result<()> {
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        self.stop_capture.send_replace(true);
        self.stop.send_replace(true);
        let until = tokio::time::Instant::now() + STOP_WAIT;
        end(&mut self.workers, "worker", until).await?;
        let flusher = self.flusher;
        tokio::task::spawn_blocking(move || flusher.stop()).await?;
        self.admin.send_replace(true);
        end(&mut self.tasks, "task", until).await?;
        if let Some(why) = self
            .broken
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
        {
            bail!("stopped because {why}");
        }
        info!("stopped");
        Ok(())
    }
}

/// How long all tasks together may take to stop by themselves. One that waits for a dead server is then cut off,
/// which is no worse than a crash: the log and the replicas' checkpoints decide what was done.
const STOP_WAIT: Duration = Duration::from_secs(5);

async fn end(
    tasks: &mut JoinSet<()>,
    what: &str,
    until: tokio::time::Instant,
) -> anyhow::Result<()> {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.with_context(|| format!("a {what} of the daemon panicked"))?;
        }
        Ok(())
    };
    match tokio::time::timeout_at(until, all).await {
        Ok(result) => result,
        Err(_) => {
            info!(
                left = tasks.len(),
                "cutting off {what}s that wait for a server"
            );
            tasks.shutdown().await;
            Ok(())
        }
    }
}

/// Bridges the log's listener to the tasks.
fn watch_durable(log: &dyn EventLog) -> watch::Receiver<Durable> {
    let (sender, receiver) = watch::channel(log.bounds().durable);
    log.on_durable(Box::new(move |durable| {
        sender.send_replace(durable.clone());
    }));
    receiver
}

/// What the running capture gives to the others.
struct Source {
    snapshots: Arc<dyn SnapshotSource>,
    uninstall: mpsc::Sender<crate::capture_task::Uninstall>,
    follow: Follow,
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
    fn start_capture(&mut self, stop_capture: &watch::Sender<bool>) -> anyhow::Result<Source> {
        let group = &self.group;
        let config = &group.config;
        let (requests, snapshots) = mpsc::channel(1);
        let source = wiring::source(config, requests)?;
        let visibility = if source.capture.repeats_exactly() {
            Visibility::Appended
        } else {
            Visibility::Durable
        };
        let port = CapturePort {
            writer: TxWriter::new(Arc::clone(&group.log)).context("cannot write the event log")?,
            durable: self.durable.clone(),
            released: group.modes.released(),
            selection: wiring::selection(&config.tables, config.engine())?,
            limits: CaptureLimits {
                pending_bytes: config.limits.pending_bytes,
                max_row_bytes: config.limits.max_row_bytes,
                heartbeat_interval: config.capture.heartbeat_interval,
                table_refresh_interval: config.capture.table_refresh_interval,
                idle_timeout: config.capture.idle_timeout,
                poll_interval_max: config.capture.poll_interval_max,
            },
            board: Arc::clone(&group.board),
            shutdown: stop_capture.subscribe(),
            ingest_allowed: group.ingest.allowed(),
            snapshots,
        };
        let (uninstall_sender, uninstall) = mpsc::channel(1);
        let task = CaptureTask {
            capture: source.capture,
            port,
            retry: self.retry(),
            replicas: group.replicas.clone(),
            errors: Arc::clone(&group.capture_errors),
            uninstall,
            interrupt: stop_capture.clone(),
            shutdown: self.stop.clone(),
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
            shutdown: self.stop.clone(),
        };
        let keeper = Keeper {
            modes: Arc::clone(&group.modes),
            gate: source.gate,
            board: Arc::clone(&group.board),
            shutdown: self.stop.clone(),
        };
        self.tasks.spawn(task.run());
        self.tasks.spawn(retention.run());
        self.tasks.spawn(keeper.run());
        Ok(Source {
            snapshots: source.snapshots,
            uninstall: uninstall_sender,
            follow: Follow::new(group.log.as_ref(), visibility),
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
            members: group
                .replicas
                .iter()
                .map(member)
                .collect::<Result<_, _>>()?,
            tables: group.board.tables(),
            default_schema: wiring::default_schema(config.engine()).to_owned(),
            verified: Arc::clone(&group.verified),
            stop: self.stop.clone(),
        }))
    }

    fn serve(
        &mut self,
        admin: AdminServer,
        control: GroupControl,
        mut stop: watch::Receiver<bool>,
    ) {
        let control = Arc::new(control);
        self.tasks.spawn(async move {
            let stopped = async move {
                // An error means the host is gone, which is a stop as well.
                let _ = stop.wait_for(|stop| *stop).await;
            };
            admin.serve(control, stopped).await;
        });
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
        let mut workers = JoinSet::new();
        for replica in self
            .group
            .replicas
            .iter()
            .filter(|replica| replica.node.enabled)
        {
            let worker = Worker::new(WorkerParts {
                replica: Arc::clone(replica),
                applier: wiring::applier(config, &replica.node),
                log: Arc::clone(&self.group.log),
                durable: self.durable.clone(),
                follow: follow.clone(),
                snapshots: Arc::clone(snapshots),
                tables: self.group.board.tables(),
                routing: wiring::routing(config, &replica.node)?,
                conversion: wiring::conversion(config, &replica.node)?,
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
}
