//! What validations of every value last found, by replica and table: `validation.json` in the log
//! directory, replaced atomically.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use repl_api::{ReplicaValidation, TableValidation, Validated, Verdict};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::document::{self, Replacement};

/// Version of the file's format.
const FORMAT: u32 = 1;

/// What is remembered of one table at one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was found.
    pub verdict: Verdict,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
}

type Tables = BTreeMap<String, Entry>;

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    group: String,
    /// When the last pass over all tables began.
    pass_ms: u64,
    replicas: BTreeMap<String, Tables>,
    /// What was found before was lost, and not everything was compared since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lost: bool,
}

/// The file and its content.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    document: Mutex<Document>,
}

impl Record {
    /// Reads the file, or starts a new one. One that is damaged is begun anew: it only tells what can
    /// be found again. Where there was one (`known`), that is said until it was.
    ///
    /// # Errors
    /// When it cannot be read or has a newer format.
    pub fn open(dir: &Path, group: &str, known: bool) -> anyhow::Result<Record> {
        let path = dir.join("validation.json");
        let empty = || Document {
            format: FORMAT,
            group: group.to_owned(),
            pass_ms: 0,
            replicas: BTreeMap::new(),
            lost: known,
        };
        let read = document::read(&path)?;
        let document = read.map_or_else(empty, |bytes| {
            match serde_json::from_slice::<Document>(&bytes) {
                Ok(document) if document.group == group => document,
                Ok(_) => empty(),
                Err(error) => {
                    warn!(path = %path.display(), %error, "results of validations are unreadable");
                    empty()
                }
            }
        });
        if document.format > FORMAT {
            bail!(
                "{} has format {}; this version knows {FORMAT}",
                path.display(),
                document.format
            );
        }
        let record = Record {
            path,
            document: Mutex::new(document),
        };
        if record.lock().lost {
            warn!("what comparisons of the replicas found is lost");
            record.save(&record.lock());
        }
        Ok(record)
    }

    /// The alert while differences that were found may be forgotten.
    pub fn alert(&self) -> Option<String> {
        let what = "what comparisons found is lost (validation.json): whether a replica differs in some table is not \
                    known any more; compare all of them with: replctl validate --deep";
        self.lock().lost.then(|| what.to_owned())
    }

    /// Everything was compared at every replica.
    pub fn all_compared(&self) {
        let mut document = self.lock();
        if std::mem::take(&mut document.lost) {
            self.save(&document);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Document> {
        self.document.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in outcomes of a validation of every value. What could not be told changes nothing.
    pub fn note(&self, found: &[ReplicaValidation], now_ms: u64) {
        let told = |table: &&TableValidation| table.verdict != Verdict::Undetermined;
        let mut document = self.lock();
        for replica in found {
            let tables = document
                .replicas
                .entry(replica.replica.clone())
                .or_default();
            for table in replica.tables.iter().filter(told) {
                let entry = Entry {
                    verdict: table.verdict,
                    at_ms: now_ms,
                };
                tables.insert(table.table.clone(), entry);
            }
        }
        self.save(&document);
    }

    /// Forgets tables that are not replicated any more.
    pub fn keep(&self, tables: &[String]) {
        let mut document = self.lock();
        for known in document.replicas.values_mut() {
            known.retain(|table, _| tables.contains(table));
        }
    }

    /// When the last pass over all tables began.
    pub fn pass_ms(&self) -> u64 {
        self.lock().pass_ms
    }

    /// Notes that a pass begins.
    pub fn begin_pass(&self, now_ms: u64) {
        let mut document = self.lock();
        document.pass_ms = now_ms;
        self.save(&document);
    }

    /// What is known of a replica; none when nothing is.
    pub fn of(&self, replica: &str) -> Option<Validated> {
        let document = self.lock();
        let tables = document
            .replicas
            .get(replica)
            .filter(|tables| !tables.is_empty())?;
        let verdicts = tables.values().map(|entry| entry.verdict);
        let differing = tables
            .iter()
            .filter(|(_, entry)| entry.verdict == Verdict::Different);
        Some(Validated {
            verdict: verdicts.reduce(Verdict::and).unwrap_or_default(),
            oldest_ms: tables.values().map(|entry| entry.at_ms).min().unwrap_or(0),
            tables: tables.len() as u64,
            different: differing.map(|(table, _)| table.clone()).collect(),
        })
    }

    /// A result that cannot be written is still shown, and found again after a restart.
    fn save(&self, document: &Document) {
        let written = Replacement::prepare(&self.path, document);
        if let Err(error) = written.and_then(|new| new.commit(&self.path)) {
            let error = format!("{error:#}");
            warn!(error, "results of a validation cannot be remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(verdict: Verdict) -> Vec<ReplicaValidation> {
        let table = TableValidation {
            table: "public.t".into(),
            verdict,
            ..TableValidation::default()
        };
        vec![ReplicaValidation {
            replica: "r".into(),
            verdict,
            tables: vec![table],
            excluded: Vec::new(),
            only_here: Vec::new(),
        }]
    }

    #[test]
    fn results_survive_and_what_could_not_be_told_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::open(dir.path(), "g", false).unwrap();
        assert_eq!(record.of("r"), None);
        record.note(&found(Verdict::Different), 5);
        record.note(&found(Verdict::Undetermined), 6);
        let again = Record::open(dir.path(), "g", true).unwrap();
        assert_eq!(again.alert(), None);
        let known = again.of("r").unwrap();
        assert_eq!((known.verdict, known.oldest_ms), (Verdict::Different, 5));
        assert_eq!(known.different, ["public.t"]);
        again.note(&found(Verdict::Equal), 7);
        assert_eq!(again.of("r").unwrap().verdict, Verdict::Equal);
        again.keep(&[]);
        assert_eq!(again.of("r"), None);
        std::fs::write(dir.path().join("validation.json"), "{").unwrap();
        let lost = Record::open(dir.path(), "g", true).unwrap();
        assert!(lost.of("r").is_none() && lost.alert().is_some());
        let lost = Record::open(dir.path(), "g", true).unwrap();
        lost.note(&found(Verdict::Equal), 8);
        assert!(lost.alert().is_some());
        lost.all_compared();
        assert_eq!(Record::open(dir.path(), "g", true).unwrap().alert(), None);
    }
}
