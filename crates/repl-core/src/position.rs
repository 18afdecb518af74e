//! Identities and positions, each a type of its own so that none is mistaken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Dense counter of transactions in one log. The first transaction of a log is 1; 0 means "before
/// the first". Within a log the pair (epoch, sequence) is the only causality token.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A span of history with one unbroken source. Grows by one at every break of continuity (a lost
/// slot, a rebuilt log) and, later, at every promotion. Never shrinks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch that follows this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of one event log directory, made when the log is created and never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(pub uuid::Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A resume token in the source's own terms, opaque outside the connector that made it.
///
/// It is text so that it can be shown and stored anywhere; PostgreSQL uses the end LSN of the
/// transaction in fixed width, SQLite the change id and its token. Order is never derived from it
/// here: the log's sequence is the order, and only the connector may compare two positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourcePosition(pub String);

impl SourcePosition {
    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourcePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which database server a history comes from. Two histories join only if their identities agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// Name of the node in the configuration.
    pub node: String,
    /// Engine name: `postgres` or `sqlite`.
    pub engine: String,
    /// The server's own identity: PostgreSQL's system identifier and database, SQLite's
    /// incarnation token.
    pub system: String,
    /// PostgreSQL's timeline; empty for engines without one.
    pub timeline: String,
}
