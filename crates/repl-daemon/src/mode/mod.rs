//! What commits on the primary wait for: carries out the rule of [`repl_core::mode`].
//!
//! A worker that has committed durably, and the log's thread when it has fsynced, call into [`Modes`]
//! themselves, and from there the capture is woken, which acknowledges: no other thread and no timer
//! lies on the way of a commit. What may take its time is the [`keeper`]'s: timeouts, who counts, and
//! the primary's own settings.

mod keeper;
mod order;
mod view;
mod wait;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use repl_connectors::seam::{GateReport, Released};
use repl_core::Seq;
use repl_core::mode::{Member, Mode, OnTimeout, Phase, Rule, Settings};
use tokio::sync::watch;
use tracing::{info, warn};

pub use keeper::Keeper;
pub use order::Refusal;
pub use wait::Waiting;

use crate::config::Config;
use crate::replica::Replica;
use crate::state::{ModeOrder, StateFile};

/// The mode of one group.
pub struct Modes {
    rule: Mutex<Rule>,
    /// The rule's time counts from here.
    start: Instant,
    started_ms: u64,
    released: watch::Sender<Released>,
    /// Counts what may need the keeper: another phase, another mode.
    changes: watch::Sender<u64>,
    /// The replicas that may count, in the rule's order.
    roster: Vec<Arc<Replica>>,
    gate: Mutex<Gate>,
    /// Whether the log's fsync is awaited, and whether it is in every mode.
    fsync: OnceLock<(Arc<AtomicBool>, bool)>,
    /// The end of the log is waited for, whatever the mode.
    hastened: AtomicBool,
    /// Commits that wait go on doing so, whatever the mode: see [`StateFile::keeps_gate`].
    kept: AtomicBool,
    /// Commits of the primary may wait for the daemon, as far as is known: it was not found that none does.
    named: AtomicBool,
    config: Config,
    state: Arc<StateFile>,
}

/// What is known of the primary's side.
#[derive(Clone, Default)]
struct Gate {
    /// Its commits wait by themselves.
    exists: bool,
    report: GateReport,
    /// It was found closed twice in a row: a server may take a moment to act on its settings.
    closed: bool,
    /// Why it cannot be looked at.
    error: Option<String>,
}

impl Modes {
    /// The mode in force at the start: the configuration's, or the one ordered since.
    ///
    /// # Errors
    /// When the state of a replica that counts no more cannot be written.
    pub fn start(
        config: &Config,
        replicas: &[Arc<Replica>],
        state: &Arc<StateFile>,
        logged: Seq,
    ) -> anyhow::Result<Arc<Modes>> {
        let configured = config.replication.settings;
        let ordered = state.mode().filter(|order| order.configured == configured);
        let settings = ordered.map_or(configured, |order| order.settings);
        let may_count = |replica: &&Arc<Replica>| replica.node.enabled && replica.node.counts;
        for replica in replicas.iter().filter(|replica| !may_count(replica)) {
            if replica.counted() {
                replica.change(|record| record.counted = false)?;
            }
        }
        let roster: Vec<Arc<Replica>> = replicas.iter().filter(may_count).cloned().collect();
        let members = roster.iter().map(member).collect();
        let rule = Rule::new(settings, members, logged, Duration::ZERO);
        let modes = Arc::new(Modes {
            released: watch::Sender::new(Released::default()),
            rule: Mutex::new(rule),
            start: Instant::now(),
            started_ms: crate::clock::now_ms(),
            changes: watch::Sender::new(0),
            roster,
            gate: Mutex::default(),
            fsync: OnceLock::new(),
            hastened: AtomicBool::new(false),
            kept: AtomicBool::new(state.keeps_gate()),
            named: AtomicBool::new(true),
            config: config.clone(),
            state: Arc::clone(state),
        });
        for (index, replica) in modes.roster.iter().enumerate() {
            let listening = Arc::downgrade(&modes);
            replica.on_change(Box::new(move |replica| {
                if let Some(modes) = listening.upgrade() {
                    modes.changed(index, replica);
                }
            }));
        }
        modes.follow_settings();
        modes.with(|_, _| {});
        Ok(modes)
    }

    /// How far the rule is met.
    pub fn released(&self) -> watch::Receiver<Released> {
        self.released.subscribe()
    }

    /// The log's durable end moved.
    pub fn logged(&self, end: Seq) {
        self.with(|rule, now| rule.logged(end, now));
    }

    /// What was asked for.
    pub fn settings(&self) -> Settings {
        *self.lock().settings()
    }

    fn changed(&self, index: usize, replica: &Replica) {
        self.with(|rule, now| {
            // Asked under the rule's lock: of two threads with news the later one would otherwise
            // tell the rule what was true before.
            rule.counts(index, replica.counted(), now);
            rule.durable(index, replica.durable(), now);
        });
    }

