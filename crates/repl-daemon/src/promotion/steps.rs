//! What is done in each step. Every one may be repeated.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use repl_connectors::seam::{ConnectorError, Counter, SnapshotSource, WeakerCommits};
use repl_core::Seq;
use repl_core::checkpoint::Checkpoint;
use repl_core::failpoint;
use repl_core::log::{Durable, EventLog, TxWriter};
use repl_core::promotion::{Action, Handover, Promotion, Step, Undo};
use repl_core::record::{History, Inherited, Succession};
use repl_core::schema::TableName;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Parties, Party};
use crate::config::{Config, NodeConfig};
use crate::mode::Modes;
use crate::replica::Replica;
use crate::state::StateFile;
use crate::status::Group;
use crate::wiring;

/// Longest time for reading which values the columns that counters serve hold.
pub(super) const COUNTERS_WAIT: Duration = Duration::from_secs(5);

/// How long a new primary may take to make its commits wait.
const GATE_WAIT: Duration = Duration::from_secs(5);
const GATE_POLL: Duration = Duration::from_millis(20);

/// Why a step was not done.
pub struct Trouble {
    /// In the operator's words.
    pub what: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl From<ConnectorError> for Trouble {
    fn from(error: ConnectorError) -> Self {
        Trouble {
            what: error.message,
            advice: error.advice,
        }
    }
}

pub(super) fn trouble(what: impl Into<String>) -> Trouble {
    Trouble {
        what: what.into(),
        advice: String::new(),
    }
}

/// What runs while the old roles hold, and is needed until everything is drained.
#[derive(Clone)]
pub struct Present {
    /// Its parts.
    pub group: Arc<Group>,
    /// The old primary's positions.
    pub snapshots: Arc<dyn SnapshotSource>,
}

/// One promotion's way.
pub struct Course {
    /// The configuration with the old roles.
    pub(super) config: Config,
    pub(super) log: Arc<dyn EventLog>,
    state: Arc<StateFile>,
    pub(super) durable: watch::Receiver<Durable>,
    pub(super) parties: Parties,
    /// Where the old primary's sequences stood when it was last asked, where it is not asked now.
    pub(super) sampled: Vec<Counter>,
    /// Begun by [`Step::Capture`], needed by [`Step::Commit`].
    history: Option<History>,
}

impl Course {
    /// The way of `promotion`, wherever it stands; `config` has the old roles.
    ///
    /// # Errors
    /// When a node is not in the configuration any more.
    pub fn new(
        promotion: &Promotion,
        config: Config,
        log: Arc<dyn EventLog>,
        state: Arc<StateFile>,
        durable: watch::Receiver<Durable>,
    ) -> anyhow::Result<Course> {
        let find = |name: &str| -> anyhow::Result<Party> {
            let node = config.nodes().find(|node| node.name == name);
            let role = node.and_then(|node| wiring::role(&config, node));
            let gone = || {
                format!(
                    "the promotion of {} has not ended, and {name} is not in the configuration any \
                     more: put it back",
                    promotion.to
                )
            };
            Ok(Party {
                name: name.to_owned(),
                engine: node.with_context(gone)?.endpoint.engine(),
                role: role.with_context(gone)?,
            })
        };
        let parties = Parties {
            from: find(&promotion.from)?,
            to: find(&promotion.to)?,
        };
        Ok(Course {
            config,
            log,
            state,
            durable,
            parties,
            sampled: Vec::new(),
            history: None,
        })
    }

