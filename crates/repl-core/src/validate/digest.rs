//! Sums of row hashes, by bucket.
//!
//! A row's 128-bit hash is seeded per run, so that no content can be made to collide on purpose.
//! Hashes are added modulo 2^128 and rows are counted: unlike under XOR, equal rows do not cancel
//! each other, nor does a swapped pair of values.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// Buckets per table. With two million rows about a hundred share one, so a second pass keeps
/// little memory per differing bucket.
pub const BUCKETS: usize = 16 * 1024;

/// Hashes rows and keys under one seed.
#[derive(Clone, Copy, Debug)]
pub struct RowHasher {
    seed: u64,
}

impl RowHasher {
    /// A hasher for one run; the seed should be random.
    pub fn new(seed: u64) -> RowHasher {
        RowHasher { seed }
    }

    /// Hash of a canonical row.
    #[inline]
    pub fn row(&self, canonical: &[u8]) -> u128 {
        xxh3_128_with_seed(canonical, self.seed)
    }

    /// The bucket of a canonical key.
    #[inline]
    pub fn bucket(&self, key: &[u8]) -> usize {
        (xxh3_64_with_seed(key, self.seed) % BUCKETS as u64) as usize
    }
}

/// Count of rows and sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Rows, modulo 2^64: a count that is only subtracted from wraps.
    pub rows: u64,
    /// Sum of the rows' hashes, modulo 2^128.
    pub sum: u128,
}

impl Digest {
    /// Adds `copies` rows of this hash; a negative number takes them away.
    pub fn add(&mut self, hash: u128, copies: i64) {
        self.rows = self.rows.wrapping_add_signed(copies);
        self.sum = self
            .sum
            .wrapping_add(hash.wrapping_mul(i128::from(copies) as u128));
    }
}

/// The digests of a table's rows by bucket of their key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    cells: Vec<Digest>,
}

impl Default for Buckets {
    fn default() -> Self {
        Buckets {
            cells: vec![Digest::default(); BUCKETS],
        }
    }
}

impl Buckets {
    /// Adds one row.
    #[inline]
    pub fn add(&mut self, bucket: usize, hash: u128) {
        self.add_copies(bucket, hash, 1);
    }

    /// Adds equal rows, or takes them away.
    #[inline]
    pub fn add_copies(&mut self, bucket: usize, hash: u128, copies: i64) {
        self.cells[bucket % BUCKETS].add(hash, copies);
    }

    /// Rows in all buckets.
    pub fn rows(&self) -> u64 {
        let counts = self.cells.iter().map(|cell| cell.rows);
        counts.fold(0, u64::wrapping_add)
    }

    /// The buckets that differ, with the larger of their two row counts, ascending.
    pub fn differing(&self, other: &Buckets) -> Vec<(usize, u64)> {
        let pairs = self.cells.iter().zip(&other.cells).enumerate();
        pairs
            .filter(|(_, (left, right))| left != right)
            .map(|(at, (left, right))| (at, left.rows.max(right.rows)))
            .collect()
    }
}
