//! A former primary that was replaced without being asked: what did it commit that the log never saw?
//!
//! Its triggers went on recording into the change table of the file, whoever wrote. What is recorded
//! behind the log's last change is read without altering anything. The file does not tell where one
//! transaction ends and another begins: what is there counts as one.

use std::collections::HashSet;

use bytes::Bytes;
use repl_core::change::{Before, Change, Changes};
use repl_core::deposed::{Deposed, Found};
use repl_core::row::{Row, Value as RowValue};
use repl_core::schema::SchemaId;
use rusqlite::Connection;
use serde_json::{Map, Value};

use crate::seam::{Result, Stray, StrayKey, StrayOp, stray_key};
use crate::sqlite::changes::Translator;
use crate::sqlite::error::During;
use crate::sqlite::meta::{self, Installed, Place};
use crate::sqlite::schema::{self, Known};

/// Takes what is found.
type Out<'a> = &'a mut dyn FnMut(Stray) -> Result<()>;

/// What this database, which refuses writes, has committed beyond the log's end.
pub(super) fn look_beyond(
    db: &Connection,
    group: &str,
    deposed: &Deposed,
    out: Out<'_>,
) -> Result<Found> {
    db.execute_batch("BEGIN")
        .during("begin a read transaction")?;
    let looked = look(db, group, deposed, out);
    let _ = db.execute_batch("ROLLBACK");
    looked
}

fn look(db: &Connection, group: &str, deposed: &Deposed, out: Out<'_>) -> Result<Found> {
    let unknown = |why: &str| {
        Ok(Found::Unknown {
            why: why.to_owned(),
        })
    };
    let Some(end) = Place::parse(&deposed.end) else {
        return unknown("the log's last position is not one of this engine");
    };
    if meta::installed(db)? != Installed::Completely {
        return unknown(
            "the tables of its capture are gone: the file was replaced, or they were dropped",
        );
    }
    meta::check_owner(db, group)?;
    if meta::incarnation(db)?.as_deref() != Some(deposed.source.system.as_str()) {
        return unknown("it is another file than the primary was");
    }
    let doing = "read what it committed last";
    let sql = "SELECT count(*) FILTER (WHERE lower(hex(token)) = ?2 AND id = ?1), \
               count(*) FILTER (WHERE id > ?1), max(id) FROM _repl_changes WHERE id >= ?1";
    let (proven, beyond, last): (i64, i64, Option<i64>) = db
        .query_row(sql, (end.id, &end.token), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .during(doing)?;
    if proven == 0 {
        return unknown(
            "its change table does not hold the log's last change: an older copy was restored",
        );
    }
    if last.is_some_and(|last| last - end.id != beyond) {
        return unknown("changes are missing from its change table");
    }
    if let Some(table) = schema::unwatched(db)? {
        return unknown(&format!(
            "{table} was altered, or its capture triggers dropped"
        ));
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM _repl_reloads WHERE id > ?1)";
    let reloads: bool = db
        .query_row(sql, [end.id], |row| row.get(0))
        .during(doing)?;
    if reloads {
        return unknown(
            "its capture was interrupted, and what was written meanwhile is not recorded",
        );
    }
    // As in the log: the number of the last change.
    let transaction = last.unwrap_or_default().unsigned_abs();
    Ok(match strays(db, &end, transaction, out)? {
        0 => Found::Nothing,
        rows => Found::Strays {
            transactions: 1,
            rows,
        },
    })
}

/// Passes on what is recorded behind `end`; how many rows.
fn strays(db: &Connection, end: &Place, transaction: u64, out: Out<'_>) -> Result<u64> {
    let doing = "read what it committed last";
    let known = Known::stored(db)?;
    let values: String = (0..known.width).map(|at| format!(", v{at}")).collect();
    let sql = format!(
        "SELECT id, layout, op{values}, at, lower(hex(token)) FROM _repl_changes WHERE id > ?1 ORDER BY id"
    );
    let mut translator = Translator::new(db, &known, HashSet::new(), u64::MAX);
    let mut statement = db.prepare(&sql).during(doing)?;
    let (at, token) = (3 + known.width, 4 + known.width);
    let mut rows = statement.query([end.id]).during(doing)?;
    let mut count = 0;
    let mut changes = Vec::new();
    while let Some(row) = rows.next().during(doing)? {
        changes.clear();
        translator.row(row, &mut changes)?;
        let committed_ms: i64 = row.get(at).during(doing)?;
        let place = Place {
            id: row.get(0).during(doing)?,
            token: row.get(token).during(doing)?,
        };
        for change in Changes::new(Bytes::copy_from_slice(&changes)) {
            let Some((schema, op, old, new)) = taken(change?) else {
                continue;
            };
            let Some(stored) = known.layouts.get(&i64::from(schema.0)) else {
                continue;
            };
            let names: Vec<&str> = stored
                .layout
                .columns
                .iter()
                .map(|column| column.name.as_str())
                .collect();
            let key = &stored.layout.key;
            let image = |row: &Row, only: Option<&[usize]>| named(&names, row, only);
            let key_only = (!key.is_empty()).then_some(key.as_slice());
            let images = [&old, &new].into_iter().flatten();
            let keys = images.map(|row| key_of(&names, key, row));
            let keys = keys.collect::<Result<Vec<_>>>()?;
            count += 1;
            out(Stray {
                transaction,
                committed_us: committed_ms.saturating_mul(1000),
                position: place.position(),
                table: stored.layout.table_name(),
                op,
                old: old.map(|row| image(&row, key_only)).transpose()?,
                new: new.map(|row| image(&row, None)).transpose()?,
                keys: keys.into_iter().flatten().collect(),
            })?;
        }
    }
    Ok(count)
}

type Taken = (SchemaId, StrayOp, Option<Row>, Option<Row>);

fn taken(change: Change) -> Option<Taken> {
    let row = |before: Before| match before {
        Before::Absent => None,
        Before::Key(row) | Before::Full(row) => Some(row),
    };
    Some(match change {
        Change::Insert { schema, new } => (schema, StrayOp::Insert, None, Some(new)),
        Change::Update {
            schema,
            before,
            new,
        } => (schema, StrayOp::Update, row(before), Some(new)),
        Change::Delete { schema, before } => (schema, StrayOp::Delete, row(before), None),
        Change::Truncate { .. } | Change::Message { .. } => return None,
    })
}

/// The key of a row, exactly.
fn key_of(names: &[&str], key: &[usize], row: &Row) -> Result<Option<StrayKey>> {
    let values = row.to_vec()?;
    let column = |&at: &usize| Some((*names.get(at)?, *values.get(at)?));
    Ok(stray_key(key.iter().filter_map(column)))
}

/// The values by their columns' names; text as it is, BLOBs as literals.
fn named(names: &[&str], row: &Row, only: Option<&[usize]>) -> Result<Map<String, Value>> {
    let mut image = Map::new();
    for (at, value) in row.values()?.enumerate() {
        if only.is_some_and(|only| !only.contains(&at)) {
            continue;
        }
        let value = match value? {
            RowValue::Null => Value::Null,
            RowValue::Unchanged => continue,
            RowValue::Integer(integer) => Value::from(integer),
            RowValue::Real(real) => Value::from(real),
            RowValue::Text(text) => Value::String(String::from_utf8_lossy(text).into_owned()),
            RowValue::Blob(blob) => {
                let digits: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
                Value::String(format!("X'{digits}'"))
            }
        };
        image.insert((*names.get(at).unwrap_or(&"")).to_owned(), value);
    }
    Ok(image)
}
