//! `state.json` may be gone, or an older copy may have taken its place: then it is known that what it
//! said of the replicas is not known any more.
//!
//! Two things tell. The event log has a history, and the file is written before any history begins. And
//! `state-mark.json` beside it counts how often the file was replaced: a copy put back from before says
//! a smaller number. Nothing is taken for a fresh start then. Every replica is paused and counts for
//! nothing until somebody says otherwise, former primaries go on refusing writes, and the primary's
//! commits go on waiting if they do.

use std::path::{Path, PathBuf};

use anyhow::Context;
use repl_api::{Directive, ErrorInfo, ErrorKind};
use repl_core::membership::Membership;
use serde::{Deserialize, Serialize};

use super::{Pause, ReplicaRecord};
use crate::document::{self, Replacement};

/// Version of the mark's format.
const FORMAT: u32 = 1;

/// What is known of the group without the file.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The event log has a history, so there was a file.
    pub begun: bool,
    /// The nodes that are replicas now.
    pub replicas: Vec<String>,
    /// Those of them that were the primary before, or may have been.
    pub former: Vec<String>,
}

/// That the file was lost, as it is remembered until every replica is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// When it was noticed, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How it was noticed.
    pub why: String,
}

impl Lost {
    /// The alert.
    pub fn alert(&self) -> String {
        format!(
            "what was remembered of this group is lost ({}): which replicas were diverged, paused, in need of \
             a resync or in the middle of one, a mode ordered at run time, and a change of primary that was \
             under way are not known any more; each replica is held until that is decided",
            self.why
        )
    }
}

/// How often `state.json` was replaced.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    format: u32,
    generation: u64,
}

fn mark_path(dir: &Path) -> PathBuf {
    dir.join("state-mark.json")
}

/// Remembers the number of the file that is in place now.
pub(super) fn mark(dir: &Path, generation: u64) -> anyhow::Result<()> {
    let mark = Mark {
        format: FORMAT,
        generation,
    };
    let path = mark_path(dir);
    Replacement::prepare(&path, &mark)?.commit(&path)
}

/// The number of the newest file; none where there is no mark, or none that can be read: it then proves
/// nothing.
pub(super) fn marked(dir: &Path) -> anyhow::Result<Option<u64>> {
    let path = mark_path(dir);
    let Some(bytes) = document::read(&path)? else {
        return Ok(None);
    };
    let mark = serde_json::from_slice::<Mark>(&bytes).ok();
    Ok(mark.map(|mark| mark.generation))
}

/// Why a file that says `generation` is not the newest one, or none that is absent never was.
pub(super) fn why(
    generation: Option<u64>,
    marked: Option<u64>,
    past: &Past,
) -> Option<&'static str> {
    match (generation, marked) {
        (None, _) => past
            .begun
            .then_some("state.json was missing although the event log has a history"),
        (Some(own), Some(newest)) if own < newest => {
            Some("state.json was an older copy of itself: it has been replaced since")
        }
        // The first one is there a moment before its mark.
        (Some(own), None) if own > 1 => {
            Some("state-mark.json, which tells whether state.json is the newest one, was missing")
        }
        _ => None,
    }
}

/// Puts an older copy aside, for people.
pub(super) fn set_aside(path: &Path, now_ms: u64) -> anyhow::Result<()> {
    let aside = path.with_extension(format!("json.older-{now_ms}"));
    document::rename(path, &aside)
        .with_context(|| format!("cannot put aside {}, an older copy", path.display()))
}

