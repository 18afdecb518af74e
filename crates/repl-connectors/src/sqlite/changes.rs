//! Translates the rows of `_repl_changes` into changes, in order.
//!
//! Rows that REPLACE removes leave no record of their own. A `BEFORE` trigger announces every row
//! that stands in the way of a new one. When the new row is recorded as written, uniqueness tells
//! that the announced row is gone: it is deleted here first, unless a record in between says that
//! it was deleted or changed by name (an upsert, `recursive_triggers`, a trigger of the
//! application). When the new row is never recorded (`OR IGNORE`, a failed statement), nothing
//! happened.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use repl_core::ErrorKind;
use repl_core::change::{ChangeWriter, RowOp};
use repl_core::codec::put_u64;
use repl_core::row::{Row, put_value};
use repl_core::schema::SchemaId;
use rusqlite::{Connection, Row as SqlRow};

use super::error::During;
use super::images::{Telling, value};
use super::meta::Op;
use super::schema::Known;
use super::value::same;
use crate::seam::{ConnectorError, Result};

/// Announcements kept before old ones are forgotten. Only those of the statement being executed
/// matter, with those of the triggers it is nested in.
const ANNOUNCEMENTS: usize = 4_096;

/// Translates one unit: everything that one read transaction found.
pub(super) struct Translator<'a> {
    db: &'a Connection,
    known: &'a Known,
    /// Tables sent whole at the end of this unit.
    reloaded: HashSet<i64>,
    max_row_bytes: u64,
    tellings: HashMap<i64, Telling>,
    announced: Announcements,
}

impl<'a> Translator<'a> {
    /// Starts a unit; changes of the `reloaded` tables are passed over.
    pub(super) fn new(
        db: &'a Connection,
        known: &'a Known,
        reloaded: HashSet<i64>,
        max_row_bytes: u64,
    ) -> Self {
        Translator {
            db,
            known,
            reloaded,
            max_row_bytes,
            tellings: HashMap::new(),
            announced: Announcements::default(),
        }
    }

    /// Translates one row (id, layout, op, values) to the end of `out`; returns the number of
    /// changes written. Schema numbers are those of the layouts.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] when the row is larger than allowed.
    pub(super) fn row(&mut self, row: &SqlRow<'_>, out: &mut Vec<u8>) -> Result<u64> {
        let op: i64 = row.get(2).during("read a recorded change")?;
        let op = Op::from_number(op).ok_or_else(damaged)?;
        if op == Op::Mark {
            return Ok(0);
        }
        let layout: i64 = row.get(1).during("read a recorded change")?;
        if !self.tellings.contains_key(&layout) {
            let recorded = self.known.layouts.get(&layout).ok_or_else(damaged)?;
            if self.reloaded.contains(&recorded.tab) {
                return Ok(0);
            }
            let telling = Telling::new(self.db, self.known, recorded)?;
            self.tellings.insert(layout, telling);
        }
        let telling = &self.tellings[&layout];
        let start = out.len();
        let written = match op {
            Op::Mark => 0,
            Op::Announce => {
                self.announced.add(telling, row)?;
                0
            }
            Op::Insert => {
                let gone = self.announced.confirm(telling, row, 0, out)?;
                let mut writer = ChangeWriter::new(out);
                writer.row_op(RowOp::Insert, schema_of(telling));
                self.put_new(telling, row, 0, &mut writer)?;
                gone + 1
            }
            Op::Update => self.update(layout, row, out)?,
            Op::Delete => {
                let old = telling.old_image(row, 0)?;
                self.announced.forget(telling, &old);
                put_delete(telling, &old, out);
                1
            }
        };
        self.check_size(layout, out.len() - start)?;
        Ok(written)
    }

    fn update(&mut self, layout: i64, row: &SqlRow<'_>, out: &mut Vec<u8>) -> Result<u64> {
        let telling = &self.tellings[&layout];
        let recorded = &telling.recorded.layout;
        let after = recorded.before_width();
        let mut gone = 0;
        if !self.announced.is_empty() {
            self.announced.forget(telling, &telling.old_image(row, 0)?);
            gone = self.announced.confirm(telling, row, after, out)?;
        }
        let op = if recorded.key.is_empty() {
            RowOp::UpdateWithFull
        } else if key_unchanged(telling, row)? {
            RowOp::Update
        } else {
            RowOp::UpdateWithKey
        };
        let mut writer = ChangeWriter::new(out);
        writer.row_op(op, schema_of(telling));
        if op != RowOp::Update {
            let old = telling.old_image(row, 0)?;
            put_row(&old, telling.width(), &mut writer)?;
        }
        self.put_new(telling, row, after, &mut writer)?;
        Ok(gone + 1)
    }

    fn put_new(
        &self,
        telling: &Telling,
        row: &SqlRow<'_>,
        at: usize,
        writer: &mut ChangeWriter<'_>,
    ) -> Result<()> {
        let mut image = writer.row(telling.width());
        telling.new_image(self.db, row, at, |value| image.put(value))?;
        image.finish();
        Ok(())
    }

