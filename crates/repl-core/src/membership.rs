//! What a replica is to the group. Persisted before anything relies on it.

use serde::{Deserialize, Serialize};

/// A replica's standing. Only [`Membership::Streaming`] is a prefix of the primary's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Membership {
    /// Existing rows are being copied, or the copied tables are not yet joined to the stream.
    Copying,
    /// Follows the log.
    Streaming,
    /// Stopped by the operator, or by an error only the operator can resolve.
    Paused,
    /// Transactions were set aside for later.
    Parked,
    /// A transaction was skipped on the operator's word: the content differs from the primary's.
    Diverged,
    /// Being brought back by a new copy.
    Resyncing,
    /// Cannot follow: the log no longer, or never, held what it needs.
    NeedsResync,
    /// Holds only part of the selection by configuration.
    Filtered,
}

impl Membership {
    /// Whether the log must keep what this replica has not applied.
    pub fn holds_log(self) -> bool {
        self != Membership::NeedsResync
    }

    /// The name shown to people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Membership::Copying => "copying",
            Membership::Streaming => "streaming",
            Membership::Paused => "paused",
            Membership::Parked => "parked",
            Membership::Diverged => "diverged",
            Membership::Resyncing => "resyncing",
            Membership::NeedsResync => "needs-resync",
            Membership::Filtered => "filtered",
        }
    }
}
