//! The rows behind buckets that differ.
//!
//! A second pass over both sides keeps the rows of the differing buckets, as many as memory was
//! set aside for: when they are too many, the last buckets are given up first.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::canon::Canon;
use crate::codec::Malformed;
use crate::row::Row;

/// Memory a kept row takes beside its bytes, bytes.
const OVERHEAD: usize = 160;

/// Which buckets are wanted, in the order in which they are given up from the end.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    rank: HashMap<usize, usize>,
    /// Buckets that differ, wanted or not.
    differing: usize,
}

impl Wanted {
    /// As many of the differing buckets as together hold at most `most_rows` rows, one at least.
    pub fn of(differing: &[(usize, u64)], most_rows: u64) -> Wanted {
        let mut rows = 0_u64;
        let mut rank = HashMap::new();
        for (bucket, held) in differing {
            rows = rows.saturating_add(*held);
            if rows > most_rows && !rank.is_empty() {
                break;
            }
            rank.insert(*bucket, rank.len());
        }
        Wanted {
            rank,
            differing: differing.len(),
        }
    }

    /// Number of buckets that differ.
    pub fn differing(&self) -> usize {
        self.differing
    }
}

/// Rows of one side, by key.
#[derive(Debug)]
pub struct Kept {
    rows: BTreeMap<usize, HashMap<Bytes, Vec<(Row, i64)>>>,
    bytes: usize,
    limit: usize,
    /// Buckets of this rank and above were given up.
    until: usize,
}

impl Kept {
    /// Keeps at most about `limit` bytes.
    pub fn new(wanted: &Wanted, limit: usize) -> Kept {
        Kept {
            rows: BTreeMap::new(),
            bytes: 0,
            limit,
            until: wanted.rank.len(),
        }
    }

    /// Keeps `copies` equal rows if their bucket is wanted; a negative number takes them away.
    pub fn add(&mut self, wanted: &Wanted, bucket: usize, key: Bytes, row: Row, copies: i64) {
        let Some(rank) = wanted
            .rank
            .get(&bucket)
            .copied()
            .filter(|r| *r < self.until)
        else {
            return;
        };
        let same = self.rows.entry(rank).or_default().entry(key).or_default();
        match same.iter_mut().find(|(held, _)| *held == row) {
            Some((_, count)) => *count += copies,
            None => {
                self.bytes += row.encoded().len() + OVERHEAD;
                // A slice of a larger buffer would keep all of it.
                let own = Row::from_encoded(Bytes::copy_from_slice(row.encoded()));
                same.push((own, copies));
            }
        }
        while self.bytes > self.limit {
            let Some((rank, gone)) = self.rows.pop_last() else {
                return;
            };
            self.until = rank;
            let freed = gone.values().flatten();
            self.bytes -= freed
                .map(|(row, _)| row.encoded().len() + OVERHEAD)
                .sum::<usize>();
        }
    }
}

/// One row, or several equal ones, that one side has and the other has not, or has otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The canonical key.
    pub key: Bytes,
    /// What the replica should hold; none for a row too many.
    pub expected: Option<Row>,
    /// What it holds; none for a row that is missing.
    pub actual: Option<Row>,
    /// Columns in which the two differ; empty unless both are there.
    pub columns: Vec<usize>,
    /// How many equal rows this stands for.
    pub copies: u64,
}

/// What narrowing found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowed {
    /// The differences, by bucket.
    pub differences: Vec<Difference>,
    /// Every differing bucket was looked into.
    pub complete: bool,
}

/// Compares what was kept of both sides.
///
/// # Errors
/// When a row is damaged.
pub fn compare(
    canon: &Canon,
    wanted: &Wanted,
    expected: &Kept,
    actual: &Kept,
) -> Result<Narrowed, Malformed> {
    let until = expected.until.min(actual.until);
    let mut differences = Vec::new();
    let nothing = HashMap::new();
    for rank in 0..until {
        let left = expected.rows.get(&rank).unwrap_or(&nothing);
        let right = actual.rows.get(&rank).unwrap_or(&nothing);
        let mut keys: Vec<&Bytes> = left.keys().collect();
        keys.extend(right.keys().filter(|key| !left.contains_key(*key)));
        keys.sort_unstable();
        for key in keys {
            let held =
                |side: &HashMap<Bytes, Vec<(Row, i64)>>| side.get(key).cloned().unwrap_or_default();
            pair(canon, key, held(left), held(right), &mut differences)?;
        }
    }
    // By key, whatever the buckets: shorter keys first, so numbers in text are in order.
    differences.sort_by(|one: &Difference, other| one.key.cmp(&other.key));
    Ok(Narrowed {
        differences,
        complete: until == wanted.differing,
    })
}

/// Rows under one key: equal ones cancel, and one that remains on each side is a changed row.
fn pair(
    canon: &Canon,
    key: &Bytes,
    expected: Vec<(Row, i64)>,
    actual: Vec<(Row, i64)>,
    out: &mut Vec<Difference>,
) -> Result<(), Malformed> {
    let mut surplus = expected;
    for (row, count) in actual {
        match surplus.iter_mut().find(|(held, _)| *held == row) {
            Some((_, left)) => *left -= count,
            None => surplus.push((row, -count)),
        }
    }
    surplus.retain(|(_, count)| *count != 0);
    let of = |expected: Option<&Row>, actual: Option<&Row>, columns, copies| Difference {
        key: key.clone(),
        expected: expected.cloned(),
        actual: actual.cloned(),
        columns,
        copies,
    };
    if let [(one, 1), (other, -1)] | [(other, -1), (one, 1)] = surplus.as_slice() {
        let columns = canon.differing(one, other)?;
        out.push(of(Some(one), Some(other), columns, 1));
        return Ok(());
    }
    for (row, count) in &surplus {
        let (expected, actual) = match *count > 0 {
            true => (Some(row), None),
            false => (None, Some(row)),
        };
        out.push(of(expected, actual, Vec::new(), count.unsigned_abs()));
    }
    Ok(())
}
