//! Goes through the tables of a validation, from cut to cut.
//!
//! A cut holds the primary's snapshot, which keeps its server from clearing away old row versions;
//! so after a minute the next table begins a new one. A table that a cut cannot tell about (it was
//! truncated meanwhile, its copy has not joined the stream yet) is tried again with another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use repl_api::{TableValidation, Verdict};
use repl_connectors::seam::SourceTable;
use repl_core::Seq;
use repl_core::schema::TableName;
use repl_core::validate::changes::Changes;
use repl_core::validate::digest::RowHasher;
use repl_core::validate::narrow::Narrowed;
use tokio::task::JoinSet;

use super::Shared;
use super::cut::JointCut;
use super::member::{Stopped, Subject, undetermined};
use super::progress::Progress;
use super::report;
use super::scan::{Compared, Scan, Views};
use crate::pins::Pin;

/// Age at which a cut is given up for a new one.
const CUT_AGE: Duration = Duration::from_secs(60);
/// How long cuts are waited for in vain before it is left at that.
const CUT_PATIENCE: Duration = Duration::from_secs(20);
/// How often a table is tried.
const TRIES: u32 = 5;
/// Wait before another try, times the number of tries so far.
const TRY_WAIT: Duration = Duration::from_millis(200);

/// What is to be compared.
pub struct Task {
    /// Tables of the primary.
    pub tables: Vec<SourceTable>,
    /// Positions of the replicas.
    pub members: Vec<usize>,
    /// Every value, not only the numbers of rows.
    pub deep: bool,
    /// Tables that only a replica has are listed.
    pub lists_own: bool,
    /// Values of differing rows are reported.
    pub show_values: bool,
    /// Where it shows how far it is.
    pub progress: Arc<Progress>,
}

/// The outcome of one table at one replica.
pub struct Cell {
    /// In the API's words.
    pub report: TableValidation,
    /// The rows that differ.
    pub found: Option<Found>,
}

/// Rows that differ, as of a point of the stream.
pub struct Found {
    /// The table.
    pub subject: Arc<Subject>,
    /// The rows.
    pub narrowed: Narrowed,
    /// The replica's point.
    pub seq: Seq,
    /// Keeps the log from there on.
    pub _pin: Arc<Pin>,
}

/// The outcome of everything.
pub struct Outcome {
    /// By replica and table.
    pub cells: BTreeMap<usize, BTreeMap<TableName, Cell>>,
    /// Tables that only the replica has, beside those it receives.
    pub only_here: BTreeMap<usize, Vec<String>>,
}

struct Run<'a> {
    shared: &'a Shared,
    task: &'a Task,
    hasher: RowHasher,
    outcome: Outcome,
    cut: Option<JointCut>,
    /// How long cuts were waited for that could not be had.
    in_vain: Duration,
}

/// Compares everything the task names.
pub async fn run(shared: &Shared, task: &Task) -> Outcome {
    let mut run = Run {
        shared,
        task,
        hasher: RowHasher::new(crate::random::seed()),
        outcome: Outcome {
            cells: task
                .members
                .iter()
                .map(|at| (*at, BTreeMap::new()))
                .collect(),
            only_here: BTreeMap::new(),
        },
        cut: None,
        in_vain: Duration::ZERO,
    };
    let mut todo: Vec<(SourceTable, Vec<usize>)> = Vec::new();
    for table in &task.tables {
        let receives = |at: &&usize| shared.members[**at].routing.target(&table.name).is_some();
        let members: Vec<usize> = task.members.iter().filter(receives).copied().collect();
        if !members.is_empty() {
            todo.push((table.clone(), members));
        }
    }
    task.progress.total(todo.len());
    for tries in 1..=TRIES {
        todo = run.sweep(todo, tries == TRIES).await;
        if todo.is_empty() || run.in_vain > CUT_PATIENCE {
            break;
        }
        tokio::time::sleep(TRY_WAIT * tries).await;
    }
    run.outcome
}

