//! What was last known of the primary, for the time when it cannot be asked: `primary.json` in the
//! log directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use repl_api::ModeState;
use repl_connectors::seam::{CaptureBoard, CaptureState, Counter, RoleSwitch, SourceTable};
use repl_core::SourcePosition;
use repl_core::log::EventLog;
use repl_core::schema::{TableName, TableSchema};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use crate::clock::now_ms;
use crate::document::{self, Replacement};
use crate::mode::Modes;
use crate::state::StateFile;

/// Version of the file's format.
const FORMAT: u32 = 1;

/// How often the primary is asked.
const INTERVAL: Duration = Duration::from_secs(2);
/// How soon it is looked again whether it is captured.
const SOON: Duration = Duration::from_millis(200);
/// Longest wait for its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Every how many times it is looked whether it takes writes.
const CLOSED_ROUNDS: u32 = 10;
/// A position alone is written to the file no more often than this.
const POSITION_INTERVAL_MS: u64 = 10_000;

/// What was known at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The primary's name.
    pub node: String,
    /// The epoch it was the primary in.
    pub epoch: u64,
    /// The replicated tables, with incarnations in the words of the log.
    pub tables: Vec<TableSchema>,
    /// Selected tables that are not replicated.
    pub others: Vec<TableName>,
    /// Where its sequences stood.
    pub counters: Vec<Counter>,
    /// Everything before this was durable there …
    pub position: SourcePosition,
    /// … at this time, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The mode was in force then: what was acknowledged had come as far as it says.
    pub promised: bool,
    /// No commit was excepted from that by a setting.
    #[serde(default)]
    pub all_wait: bool,
}

impl Seen {
    /// All tables that writes are to be refused to.
    pub fn names(&self) -> Vec<TableName> {
        let replicated = self.tables.iter().map(|schema| schema.table.clone());
        replicated.chain(self.others.iter().cloned()).collect()
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    group: String,
    seen: Seen,
}

/// The file and its content.
pub struct LastSeen {
    path: PathBuf,
    group: String,
    seen: Mutex<Seen>,
    /// Nothing could be read although transactions were logged, and nothing was noted since.
    lost: AtomicBool,
    /// Somebody asks the primary.
    sampled: AtomicBool,
    /// It refuses writes, and no change of primary is under way that would have it do so.
    closed: AtomicBool,
}

impl LastSeen {
    /// Reads the file, or begins with nothing known: that is a loss where transactions were `logged`. One
    /// that cannot be understood is of no use, and replaced.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn open(dir: &Path, group: &str, logged: bool) -> anyhow::Result<LastSeen> {
        let path = dir.join("primary.json");
        let read = document::read(&path)?;
        let seen = read.map_or_else(Seen::default, |bytes| {
            match serde_json::from_slice::<Document>(&bytes) {
                Ok(document) if document.format == FORMAT && document.group == group => {
                    document.seen
                }
                _ => {
                    warn!(path = %path.display(), "not understood; it is written anew");
                    Seen::default()
                }
            }
        });
        let lost = logged && seen == Seen::default();
        Ok(LastSeen {
            path,
            group: group.to_owned(),
            seen: Mutex::new(seen),
            lost: AtomicBool::new(lost),
            sampled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// Why the primary may not be the one it is taken for; none while it takes writes.
    pub fn closed_alert(&self) -> Option<String> {
        let what = "the primary refuses writes: another node may have taken its place, which is not known here (then name \
                    that one as the primary, and do not resync it from this one), or a change of primary that is not \
                    known any more was cut short (then open it by hand: docs/PROMOTION.md)";
        let closed = self.closed.load(Ordering::Relaxed);
        closed.then(|| what.to_owned())
    }

    /// The alert while nothing is known of a primary that should have been asked long ago.
    pub fn alert(&self) -> Option<String> {
        let lost = self.lost.load(Ordering::Relaxed) && self.sampled.load(Ordering::Relaxed);
        let what = "what was last known of the primary is lost (primary.json), and it has not answered since: \
                    it cannot be replaced by force, because its tables and sequences are not known";
        lost.then(|| what.to_owned())
    }

    /// What is known of the primary `node` of `epoch`; none when nothing is.
    pub fn of(&self, node: &str, epoch: u64) -> Option<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.node == node && seen.epoch == epoch).then(|| seen.clone())
    }

    /// A new primary holds these tables, and its commits wait from the first on where that is
    /// `promised`, without exception where `all_wait`; more is not known of it yet.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn inherit(
        &self,
        node: &str,
        epoch: u64,
        tables: &[TableSchema],
        promised: bool,
        all_wait: bool,
    ) -> anyhow::Result<()> {
        let now = Seen {
            node: node.to_owned(),
            epoch,
            tables: tables.to_vec(),
            at_ms: if promised { now_ms() } else { 0 },
            promised,
            all_wait: promised && all_wait,
            ..Seen::default()
        };
        self.note(now, &mut 0)
    }

