//! What the daemon remembers of its replicas, beside the log: membership, pauses, skips.
//!
//! `state.json` in the log directory, replaced atomically (write, fsync, rename, fsync of the
//! directory) before anything relies on the new content. [`lost`] says what happens when it is gone.

pub mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use repl_api::ErrorInfo;
use repl_core::deposed::Deposed;
use repl_core::failpoint;
use repl_core::membership::Membership;
use repl_core::mode::Settings;
use repl_core::promotion::{Handover, Promotion};
use repl_core::schema::{TableName, TableSchema};
use serde::{Deserialize, Serialize};

use crate::coverage::Coverage;
use crate::document::{self, Replacement};
use crate::worker::received::Received;
use lost::{Lost, Past};

/// Version of the file's format.
const FORMAT: u32 = 1;

/// What is remembered of one replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Its standing, whatever a pause hides of it.
    pub standing: Membership,
    /// When it came into this standing, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Present while it is paused.
    pub pause: Option<Pause>,
    /// Why it is in this standing, for people; empty when ordinary.
    pub reason: String,
    /// Transactions left out on the operator's word since the last copy.
    pub skipped: u64,
    /// Existing rows may be replaced by the copy under way (a resync was ordered).
    pub replace: bool,
    /// They are removed first, rather than compared.
    #[serde(default)]
    pub full: bool,
    /// Tables whose resync begins with the next session. Until then the replica is what it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resync: Vec<TableName>,
    /// Tables that lack changes, each with the replica's table whose rows are the daemon's own: they are
    /// compared when the table is copied next.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lacking: BTreeSet<(TableName, TableName)>,
    /// How its tables were received; none before it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Received>,
    /// Rows to be replaced before it is what the log says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<Mend>,
    /// A new copy of everything is to begin with the next session.
    pub restart: bool,
    /// Tables were copied and their foreign keys may be missing.
    #[serde(default)]
    pub foreign_keys_due: bool,
    /// What was remembered of it was lost, and nobody has decided since what it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doubted: bool,
    /// Commits of the primary may be promised on its account (see [`crate::mode`]).
    #[serde(default)]
    pub counted: bool,
    /// It was the primary until then, and takes what it holds for what the log holds when its worker
    /// next reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// It was the primary, and was not asked when its place was taken: nothing is done with it before
    /// it refuses writes and was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposed: Option<Deposed>,
}

/// Rows that a former primary holds and the log never saw are to be replaced, by their keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mend {
    /// The ledger that tells the keys.
    pub ledger: String,
    /// The tables, as the log knew them when its place was taken.
    pub tables: Vec<TableSchema>,
    /// The rows that were there have been removed, durably: since then the stream may have brought others.
    #[serde(default)]
    pub removed: bool,
}

/// Why and since when a replica is paused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pause {
    /// Milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The error that paused it; none when the operator did.
    pub error: Option<ErrorInfo>,
}

impl ReplicaRecord {
    fn new(now_ms: u64) -> Self {
        ReplicaRecord {
            standing: Membership::Copying,
            since_ms: now_ms,
            pause: None,
            reason: String::new(),
            skipped: 0,
            replace: false,
            full: false,
            resync: Vec::new(),
            lacking: BTreeSet::new(),
            received: None,
            mend: None,
            restart: false,
            foreign_keys_due: false,
            doubted: false,
            counted: false,
            handover: None,
            deposed: None,
        }
    }

    /// Whether it may go on counting: a failure keeps a replica paused and counted, since nobody has
    /// decided yet that commits need not wait for it.
    fn may_count(&self) -> bool {
        let paused_by_the_operator = self
            .pause
            .as_ref()
            .is_some_and(|pause| pause.error.is_none());
        let joined = self.handover.is_none() && !self.is_deposed();
        let follows = self.mend.is_none() && joined;
        self.standing == Membership::Streaming && follows && !paused_by_the_operator
    }

    /// Whether it was the primary, was not asked when its place was taken, and has not joined again.
    pub fn is_deposed(&self) -> bool {
        self.deposed.is_some()
    }

