//! How the daemon makes a source's commits wait for its acknowledgements.

use async_trait::async_trait;

use super::Result;

/// The waiting of a source's own commits. Works over a connection of its own, which it keeps: when
/// commits are withheld there may be no other to be had.
#[async_trait]
pub trait CommitGate: Send {
    /// Makes commits wait (`Some(true)`) or wait no longer (`Some(false)`), where that is permitted
    /// and not so already; then looks at what is true.
    ///
    /// # Errors
    /// When the source cannot be reached; the next call connects again.
    async fn keep(&mut self, wanted: Option<bool>) -> Result<GateReport>;

    /// Lets go of the source for good: commits wait no longer, whatever that gives up. Returns what
    /// was done.
    ///
    /// # Errors
    /// When the source cannot be reached or refuses.
    async fn release(&mut self) -> Result<String>;
}

/// What is true of the source's commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateReport {
    /// Commits wait for our acknowledgements, and for nothing that could stand in for them.
    pub closed: bool,
    /// Some commits may wait for our acknowledgements, if not all of them or not for these alone.
    pub named: bool,
    /// Why it is not as wanted.
    pub problems: Vec<GateProblem>,
    /// Whose commits do not wait for us.
    pub weaker: Vec<WeakerCommits>,
    /// Commits that wait now.
    pub waiting: u64,
    /// Age of the oldest of them, milliseconds.
    pub oldest_ms: Option<u64>,
}

/// Why commits do not wait as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateProblem {
    /// What is wrong, and why it matters.
    pub what: String,
    /// What to do, with the statement.
    pub remedy: String,
}

/// Sessions that, by a setting the source tells of, do not wait for our acknowledgements when they commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeakerCommits {
    /// Which, by the name it is accepted under in the configuration: `role batch`.
    pub who: String,
    /// The setting.
    pub setting: String,
    /// The statement that mends it.
    pub remedy: String,
}
