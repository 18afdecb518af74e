//! Sequences, of which logical decoding says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use tokio::time::Instant;

use crate::postgres::catalog_error::from_sqlx;
use crate::seam::{ConnectorError, Counter, Result};

/// Every sequence with the column it belongs to. A value below the start is that of one never used.
const SEQUENCES: &str = "
    SELECT s.oid::int8 AS oid, n.nspname::text AS schema, s.relname::text AS name,
           q.seqincrement AS increment, q.seqmin AS lowest, q.seqmax AS highest,
           pg_sequence_last_value(s.oid) AS last,
           tn.nspname::text AS table_schema, t.relname::text AS table_name,
           a.attname::text AS column_name
      FROM pg_class s JOIN pg_sequence q ON q.seqrelid = s.oid
      JOIN pg_namespace n ON n.oid = s.relnamespace
      LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid
            AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
      LEFT JOIN pg_class t ON t.oid = d.refobjid
      LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
      LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE s.relkind = 'S' AND s.relpersistence <> 't' AND n.nspname <> 'repl'
     ORDER BY 2, 3";

/// The integer columns that sequences serve: as their own, or by a default.
const SERVED: &str = "
    SELECT d.objid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name,
           a.attname::text AS column_name, c.relkind = 'p' AS whole
      FROM (SELECT objid, refobjid AS relid, refobjsubid AS attnum FROM pg_depend
             WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
               AND deptype IN ('a', 'i') AND refobjsubid > 0
            UNION
            SELECT d.refobjid, f.adrelid, f.adnum FROM pg_depend d
              JOIN pg_attrdef f ON f.oid = d.objid
             WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass) d
      JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_class c ON c.oid = d.relid AND c.relkind IN ('r', 'p')
      JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname <> 'repl'
      JOIN pg_attribute a ON a.attrelid = d.relid AND a.attnum = d.attnum AND NOT a.attisdropped
     WHERE a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)";

/// A sequence as the catalog has it.
struct Sequence {
    oid: i64,
    lowest: i64,
    highest: i64,
    counter: Counter,
}

/// Where the sequences stand.
pub(super) async fn read(connection: &mut PgConnection) -> Result<Vec<Counter>> {
    let all = sequences(connection).await?;
    Ok(all.into_iter().map(|sequence| sequence.counter).collect())
}

/// Sets those that are here too beyond `counters`, and verifies it. Returns what is to be known.
pub(super) async fn advance(
    connection: &mut PgConnection,
    counters: &[Counter],
    margin: u64,
) -> Result<Vec<String>> {
    let here = sequences(connection).await?;
    let mut notes = Vec::new();
    let mut wanted: BTreeMap<i64, (i64, &Sequence)> = BTreeMap::new();
    for counter in counters {
        let Some(last) = counter.last else { continue };
        let Some(sequence) = find(&here, counter) else {
            notes.push(format!("sequence {} is not here", counter.name));
            continue;
        };
        // Told of several times, the furthest counts.
        let furthest = wanted.entry(sequence.oid).or_insert((last, sequence));
        if sequence.is_before(furthest.0, last) {
            furthest.0 = last;
        }
    }
    let (mut oids, mut values) = (Vec::new(), Vec::new());
    for (oid, (last, sequence)) in wanted {
        let (value, cut) = sequence.beyond(last, margin);
        if cut {
            let name = &sequence.counter.name;
            notes.push(format!(
                "sequence {name} is near its end: the margin is cut"
            ));
        }
        oids.push(oid);
        values.push(value);
    }
    let doing = |e: sqlx::Error| from_sqlx(&e, "advancing the sequences");
    sqlx::query(
        "SELECT count(setval(c.oid::oid::regclass, c.value, true)) \
         FROM unnest($1::int8[], $2::int8[]) AS c(oid, value)",
    )
    .bind(&oids)
    .bind(&values)
    .execute(&mut *connection)
    .await
    .map_err(doing)?;
    verify(connection, &oids, &values).await?;
    Ok(notes)
}

async fn verify(connection: &mut PgConnection, oids: &[i64], values: &[i64]) -> Result<()> {
    let now = sequences(connection).await?;
    for (oid, value) in oids.iter().zip(values) {
        let stands = |sequence: &&Sequence| {
            let last = sequence.counter.last;
            sequence.oid == *oid && last.is_some_and(|last| !sequence.is_before(last, *value))
        };
        if !now.iter().any(|sequence| stands(&sequence)) {
            let of = now.iter().find(|sequence| sequence.oid == *oid);
            let name = of.map_or("a sequence".to_owned(), |s| s.counter.name.to_string());
            return Err(ConnectorError::new(
                ErrorKind::Transient,
                format!("{name} does not stand at {value} after it was set so"),
            ));
        }
    }
    Ok(())
}