impl Run<'_> {
    /// Compares the tables; those that another cut may tell about come back.
    async fn sweep(
        &mut self,
        todo: Vec<(SourceTable, Vec<usize>)>,
        last: bool,
    ) -> Vec<(SourceTable, Vec<usize>)> {
        let mut again = Vec::new();
        let mut refused = None;
        for (table, members) in todo {
            if self
                .cut
                .as_ref()
                .is_some_and(|cut| cut.taken.elapsed() > CUT_AGE)
            {
                self.end_cut().await;
            }
            if self.cut.is_none() && refused.is_none() {
                self.task.progress.phase("waiting for the replicas");
                let begun = Instant::now();
                match JointCut::take(self.shared, &self.task.members).await {
                    Ok(cut) => {
                        self.cut = Some(cut);
                        self.list_own().await;
                    }
                    Err(reason) => {
                        self.in_vain += begun.elapsed();
                        refused = Some(reason);
                    }
                }
            }
            let retry = match &refused {
                Some(reason) => {
                    for at in &members {
                        self.note(*at, &table, reason);
                    }
                    members
                }
                None => self.table(&table, &members).await,
            };
            if retry.is_empty() || last {
                self.task.progress.done();
            } else {
                again.push((table, retry));
            }
        }
        self.end_cut().await;
        again
    }

    /// Lists, once per replica, the tables that only it has in the schemas it receives.
    async fn list_own(&mut self) {
        let all = self.shared.tables.borrow().clone();
        let Some(cut) = &mut self.cut else { return };
        for view in &mut cut.views {
            if !self.task.lists_own || self.outcome.only_here.contains_key(&view.member) {
                continue;
            }
            let routing = &self.shared.members[view.member].routing;
            let targets = all.iter().filter_map(|table| routing.target(&table.name));
            let targets: BTreeSet<TableName> = targets.collect();
            let schemas: BTreeSet<&String> = targets.iter().map(|name| &name.schema).collect();
            let mut own = Vec::new();
            for schema in schemas {
                // What cannot be listed is not part of the outcome; reading the tables will tell why.
                let found = view.content.tables(schema).await.unwrap_or_default();
                let other = found.iter().filter(|name| !is_among(&targets, name));
                own.extend(other.map(TableName::to_string));
            }
            self.outcome.only_here.insert(view.member, own);
        }
    }

    async fn end_cut(&mut self) {
        if let Some(cut) = self.cut.take() {
            cut.end().await;
        }
    }

    fn set(&mut self, at: usize, table: &SourceTable, cell: Cell) {
        let cells = self.outcome.cells.entry(at).or_default();
        cells.insert(table.name.clone(), cell);
    }

    fn note(&mut self, at: usize, table: &SourceTable, reason: &str) {
        let target = self.shared.members[at].routing.target(&table.name);
        let target = target.map_or(String::new(), |target| target.to_string());
        let report = undetermined(&table.name, &target, reason);
        self.set(
            at,
            table,
            Cell {
                report,
                found: None,
            },
        );
    }

    /// Compares one table; the replicas that another cut may tell about.
    async fn table(&mut self, table: &SourceTable, members: &[usize]) -> Vec<usize> {
        let Some(mut cut) = self.cut.take() else {
            return members.to_vec();
        };
        let failed: Vec<(usize, String)> = cut.failed.clone();
        for (at, reason) in failed.iter().filter(|(at, _)| members.contains(at)) {
            self.note(*at, table, reason);
        }
        let mut views: Views = cut
            .views
            .drain(..)
            .map(|view| (view.member, view))
            .collect();
        let outcome = self.compare(&mut cut, &mut views, table, members).await;
        let (mut again, read) = match outcome {
            Ok(done) => done,
            Err(reason) => {
                // The primary's snapshot is lost; with it goes the cut.
                for at in members.iter().filter(|at| views.contains_key(at)) {
                    self.note(*at, table, &reason);
                }
                return members.to_vec();
            }
        };
        for (at, mut view) in views {
            if !members.contains(&at) {
                cut.views.push(view);
                continue;
            }
            let target = self.shared.members[at].routing.target(&table.name);
            let target = target.unwrap_or_else(|| table.name.clone());
            let left = view.content.leave(&target).await;
            let reason = match &left {
                Ok(false) if read.contains(&at) => {
                    Some("it was emptied or rewritten at the replica meanwhile")
                }
                Ok(_) => None,
                Err(error) => Some(error.message.as_str()),
            };
            if let Some(reason) = reason.filter(|_| !again.contains(&at)) {
                self.note(at, table, reason);
                again.push(at);
            }
            match left {
                Ok(_) => cut.views.push(view),
                Err(error) => cut.failed.push((at, error.message)),
            }
        }
        cut.views.sort_by_key(|view| view.member);
        self.cut = Some(cut);
        again
    }

    /// The comparison between entering the table on all sides and leaving it at the primary: the replicas
    /// that another cut may tell about, and those whose rows were read.
    async fn compare(
        &mut self,
        cut: &mut JointCut,
        views: &mut Views,
        table: &SourceTable,
        members: &[usize],
    ) -> Result<(Vec<usize>, Vec<usize>), String> {
        let progress = Arc::clone(&self.task.progress);
        progress.phase("comparing");
        progress.table(&table.name.to_string(), None);
        cut.snapshot.enter().await.map_err(|error| error.message)?;
        let mut again = Vec::new();
        let changes = Arc::clone(&cut.changes);
        let mut compared = self
            .prepare(&changes, views, table, members, &mut again)
            .await;
        let read = match (compared.is_empty(), self.task.deep) {
            (true, _) => Ok(()),
            (false, true) => self.read(cut, views, table, &mut compared).await,
            (false, false) => count(cut, views, table, &mut compared).await,
        };
        read?;
        let same = cut.snapshot.leave(&table.name).await;
        let rewritten = !same.map_err(|error| error.message)?;
        let read = compared.keys().copied().collect();
        for (at, mut one) in compared {
            if rewritten {
                one.failed =
                    Some("it was emptied or rewritten at the primary meanwhile".to_owned());
            }
            if one.failed.is_some() {
                again.push(at);
            }
            let report = report::table(&one, self.task.show_values);
            let seq = Seq(report.seq.unwrap_or_default());
            let found = one
                .narrowed
                .filter(|_| one.failed.is_none())
                .map(|narrowed| Found {
                    subject: Arc::clone(&one.subject),
                    narrowed,
                    seq,
                    _pin: Arc::clone(&cut.pin),
                });
            self.set(at, table, Cell { report, found });
        }
        Ok((again, read))
    }

    /// Enters the table at every replica and looks whether it can be compared there.
    async fn prepare(
        &mut self,
        changes: &Arc<Changes>,
        views: &mut Views,
        table: &SourceTable,
        members: &[usize],
        again: &mut Vec<usize>,
    ) -> HashMap<usize, Compared> {
        let mut compared = HashMap::new();
        for at in members {
            let Some(view) = views.get_mut(at) else {
                continue;
            };
            if let Err(error) = view.content.enter().await {
                self.note(*at, table, &error.message);
                again.push(*at);
                continue;
            }
            let Some(schema) = &table.schema else {
                continue;
            };
            let member = &self.shared.members[*at];
            match Subject::prepare(member, view, table, schema, changes).await {
                Ok(subject) => drop(compared.insert(*at, Compared::new(subject))),
                Err(Stopped {
                    report,
                    again: other,
                }) => {
                    self.set(
                        *at,
                        table,
                        Cell {
                            report,
                            found: None,
                        },
                    );
                    if other {
                        again.push(*at);
                    }
                }
            }
        }
        compared
    }

    async fn read(
        &mut self,
        cut: &mut JointCut,
        views: &mut Views,
        table: &SourceTable,
        compared: &mut HashMap<usize, Compared>,
    ) -> Result<(), String> {
        let opened = cut.snapshot.open(&table.name).await;
        let (schema, estimate) = opened.map_err(|error| error.message)?;
        let same = table.schema.as_ref().is_some_and(|known| {
            known.columns == schema.columns && known.identity == schema.identity
        });
        if !same {
            return Err("its columns were changed meanwhile".to_owned());
        }
        let sides = compared.len() as u64 + 1;
        let progress = &self.task.progress;
        progress.table(
            &table.name.to_string(),
            estimate.map(|rows| rows.saturating_mul(sides)),
        );
        let scan = Scan {
            table: &table.name,
            hasher: self.hasher,
            rows: &progress.rows,
        };
        scan.compare(&mut cut.snapshot, views, compared).await?;
        if schema.generated.is_empty() {
            return Ok(());
        }
        let generated = cut.snapshot.generated(&table.name).await;
        let generated = generated.map_err(|error| error.message)?;
        for (at, one) in compared {
            let Some(view) = views.get_mut(at).filter(|_| one.failed.is_none()) else {
                continue;
            };
            match view
                .content
                .miscomputed(&one.subject.target, &generated)
                .await
            {
                Ok(columns) => one.miscomputed = report::miscomputed(&columns),
                Err(error) => one.failed = Some(error.message),
            }
        }
        Ok(())
    }
}