    /// Does what is next. `present` is there while the old roles hold. Returns what came of it.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn act(
        &mut self,
        promotion: &mut Promotion,
        present: Option<&Present>,
    ) -> Result<String, Trouble> {
        let action = promotion.next();
        pass(&format!("promotion.{}.begun", action.name()))?;
        let forced = promotion.cause.is_forced();
        let result = match (action, present) {
            (Action::Do(Step::Prepare), Some(present)) if forced => {
                self.stand_in(promotion, present).await
            }
            (Action::Do(Step::Fence), Some(present)) if forced => {
                self.depose(promotion, present).await
            }
            (Action::Do(Step::Drain), Some(present)) if forced => {
                self.drain_log(promotion, present).await
            }
            (Action::Do(Step::Counters), _) if forced => self.guess_counters(promotion).await,
            (Action::Undo(Undo::OpenOld), _) if forced => self.reopen(promotion).await,
            (Action::Do(Step::Prepare), Some(present)) => self.prepare(present).await,
            (Action::Do(Step::Fence), Some(present)) => self.fence(present).await,
            (Action::Do(Step::Drain), Some(present)) => self.drain(promotion, present).await,
            (Action::Do(Step::Counters), _) => self.counters(promotion).await,
            (Action::Do(Step::Capture), _) => self.capture(promotion).await,
            (Action::Do(Step::Commit), _) => self.commit(promotion).await,
            (Action::Do(Step::Open), _) => self.open().await,
            (Action::Undo(Undo::StopCapture), _) => self.stop_capture().await,
            (Action::Undo(Undo::OpenOld), _) => self.open_old().await,
            (Action::Undo(Undo::LetGo), _) => self.let_go(present).await,
            (Action::Do(Step::Retire) | Action::Over { .. }, _) => Ok(String::new()),
            (Action::Do(step), None) => Err(trouble(format!(
                "{} needs the primary's capture",
                step.name()
            ))),
        };
        if result.is_ok() && action != Action::Do(Step::Commit) {
            pass(&format!("promotion.{}.done", action.name()))?;
        }
        result
    }

    /// The new primary refuses writes before anything else: nothing else could tell what it holds.
    pub(super) async fn prepare(&self, present: &Present) -> Result<String, Trouble> {
        let target = target(&present.group, &self.parties.to.name)?;
        present.group.modes.hasten(target, true);
        let (to, patience) = (&self.parties.to.role, self.config.promotion.fence_timeout);
        let tables = present.group.primary_seen().names();
        if !to.is_closed(&tables).await? {
            to.close(&tables, false, patience).await?;
        }
        to.prepare_capture(&self.selection()?).await?;
        Ok(format!(
            "{} refuses writes, and is ready to be captured",
            self.parties.to.name
        ))
    }

    async fn fence(&self, present: &Present) -> Result<String, Trouble> {
        let tables = present.group.primary_seen().names();
        let patience = self.config.promotion.fence_timeout;
        let notes = self.parties.from.role.close(&tables, true, patience);
        let notes = noted(&notes.await?);
        Ok(format!(
            "{} refuses writes to {} tables, verified{notes}",
            self.parties.from.name,
            tables.len()
        ))
    }

    /// What the old primary committed is durable in the log and at the new primary.
    async fn drain(
        &mut self,
        promotion: &mut Promotion,
        present: &Present,
    ) -> Result<String, Trouble> {
        let until = Instant::now() + self.config.promotion.drain_timeout;
        let end = self.parties.from.role.end().await?;
        let snapshots = Arc::clone(&present.snapshots);
        let logged = self
            .durable
            .wait_for(|now| snapshots.has_reached(&now.position, &end));
        let seq = match timeout_at(until, logged).await {
            Ok(Ok(durable)) => durable.seq,
            Ok(Err(_)) => return Err(trouble("the event log's writer has stopped")),
            Err(_) => {
                return Err(trouble(format!(
                    "the log did not reach the last position of {}, {end}, within \
                     promotion.drain_timeout",
                    self.parties.from.name
                )));
            }
        };
        self.arrive(seq, present, until).await?;
        promotion.promises = present.group.modes.promises();
        promotion.handover = Some(self.handover(seq, &present.group)?);
        Ok(format!(
            "everything through transaction {seq} is on {}",
            self.parties.to.name
        ))
    }

    /// The new primary has durably applied everything through `seq`.
    pub(super) async fn arrive(
        &mut self,
        seq: Seq,
        present: &Present,
        until: Instant,
    ) -> Result<(), Trouble> {
        let target = target(&present.group, &self.parties.to.name)?;
        let mut progress = target.progress.subscribe();
        let arrived = progress.wait_for(|now| now.durable.is_some_and(|durable| durable >= seq));
        if timeout_at(until, arrived).await.is_err() {
            let name = &self.parties.to.name;
            return Err(trouble(format!(
                "{name} has not durably applied transaction {seq} within promotion.drain_timeout"
            )));
        }
        Ok(())
    }