    /// The membership state to show.
    pub fn membership(&self) -> Membership {
        match self.standing {
            _ if self.pause.is_some() => Membership::Paused,
            Membership::Streaming if !self.resync.is_empty() => Membership::Resyncing,
            standing => standing,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    /// Counts how often the file was replaced; 0 in one of an earlier version.
    #[serde(default)]
    generation: u64,
    group: String,
    replicas: BTreeMap<String, ReplicaRecord>,
    /// The mode the operator ordered at run time, if any.
    #[serde(default)]
    mode: Option<ModeOrder>,
    /// The change of primary under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promotion: Option<Promotion>,
    /// Nodes that were primary and are not: they go on refusing writes.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    fenced: BTreeSet<String>,
    /// An earlier file was lost, and there are replicas left of which nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<Lost>,
    /// Commits of the primary that wait for the daemon go on doing so in a mode in which none should:
    /// the file that was lost may have held another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gate_kept: bool,
    /// Replicas were compared value by value: what was found is in a file of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    validated: bool,
    /// By what the primary's stream covered each table when it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coverage: Option<Coverage>,
}

/// A mode ordered at run time. It holds until the configuration's is changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeOrder {
    /// What was ordered.
    pub settings: Settings,
    /// What the configuration said then.
    pub configured: Settings,
}

impl Document {
    fn new(group: &str, generation: u64) -> Self {
        Document {
            format: FORMAT,
            generation,
            group: group.to_owned(),
            replicas: BTreeMap::new(),
            mode: None,
            promotion: None,
            fenced: BTreeSet::new(),
            lost: None,
            gate_kept: false,
            validated: false,
            coverage: None,
        }
    }

    /// Nothing is known of the replicas.
    fn doubt(&mut self, why: &str, past: &Past) {
        let now_ms = crate::clock::now_ms();
        for name in &past.replicas {
            let former = past.former.contains(name);
            let record = lost::doubted(name, why, former, now_ms);
            self.replicas.insert(name.clone(), record);
        }
        self.fenced.extend(past.former.iter().cloned());
        self.gate_kept = true;
        self.lost = Some(Lost {
            at_ms: now_ms,
            why: why.to_owned(),
        });
    }
}

fn parse(path: &Path, group: &str, bytes: &[u8]) -> anyhow::Result<Document> {
    let place = path.display();
    let document = serde_json::from_slice::<Document>(bytes).with_context(|| {
        format!(
            "{place} is damaged. It says which replicas are diverged, paused, in need of a resync or in the \
             middle of one, which mode was ordered, and which former primaries must refuse writes; nothing \
             else does. To go on without it: mv {place} {place}.damaged, and start again: every replica is then \
             held until you have said what it is (replctl resume, then replctl validate --deep; or \
             replctl resync)"
        )
    })?;
    if document.format != FORMAT {
        bail!(
            "{place} has format {}; this version knows {FORMAT}",
            document.format
        );
    }
    if document.group != group {
        bail!(
            "{place} belongs to group {:?}, not {group:?}: give each group its own log.dir",
            document.group
        );
    }
    Ok(document)
}

/// The file and its content.
pub struct StateFile {
    path: PathBuf,
    document: Mutex<Document>,
}

impl StateFile {
    /// Reads the file, or starts a new one. One that is missing although it was there, or that is an
    /// older copy, is begun anew with every replica of `past` in doubt (see [`lost`]).
    ///
    /// # Errors
    /// When it is damaged, of another group or of a newer format: the daemon must not guess what
    /// its replicas are. When it cannot be written.
    pub fn open(dir: &Path, group: &str, past: &Past) -> anyhow::Result<StateFile> {
        let path = dir.join("state.json");
        let read = document::read(&path)?;
        let read = read.map(|bytes| parse(&path, group, &bytes)).transpose()?;
        let marked = lost::marked(dir)?;
        let why = lost::why(read.as_ref().map(|found| found.generation), marked, past);
        if why.is_some() && read.is_some() {
            lost::set_aside(&path, crate::clock::now_ms())?;
        }
        let begins = read.is_none();
        let newest = read.as_ref().map(|found| found.generation).max(marked);
        let mut document = read
            .filter(|_| why.is_none())
            .unwrap_or_else(|| Document::new(group, newest.unwrap_or_default()));
        if let Some(why) = why {
            document.doubt(why, past);
        }
        let state = StateFile {
            path,
            document: Mutex::new(document),
        };
        if begins || why.is_some() {
            // Before any history begins, so that its absence tells something from then on.
            let mut document = state.lock();
            state.save(&mut document)?;
        }
        Ok(state)
    }

