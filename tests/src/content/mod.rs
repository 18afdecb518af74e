//! Comparing what two databases hold.
//!
//! Each side computes its own canonical form of each table — a row count and the sum of a hash of
//! every row's lossless text — in its own engine, without the daemon's code. Order does not
//! matter, duplicates count, NULL differs from an empty value and `-0` from `0`. On a difference
//! the tables are narrowed to the rows that differ, which the error shows.

mod postgres;
mod sqlite;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::pg::PgServer;
use crate::sqlite::SqliteDb;

/// Rows are distributed over this many buckets by their hash to find the ones that differ.
const BUCKETS: usize = 256;
/// Differing rows shown per table and side.
const SHOWN: usize = 8;

/// One side of a comparison.
pub trait Content {
    /// How messages name this side.
    fn label(&self) -> String;

    /// The user tables, as `schema.table` (PostgreSQL) or `table` (SQLite), without the daemon's.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn tables(&self) -> Result<Vec<String>>;

    /// The names of a table's columns, sorted; generated ones included.
    ///
    /// # Errors
    /// When the table is absent or the database cannot be read.
    fn columns(&self, table: &str) -> Result<Vec<String>>;

    /// Count and hash sum of the given columns over all rows.
    ///
    /// # Errors
    /// When the table is absent or the database cannot be read.
    fn digest(&self, table: &str, columns: &[String]) -> Result<Digest>;

    /// A digest per bucket, [`BUCKETS`] of them; only non-empty ones need be present.
    ///
    /// # Errors
    /// As [`Content::digest`].
    fn bucket_digests(&self, table: &str, columns: &[String]) -> Result<BTreeMap<usize, Digest>>;

    /// The canonical text of all rows in one bucket.
    ///
    /// # Errors
    /// As [`Content::digest`].
    fn bucket_rows(&self, table: &str, columns: &[String], bucket: usize) -> Result<Vec<String>>;
}

/// A table's content in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Number of rows.
    pub rows: u64,
    /// Sum of the rows' hashes, in the engine's own notation.
    pub sum: String,
}

/// A table on the primary and its name on the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePair {
    /// Name on the primary.
    pub source: String,
    /// Name on the replica.
    pub target: String,
}

/// Pairs of equal names.
#[must_use]
pub fn same_names(tables: &[&str]) -> Vec<TablePair> {
    let pair = |name: &&str| TablePair {
        source: (*name).to_owned(),
        target: (*name).to_owned(),
    };
    tables.iter().map(pair).collect()
}

/// The database `database` of a PostgreSQL server as a side of a comparison.
#[must_use]
pub fn pg<'a>(server: &'a PgServer, database: &'a str) -> impl Content + 'a {
    postgres::PgContent::new(server, database)
}

/// A SQLite database as a side of a comparison.
#[must_use]
pub fn sqlite(db: &SqliteDb) -> impl Content + '_ {
    sqlite::SqliteContent { db }
}

/// Compares all user tables of the primary with those of the replica.
///
/// # Errors
/// The differences, or a database that cannot be read.
pub fn assert_all_equal(primary: &dyn Content, replica: &dyn Content) -> Result<()> {
    let tables = primary.tables()?;
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    let extra: Vec<String> = replica
        .tables()?
        .into_iter()
        .filter(|table| !tables.contains(table))
        .collect();
    if !extra.is_empty() {
        bail!(
            "{} has tables the primary has not: {}",
            replica.label(),
            extra.join(", ")
        );
    }
    assert_equal(primary, replica, &same_names(&names))
}

/// Compares the given tables.
///
/// # Errors
/// The differences, with the first differing rows of each table; or a side that cannot be read.
pub fn assert_equal(
    primary: &dyn Content,
    replica: &dyn Content,
    tables: &[TablePair],
) -> Result<()> {
    if tables.is_empty() {
        bail!("no table to compare: {} is empty", primary.label());
    }
    let mut report = String::new();
    for pair in tables {
        if let Some(difference) = compare_table(primary, replica, pair)
            .with_context(|| format!("comparing {} with {}", pair.source, pair.target))?
        {
            report += &difference;
        }
    }
    if !report.is_empty() {
        bail!(
            "{} and {} differ:\n{report}",
            primary.label(),
            replica.label()
        );
    }
    Ok(())
}

/// Compares all tables again and again until they are equal.
///
/// # Errors
/// The differences that remain after `timeout`.
pub fn wait_equal(primary: &dyn Content, replica: &dyn Content, timeout: Duration) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        match assert_all_equal(primary, replica) {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > timeout => {
                return Err(error.context(format!("content not equal after {timeout:?}")));
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn compare_table(
    primary: &dyn Content,
    replica: &dyn Content,
    pair: &TablePair,
) -> Result<Option<String>> {
    let columns = primary.columns(&pair.source)?;
    let found = replica.columns(&pair.target)?;
    if columns != found {
        return Ok(Some(format!(
            "  {}: columns differ: primary {columns:?}, replica {found:?}\n",
            pair.source
        )));
    }
    let left = primary.digest(&pair.source, &columns)?;
    let right = replica.digest(&pair.target, &columns)?;
    if left == right {
        return Ok(None);
    }
    let mut text = format!(
        "  {}: {} rows on the primary, {} on the replica, columns {columns:?}\n",
        pair.source, left.rows, right.rows
    );
    let (missing, extra) = differing_rows(primary, replica, pair, &columns)?;
    for (title, rows) in [
        ("only on the primary", missing),
        ("only on the replica", extra),
    ] {
        for row in rows.iter().take(SHOWN) {
            let _ = writeln!(text, "    {title}: {}", clip(row));
        }
        if rows.len() > SHOWN {
            let _ = writeln!(
                text,
                "    {title}: … and at least {} more",
                rows.len() - SHOWN
            );
        }
    }
    Ok(Some(text))
}

/// Rows present more often on one side than on the other, from as many buckets as it takes to
/// show some of both.
fn differing_rows(
    primary: &dyn Content,
    replica: &dyn Content,
    pair: &TablePair,
    columns: &[String],
) -> Result<(Vec<String>, Vec<String>)> {
    let left = primary.bucket_digests(&pair.source, columns)?;
    let right = replica.bucket_digests(&pair.target, columns)?;
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    for bucket in (0..BUCKETS).filter(|bucket| left.get(bucket) != right.get(bucket)) {
        let mut surplus: BTreeMap<String, i64> = BTreeMap::new();
        for row in primary.bucket_rows(&pair.source, columns, bucket)? {
            *surplus.entry(row).or_default() += 1;
        }
        for row in replica.bucket_rows(&pair.target, columns, bucket)? {
            *surplus.entry(row).or_default() -= 1;
        }
        for (row, count) in surplus {
            let side = if count > 0 { &mut missing } else { &mut extra };
            for _ in 0..count.unsigned_abs() {
                side.push(row.clone());
            }
        }
        if missing.len() > SHOWN && extra.len() > SHOWN {
            break;
        }
    }
    Ok((missing, extra))
}

fn clip(row: &str) -> String {
    match row.char_indices().nth(300) {
        Some((end, _)) => format!("{}… ({} bytes)", &row[..end], row.len()),
        None => row.to_owned(),
    }
}