    pub(super) fn handover(&self, seq: Seq, group: &Group) -> Result<Handover, Trouble> {
        let log = |error: repl_core::log::LogError| trouble(format!("event log: {error}"));
        let position = self.log.point(seq).map_err(log)?;
        let position = position.map(|point| point.position).unwrap_or_default();
        Ok(Handover {
            checkpoint: Checkpoint {
                log: self.log.id(),
                epoch: self.log.bounds().durable.epoch,
                seq,
                position,
            },
            tables: group.primary_seen().tables,
        })
    }

    /// From here on nothing of the old roles runs any more.
    async fn counters(&self, promotion: &Promotion) -> Result<String, Trouble> {
        self.nothing_came(promotion)?;
        let mut counters = self.parties.from.role.counters().await?;
        let to = &self.parties.to;
        let mut unread = Vec::new();
        if to.engine != self.parties.from.engine {
            // What counts here need not be what counted there: the rows tell as well.
            let (used, left) = to.role.used(COUNTERS_WAIT).await?;
            counters.extend(used);
            unread = left;
        }
        let margin = self.config.promotion.sequence_margin;
        let mut notes = to.role.advance(&counters, margin).await?;
        notes.extend(unread.iter().map(|column| unread_note(column)));
        let used = counters.iter().filter(|one| one.last.is_some()).count();
        Ok(format!(
            "{used} sequences advanced, verified{}",
            noted(&notes)
        ))
    }

    /// The log ends where it did when everything was drained.
    pub(super) fn nothing_came(&self, promotion: &Promotion) -> Result<(), Trouble> {
        let drained = handed_over(promotion)?.checkpoint.seq;
        let last = self.log.appended().seq;
        if last == drained {
            return Ok(());
        }
        Err(trouble(format!(
            "transaction {last} was captured after everything seemed drained, through {drained}"
        )))
    }

    async fn capture(&mut self, promotion: &mut Promotion) -> Result<String, Trouble> {
        let patience = self.config.promotion.drain_timeout;
        let to = &self.parties.to;
        let start = to.role.begin_capture(&self.selection()?, patience).await?;
        let handover = handed_over(promotion)?;
        let own = |name: &TableName| start.tables.iter().find(|table| table.name == *name);
        let mut tables = Vec::new();
        for schema in &handover.tables {
            let Some(here) = own(&schema.table).filter(|table| table.schema.is_some()) else {
                let what = format!("table {} cannot be captured from {}", schema.table, to.name);
                return Err(trouble(what));
            };
            tables.push(Inherited {
                own: here.incarnation.clone(),
                incarnation: schema.incarnation.clone(),
            });
        }
        let before = self.log.bounds().history;
        let before = before.ok_or_else(|| trouble("the event log holds no history"))?;
        let position = start.position.clone();
        self.history = Some(History {
            epoch: promotion.epoch,
            source: start.source,
            position: start.position,
            reason: format!("promotion {} of {}", promotion.id, to.name),
            succession: Some(Succession {
                since: before.since(),
                origin: self.config.origin.clone(),
                tables,
                forced: promotion.cause.is_forced(),
                home: Some(wiring::engine_name(self.config.home).to_owned()),
            }),
        });
        to.role.keep_forms(&handover.tables).await?;
        let mut note = String::new();
        if promotion.promises {
            let weaker = self.make_commits_wait().await?;
            promotion.all_wait = weaker.is_empty() && to.role.commits_can_wait();
            if let Some(who) = Modes::weakened(&self.config, &weaker) {
                promotion.promises = false;
                note = format!("; not every commit waits there ({who})");
            }
        }
        Ok(format!("captured from {position} on{note}"))
    }

    /// Where commits are promised to be on replicas, the new primary's are from the first on. Returns
    /// those of its commits that do not wait.
    async fn make_commits_wait(&self) -> Result<Vec<WeakerCommits>, Trouble> {
        let config = self.config.with_primary(&self.parties.to.name);
        let config = config.ok_or_else(|| trouble("the replica is not in the configuration"))?;
        let (requests, _unused) = tokio::sync::mpsc::channel(1);
        let source = wiring::source(&config, requests);
        let gate = source.map_err(|error| trouble(format!("{error:#}")))?.gate;
        let Some(mut gate) = gate else {
            return Ok(Vec::new());
        };
        let until = Instant::now() + GATE_WAIT;
        loop {
            let report = gate.keep(Some(true)).await?;
            if report.closed {
                return Ok(report.weaker);
            }
            if let Some(problem) = report.problems.first() {
                return Err(Trouble {
                    what: problem.what.clone(),
                    advice: problem.remedy.clone(),
                });
            }
            if Instant::now() >= until {
                return Err(trouble("its commits do not wait, as the mode promises"));
            }
            tokio::time::sleep(GATE_POLL).await;
        }
    }