    /// That an earlier file was lost, while there are replicas of which nothing is known.
    pub fn lost(&self) -> Option<Lost> {
        self.lock().lost.clone()
    }

    /// Whether replicas were compared value by value, ever.
    pub fn validated(&self) -> bool {
        self.lock().validated
    }

    /// Remembers that replicas were compared value by value, durably.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_validated(&self) -> anyhow::Result<()> {
        let mut document = self.lock();
        if document.validated {
            return Ok(());
        }
        document.validated = true;
        let saved = self.save(&mut document);
        document.validated = saved.is_ok();
        saved
    }

    /// Whether commits of the primary that wait go on waiting, although the mode says that none does:
    /// until a mode is ordered.
    pub fn keeps_gate(&self) -> bool {
        self.lock().gate_kept
    }

    /// What is remembered of a replica, if anything.
    pub fn replica(&self, name: &str) -> Option<ReplicaRecord> {
        self.lock().replicas.get(name).cloned()
    }

    /// Changes a replica's record and makes the change durable before returning.
    ///
    /// # Errors
    /// When the file cannot be written; the record is then unchanged.
    pub fn change(
        &self,
        name: &str,
        now_ms: u64,
        change: impl FnOnce(&mut ReplicaRecord),
    ) -> anyhow::Result<ReplicaRecord> {
        let mut document = self.lock();
        let before = document.replicas.get(name).cloned();
        let mut record = before.clone().unwrap_or_else(|| ReplicaRecord::new(now_ms));
        let standing = record.standing;
        change(&mut record);
        if record.standing != standing {
            record.since_ms = now_ms;
        }
        // One step with what ends it: no acknowledgement can come in between.
        record.counted &= record.may_count();
        record.doubted &= record.standing == Membership::Diverged;
        document.replicas.insert(name.to_owned(), record.clone());
        let lost = document.lost.clone();
        if !document.replicas.values().any(|one| one.doubted) {
            document.lost = None;
        }
        if let Err(error) = self.save(&mut document) {
            match before {
                Some(before) => document.replicas.insert(name.to_owned(), before),
                None => document.replicas.remove(name),
            };
            document.lost = lost;
            return Err(error);
        }
        Ok(record)
    }

    /// The mode ordered at run time.
    pub fn mode(&self) -> Option<ModeOrder> {
        self.lock().mode.clone()
    }

    /// Remembers a mode ordered at run time, durably.
    ///
    /// # Errors
    /// When the file cannot be written; what was remembered before is kept.
    pub fn order_mode(&self, order: ModeOrder) -> anyhow::Result<()> {
        let mut document = self.lock();
        let before = (document.mode.replace(order), document.gate_kept);
        document.gate_kept = false;
        let saved = self.save(&mut document);
        if saved.is_err() {
            (document.mode, document.gate_kept) = before;
        }
        saved
    }

    /// By what the primary's stream covered each table when it was last looked at.
    pub fn coverage(&self) -> Option<Coverage> {
        self.lock().coverage.clone()
    }

    /// Remembers by what tables are covered and, in the same durable write, of every replica, those that
    /// are not configured now included, that it may lack changes of some.
    ///
    /// # Errors
    /// When the file cannot be written; what was remembered before is kept.
    pub fn set_coverage(
        &self,
        coverage: Coverage,
        change: impl Fn(&str, &mut ReplicaRecord),
    ) -> anyhow::Result<()> {
        let mut document = self.lock();
        let before = (
            document.replicas.clone(),
            document.coverage.replace(coverage),
        );
        for (name, record) in &mut document.replicas {
            change(name, record);
        }
        let saved = self.save(&mut document);
        if saved.is_err() {
            (document.replicas, document.coverage) = before;
        }
        saved
    }