    /// Takes in what is known now; on the disk at once where more than the position has changed.
    fn note(&self, now: Seen, written_ms: &mut u64) -> anyhow::Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let same = Seen {
            position: now.position.clone(),
            at_ms: now.at_ms,
            ..seen.clone()
        } == now;
        let due = now.at_ms.saturating_sub(*written_ms) >= POSITION_INTERVAL_MS;
        *seen = now;
        self.lost.store(false, Ordering::Relaxed);
        if same && !due {
            return Ok(());
        }
        *written_ms = seen.at_ms;
        let document = Document {
            format: FORMAT,
            group: self.group.clone(),
            seen: seen.clone(),
        };
        Replacement::prepare(&self.path, &document)?.commit(&self.path)
    }
}

/// Keeps it up to date while the primary is captured.
pub struct Sampler {
    /// Where it is kept.
    pub seen: Arc<LastSeen>,
    /// The primary's name.
    pub node: String,
    /// The primary.
    pub role: Arc<dyn RoleSwitch>,
    /// Its capture.
    pub board: Arc<CaptureBoard>,
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// What its commits wait for.
    pub modes: Arc<Modes>,
    /// Whether its role is being changed.
    pub state: Arc<StateFile>,
    /// The daemon stops, or roles change.
    pub shutdown: watch::Receiver<bool>,
}

impl Sampler {
    /// Samples until shutdown.
    pub async fn run(mut self) {
        self.seen.sampled.store(true, Ordering::Relaxed);
        let mut tables = self.board.tables();
        let (mut written_ms, mut round) = (0, 0);
        self.seen.closed.store(false, Ordering::Relaxed);
        while !*self.shutdown.borrow() {
            let listed = tables.borrow_and_update().clone();
            let streams = self.board.status().state == CaptureState::Streaming;
            if streams && !listed.is_empty() {
                self.sample(&listed, &mut written_ms).await;
                if round % CLOSED_ROUNDS == 0 {
                    self.look_whether_closed(&listed).await;
                }
                round += 1;
            }
            tokio::select! {
                () = tokio::time::sleep(if streams { INTERVAL } else { SOON }) => {}
                _ = tables.changed() => {}
                _ = self.shutdown.changed() => {}
            }
        }
    }

    async fn look_whether_closed(&self, tables: &[SourceTable]) {
        let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
        let changes = || self.state.promotion().is_some();
        if changes() {
            return;
        }
        let asked = tokio::time::timeout(PATIENCE, self.role.is_closed(&names)).await;
        let closed = matches!(asked, Ok(Ok(true))) && !changes();
        if closed && !self.seen.closed.swap(true, Ordering::Relaxed) {
            warn!(primary = self.node, "it refuses writes");
        }
        self.seen.closed.store(closed, Ordering::Relaxed);
    }

    async fn sample(&self, tables: &[SourceTable], written_ms: &mut u64) {
        // Failing says nothing that the capture does not say.
        let Ok(Ok(sample)) = tokio::time::timeout(PATIENCE, self.role.sample()).await else {
            return;
        };
        let mode = self.modes.status();
        let now = Seen {
            node: self.node.clone(),
            epoch: u64::from(self.log.appended().epoch.0),
            tables: tables.iter().filter_map(named).collect(),
            others: tables
                .iter()
                .filter(|table| table.schema.is_none())
                .map(|table| table.name.clone())
                .collect(),
            counters: sample.counters,
            position: sample.position,
            at_ms: now_ms(),
            promised: mode.state == ModeState::InForce,
            all_wait: mode.state == ModeState::InForce && mode.weaker.is_empty(),
        };
        if let Err(error) = self.seen.note(now, written_ms) {
            warn!(
                error = format!("{error:#}"),
                "cannot remember how the primary stands"
            );
        }
    }
}

/// The shape of a replicated table, by the log's name for it.
pub fn named(table: &SourceTable) -> Option<TableSchema> {
    let mut schema = TableSchema::clone(table.schema.as_deref()?);
    schema.incarnation.clone_from(&table.incarnation);
    Some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_outlives_the_daemon_and_is_of_one_primary_only() {
        let dir = tempfile::tempdir().unwrap();
        let seen = LastSeen::open(dir.path(), "shop", true).unwrap();
        assert_eq!(seen.of("main", 1), None);
        let now = Seen {
            node: "main".into(),
            epoch: 1,
            at_ms: 7,
            others: vec![TableName::new("public", "t")],
            ..Seen::default()
        };
        seen.note(now.clone(), &mut 0).unwrap();
        let again = LastSeen::open(dir.path(), "shop", true).unwrap();
        assert_eq!(again.of("main", 1), Some(now));
        assert_eq!(again.of("main", 2), None);
        assert_eq!(again.of("r1", 1), None);
        assert_eq!(
            LastSeen::open(dir.path(), "other", true)
                .unwrap()
                .of("main", 1),
            None
        );
    }
}
