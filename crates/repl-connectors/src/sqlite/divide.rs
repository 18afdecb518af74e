//! Dividing a table into ranges of its key.

use repl_core::codec::Malformed;
use repl_core::copy::{KeyBound, KeyRange};
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema, quote_identifier};
use repl_core::spelling::{Spelt, spell};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params_from_iter};

use super::error::During;
use super::value::{Owned, from_sqlite};
use crate::seam::{PartSize, Result};

/// Most parts of one table.
const MOST_PARTS: u64 = 1_000;

/// Where the parts of a table meet; empty when it is not larger than a part, or its key may be
/// NULL.
pub(super) fn bounds(
    db: &Connection,
    schema: &TableSchema,
    estimate: Option<u64>,
    part: PartSize,
) -> Result<Vec<KeyBound>> {
    let keys = schema.key_columns();
    let nullable = keys.iter().any(|&at| schema.columns[at].nullable);
    if keys.is_empty() || nullable || estimate.is_some_and(|rows| rows <= part.rows) {
        return Ok(Vec::new());
    }
    let step = estimate.map_or(part.rows, |rows| part.rows.max(rows / MOST_PARTS));
    // Row numbers are found by their value; other keys are counted along their index.
    let numbered = is_row_number(db, schema)?;
    let mut bounds: Vec<KeyBound> = Vec::new();
    while (bounds.len() as u64) < MOST_PARTS {
        let next = match (numbered, bounds.last()) {
            (false, last) => nth_key(db, schema, last, step)?,
            (true, None) => match nth_key(db, schema, None, 0)? {
                Some(first) => key_beyond(db, schema, &first, step)?,
                None => None,
            },
            (true, Some(last)) => key_beyond(db, schema, &last.clone(), step)?,
        };
        match next {
            Some(next) => bounds.push(next),
            None => break,
        }
    }
    Ok(bounds)
}

/// The condition that selects a range, with its parameters; empty for all rows.
pub(super) fn condition(schema: &TableSchema, range: &KeyRange) -> (String, Vec<Owned>) {
    let key = format!("({})", key_names(schema).join(", "));
    let (mut conditions, mut params) = (Vec::new(), Vec::new());
    for (operator, bound) in [(">=", &range.from), ("<", &range.to)] {
        let Some(KeyBound(values)) = bound else {
            continue;
        };
        let places: Vec<String> = values
            .iter()
            .map(|value| {
                params.push(Owned(Spelt::read(value)));
                format!("?{}", params.len())
            })
            .collect();
        conditions.push(format!("{key} {operator} ({})", places.join(", ")));
    }
    if conditions.is_empty() {
        return (String::new(), params);
    }
    (format!(" WHERE {}", conditions.join(" AND ")), params)
}

/// The condition that selects the rows under these keys, and those whose keys the columns' collations take for
/// the same, with its parameters.
pub(super) fn keys_condition(
    schema: &TableSchema,
    keys: &[Row],
) -> std::result::Result<(String, Vec<Owned>), Malformed> {
    let columns = schema.key_columns();
    let mut params = Vec::with_capacity(keys.len() * columns.len());
    for key in keys {
        let values = key.to_vec()?;
        for &column in columns {
            let value = values.get(column).ok_or(Malformed("key column missing"))?;
            params.push(Owned(Spelt::of(*value)));
        }
    }
    let places = vec!["?"; columns.len()].join(", ");
    let list = vec![format!("({places})"); keys.len()].join(", ");
    let names = key_names(schema).join(", ");
    Ok((format!(" WHERE ({names}) IN (VALUES {list})"), params))
}

fn key_names(schema: &TableSchema) -> Vec<String> {
    schema.key_names().map(quote_identifier).collect()
}

