//! Starts everything in order and stops it in reverse.

mod admit;
mod generation;
mod lasting;
mod promote;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use repl_core::log::disk::HostDisk;
use repl_core::log::file::{FileLog, FileLogOptions, Opened};
use repl_core::log::{Durable, EventLog, Visibility};
use repl_core::position::{LogId, Seq};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use self::generation::Generation;
use crate::admin::roles::RoleServer;
use crate::admin::{AdminConfig, AdminServer};
use crate::config::Config;
use crate::control::GroupControl;
use crate::flusher::Flusher;
use crate::follow::Follow;
use crate::ingest::Ingest;
use crate::mode::Modes;
use crate::promotion::Order;
use crate::promotion::lastseen::LastSeen;
use crate::promotion::record::History;
use crate::roles;
use crate::state::StateFile;
use crate::validate::Record;
use crate::{handles, private};

/// Runs the group until `shutdown` completes.
///
/// # Errors
/// When it cannot start (the log is in use or damaged, the socket is taken) or cannot go on (an
/// fsync failed).
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("configuration: {warning}");
    }
    handles::raise_limit();
    let log = open_log(&config)?;
    let (dir, group) = (&config.log.dir, &config.group.name);
    let promotions = Arc::new(History::open(dir, group, lasting::promoted(log.as_ref()))?);
    let past = lasting::past(&config, log.as_ref(), &promotions);
    let state = Arc::new(StateFile::open(dir, group, &past)?);
    if let Some(lost) = state.lost() {
        error!("{}", lost.alert());
    }
    let mut host = Host::start(config, log, state, promotions).await?;
    host.announce_ready();
    tokio::pin!(shutdown);
    let ended = tokio::select! {
        () = &mut shutdown => {
            info!("stopping");
            Ok(())
        }
        ended = host.run() => ended,
    };
    host.stop().await?;
    ended
}

fn open_log(config: &Config) -> anyhow::Result<Arc<dyn EventLog>> {
    let dir = &config.log.dir;
    private::prepare(dir, &config.api)?;
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

/// What stays when roles change.
pub(crate) struct Fixed {
    /// As it was read: with the first roles.
    pub(crate) config: Config,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) state: Arc<StateFile>,
    pub(crate) promotions: Arc<History>,
    seen: Arc<LastSeen>,
    /// Orders to change the primary.
    orders: mpsc::Sender<Order>,
    durable: watch::Receiver<Durable>,
    flusher: Flusher,
    ingest: Arc<Ingest>,
    verified: Arc<Record>,
    started_ms: u64,
    /// The log's listeners are for ever, what they tell is not.
    modes: Arc<RwLock<Weak<Modes>>>,
    follows: [OnceLock<Follow>; 2],
}

impl Fixed {
    /// Has the log tell these modes of its durable end, and no others.
    fn steer(&self, modes: &Arc<Modes>) {
        *self.modes.write().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(modes);
        // Nothing that came in between is missed.
        modes.logged(self.log.bounds().durable.seq);
    }

    /// How workers follow the log with this visibility.
    fn follow(&self, visibility: Visibility) -> Follow {
        let at = usize::from(visibility == Visibility::Appended);
        let new = || Follow::new(self.log.as_ref(), visibility);
        self.follows[at].get_or_init(new).clone()
    }
}

struct Host {
    fixed: Fixed,
    /// None only while roles change.
    generation: Option<Generation>,
    control: Arc<GroupControl>,
    orders: mpsc::Receiver<Order>,
    tasks: JoinSet<()>,
    broken: Arc<Mutex<Option<String>>>,
    broke: Arc<tokio::sync::Notify>,
    admin: watch::Sender<bool>,
}

