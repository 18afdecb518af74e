//! Exact cuts: which transactions a snapshot contains.
//!
//! A snapshot of PostgreSQL is not a prefix of its commit order in the log: a commit can be in the
//! write-ahead log, and so in ours, before it is visible. What a snapshot contains is therefore
//! told by transaction ids, and the stream is joined to it by skipping just those.

use serde::{Deserialize, Serialize};

use crate::position::Seq;

/// What a copied table already contains of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Exactly the transactions up to this sequence.
    Through(Seq),
    /// The transactions whose ids the snapshot saw as committed.
    Transactions(VisibleTransactions),
    /// Rows of several snapshots, because a copy was interrupted: every row is at least as new as
    /// `first` and at most as new as `last`. Until the stream has passed `last` the table is
    /// *settling* (see [`crate::copy`]).
    Several {
        /// The cut of the oldest rows: what the stream passes over.
        first: Box<Cut>,
        /// The cut of the newest rows: where the table is exact again.
        last: Box<Cut>,
    },
}

/// A PostgreSQL snapshot (`pg_current_snapshot()`), with a bound for when it stops mattering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisibleTransactions {
    /// Every id below is finished.
    pub xmin: u64,
    /// No id at or above is visible.
    pub xmax: u64,
    /// Ids between that were still running, ascending.
    pub running: Vec<u64>,
    /// Source position, in the connector's fixed-width text form that sorts as text, read after
    /// the snapshot was taken: a transaction that ends beyond it cannot be visible.
    pub horizon: String,
}

impl VisibleTransactions {
    /// Whether the snapshot shows the transaction with this 32-bit id as committed, provided it
    /// did commit.
    pub fn contains(&self, txid: u32) -> bool {
        let full = self.widen(txid);
        full < self.xmin || (full < self.xmax && self.running.binary_search(&full).is_err())
    }

    /// The 64-bit id nearest to `xmax` that ends in these 32 bits: ids wrap around, but all that
    /// are compared lie within 2^31 of the snapshot.
    fn widen(&self, txid: u32) -> u64 {
        let distance = txid.wrapping_sub(self.xmax as u32) as i32;
        self.xmax.wrapping_add_signed(i64::from(distance))
    }
}

impl Cut {
    /// Whether the cut already holds the transaction `seq`, of source id `txid`, that ends at
    /// `position`.
    pub fn contains(&self, seq: Seq, txid: u64, position: &str) -> bool {
        match self {
            Cut::Through(last) => seq <= *last,
            Cut::Transactions(visible) => {
                position <= visible.horizon.as_str() && visible.contains(txid as u32)
            }
            Cut::Several { first, .. } => first.contains(seq, txid, position),
        }
    }

    /// Whether rows of the table may be newer than the stream, so that its changes are applied
    /// whatever they find.
    pub fn settles(&self) -> bool {
        matches!(self, Cut::Several { .. })
    }

    /// This cut's rows together with rows of a later one.
    #[must_use]
    pub fn and_later(self, last: Cut) -> Cut {
        let first = match self {
            Cut::Several { first, .. } => first,
            cut => Box::new(cut),
        };
        Cut::Several {
            first,
            last: Box::new(last),
        }
    }

    /// Whether the sequence alone tells that the stream has passed the cut.
    pub fn passed_by(&self, seq: Seq) -> bool {
        match self {
            Cut::Through(last) => seq >= *last,
            Cut::Transactions(_) => false,
            Cut::Several { first, last } => first.passed_by(seq) && last.passed_by(seq),
        }
    }

    /// Whether no transaction at or after `seq`/`position` can be in the cut any more.
    pub fn passed(&self, seq: Seq, position: &str) -> bool {
        match self {
            Cut::Through(last) => seq >= *last,
            Cut::Transactions(visible) => position > visible.horizon.as_str(),
            Cut::Several { first, last } => {
                first.passed(seq, position) && last.passed(seq, position)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(xmin: u64, xmax: u64, running: &[u64]) -> VisibleTransactions {
        VisibleTransactions {
            xmin,
            xmax,
            running: running.to_vec(),
            horizon: "9".into(),
        }
    }

    #[test]
    fn a_snapshot_is_not_a_prefix() {
        let snapshot = visible(10, 20, &[10, 15]);
        assert!(snapshot.contains(9));
        assert!(!snapshot.contains(10));
        assert!(snapshot.contains(14));
        assert!(!snapshot.contains(15));
        assert!(!snapshot.contains(20));
    }

    #[test]
    fn ids_are_compared_across_the_wraparound() {
        let epoch = 1u64 << 32;
        let snapshot = visible(epoch - 2, epoch + 5, &[epoch + 1]);
        assert!(snapshot.contains(u32::MAX - 2));
        assert!(snapshot.contains(2));
        assert!(!snapshot.contains(1));
        assert!(!snapshot.contains(5));
    }

    #[test]
    fn beyond_the_horizon_nothing_is_contained() {
        let cut = Cut::Transactions(visible(10, 20, &[]));
        assert!(cut.contains(Seq(1), 9, "8"));
        assert!(!cut.contains(Seq(1), 9, "99"));
        assert!(cut.passed(Seq(1), "99"));
    }

    #[test]
    fn rows_of_several_snapshots_settle_at_the_last() {
        let of = |horizon: &str| {
            Cut::Transactions(VisibleTransactions {
                horizon: horizon.into(),
                ..visible(10, 20, &[15])
            })
        };
        let cut = of("3").and_later(of("5")).and_later(of("7"));
        assert!(cut.settles());
        assert!(cut.contains(Seq(1), 14, "2"));
        assert!(!cut.contains(Seq(1), 14, "4"), "first alone is passed over");
        assert!(!cut.passed(Seq(1), "6"));
        assert!(cut.passed(Seq(1), "8"));
        let json = serde_json::to_string(&cut).unwrap();
        assert_eq!(serde_json::from_str::<Cut>(&json).unwrap(), cut);
    }
}