    fn check_size(&self, layout: i64, bytes: usize) -> Result<()> {
        if bytes as u64 <= self.max_row_bytes {
            return Ok(());
        }
        let table = self.tellings[&layout].told.layout.table_name().to_string();
        Err(too_large(bytes, self.max_row_bytes, table))
    }
}

/// The refusal of a row above the configured limit.
pub(super) fn too_large(bytes: usize, limit: u64, table: String) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Data,
        format!("a change of table {table} takes {bytes} bytes; the limit is {limit}"),
    )
    .advice("raise max_row_bytes in the configuration, or exclude the table")
    .table(table)
}

fn damaged() -> ConnectorError {
    ConnectorError::new(
        ErrorKind::History,
        "the table _repl_changes was written by somebody else: a record in it is not of this daemon",
    )
}

fn schema_of(telling: &Telling) -> SchemaId {
    SchemaId(u32::try_from(telling.told.id).unwrap_or(u32::MAX))
}

fn key_unchanged(telling: &Telling, row: &SqlRow<'_>) -> Result<bool> {
    let layout = &telling.recorded.layout;
    let after = layout.before_width();
    for (index, &column) in layout.key.iter().enumerate() {
        if !same(value(row, index)?, value(row, after + column)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn put_row(row: &Row, width: usize, writer: &mut ChangeWriter<'_>) -> Result<()> {
    let mut image = writer.row(width);
    for value in row.values()? {
        image.put(value?);
    }
    image.finish();
    Ok(())
}

fn put_delete(telling: &Telling, old: &Row, out: &mut Vec<u8>) {
    let full = telling.recorded.layout.key.is_empty();
    let op = if full {
        RowOp::DeleteByFull
    } else {
        RowOp::DeleteByKey
    };
    let mut writer = ChangeWriter::new(out);
    writer.row_op(op, schema_of(telling));
    // The row was encoded by ourselves a moment ago.
    let _ = put_row(old, telling.width(), &mut writer);
}

/// A row in the way of a new one.
struct Announced {
    pending: Cell<bool>,
    old: Row,
}

/// Announced rows, found by the new row that was announced and by themselves.
#[derive(Default)]
struct Announcements {
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    by_new: HashMap<Vec<u8>, Vec<Rc<Announced>>>,
    by_row: HashMap<Vec<u8>, Vec<Rc<Announced>>>,
    count: usize,
}

impl Announcements {
    fn is_empty(&self) -> bool {
        self.young.count == 0 && self.old.count == 0
    }

    fn add(&mut self, telling: &Telling, row: &SqlRow<'_>) -> Result<()> {
        let layout = &telling.recorded.layout;
        let ordinal = match value(row, 0)? {
            repl_core::row::Value::Integer(n) => usize::try_from(n).unwrap_or(usize::MAX),
            _ => return Err(damaged()),
        };
        let unique = layout.uniques.get(ordinal).ok_or_else(damaged)?;
        let old = telling.old_image(row, 1)?;
        let mut new = prefix(telling, ordinal);
        for at in 0..unique.announced_by.len() {
            put_value(&mut new, value(row, 1 + layout.before_width() + at)?);
        }
        if self.young.count >= ANNOUNCEMENTS {
            self.old = std::mem::take(&mut self.young);
        }
        let announced = Rc::new(Announced {
            pending: Cell::new(true),
            old,
        });
        let by_row = row_key(telling, &announced.old);
        self.young
            .by_row
            .entry(by_row)
            .or_default()
            .push(Rc::clone(&announced));
        self.young.by_new.entry(new).or_default().push(announced);
        self.young.count += 1;
        Ok(())
    }

    /// Deletes what stood in the way of the new image recorded from value column `at` on.
    fn confirm(
        &mut self,
        telling: &Telling,
        row: &SqlRow<'_>,
        at: usize,
        out: &mut Vec<u8>,
    ) -> Result<u64> {
        if self.is_empty() {
            return Ok(0);
        }
        let mut gone = Vec::new();
        for (ordinal, unique) in telling.recorded.layout.uniques.iter().enumerate() {
            let mut new = prefix(telling, ordinal);
            for &column in &unique.announced_by {
                put_value(&mut new, value(row, at + column)?);
            }
            for generation in [&mut self.young, &mut self.old] {
                gone.extend(generation.by_new.remove(&new).unwrap_or_default());
            }
        }
        let mut deleted = 0;
        for announced in gone {
            if announced.pending.get() {
                self.forget(telling, &announced.old);
                put_delete(telling, &announced.old, out);
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    /// The row was deleted or changed by name: nothing that was announced of it holds any more.
    fn forget(&mut self, telling: &Telling, old: &Row) {
        if self.is_empty() {
            return;
        }
        let key = row_key(telling, old);
        for generation in [&mut self.young, &mut self.old] {
            for announced in generation.by_row.remove(&key).unwrap_or_default() {
                announced.pending.set(false);
            }
        }
    }
}

fn prefix(telling: &Telling, ordinal: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    put_u64(&mut key, telling.recorded.id as u64);
    put_u64(&mut key, ordinal as u64);
    key
}

fn row_key(telling: &Telling, old: &Row) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    put_u64(&mut key, telling.recorded.tab as u64);
    key.extend_from_slice(old.encoded());
    key
}