impl Host {
    async fn start(
        config: Config,
        log: Arc<dyn EventLog>,
        state: Arc<StateFile>,
        promotions: Arc<History>,
    ) -> anyhow::Result<Host> {
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
        let roles = match config.api.listen {
            Some(address) => Some(RoleServer::bind(address).await?),
            None => None,
        };

        let modes: Arc<RwLock<Weak<Modes>>> = Arc::default();
        let steered = Arc::clone(&modes);
        log.on_durable(Box::new(move |durable| {
            let modes = steered.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(modes) = modes.upgrade() {
                modes.logged(durable.seq);
            }
        }));
        let flusher = Flusher::start(Arc::clone(&log), Arc::clone(&ingest), {
            let (broken, broke) = (Arc::clone(&broken), Arc::clone(&broke));
            move |why| {
                *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                broke.notify_one();
            }
        })
        .context("cannot start the log's thread")?;
        // One at a time: a second order of the operator is refused, not queued.
        let (orders, ordered) = mpsc::channel(1);
        let fixed = Fixed {
            orders: orders.clone(),
            promotions,
            seen: Arc::new(LastSeen::open(
                &config.log.dir,
                &config.group.name,
                log.bounds().durable.seq > Seq(0),
            )?),
            verified: Arc::new(Record::open(
                &config.log.dir,
                &config.group.name,
                state.validated(),
            )?),
            config,
            log,
            state,
            durable,
            flusher,
            ingest,
            started_ms: crate::clock::now_ms(),
            modes,
            follows: [OnceLock::new(), OnceLock::new()],
        };
        fixed.resume()?;
        let present = roles::present(&fixed.config, fixed.log.as_ref());
        if present.primary.name != fixed.config.primary.name {
            info!(
                primary = present.primary.name,
                configured = fixed.config.primary.name,
                "another node than the configuration's first primary is the primary since a promotion"
            );
        }
        let generation = Generation::start(&fixed, present)?;
        let control = GroupControl::new(Arc::clone(&generation.running), orders);
        let control = Arc::new(control);
        let mut host = Host {
            fixed,
            generation: Some(generation),
            control,
            orders: ordered,
            tasks: JoinSet::new(),
            broken,
            broke,
            admin: admin_stop,
        };
        host.serve(admin, roles);
        Ok(host)
    }

    fn serve(&mut self, admin: AdminServer, roles: Option<RoleServer>) {
        let stopped = |mut stop: watch::Receiver<bool>| async move {
            // An error means the host is gone, which is a stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let (control, stop) = (Arc::clone(&self.control), self.admin.subscribe());
        self.tasks.spawn(async move {
            admin.serve(control, stopped(stop)).await;
        });
        if let Some(roles) = roles {
            let (control, stop) = (Arc::clone(&self.control), self.admin.subscribe());
            self.tasks.spawn(async move {
                roles.serve(control, stopped(stop)).await;
            });
        }
    }

    fn announce_ready(&self) {
        info!("ready");
        // Only systemd listens; elsewhere there is no socket to tell.
        if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
            warn!(%error, "cannot notify the service manager");
        }
    }

    /// Changes roles as ordered, until the log cannot go on.
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let pending = self.fixed.state.promotion().is_some();
            let broke = Arc::clone(&self.broke);
            tokio::select! {
                () = broke.notified() => return Ok(()),
                what = panicked(&mut self.generation) => bail!("a task of the daemon failed: {what}"),
                order = self.orders.recv() => {
                    if let Some(order) = order {
                        self.begin_promotion(order).await?;
                    }
                }
                () = tokio::time::sleep(PROMOTION_RETRY), if pending => self.advance().await?,
            }
        }
    }

    /// Stops workers and capture, then makes the rest of the log durable, then the API.
    async fn stop(mut self) -> anyhow::Result<()> {
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        if let Some(generation) = self.generation.take() {
            generation.stop().await?;
        }
        let flusher = self.fixed.flusher;
        tokio::task::spawn_blocking(move || flusher.stop()).await?;
        self.admin.send_replace(true);
        let until = tokio::time::Instant::now() + API_STOP_WAIT;
        end(&mut self.tasks, "task", until).await?;
        if let Some(why) = self
            .broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            bail!("stopped because {why}");
        }
        info!("stopped");
        Ok(())
    }
}

async fn panicked(generation: &mut Option<Generation>) -> String {
    match generation {
        Some(generation) => generation.panicked().await,
        None => std::future::pending().await,
    }
}

/// How soon what a promotion could not do is tried again.
const PROMOTION_RETRY: Duration = Duration::from_secs(1);

/// How long requests under way may take to end.
const API_STOP_WAIT: Duration = Duration::from_secs(5);

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