    /// The point of no return. Once the record was appended there is no giving up waiting for it.
    async fn commit(&mut self, promotion: &Promotion) -> Result<String, Trouble> {
        let history = self.history.take();
        let history = history.ok_or_else(|| trouble("where capture begins is not known"))?;
        let epoch = history.epoch;
        let refused = |error: repl_core::log::LogError| trouble(format!("event log: {error}"));
        let mut writer = TxWriter::new(Arc::clone(&self.log)).map_err(refused)?;
        // A table that nobody has written to has no form in the log yet: it is that of now, whoever
        // writes to it first.
        for schema in &handed_over(promotion)?.tables {
            let known = self.log.latest_schema(&schema.table);
            if known.is_none_or(|known| known.incarnation != schema.incarnation) {
                writer.schema(schema.clone()).map_err(refused)?;
            }
        }
        writer.history(history).map_err(refused)?;
        // Dies here, or waits; an error would lead back, past what may become durable.
        let _ = failpoint::hit("promotion.commit.appended");
        let written = self.durable.wait_for(|now| now.epoch >= epoch).await;
        written.map_err(|_| trouble("the event log's writer has stopped"))?;
        Ok(format!("epoch {epoch} begins"))
    }

    async fn open(&self) -> Result<String, Trouble> {
        self.parties.to.role.open().await?;
        Ok(format!("{} takes writes", self.parties.to.name))
    }

    async fn stop_capture(&self) -> Result<String, Trouble> {
        let done = self.parties.to.role.end_capture().await?;
        Ok(match done.is_empty() {
            true => "nothing was left to be removed".to_owned(),
            false => done.join("; "),
        })
    }

    pub(super) async fn open_old(&self) -> Result<String, Trouble> {
        self.parties.from.role.open().await?;
        Ok(format!("{} takes writes", self.parties.from.name))
    }

    async fn let_go(&self, present: Option<&Present>) -> Result<String, Trouble> {
        let name = &self.parties.to.name;
        if let Some(present) = present {
            let target = target(&present.group, name)?;
            present.group.modes.hasten(target, false);
        }
        let node = self.config.nodes().find(|node| node.name == *name);
        if node.is_some_and(|node| stays_closed(node, &self.state)) {
            return Ok(format!("{name} goes on refusing writes"));
        }
        self.parties.to.role.open().await?;
        Ok(format!("{name} is as it was"))
    }

    fn selection(&self) -> Result<repl_core::select::Selection, Trouble> {
        let to = &self.parties.to.name;
        let node = self.config.nodes().find(|node| node.name == *to);
        let node = node.ok_or_else(|| trouble(format!("{to} is not in the configuration")))?;
        let selection = wiring::selection(&self.config, node);
        selection.map_err(|error| trouble(format!("{error:#}")))
    }
}

/// Whether a node refuses writes as long as it is a replica.
pub fn stays_closed(node: &NodeConfig, state: &StateFile) -> bool {
    node.protect || state.is_fenced(&node.name)
}

fn target<'a>(group: &'a Group, name: &str) -> Result<&'a Arc<Replica>, Trouble> {
    let found = group.replicas.iter().find(|one| one.node.name == name);
    found.ok_or_else(|| trouble(format!("{name} is no replica")))
}

/// What is said of a column whose values were not read.
pub(super) fn unread_note(column: &str) -> String {
    format!("{column} was not read in time")
}

/// Notes as the end of a sentence.
pub(super) fn noted(notes: &[String]) -> String {
    notes.iter().map(|note| format!("; {note}")).collect()
}

fn handed_over(promotion: &Promotion) -> Result<&Handover, Trouble> {
    let handover = promotion.handover.as_ref();
    handover.ok_or_else(|| trouble("what was drained is not known"))
}

/// A failpoint of the tests.
fn pass(name: &str) -> Result<(), Trouble> {
    failpoint::hit(name).map_err(|error| trouble(error.to_string()))
}