    /// The change of primary under way.
    pub fn promotion(&self) -> Option<Promotion> {
        self.lock().promotion.clone()
    }

    /// Whether a node that is a replica was the primary before.
    pub fn is_fenced(&self, node: &str) -> bool {
        self.lock().fenced.contains(node)
    }

    /// Remembers how the change of primary stands, durably; none when there is none any more.
    ///
    /// # Errors
    /// When the file cannot be written; what was remembered before is kept.
    pub fn set_promotion(&self, promotion: Option<Promotion>) -> anyhow::Result<()> {
        let mut document = self.lock();
        let before = std::mem::replace(&mut document.promotion, promotion);
        let saved = self.save(&mut document);
        if saved.is_err() {
            document.promotion = before;
        }
        saved
    }

    /// The point of no return of `promotion` is passed: from now on its new primary is none of the
    /// replicas, and its old one is a replica that begins with what it holds. One durable write.
    ///
    /// # Errors
    /// When the file cannot be written; what was remembered before is kept.
    pub fn hand_over(&self, promotion: &Promotion, now_ms: u64) -> anyhow::Result<()> {
        let mut document = self.lock();
        let before = (document.replicas.clone(), document.fenced.clone());
        let mut record = ReplicaRecord::new(now_ms);
        record.standing = Membership::Streaming;
        record.handover.clone_from(&promotion.handover);
        if let Some(deposed) = &promotion.deposed {
            record.standing = Membership::Diverged;
            record.reason = format!(
                "{} took its place without asking it, and it has not been seen since",
                promotion.to
            );
            record.deposed = Some(deposed.clone());
            // A copy holds what the old primary had, which may be more than the log has.
            let copying = |one: &&mut ReplicaRecord| {
                matches!(one.standing, Membership::Copying | Membership::Resyncing)
            };
            for copied in document.replicas.values_mut().filter(copying) {
                copied.standing = Membership::Resyncing;
                (copied.replace, copied.restart) = (true, true);
                copied.resync.clear();
            }
        }
        document.replicas.insert(promotion.from.clone(), record);
        document.replicas.remove(&promotion.to);
        document.fenced.insert(promotion.from.clone());
        document.fenced.remove(&promotion.to);
        let old = document.promotion.replace(promotion.clone());
        let saved = self.save(&mut document);
        if saved.is_err() {
            (document.replicas, document.fenced) = before;
            document.promotion = old;
        }
        saved
    }

    fn save(&self, document: &mut Document) -> anyhow::Result<()> {
        document.generation += 1;
        let new = Replacement::prepare(&self.path, document)?;
        failpoint::hit("state.before_rename")?;
        new.commit(&self.path)?;
        failpoint::hit("state.after_rename")?;
        // Behind the file: one that is newer than its mark is the newest.
        let dir = self.path.parent().unwrap_or(Path::new("."));
        lost::mark(dir, document.generation)
    }

    fn lock(&self) -> MutexGuard<'_, Document> {
        self.document.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFile::open(dir.path(), "shop", &Past::default()).unwrap();
        assert!(state.replica("r1").is_none());
        state
            .change("r1", 7, |record| record.standing = Membership::NeedsResync)
            .unwrap();
        let again = StateFile::open(dir.path(), "shop", &Past::default()).unwrap();
        let record = again.replica("r1").unwrap();
        assert_eq!(
            (record.standing, record.since_ms),
            (Membership::NeedsResync, 7)
        );
        assert!(StateFile::open(dir.path(), "other", &Past::default()).is_err());
        std::fs::write(dir.path().join("state.json"), "{").unwrap();
        assert!(StateFile::open(dir.path(), "shop", &Past::default()).is_err());
    }
}