/// Whether the key is the row number itself: `INTEGER PRIMARY KEY`.
fn is_row_number(db: &Connection, schema: &TableSchema) -> Result<bool> {
    let [at] = schema.key_columns() else {
        return Ok(false);
    };
    let sql = format!(
        "SELECT {} = rowid FROM {} LIMIT 1",
        quote_identifier(&schema.columns[*at].name),
        schema.table.quoted()
    );
    // A table without row numbers refuses the question; any other may hold equal ones by chance.
    let equal = db.query_row(&sql, [], |row| row.get::<_, bool>(0));
    if !equal.unwrap_or(false) {
        return Ok(false);
    }
    let declared: i64 = db
        .query_row(
            "SELECT count(*) FROM pragma_table_info(?1) WHERE pk = 1 AND type = 'INTEGER' \
             COLLATE NOCASE AND name = ?2 COLLATE NOCASE AND NOT EXISTS (SELECT 1 FROM \
             pragma_index_list(?1) WHERE origin = 'pk')",
            [&schema.table.name, &schema.columns[*at].name],
            |row| row.get(0),
        )
        .during(reading(&schema.table))?;
    Ok(declared == 1)
}

/// The key `step` rows behind `from`, or behind the first.
fn nth_key(
    db: &Connection,
    schema: &TableSchema,
    from: Option<&KeyBound>,
    step: u64,
) -> Result<Option<KeyBound>> {
    let list = key_names(schema).join(", ");
    let range = KeyRange {
        from: from.cloned(),
        to: None,
    };
    let (condition, params) = condition(schema, &range);
    // SQLite's numbers are signed.
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT {list} FROM {}{condition} ORDER BY {list} LIMIT 1 OFFSET {step}",
        schema.table.quoted()
    );
    one(db, schema, &sql, params)
}

/// The first row number at or beyond `step` more than `from`.
fn key_beyond(
    db: &Connection,
    schema: &TableSchema,
    from: &KeyBound,
    step: u64,
) -> Result<Option<KeyBound>> {
    let number = match from.0.first().and_then(|value| Spelt::read(value)) {
        Some(Spelt::Integer(number)) => number,
        _ => return Ok(None),
    };
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let Some(number) = number.checked_add(step.max(1)) else {
        return Ok(None);
    };
    let name = key_names(schema).concat();
    let sql = format!(
        "SELECT {name} FROM {} WHERE {name} >= ?1 ORDER BY {name} LIMIT 1",
        schema.table.quoted()
    );
    one(db, schema, &sql, vec![Owned(Some(Spelt::Integer(number)))])
}

fn one(
    db: &Connection,
    schema: &TableSchema,
    sql: &str,
    params: Vec<Owned>,
) -> Result<Option<KeyBound>> {
    let width = schema.key_columns().len();
    db.prepare_cached(sql)
        .and_then(|mut statement| {
            statement
                .query_row(params_from_iter(params), |row| key(row, width))
                .optional()
        })
        .map(Option::flatten)
        .during(reading(&schema.table))
}

fn key(row: &SqlRow<'_>, width: usize) -> rusqlite::Result<Option<KeyBound>> {
    let mut values = Vec::with_capacity(width);
    for at in 0..width {
        let Some(text) = spell(from_sqlite(row.get_ref(at)?)) else {
            return Ok(None);
        };
        values.push(text);
    }
    Ok(Some(KeyBound(values)))
}

