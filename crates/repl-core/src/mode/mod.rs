//! Which commits of the primary wait, and for whom: the rule of the modes, as a state machine.
//!
//! [`Rule`] takes what happens (the log's durable end, what each replica cannot lose any more, who
//! counts, the operator's orders, the passing of time) and says through which sequence the primary
//! may be told that a commit is *applied*. It knows no engine, clock or socket.

mod rule;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use rule::{Degraded, Member, Phase, Rule, Standing};

/// What a commit on the primary waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing.
    #[default]
    Async,
    /// A number of the replicas that count.
    SemiSync,
    /// All replicas that count.
    Sync,
}

/// How many replicas semi-sync waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// So many.
    Count(u32),
    /// More than half of the replicas that may count, whoever of them does at the moment.
    Majority,
}

/// Which replicas semi-sync waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quorum {
    /// Any.
    #[default]
    Any,
    /// Those of the highest priority that count.
    First,
}

/// How far a commit must have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Committed at the replica, so that its crash does not take it back.
    #[default]
    Applied,
    /// Durable in the event log.
    Logged,
}

/// What happens to commits that have waited for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTimeout {
    /// They go on waiting.
    #[default]
    Block,
    /// They, and those after them, wait for the log only, until the replicas have caught up.
    Degrade,
}

/// What the operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What a commit waits for.
    pub mode: Mode,
    /// How many replicas; matters to semi-sync only.
    pub need: Need,
    /// Which of them; matters to semi-sync only.
    pub quorum: Quorum,
    /// How far.
    pub level: Level,
    /// What happens when it takes too long.
    pub on_timeout: OnTimeout,
    /// How long is too long.
    pub timeout: Duration,
    /// Most transactions that the replicas may be behind when the mode comes into force, since
    /// commits then wait for these.
    pub max_queue: u64,
}

impl Settings {
    /// Nothing waits.
    pub fn asynchronous() -> Self {
        Settings {
            mode: Mode::Async,
            need: Need::Count(1),
            quorum: Quorum::Any,
            level: Level::Applied,
            on_timeout: OnTimeout::Block,
            timeout: Duration::from_secs(10),
            max_queue: 1000,
        }
    }

    /// Whether replicas must commit durably, because their commits are waited for.
    pub fn counts_replicas(&self) -> bool {
        self.mode != Mode::Async && self.level == Level::Applied
    }

    /// How many of `roster` replicas that may count a commit waits for.
    pub fn needed(&self, roster: usize) -> usize {
        match (self.mode, self.level, self.need) {
            (Mode::Async, ..) | (_, Level::Logged, _) => 0,
            (Mode::Sync, ..) => roster.max(1),
            (Mode::SemiSync, _, Need::Count(count)) => count.max(1) as usize,
            (Mode::SemiSync, _, Need::Majority) => roster / 2 + 1,
        }
    }
}

impl Mode {
    /// The name in the configuration and in status.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Async => "async",
            Mode::SemiSync => "semi-sync",
            Mode::Sync => "sync",
        }
    }
}

impl fmt::Display for Settings {
    /// Such as `semi-sync (any 2 replicas)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode.name())?;
        match (self.mode, self.level) {
            (Mode::Async, _) => return Ok(()),
            (_, Level::Logged) => return f.write_str(" (durable in the event log)"),
            (Mode::Sync, Level::Applied) => return f.write_str(" (all counted replicas)"),
            (Mode::SemiSync, Level::Applied) => {}
        }
        let which = match self.quorum {
            Quorum::Any => "any",
            Quorum::First => "first",
        };
        match self.need {
            Need::Count(count) => write!(f, " ({which} {count})"),
            Need::Majority => write!(f, " ({which} majority)"),
        }
    }
}
