//! Refusing values that have no place in the form the log knows a table in.
//!
//! A file that took the place of a server holds most of its values as text, which SQLite takes in any
//! spelling. Triggers refuse, at the write itself, what could not be told to the other nodes, or would
//! come to be spelled differently there.

use repl_core::convert::shape::{Shape, shapes};
use repl_core::schema::{TableSchema, quote_identifier};
use rusqlite::Connection;

use super::fence::present;
use crate::seam::Result;
use crate::sqlite::error::During;
use crate::sqlite::schema::end_transaction;

/// What the name of every such trigger begins with; table and event follow.
pub(in crate::sqlite) const FORM_PREFIX: &str = "_repl_form_";

/// Has these tables take only values of their forms.
pub(super) fn keep(db: &Connection, forms: &[TableSchema]) -> Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")
        .during("lock the database to guard the forms of its values")?;
    let outcome = forms.iter().try_for_each(|form| make(db, form));
    end_transaction(db, "COMMIT", &outcome)?;
    outcome
}

fn make(db: &Connection, form: &TableSchema) -> Result<()> {
    let mut shapes = shapes(form);
    // The row number is an integer anyway, and not known yet when it is given by the table.
    let number = form
        .key_names()
        .next()
        .filter(|_| form.key_columns().len() == 1);
    shapes.retain(|(column, shape)| {
        number != Some(column.as_str()) || !matches!(shape, Shape::Integer(..))
    });
    for table in present(db, std::slice::from_ref(&form.table))? {
        for event in ["INSERT", "UPDATE"] {
            let name = format!("{FORM_PREFIX}{table}:{}", event.to_ascii_lowercase());
            let mut body = String::new();
            for (column, shape) in &shapes {
                let column_name = quote_identifier(column);
                let value = format!("NEW.{column_name}");
                // What came from a server may be of a form that is not known here, and stays.
                let changed = match event {
                    "UPDATE" => format!("{value} IS NOT OLD.{column_name} AND "),
                    _ => String::new(),
                };
                body.push_str(&format!(
                    "SELECT RAISE(ABORT, '{}') WHERE {changed}{value} IS NOT NULL AND NOT coalesce({}, 0); ",
                    format!("{table}.{column} is to hold {}", said(shape)).replace('\'', "''"),
                    condition(shape, &value)
                ));
            }
            if body.is_empty() {
                continue;
            }
            let (quoted, on) = (quote_identifier(&name), quote_identifier(&table));
            db.execute_batch(&format!(
                "DROP TRIGGER IF EXISTS {quoted}; CREATE TRIGGER {quoted} BEFORE {event} ON {on} \
                 BEGIN {body}END"
            ))
            .during(format!("guard the forms of the values of {table}"))?;
        }
    }
    Ok(())
}

/// What the column is to hold, for who tried to write something else.
fn said(shape: &Shape) -> String {
    match shape {
        Shape::Integer(low, high) => format!("integers from {low} to {high}"),
        Shape::Truth => "0 and 1".to_owned(),
        Shape::Bytes => "BLOBs".to_owned(),
        Shape::Real => "real numbers".to_owned(),
        Shape::Text(_, None) => "text".to_owned(),
        Shape::Text(least, Some(most)) if least == most => format!("text of {most} characters"),
        Shape::Text(_, Some(most)) => format!("text of at most {most} characters"),
        Shape::Label(labels) => format!("one of {}", labels.join(", ")),
        Shape::Uuid => "UUIDs in lower case".to_owned(),
        Shape::Decimal(Some(0)) => "decimal digits".to_owned(),
        Shape::Decimal(Some(scale)) => format!("decimal text with {scale} digits behind the point"),
        Shape::Decimal(None) => "decimal text".to_owned(),
        Shape::Date => "dates like 2024-02-29".to_owned(),
        Shape::Moment { zone: true } => "times like 2024-02-29 10:00:00+00:00".to_owned(),
        Shape::Moment { zone: false } => "times like 2024-02-29 10:00:00".to_owned(),
        Shape::Json => "JSON".to_owned(),
    }
}