fn reading(table: &TableName) -> String {
    format!("divide the table {table}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use repl_core::row::Value;
    use repl_core::schema::{Column, Identity, SchemaId};

    fn schema(keys: &[&str]) -> TableSchema {
        TableSchema {
            id: SchemaId(1),
            engine: "sqlite".into(),
            table: TableName::new("main", "t"),
            incarnation: String::new(),
            columns: keys
                .iter()
                .map(|name| Column::new(*name, "", 0, false))
                .collect(),
            identity: Identity::Key((0..keys.len()).collect()),
            generated: Vec::new(),
        }
    }

    /// All rows of all ranges, in their order.
    fn read(db: &Connection, schema: &TableSchema, bounds: &[KeyBound]) -> Vec<usize> {
        let count = |from: Option<KeyBound>, to: Option<KeyBound>| {
            let (condition, params) = condition(schema, &KeyRange { from, to });
            let sql = format!("SELECT count(*) FROM t{condition}");
            db.query_row(&sql, params_from_iter(params), |row| row.get(0))
                .unwrap()
        };
        (0..=bounds.len())
            .map(|at| {
                let from = at.checked_sub(1).map(|before| bounds[before].clone());
                count(from, bounds.get(at).cloned())
            })
            .collect()
    }

    fn divided(table: &str, insert: &str, keys: &[&str], rows: u64) -> Vec<usize> {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(&format!("{table};{insert}")).unwrap();
        let schema = schema(keys);
        let part = PartSize {
            rows,
            bytes: u64::MAX,
        };
        let found = bounds(&db, &schema, None, part).unwrap();
        read(&db, &schema, &found)
    }

    const NUMBERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
        WHERE i < 100) INSERT INTO t SELECT ";

    #[test]
    fn every_row_is_in_one_range() {
        let rows = divided(
            "CREATE TABLE t (id INTEGER PRIMARY KEY)",
            &format!("{NUMBERS} i FROM n"),
            &["id"],
            25,
        );
        assert_eq!(rows, [25, 25, 25, 25]);
        let rows = divided(
            "CREATE TABLE t (a TEXT NOT NULL, b NOT NULL, PRIMARY KEY (a, b)) WITHOUT ROWID",
            &format!(
                "{NUMBERS} 'x' || (i % 3), CASE i % 2 WHEN 0 THEN i ELSE x'00' || i END FROM n"
            ),
            &["a", "b"],
            30,
        );
        assert_eq!(rows.iter().sum::<usize>(), 100);
        assert_eq!(rows, [30, 30, 30, 10]);
    }

    #[test]
    fn sparse_row_numbers_make_few_ranges() {
        let rows = divided(
            "CREATE TABLE t (id INTEGER PRIMARY KEY)",
            &format!("{NUMBERS} i * 1000000 FROM n WHERE i <= 4"),
            &["id"],
            10,
        );
        assert_eq!(rows, [1, 1, 1, 1]);
    }

    #[test]
    fn rows_are_found_by_their_keys_through_the_index() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE n (id INTEGER PRIMARY KEY);
             INSERT INTO n VALUES (1), (2), (9223372036854775807);
             CREATE TABLE t (a TEXT COLLATE NOCASE NOT NULL, b NOT NULL, PRIMARY KEY (a, b)) WITHOUT ROWID;
             INSERT INTO t VALUES ('x', 1), ('X', '1'), ('x', x'01'), (CAST(x'80' AS TEXT), 0.5), ('y', 1)",
        )
        .unwrap();
        let row = |values: &[Value<'_>]| Row::from_values(values.iter().copied());
        let count = |table: &str, keys: &[Row], names: &[&str]| {
            let (condition, params) = keys_condition(&schema(names), keys).unwrap();
            let plan = format!("EXPLAIN QUERY PLAN SELECT 1 FROM {table}{condition}");
            let mut statement = db.prepare(&plan).unwrap();
            let steps = statement.query_map(params_from_iter(&params), |row| row.get(3));
            let steps: Vec<String> = steps.unwrap().map(Result::unwrap).collect();
            let searched = format!("SEARCH {table} USING");
            assert!(
                steps.iter().any(|step| step.starts_with(&searched)),
                "{steps:?}"
            );
            let sql = format!("SELECT count(*) FROM {table}{condition}");
            db.query_row(&sql, params_from_iter(params), |row| row.get::<_, i64>(0))
                .unwrap()
        };
        let numbers = [1, 3, i64::MAX].map(|id| row(&[Value::Integer(id)]));
        assert_eq!(count("n", &numbers, &["id"]), 2);
        let keys = [
            row(&[Value::Text(b"x"), Value::Integer(1)]),
            row(&[Value::Text(b"x"), Value::Blob(b"\x01")]),
            row(&[Value::Text(b"\x80"), Value::Real(0.5)]),
            row(&[Value::Text(b"y"), Value::Integer(2)]),
        ];
        assert_eq!(count("t", &keys, &["a", "b"]), 3);
        let all = [row(&[Value::Text(b"X"), Value::Text(b"1")])];
        assert_eq!(count("t", &all, &["a", "b"]), 1, "as the columns compare");
    }
}
