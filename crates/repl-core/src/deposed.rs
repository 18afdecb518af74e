//! A primary that was replaced without being asked, and what becomes of it when it is seen again.
//!
//! It may have committed what the log never saw, and it may take writes when it returns. So it is
//! fenced first of all, then compared with where the log ends in its epoch ([`judge`]); only with
//! nothing beyond that does it hold what the log holds.

use serde::{Deserialize, Serialize};

use crate::position::{SourceIdentity, SourcePosition};

/// What is known of such a node; remembered until it has joined again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deposed {
    /// Which server it was, and on which timeline.
    pub source: SourceIdentity,
    /// The log holds everything it committed up to here.
    pub end: SourcePosition,
    /// Its place was taken then, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What was found when it was looked at; none until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// The operator has ordered that it joins again, whatever it holds.
    #[serde(default)]
    pub ordered: bool,
}

/// What a deposed primary holds beyond the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Transactions that the log never saw.
    Strays {
        /// How many.
        transactions: u64,
        /// Rows inserted, updated and deleted by them.
        rows: u64,
    },
    /// It cannot be told.
    Unknown {
        /// Why.
        why: String,
    },
}

/// What the primary may have committed that the log does not hold, as far as that is known while it
/// cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Loss {
    /// Nothing that was acknowledged as far as the mode promises.
    Nothing,
    /// What it wrote since.
    Possible {
        /// Bytes it had written beyond the log's end when it was last heard; none when it never told.
        bytes: Option<u64>,
        /// When that was, milliseconds since the Unix epoch: what came since is not known at all.
        heard_ms: Option<u64>,
    },
}

/// What is to be done with one that was looked at, and refuses writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds what the log holds, and follows.
    Follow,
    /// It is brought to what the primary holds.
    Restore,
    /// It waits for the operator.
    Hold,
}

/// `auto`: one with nothing of its own joins without being told to.
pub fn judge(found: &Found, auto: bool, ordered: bool) -> Verdict {
    match (found, auto, ordered) {
        (Found::Nothing, true, _) | (Found::Nothing, _, true) => Verdict::Follow,
        (Found::Strays { .. } | Found::Unknown { .. }, _, true) => Verdict::Restore,
        (_, _, false) => Verdict::Hold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_holds_nothing_of_its_own_follows_and_only_on_order_anything_is_given_up() {
        let strays = Found::Strays {
            transactions: 1,
            rows: 3,
        };
        let unknown = Found::Unknown { why: "x".into() };
        for (found, auto, ordered, wanted) in [
            (&Found::Nothing, true, false, Verdict::Follow),
            (&Found::Nothing, true, true, Verdict::Follow),
            (&Found::Nothing, false, false, Verdict::Hold),
            (&Found::Nothing, false, true, Verdict::Follow),
            (&strays, true, false, Verdict::Hold),
            (&strays, false, false, Verdict::Hold),
            (&strays, true, true, Verdict::Restore),
            (&unknown, true, false, Verdict::Hold),
            (&unknown, false, true, Verdict::Restore),
        ] {
            assert_eq!(
                judge(found, auto, ordered),
                wanted,
                "{found:?} {auto} {ordered}"
            );
        }
    }
}
