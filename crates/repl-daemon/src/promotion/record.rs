//! The promotions that ended, for `replctl history`: `promotions.json` in the log directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use repl_api::{PromotionInfo, PromotionState, PromotionStep};
use repl_core::deposed::Loss;
use repl_core::promotion::{Action, Passed, Promotion};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::document::{self, Replacement};

/// Version of the file's format.
const FORMAT: u32 = 1;

/// Most promotions remembered.
const REMEMBERED: usize = 100;

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    group: String,
    /// Oldest first.
    promotions: Vec<PromotionInfo>,
    /// An earlier file was lost: numbers through this one may have been given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

/// The file and its content.
pub struct History {
    path: PathBuf,
    document: Mutex<Document>,
    /// It was found missing at this start.
    missed: bool,
}

impl History {
    /// Reads the file, or starts a new one: an earlier one was lost where the log says that there were
    /// promotions, the last of which began the epoch `promoted` or an earlier one.
    ///
    /// # Errors
    /// When it is damaged, of another group or of a newer format; when it cannot be written.
    pub fn open(dir: &Path, group: &str, promoted: Option<u64>) -> anyhow::Result<History> {
        let path = dir.join("promotions.json");
        let place = path.display();
        let read = document::read(&path)?;
        let missed = read.is_none() && promoted.is_some();
        let document = match read {
            Some(bytes) => serde_json::from_slice::<Document>(&bytes).with_context(|| {
                format!(
                    "{place} is damaged. It lists the promotions there were, with the nodes that gave their \
                     place up; nothing is decided by it unless state.json is lost as well. To go on without \
                     that list: mv {place} {place}.damaged"
                )
            })?,
            None => Document {
                format: FORMAT,
                group: group.to_owned(),
                promotions: Vec::new(),
                lost: promoted,
            },
        };
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
        if missed {
            warn!(path = %place, "missing, although there were promotions: which, is not known any more");
            Replacement::prepare(&path, &document)?.commit(&path)?;
        }
        Ok(History {
            path,
            document: Mutex::new(document),
            missed,
        })
    }

    /// The alert, where the list was lost; a restart of the daemon takes note of it.
    pub fn alert(&self) -> Option<String> {
        let what = "promotions.json was missing: which promotions there were is not known any more (put the file \
                    back, or restart the daemon to go on without it)";
        self.missed.then(|| what.to_owned())
    }

    /// The nodes that gave their place up to another.
    pub fn gave_way(&self) -> BTreeSet<String> {
        let document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        let done = document.promotions.iter();
        let done = done.filter(|one| one.state == PromotionState::Done);
        done.map(|one| one.from.clone()).collect()
    }

    /// The promotions that ended, newest first.
    pub fn all(&self) -> Vec<PromotionInfo> {
        let document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        document.promotions.iter().rev().cloned().collect()
    }

    /// The number for the next promotion.
    pub fn next_id(&self) -> u64 {
        let document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        let last = document.promotions.last().map(|last| last.id);
        last.max(document.lost).unwrap_or_default() + 1
    }

    /// Adds one that ended; one that is there already is replaced.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, ended: PromotionInfo) -> anyhow::Result<()> {
        let mut document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        document.promotions.retain(|one| one.id != ended.id);
        document.promotions.push(ended);
        let more = document.promotions.len().saturating_sub(REMEMBERED);
        document.promotions.drain(..more);
        Replacement::prepare(&self.path, &*document)?.commit(&self.path)
    }
}

/// A promotion in the API's words.
pub fn info(promotion: &Promotion, ended_ms: Option<u64>) -> PromotionInfo {
    let next = promotion.next();
    PromotionInfo {
        id: promotion.id,
        from: promotion.from.clone(),
        to: promotion.to.clone(),
        epoch: u64::from(promotion.epoch.0),
        started_ms: promotion.started_ms,
        ended_ms,
        state: match next {
            Action::Do(_) => PromotionState::Running,
            Action::Undo(_) => PromotionState::RollingBack,
            Action::Over { promoted: true } => PromotionState::Done,
            Action::Over { promoted: false } => PromotionState::RolledBack,
        },
        step: (!matches!(next, Action::Over { .. })).then(|| next.name().to_owned()),
        failure: promotion.failure.clone(),
        gap_ms: gap(&promotion.passed),
        cause: promotion.cause.name().to_owned(),
        reason: (!promotion.reason.is_empty()).then(|| promotion.reason.clone()),
        may_lose: promotion
            .loss
            .as_ref()
            .map(|loss| wire(loss, &promotion.from)),
        steps: promotion.passed.iter().map(step).collect(),
    }
}

/// What may be lost, in the API's words.
pub fn wire(loss: &Loss, primary: &str) -> repl_api::Loss {
    let (nothing, bytes, heard_ms) = match *loss {
        Loss::Nothing => (true, None, None),
        Loss::Possible { bytes, heard_ms } => (false, bytes, heard_ms),
    };
    repl_api::Loss {
        nothing,
        bytes,
        heard_ms,
        what: super::forced::say(loss, primary),
    }
}

fn step(passed: &Passed) -> PromotionStep {
    PromotionStep {
        name: passed.step.clone(),
        at_ms: passed.at_ms,
        took_ms: passed.took_ms,
        result: passed.result.clone(),
        done: passed.done,
    }
}

/// From the beginning of the fence to the end of what opened one of the two again.
fn gap(passed: &[Passed]) -> Option<u64> {
    let fence = passed.iter().find(|one| one.step == "fence")?;
    let opened = |one: &&Passed| one.done && (one.step == "open" || one.step == "reopen");
    let open = passed.iter().find(opened)?;
    Some((open.at_ms + open.took_ms).saturating_sub(fence.at_ms))
}