    /// Takes a step of the rule and lets what follows from it be known.
    fn with<T>(&self, step: impl FnOnce(&mut Rule, Duration) -> T) -> T {
        let mut rule = self.lock();
        let before = rule.phase().clone();
        let result = step(&mut rule, self.start.elapsed());
        // What nobody waits for is not kept at the primary until replicas have it.
        let strict = matches!(rule.phase(), Phase::Enabling | Phase::InForce);
        let named = self.named.load(Ordering::Acquire);
        let released = Released {
            withheld: strict && named && rule.settings().counts_replicas(),
            seq: rule.released(),
            waited: rule.settings().mode != Mode::Async
                || self.hastened.load(Ordering::Acquire)
                || self.kept.load(Ordering::Acquire),
            grouped: *rule.phase() == Phase::InForce && rule.settings().counts_replicas(),
        };
        // Still under the lock: a later step must not be overtaken by this one.
        self.released.send_if_modified(|now| {
            let changed = *now != released;
            *now = released;
            changed
        });
        if *rule.phase() != before {
            report_phase(&rule);
            self.changes.send_modify(|count| *count += 1);
        }
        result
    }

    /// Has the log's thread told by `awaited` whether somebody waits for its fsyncs: the primary's
    /// commits, or with `always` the replicas.
    pub fn hurries(&self, awaited: Arc<AtomicBool>, always: bool) {
        // Set once, by the host.
        let _ = self.fsync.set((awaited, always));
        self.follow_settings();
    }

    /// Has the capture, the log and `replica` bring to an end what is on its way, durably and without
    /// gathering, as if commits waited for them; or no longer.
    pub fn hasten(&self, replica: &Replica, on: bool) {
        self.hastened.store(on, Ordering::Release);
        self.follow_settings();
        if on {
            replica.waited.store(true, Ordering::Relaxed);
        }
        self.with(|_, _| {});
    }

    /// Whether each commit of the primary is promised to be on replicas, or is about to be.
    pub fn promises(&self) -> bool {
        let rule = self.lock();
        rule.settings().mode != Mode::Async && !matches!(rule.phase(), Phase::Degraded(_))
    }

    /// Whether commits wait as long as it takes, rather than being let go without replicas.
    pub fn never_gives_up(&self) -> bool {
        let settings = self.settings();
        settings.mode != Mode::Async && settings.on_timeout == OnTimeout::Block
    }

    /// Has the replicas that are waited for commit accordingly, and the log fsync at once.
    fn follow_settings(&self) {
        if let Some((awaited, always)) = self.fsync.get() {
            let hastened = self.hastened.load(Ordering::Acquire);
            let waits = self.settings().mode != Mode::Async || hastened;
            awaited.store(*always || waits, Ordering::Release);
        }
        let waited = self.settings().counts_replicas();
        for replica in &self.roster {
            replica.waited.store(waited, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the Unix epoch of an instant of the rule.
    fn at_ms(&self, instant: Duration) -> u64 {
        self.started_ms + instant.as_millis() as u64
    }

    /// Remembers an order of the operator and follows it.
    fn remember(&self, settings: Settings) -> anyhow::Result<()> {
        self.state.order_mode(ModeOrder {
            settings,
            configured: self.config.replication.settings,
        })?;
        self.kept.store(false, Ordering::Release);
        self.with(|rule, now| rule.order(settings, now));
        self.follow_settings();
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }
}

/// Frees the commits of the primary without a running daemon; says what that gives up.
///
/// # Errors
/// When the primary has no such commits, cannot be reached or refuses.
pub async fn release_offline(config: &Config) -> anyhow::Result<String> {
    let (requests, _unused) = tokio::sync::mpsc::channel(1);
    let gate = crate::wiring::source(config, requests)?.gate;
    let mut gate = gate.context("no commit of this engine waits for the daemon")?;
    let done = gate.release().await.map_err(|error| {
        let advice = if error.advice.is_empty() {
            String::new()
        } else {
            format!("\n    fix: {}", error.advice)
        };
        anyhow::anyhow!("{}{advice}", error.message)
    })?;
    Ok(format!(
        "{done}\nFrom now on commits return without being on any replica. The daemon takes its place \
         again when it is started with a mode other than async and the replicas have caught up."
    ))
}

fn member(replica: &Arc<Replica>) -> Member {
    Member {
        name: replica.node.name.clone(),
        priority: replica.node.priority,
        counted: replica.counted(),
        durable: None,
    }
}

fn report_phase(rule: &Rule) {
    let mode = rule.settings().to_string();
    match rule.phase() {
        Phase::Off => info!("commits of the primary wait for nothing"),
        Phase::Enabling => info!(mode, "the mode is being enabled"),
        Phase::InForce => info!(mode, "the mode is in force"),
        Phase::Degraded(degraded) => warn!(
            mode,
            why = degraded.why,
            "degraded: commits of the primary wait for the event log only"
        ),
    }
}