/// What is remembered of a replica of which nothing is known: it does nothing, and is nothing that
/// anybody may rely on.
pub fn doubted(name: &str, why: &str, former: bool, now_ms: u64) -> ReplicaRecord {
    let was = if former {
        "; it may have been the primary before, and hold commits that the log never saw, which a resync removes"
    } else {
        ""
    };
    let reason = format!("whether it equals the primary is not known: {why}{was}");
    let message = format!(
        "{reason}. It may have been diverged, paused, in need of a resync or in the middle of one"
    );
    let advice = format!(
        "have it follow the log again, without being taken for equal: replctl resume {name}\n\
         then prove that it is equal: replctl validate --deep --replica {name}\n\
         or bring it to what the primary holds: replctl resync {name}"
    );
    ReplicaRecord {
        standing: Membership::Diverged,
        reason,
        doubted: true,
        foreign_keys_due: true,
        pause: Some(Pause {
            since_ms: now_ms,
            error: Some(ErrorInfo {
                at_ms: now_ms,
                kind: ErrorKind::History,
                message,
                advice,
                transaction: None,
                table: None,
                key: None,
                database_code: None,
                directive: Directive::Pause,
                attempts: 1,
                past: false,
            }),
        }),
        ..ReplicaRecord::new(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::super::StateFile;
    use super::*;

    fn past(begun: bool) -> Past {
        Past {
            begun,
            replicas: vec!["r1".into(), "old".into()],
            former: vec!["old".into()],
        }
    }

    fn open(dir: &Path, begun: bool) -> StateFile {
        StateFile::open(dir, "shop", &past(begun)).unwrap()
    }

    fn stream(state: &StateFile) {
        let changed = state.change("r1", 7, |record| record.standing = Membership::Streaming);
        changed.unwrap();
    }

    fn doubts(state: &StateFile) -> bool {
        let record = state.replica("r1").unwrap();
        state.lost().is_some() && record.doubted && record.membership() == Membership::Paused
    }

    #[test]
    fn a_missing_file_is_lost_only_where_there_is_a_history() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path(), false).lost().is_none());
        assert!(open(dir.path(), true).lost().is_none());
        std::fs::remove_file(dir.path().join("state.json")).unwrap();
        let state = open(dir.path(), true);
        assert!(doubts(&state) && state.is_fenced("old") && !state.is_fenced("r1"));
        assert!(state.keeps_gate());
        // It stays so, whatever else is lost beside it.
        for file in ["state-mark.json", "state.json"] {
            std::fs::remove_file(dir.path().join(file)).unwrap();
            assert!(doubts(&open(dir.path(), true)), "{file}");
        }
    }

    #[test]
    fn an_older_copy_is_told_from_the_newest_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, copy) = (dir.path().join("state.json"), dir.path().join("copy"));
        let state = open(dir.path(), false);
        stream(&state);
        std::fs::copy(&file, &copy).unwrap();
        assert!(open(dir.path(), true).lost().is_none());
        let paused = |record: &mut ReplicaRecord| record.standing = Membership::NeedsResync;
        state.change("r1", 8, paused).unwrap();
        std::fs::rename(&copy, &file).unwrap();
        assert!(doubts(&open(dir.path(), true)));
        let aside = std::fs::read_dir(dir.path()).unwrap();
        let aside = aside.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(".older-")
        });
        assert_eq!(aside.count(), 1);
    }

    #[test]
    fn a_file_of_an_earlier_version_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"format": 1, "group": "shop", "replicas": {}}"#;
        std::fs::write(dir.path().join("state.json"), text).unwrap();
        let state = open(dir.path(), true);
        assert!(state.lost().is_none());
        stream(&state);
        // Between the file and its mark the daemon may die.
        assert!(open(dir.path(), true).lost().is_none());
        std::fs::remove_file(dir.path().join("state-mark.json")).unwrap();
        assert!(open(dir.path(), true).lost().is_none());
        // But the copy of before counts as older from now on.
        stream(&open(dir.path(), true));
        std::fs::write(dir.path().join("state.json"), text).unwrap();
        assert!(doubts(&open(dir.path(), true)));
    }

    #[test]
    fn it_is_over_when_every_replica_is_known_and_orders_end_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), false));
        std::fs::remove_file(dir.path().join("state.json")).unwrap();
        let state = open(dir.path(), true);
        // Going on is not being equal.
        let resumed = state.change("r1", 9, |record| record.pause = None).unwrap();
        assert_eq!(resumed.membership(), Membership::Diverged);
        assert!(resumed.doubted && state.lost().is_some());
        let resync = |record: &mut ReplicaRecord| record.standing = Membership::Resyncing;
        assert!(!state.change("old", 9, resync).unwrap().doubted);
        assert!(state.lost().is_some());
        stream(&state);
        assert!(state.lost().is_none());
        assert!(state.keeps_gate() && state.is_fenced("old"));
    }
}
