//! Content of a SQLite database, computed here from storage classes and bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, Result};
use rusqlite::types::ValueRef;

use super::{BUCKETS, Content, Digest};
use crate::sqlite::SqliteDb;

/// Prefix of the tables the daemon keeps in a SQLite database.
const OWN_PREFIX: &str = "_repl_";

pub(super) struct SqliteContent<'a> {
    pub db: &'a SqliteDb,
}

impl SqliteContent<'_> {
    fn for_each_row(
        &self,
        table: &str,
        columns: &[String],
        mut visit: impl FnMut(String),
    ) -> Result<()> {
        let list: Vec<String> = columns.iter().map(|name| quote(name)).collect();
        let sql = format!("SELECT {} FROM {}", list.join(", "), quote(table));
        let connection = self.db.connect_read_only()?;
        let mut statement = connection.prepare(&sql).with_context(|| sql.clone())?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut text = String::new();
            for index in 0..columns.len() {
                render(row.get_ref(index)?, &mut text);
            }
            visit(text);
        }
        Ok(())
    }
}

impl Content for SqliteContent<'_> {
    fn label(&self) -> String {
        format!("SQLite {}", self.db.path().display())
    }

    fn tables(&self) -> Result<Vec<String>> {
        let connection = self.db.connect_read_only()?;
        // Virtual tables' content lives in shadow tables of their own; views hold none.
        let mut statement = connection.prepare(
            "SELECT name FROM pragma_table_list
             WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
             ORDER BY name",
        )?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        let names: Vec<String> = names.collect::<rusqlite::Result<_>>()?;
        Ok(names
            .into_iter()
            .filter(|name| !name.starts_with(OWN_PREFIX))
            .collect())
    }

    fn columns(&self, table: &str) -> Result<Vec<String>> {
        let connection = self.db.connect_read_only()?;
        let mut statement =
            connection.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden <> 1")?;
        let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
        let mut names: Vec<String> = names.collect::<rusqlite::Result<_>>()?;
        anyhow::ensure!(!names.is_empty(), "{} has no table {table}", self.label());
        names.sort();
        Ok(names)
    }

    fn digest(&self, table: &str, columns: &[String]) -> Result<Digest> {
        let mut total = Sum::default();
        self.for_each_row(table, columns, |row| total.add(hash(&row)))?;
        Ok(total.digest())
    }

    fn bucket_digests(&self, table: &str, columns: &[String]) -> Result<BTreeMap<usize, Digest>> {
        let mut sums: BTreeMap<usize, Sum> = BTreeMap::new();
        self.for_each_row(table, columns, |row| {
            let hash = hash(&row);
            sums.entry(bucket_of(hash)).or_default().add(hash);
        })?;
        Ok(sums
            .into_iter()
            .map(|(bucket, sum)| (bucket, sum.digest()))
            .collect())
    }

    fn bucket_rows(&self, table: &str, columns: &[String], bucket: usize) -> Result<Vec<String>> {
        let mut found = Vec::new();
        self.for_each_row(table, columns, |row| {
            if bucket_of(hash(&row)) == bucket {
                found.push(row);
            }
        })?;
        Ok(found)
    }
}

#[derive(Default)]
struct Sum {
    rows: u64,
    total: u128,
}

impl Sum {
    fn add(&mut self, hash: u64) {
        self.rows += 1;
        self.total = self.total.wrapping_add(u128::from(hash));
    }

    fn digest(&self) -> Digest {
        Digest {
            rows: self.rows,
            sum: self.total.to_string(),
        }
    }
}

/// Storage class and exact value; text and blobs are shown readably but without loss.
fn render(value: ValueRef<'_>, text: &mut String) {
    let _ = match value {
        ValueRef::Null => write!(text, "[null]"),
        ValueRef::Integer(number) => write!(text, "[int {number}]"),
        // The bits tell -0.0 from 0.0; the number is for the reader.
        ValueRef::Real(number) => write!(text, "[real {number:e} {:016x}]", number.to_bits()),
        ValueRef::Text(bytes) => write!(text, "[text {}: {}]", bytes.len(), bytes.escape_ascii()),
        ValueRef::Blob(bytes) => write!(text, "[blob {}: {}]", bytes.len(), bytes.escape_ascii()),
    };
}

fn hash(row: &str) -> u64 {
    // Keyed with constants, hence equal in every process.
    let mut hasher = DefaultHasher::new();
    row.hash(&mut hasher);
    hasher.finish()
}

fn bucket_of(hash: u64) -> usize {
    usize::try_from(hash % BUCKETS as u64).unwrap_or_default()
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
