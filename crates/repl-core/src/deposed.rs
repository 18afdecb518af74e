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
    /// Whatever it committed beyond was acknowledged to nobody: each of its commits waited, to the end.
    #[serde(default)]
    pub unacknowledged: bool,
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

/// What is done without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoRejoin {
    /// Anything: one with nothing of its own joins.
    pub allowed: bool,
    /// So does one that holds only what was acknowledged to nobody.
    pub unacknowledged: bool,
}

/// `waited`: its commits wait still, now that it is looked at.
pub fn judge(found: &Found, auto: AutoRejoin, deposed: &Deposed, waited: bool) -> Verdict {
    let given_up = auto.allowed && auto.unacknowledged && deposed.unacknowledged && waited;
    match found {
        Found::Nothing if auto.allowed || deposed.ordered => Verdict::Follow,
        Found::Strays { .. } | Found::Unknown { .. } if deposed.ordered => Verdict::Restore,
        Found::Strays { .. } if given_up => Verdict::Restore,
        _ => Verdict::Hold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_was_told_of_is_given_up_and_all_else_on_order_only() {
        let strays = Found::Strays {
            transactions: 1,
            rows: 3,
        };
        let unknown = Found::Unknown { why: "x".into() };
        for bits in 0..32 {
            let [allowed, gives_up, unacknowledged, waited, ordered] =
                [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
            let auto = AutoRejoin {
                allowed,
                unacknowledged: gives_up,
            };
            let deposed = Deposed {
                source: SourceIdentity {
                    node: "main".into(),
                    engine: "postgres".into(),
                    system: "1".into(),
                    timeline: "1".into(),
                },
                end: SourcePosition("0/1".into()),
                at_ms: 1,
                found: None,
                ordered,
                unacknowledged,
            };
            let nobodys = allowed && gives_up && unacknowledged && waited;
            for (found, wanted) in [
                (
                    &Found::Nothing,
                    (allowed || ordered).then_some(Verdict::Follow),
                ),
                (&strays, (ordered || nobodys).then_some(Verdict::Restore)),
                (&unknown, ordered.then_some(Verdict::Restore)),
            ] {
                assert_eq!(
                    judge(found, auto, &deposed, waited),
                    wanted.unwrap_or(Verdict::Hold),
                    "{found:?} {bits:05b}"
                );
            }
        }
    }
}