/// The furthest values in the columns that sequences serve, and which could not be read in time.
pub(super) async fn used(
    connection: &mut PgConnection,
    patience: Duration,
) -> Result<(Vec<Counter>, Vec<String>)> {
    let until = Instant::now() + patience;
    let doing = |e: sqlx::Error| from_sqlx(&e, "reading the columns that sequences serve");
    let here = sequences(connection).await?;
    let served = connection.fetch_all(SERVED).await.map_err(doing)?;
    let (mut used, mut unread) = (Vec::new(), Vec::new());
    for row in &served {
        let oid: i64 = row.try_get("oid").map_err(doing)?;
        let Some(sequence) = here.iter().find(|one| one.oid == oid) else {
            continue;
        };
        let text = |name: &str| row.try_get::<String, _>(name).map_err(doing);
        let (table, column) = (
            TableName::new(text("schema")?, text("name")?),
            text("column_name")?,
        );
        let furthest = if sequence.counter.increment > 0 {
            "max"
        } else {
            "min"
        };
        // Tables that inherit the column and its default are served themselves.
        let whole: bool = row.try_get("whole").map_err(doing)?;
        let only = if whole { "" } else { "ONLY " };
        let limit = until
            .saturating_duration_since(Instant::now())
            .as_millis()
            .max(1);
        let sql = format!(
            "SELECT pg_catalog.set_config('statement_timeout', '{limit}', false); \
             SELECT pg_catalog.{furthest}({})::int8 AS last FROM {only}{}",
            quote_identifier(&column),
            table.quoted()
        );
        match connection.fetch_all(AssertSqlSafe(sql)).await {
            Ok(rows) => used.push(Counter {
                last: rows
                    .last()
                    .and_then(|row| row.try_get("last").ok().flatten()),
                ..sequence.counter.clone()
            }),
            Err(sqlx::Error::Database(_)) => unread.push(format!("{table}.{column}")),
            Err(error) => return Err(doing(error)),
        }
    }
    Ok((used, unread))
}

/// By its column; one that belongs to none by its name.
fn find<'a>(here: &'a [Sequence], counter: &Counter) -> Option<&'a Sequence> {
    let owned = |one: &&Sequence| counter.owner.is_some() && one.counter.owner == counter.owner;
    let named = |one: &&Sequence| one.counter.name == counter.name;
    here.iter().find(owned).or_else(|| here.iter().find(named))
}

impl Sequence {
    /// A value `margin` steps beyond `last` and its own, and whether its end cut that short.
    fn beyond(&self, last: i64, margin: u64) -> (i64, bool) {
        let own = self.counter.last.unwrap_or(last);
        let increment = i128::from(self.counter.increment);
        let furthest = if increment > 0 {
            own.max(last)
        } else {
            own.min(last)
        };
        let wanted = i128::from(furthest) + i128::from(margin) * increment;
        let value = wanted.clamp(i128::from(self.lowest), i128::from(self.highest));
        // Within the bounds, which are of this type.
        (i64::try_from(value).unwrap_or(furthest), value != wanted)
    }

    /// Whether `value` comes before `other`.
    fn is_before(&self, value: i64, other: i64) -> bool {
        if self.counter.increment > 0 {
            value < other
        } else {
            value > other
        }
    }
}

async fn sequences(connection: &mut PgConnection) -> Result<Vec<Sequence>> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "reading the sequences");
    let rows = sqlx::query(SEQUENCES)
        .fetch_all(connection)
        .await
        .map_err(doing)?;
    let read = |row: &sqlx::postgres::PgRow| -> sqlx::Result<Sequence> {
        let text = |name: &str| row.try_get::<String, _>(name);
        let table: Option<String> = row.try_get("table_name")?;
        let owner = table.map(|table| -> sqlx::Result<_> {
            Ok((
                TableName::new(text("table_schema")?, table),
                text("column_name")?,
            ))
        });
        Ok(Sequence {
            oid: row.try_get("oid")?,
            lowest: row.try_get("lowest")?,
            highest: row.try_get("highest")?,
            counter: Counter {
                name: TableName::new(text("schema")?, text("name")?),
                owner: owner.transpose()?,
                last: row.try_get("last")?,
                increment: row.try_get("increment")?,
            },
        })
    };
    rows.iter().map(|row| read(row).map_err(doing)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(increment: i64, last: Option<i64>) -> Sequence {
        Sequence {
            oid: 1,
            lowest: -1000,
            highest: 1000,
            counter: Counter {
                name: TableName::new("public", "s"),
                owner: None,
                last,
                increment,
            },
        }
    }

    #[test]
    fn values_lie_beyond_both_sides_and_within_the_bounds() {
        assert_eq!(sequence(1, Some(5)).beyond(10, 100), (110, false));
        assert_eq!(sequence(1, Some(50)).beyond(10, 0), (50, false));
        assert_eq!(sequence(10, None).beyond(10, 3), (40, false));
        assert_eq!(sequence(-1, Some(-7)).beyond(-5, 10), (-17, false));
        assert_eq!(sequence(1, None).beyond(990, 100), (1000, true));
        assert_eq!(sequence(i64::MAX, None).beyond(0, u64::MAX), (1000, true));
    }

    #[test]
    fn a_sequence_is_found_by_its_column_first() {
        let mut other = sequence(1, None);
        let owner = Some((TableName::new("public", "t"), "id".to_owned()));
        other.counter.name = TableName::new("public", "t_id_seq1");
        other.counter.owner.clone_from(&owner);
        let here = [sequence(1, None), other];
        let mut wanted = here[0].counter.clone();
        assert_eq!(
            find(&here, &wanted).unwrap().counter.name,
            here[0].counter.name
        );
        wanted.owner = owner;
        assert_eq!(
            find(&here, &wanted).unwrap().counter.name,
            here[1].counter.name
        );
    }
}