/// Some servers fold the case of names.
fn is_among(targets: &BTreeSet<TableName>, name: &TableName) -> bool {
    targets.contains(name)
        || targets.iter().any(|target| {
            target.name.to_lowercase() == name.name.to_lowercase() && target.schema == name.schema
        })
}

/// Counts the rows on all sides at the same time.
async fn count(
    cut: &mut JointCut,
    views: &mut Views,
    table: &SourceTable,
    compared: &mut HashMap<usize, Compared>,
) -> Result<(), String> {
    let mut counting = JoinSet::new();
    for (at, one) in compared.iter() {
        let Some(mut view) = views.remove(at) else {
            continue;
        };
        let (at, target) = (*at, one.subject.target.clone());
        counting.spawn(async move {
            let count = view.content.count(&target).await;
            (at, view, count)
        });
    }
    let primary = cut.snapshot.count(&table.name).await;
    while let Some(ended) = counting.join_next().await {
        let (at, view, count) = ended.map_err(|error| error.to_string())?;
        views.insert(at, view);
        let Some(one) = compared.get_mut(&at) else {
            continue;
        };
        match (&primary, count) {
            (Ok(primary), Ok(count)) => {
                let expected = primary.wrapping_add_signed(one.subject.delta.net_rows());
                one.rows = Some((expected, count));
                one.counted = true;
            }
            (_, Err(error)) => one.failed = Some(error.message),
            (Err(_), _) => {}
        }
    }
    primary.map(drop).map_err(|error| error.message)
}

/// The outcome over all tables of a replica.
pub fn verdict<'a>(cells: impl Iterator<Item = &'a TableValidation>) -> Verdict {
    let all = cells.map(|report| report.verdict).reduce(Verdict::and);
    all.unwrap_or(Verdict::Undetermined)
}