/// The condition that a value has the shape.
fn condition(shape: &Shape, value: &str) -> String {
    let text = |rest: String| format!("(typeof({value}) = 'text' AND ({rest}))");
    match shape {
        Shape::Integer(low, high) => {
            format!("(typeof({value}) = 'integer' AND {value} BETWEEN {low} AND {high})")
        }
        Shape::Truth => format!("(typeof({value}) = 'integer' AND {value} IN (0, 1))"),
        Shape::Bytes => format!("typeof({value}) = 'blob'"),
        Shape::Real => format!("typeof({value}) = 'real'"),
        Shape::Text(least, most) => {
            let most = most.unwrap_or(u32::MAX);
            text(format!("length({value}) BETWEEN {least} AND {most}"))
        }
        Shape::Label(labels) => {
            let labels: Vec<String> = labels
                .iter()
                .map(|label| format!("'{}'", label.replace('\'', "''")))
                .collect();
            text(format!("{value} COLLATE BINARY IN ({})", labels.join(", ")))
        }
        Shape::Uuid => {
            let group = |digits: usize| "[0-9a-f]".repeat(digits);
            let groups = [8, 4, 4, 4, 12].map(group).join("-");
            text(format!("{value} GLOB '{groups}'"))
        }
        Shape::Decimal(scale) => text(decimal(*scale, value)),
        Shape::Date => text(format!("{value} IS date({value}) OR {}", infinite(value))),
        Shape::Moment { zone } => text(moment(*zone, value)),
        Shape::Json => text(format!("json_valid({value})")),
    }
}

fn infinite(value: &str) -> String {
    format!("{value} IN ('infinity', '-infinity')")
}

fn decimal(scale: Option<u16>, value: &str) -> String {
    // Without its sign, and the part before the point.
    let bare = format!("ltrim({value}, '-')");
    let whole = format!(
        "CASE instr({bare}, '.') WHEN 0 THEN {bare} ELSE substr({bare}, 1, instr({bare}, '.') - 1) END"
    );
    let behind = format!(
        "CASE instr({bare}, '.') WHEN 0 THEN 0 ELSE length({bare}) - instr({bare}, '.') END"
    );
    let places = match scale {
        Some(scale) => format!("({behind}) = {scale}"),
        None => "1".to_owned(),
    };
    format!(
        "{value} IN ('NaN', 'Infinity', '-Infinity') OR length({value}) - length({bare}) <= 1 AND {bare} NOT GLOB '*[^0-9.]*' \
         AND length({bare}) - length(replace({bare}, '.', '')) <= 1 AND {bare} NOT GLOB '*.' \
         AND {places} AND length({whole}) > 0 AND ({whole} NOT GLOB '0*' OR {whole} = '0') \
         AND ({value} NOT GLOB '-*' OR {bare} GLOB '*[1-9]*')"
    )
}

