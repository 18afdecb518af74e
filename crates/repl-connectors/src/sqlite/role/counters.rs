//! Where tables number their rows.
//!
//! `AUTOINCREMENT` remembers the last number in `sqlite_sequence`. Any other `INTEGER PRIMARY KEY` goes
//! on from the largest number that is there, so nothing has to be remembered and nothing can be.

use std::collections::BTreeMap;

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};
use rusqlite::{Connection, OptionalExtension, params};

use crate::seam::{ConnectorError, Counter, Result};
use crate::sqlite::error::During;
use crate::sqlite::schema::end_transaction;
use crate::sqlite::{MAIN, OWN_PREFIX};

/// A table that numbers its rows.
struct Numbered {
    table: String,
    /// The column that is the row number.
    column: String,
    /// `AUTOINCREMENT`: numbers are never given out twice.
    remembers: bool,
}

/// Where the numbers stand: what is remembered, and the largest that is there.
pub(super) fn read(db: &Connection) -> Result<Vec<Counter>> {
    let mut counters = Vec::new();
    for numbered in numbered(db)? {
        let remembered = match numbered.remembers {
            true => remembered(db, &numbered.table)?,
            false => None,
        };
        counters.push(numbered.counter(remembered.max(largest(db, &numbered)?)));
    }
    Ok(counters)
}

/// The largest numbers that are there.
pub(super) fn used(db: &Connection) -> Result<Vec<Counter>> {
    numbered(db)?
        .iter()
        .map(|numbered| Ok(numbered.counter(largest(db, numbered)?)))
        .collect()
}

/// Has those that remember go on beyond `counters`, and verifies it. Returns what is to be known.
pub(super) fn advance(db: &Connection, counters: &[Counter], margin: u64) -> Result<Vec<String>> {
    let here = numbered(db)?;
    let mut notes = Vec::new();
    let mut wanted: BTreeMap<usize, i64> = BTreeMap::new();
    for counter in counters {
        let Some(last) = counter.last else { continue };
        match here.iter().position(|one| one.serves(counter)) {
            // Told of several times, the furthest counts.
            Some(at) => {
                let furthest = wanted.entry(at).or_insert(last);
                *furthest = last.max(*furthest);
            }
            None => notes.push(format!(
                "{} is no counter here: what it served has to be given with each row",
                counter.name
            )),
        }
    }
    db.execute_batch("BEGIN IMMEDIATE")
        .during("lock the database to advance its counters")?;
    let outcome = wanted.iter().try_for_each(|(&at, &last)| {
        let numbered = &here[at];
        let present = largest(db, numbered)?;
        if !numbered.remembers {
            if present < Some(last) {
                notes.push(format!(
                    "{} numbers rows from the largest that is there ({}), numbers up to {last} were \
                     used before: declare it AUTOINCREMENT to keep them apart",
                    numbered.table,
                    present.unwrap_or_default()
                ));
            }
            return Ok(());
        }
        let furthest = remembered(db, &numbered.table)?.max(present).max(Some(last));
        let step = i64::try_from(margin).unwrap_or(i64::MAX);
        let value = furthest.unwrap_or_default().saturating_add(step);
        if value == i64::MAX {
            notes.push(format!("{} is at its last number", numbered.table));
        }
        remember(db, &numbered.table, value)
    });
    end_transaction(db, "COMMIT", &outcome)?;
    outcome?;
    Ok(notes)
}

impl Numbered {
    fn counter(&self, last: Option<i64>) -> Counter {
        let table = TableName::new(MAIN, &self.table);
        Counter {
            name: table.clone(),
            owner: Some((table, self.column.clone())),
            last,
            increment: 1,
        }
    }

    /// Whether it takes over what this counter served.
    fn serves(&self, counter: &Counter) -> bool {
        counter.owner.as_ref().is_some_and(|(table, column)| {
            table.schema == MAIN
                && table.name.eq_ignore_ascii_case(&self.table)
                && column.eq_ignore_ascii_case(&self.column)
        })
    }
}

fn numbered(db: &Connection) -> Result<Vec<Numbered>> {
    let doing = "look for the tables that number their rows";
    let mut statement = db
        .prepare_cached(
            "SELECT l.name, i.name, s.sql FROM pragma_table_list AS l \
             JOIN main.sqlite_schema AS s ON s.type = 'table' AND s.name = l.name \
             JOIN pragma_table_info(l.name, 'main') AS i ON i.pk = 1 \
             WHERE l.schema = 'main' AND l.type = 'table' AND NOT l.wr AND upper(i.type) = 'INTEGER' \
               AND (SELECT count(*) FROM pragma_table_info(l.name, 'main') WHERE pk > 0) = 1 \
               AND NOT EXISTS (SELECT 1 FROM pragma_index_list(l.name, 'main') WHERE origin = 'pk') \
             ORDER BY l.name",
        )
        .during(doing)?;
    let rows = statement
        .query_map([], |row| {
            let sql: String = row.get(2)?;
            Ok(Numbered {
                table: row.get(0)?,
                column: row.get(1)?,
                remembers: sql.to_ascii_uppercase().contains("AUTOINCREMENT"),
            })
        })
        .during(doing)?;
    let all: Vec<Numbered> = rows.collect::<rusqlite::Result<_>>().during(doing)?;
    let own = |one: &Numbered| one.table.to_ascii_lowercase().starts_with(OWN_PREFIX);
    Ok(all.into_iter().filter(|one| !own(one)).collect())
}

/// By its index, without reading the table.
fn largest(db: &Connection, numbered: &Numbered) -> Result<Option<i64>> {
    let sql = format!(
        "SELECT max({}) FROM main.{}",
        quote_identifier(&numbered.column),
        quote_identifier(&numbered.table)
    );
    db.query_row(&sql, [], |row| row.get(0))
        .during(format!("read the largest number of {}", numbered.table))
}

fn remembered(db: &Connection, table: &str) -> Result<Option<i64>> {
    db.prepare_cached("SELECT seq FROM main.sqlite_sequence WHERE name = ?1")
        .and_then(|mut statement| {
            statement
                .query_row(params![table], |row| row.get(0))
                .optional()
        })
        .during(format!("read the last number of {table}"))
}

fn remember(db: &Connection, table: &str, value: i64) -> Result<()> {
    let doing = format!("advance the numbers of {table}");
    let updated = db
        .execute(
            "UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1",
            params![table, value],
        )
        .during(&doing)?;
    if updated == 0 {
        let sql = "INSERT INTO main.sqlite_sequence (name, seq) VALUES (?1, ?2)";
        db.execute(sql, params![table, value]).during(&doing)?;
    }
    if remembered(db, table)? >= Some(value) {
        return Ok(());
    }
    Err(ConnectorError::new(
        ErrorKind::Transient,
        format!("the numbers of {table} do not stand at {value} after they were set so"),
    ))
}
