//! How far a replica has come, as stored in the replica itself.

use serde::{Deserialize, Serialize};

use crate::position::{Epoch, LogId, Seq, SourcePosition};

/// Written in the same replica transaction as the changes it covers, as a compare-and-set on
/// (log id, epoch, sequence): a zombie session or a second daemon then changes nothing
/// (invariant I3). One per origin, so that a node may later follow several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Log the sequence belongs to.
    pub log: LogId,
    /// Epoch of the last applied transaction.
    pub epoch: Epoch,
    /// Last applied transaction.
    pub seq: Seq,
    /// Source position after it.
    pub position: SourcePosition,
}