fn moment(zone: bool, value: &str) -> String {
    let zone_text = if zone { "+00:00" } else { "" };
    let fraction = format!(
        "substr({value}, 20, length({value}) - {})",
        19 + zone_text.len()
    );
    format!(
        "{} OR substr({value}, 1, 19) IS datetime(substr({value}, 1, 19)) \
         AND substr({value}, length({value}) - {} + 1) = '{zone_text}' \
         AND ({fraction} = '' OR {fraction} GLOB '.[0-9]*' AND substr({fraction}, 2) NOT GLOB '*[^0-9]*' \
         AND length({fraction}) <= 7 AND {fraction} NOT GLOB '*0')",
        infinite(value),
        zone_text.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use repl_core::schema::{Column, Identity, SchemaId, TableName, TypeDetail};

    #[test]
    fn what_has_no_form_is_refused_and_what_has_one_is_taken() {
        let labels = TypeDetail::Enum {
            labels: vec!["it's".into(), "b".into()],
        };
        let types = [
            ("i", "smallint", "INTEGER"),
            ("b", "boolean", "BOOLEAN"),
            ("d", "bytea", "BLOB"),
            ("f", "double precision", ""),
            ("v", "character varying(3)", "TEXT"),
            ("c", "character(3)", "TEXT"),
            ("u", "uuid", "TEXT"),
            ("n", "numeric(10,2)", "TEXT"),
            ("a", "numeric", "TEXT"),
            ("m", "money", "TEXT"),
            ("x", "xid8", "TEXT"),
            ("day", "date", "TEXT"),
            ("ts", "timestamp without time zone", "TEXT"),
            ("tz", "timestamp with time zone", "TEXT"),
            ("j", "jsonb", "TEXT"),
            ("e", "mood", "TEXT"),
        ];
        let mut columns: Vec<Column> = types
            .iter()
            .map(|(name, pg, _)| Column::new(*name, *pg, 0, true))
            .collect();
        let last = columns.pop().unwrap().with_detail(labels);
        columns.push(last);
        let form = TableSchema {
            id: SchemaId(1),
            engine: "postgres".into(),
            table: TableName::new("main", "t"),
            incarnation: String::new(),
            columns,
            identity: Identity::FullRow,
            generated: Vec::new(),
        };
        let db = Connection::open_in_memory().unwrap();
        let declared: Vec<String> = types
            .iter()
            .map(|(name, _, lite)| format!("{name} {lite}"))
            .collect();
        db.execute_batch(&format!("CREATE TABLE t ({})", declared.join(", ")))
            .unwrap();
        keep(&db, std::slice::from_ref(&form)).unwrap();
        keep(&db, std::slice::from_ref(&form)).unwrap();
        for (column, good, bad) in [
            (
                "i",
                &["1", "-32768", "NULL"][..],
                &["32768", "'x'", "1.5", "x'00'"][..],
            ),
            ("b", &["0", "1"], &["2", "'t'"]),
            ("d", &["x''", "x'00ff'"], &["'text'", "1"]),
            ("f", &["1.5", "-0.0"], &["1", "'x'"]),
            ("v", &["''", "'äöü'"], &["'abcd'", "x'00'"]),
            ("c", &["'a  '"], &["'a'", "'abcd'"]),
            (
                "u",
                &["'6f0b5a3e-5d4f-4c6e-9a57-0d9f4a2b7c11'"],
                &[
                    "'6F0B5A3E-5D4F-4C6E-9A57-0D9F4A2B7C11'",
                    "'6f0b5a3e5d4f4c6e9a570d9f4a2b7c11'",
                    "'x'",
                ],
            ),
            (
                "n",
                &["'12.50'", "'-0.10'", "'0.00'", "'NaN'"],
                &[
                    "'12.5'", "'12'", "'012.50'", "'.50'", "'-0.00'", "'1e3'", "'--1.00'", "''",
                    "'1.2.34'",
                ],
            ),
            (
                "a",
                &["'12'", "'0.250'", "'-7'", "'100'"],
                &["'12.'", "'.5'", "'a'", "'-0'", "'00'", "'+1'"],
            ),
            ("m", &["'1234.50'"], &["'$1,234.50'", "'1'"]),
            ("x", &["'18446744073709551615'", "'0'"], &["'1.0'", "'a'"]),
            (
                "day",
                &["'2024-02-29'", "'infinity'"],
                &["'2024-2-29'", "'2023-02-29'", "'today'", "'now'"],
            ),
            (
                "ts",
                &[
                    "'2024-02-29 10:00:00'",
                    "'2024-02-29 10:00:00.000001'",
                    "'-infinity'",
                ],
                &[
                    "'2024-02-29T10:00:00'",
                    "'2024-02-29 10:00'",
                    "'2024-02-29 10:00:00.50'",
                    "'2024-02-29 10:00:00+00:00'",
                    "'2024-02-29 10:00:00.'",
                    "'2024-02-30 10:00:00'",
                ],
            ),
            (
                "tz",
                &[
                    "'2024-02-29 10:00:00+00:00'",
                    "'2024-02-29 10:00:00.5+00:00'",
                ],
                &[
                    "'2024-02-29 10:00:00+00'",
                    "'2024-02-29 10:00:00'",
                    "'2024-02-29 10:00:00+02:00'",
                    "'2024-02-29 10:00:00.0000001+00:00'",
                ],
            ),
            ("j", &["'{\"a\": 1}'", "'null'"], &["'{a}'", "''"]),
            ("e", &["'it''s'", "'b'"], &["'B'", "'c'"]),
        ] {
            for value in good {
                let taken = db.execute_batch(&format!("INSERT INTO t ({column}) VALUES ({value})"));
                assert!(taken.is_ok(), "{column} {value}: {taken:?}");
            }
            for value in bad {
                for sql in [
                    format!("INSERT INTO t ({column}) VALUES ({value})"),
                    format!("UPDATE t SET {column} = {value} WHERE rowid = 1"),
                ] {
                    let refused = db.execute_batch(&sql).unwrap_err().to_string();
                    assert!(
                        refused.contains(&format!("t.{column} is to hold")),
                        "{sql}: {refused}"
                    );
                }
            }
        }
    }
}
