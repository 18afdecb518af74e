//! Dividing a table into ranges of its primary key.

use repl_core::codec::Malformed;
use repl_core::copy::{KeyBound, KeyRange};
use repl_core::row::{Row, Value};
use repl_core::schema::{TableSchema, quote_identifier};

use super::ddl::literal;
use super::wire::{PgClient, TextRow};
use crate::seam::{PartSize, Result};

/// Blocks looked at per part: enough for parts of roughly equal size.
const BLOCKS_PER_PART: u64 = 30;
/// Most parts of one table.
const MOST_PARTS: u64 = 10_000;
/// Most parts where the table's order has little to do with the key's: each then reads most of the
/// table.
const MOST_PARTS_SCATTERED: usize = 8;
/// Correlation of key order and place below which a table counts as scattered.
const SCATTERED: f64 = 0.5;

/// Where the parts of a table meet; empty when it is not larger than a part, or its identity is
/// not a primary key in the types' own order (ranges could then not use its index).
pub(super) async fn bounds(
    client: &mut PgClient,
    schema: &TableSchema,
    estimate: Option<u64>,
    part: PartSize,
) -> Result<Vec<KeyBound>> {
    let Some(size) = size(client, schema).await? else {
        return Ok(Vec::new());
    };
    let by_rows = estimate.unwrap_or(0).div_ceil(part.rows.max(1));
    let parts = size.bytes.div_ceil(part.bytes.max(1)).max(by_rows);
    let parts = parts.min(MOST_PARTS);
    if parts < 2 {
        return Ok(Vec::new());
    }
    let rows = client.simple(&sample(schema, parts, size.blocks)).await?;
    let correlation: f64 = rows
        .first()
        .and_then(|row| row.first()?.as_deref()?.parse().ok())
        .unwrap_or(1.0);
    let bounds: Vec<KeyBound> = rows.into_iter().filter_map(bound).collect();
    if correlation.abs() >= SCATTERED || bounds.len() < MOST_PARTS_SCATTERED {
        return Ok(bounds);
    }
    let all = bounds.len();
    let keep = (1..MOST_PARTS_SCATTERED).map(|nth| nth * all / MOST_PARTS_SCATTERED);
    Ok(keep.map(|at| bounds[at].clone()).collect())
}

/// The condition that selects a range; empty for all rows.
pub(super) fn condition(schema: &TableSchema, range: &KeyRange) -> String {
    let key = format!("({})", key_names(schema).join(", "));
    let mut conditions = Vec::new();
    for (operator, bound) in [(">=", &range.from), ("<", &range.to)] {
        if let Some(KeyBound(values)) = bound {
            let values: Vec<String> = values.iter().map(|value| literal(value)).collect();
            conditions.push(format!("{key} {operator} ({})", values.join(", ")));
        }
    }
    if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    }
}

/// The condition that selects the rows under these keys. A COPY takes no parameters.
pub(super) fn keys_condition(schema: &TableSchema, keys: &[Row]) -> Result<String> {
    let mut list = Vec::with_capacity(keys.len());
    for image in keys {
        let values = image.to_vec()?;
        let mut key = Vec::new();
        for &column in schema.key_columns() {
            let Some(Value::Text(text)) = values.get(column) else {
                return Err(Malformed("a key that is not text").into());
            };
            let text = std::str::from_utf8(text).map_err(|_| Malformed("text is not UTF-8"))?;
            key.push(literal(text));
        }
        list.push(format!("({})", key.join(", ")));
    }
    let names = key_names(schema).join(", ");
    Ok(format!(" WHERE ({names}) IN ({})", list.join(", ")))
}

fn key_names(schema: &TableSchema) -> Vec<String> {
    schema.key_names().map(quote_identifier).collect()
}

struct Size {
    blocks: u64,
    /// Values stored out of line included.
    bytes: u64,
}

async fn size(client: &mut PgClient, schema: &TableSchema) -> Result<Option<Size>> {
    if schema.key_columns().is_empty() {
        return Ok(None);
    }
    let rows = client
        .simple(&format!(
            "SELECT pg_relation_size(i.indrelid) / current_setting('block_size')::int8,
                    pg_table_size(i.indrelid),
                    (SELECT json_agg(a.attname ORDER BY k.place)
                       FROM unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])
                            WITH ORDINALITY AS k(number, class, coll, place)
                       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                       JOIN pg_opclass o ON o.oid = k.class AND o.opcdefault
                      WHERE k.place <= i.indnkeyatts AND k.coll = a.attcollation)
               FROM pg_index i
              WHERE i.indrelid = {}::regclass AND i.indisprimary AND i.indisvalid",
            literal(&schema.table.quoted())
        ))
        .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let field = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
    let names: Vec<&str> = schema.key_names().collect();
    let primary: Vec<String> = serde_json::from_str(field(2)).unwrap_or_default();
    if names != primary {
        return Ok(None);
    }
    Ok(Some(Size {
        blocks: field(0).parse().unwrap_or(0),
        bytes: field(1).parse().unwrap_or(0),
    }))
}

/// First rows of the parts among some blocks' rows, each with the correlation of key and place.
fn sample(schema: &TableSchema, parts: u64, blocks: u64) -> String {
    let key = key_names(schema);
    let list = key.join(", ");
    let texts: Vec<String> = (0..key.len()).map(|at| format!("k{at}::text")).collect();
    let named: Vec<String> = key
        .iter()
        .enumerate()
        .map(|(at, name)| format!("{name} AS k{at}"))
        .collect();
    let wanted = (parts * BLOCKS_PER_PART) as f64 / blocks.max(1) as f64 * 100.0;
    format!(
        "WITH s AS (SELECT {named}, row_number() OVER (ORDER BY {list}) AS r,
                           row_number() OVER (ORDER BY ctid) AS c, count(*) OVER () AS n
                      FROM ONLY {table} TABLESAMPLE SYSTEM ({percent}))
         SELECT (SELECT corr(r, c) FROM s), {texts} FROM s
          WHERE r > 1 AND (r - 1) * {parts} / n > (r - 2) * {parts} / n ORDER BY r",
        named = named.join(", "),
        table = schema.table.quoted(),
        percent = wanted.clamp(0.001, 100.0),
        texts = texts.join(", "),
    )
}

fn bound(row: TextRow) -> Option<KeyBound> {
    row.into_iter().skip(1).collect::<Option<_>>().map(KeyBound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use repl_core::schema::{Column, Identity, SchemaId, TableName};

    #[test]
    fn ranges_are_compared_as_rows_and_values_are_quoted() {
        let schema = TableSchema {
            id: SchemaId(1),
            engine: "postgres".into(),
            table: TableName::new("public", "t"),
            incarnation: String::new(),
            columns: vec![
                Column::new("v", "text", 25, true),
                Column::new("b", "text", 25, false),
                Column::new("a", "bigint", 20, false),
            ],
            identity: Identity::Key(vec![2, 1]),
            generated: Vec::new(),
        };
        let bound = |a: &str, b: &str| Some(KeyBound(vec![a.into(), b.into()]));
        let mut range = KeyRange::default();
        assert_eq!(condition(&schema, &range), "");
        range.to = bound("5", "o'clock");
        assert_eq!(
            condition(&schema, &range),
            " WHERE (\"a\", \"b\") < ('5', 'o''clock')"
        );
        let null = Value::Null;
        let keys = [("1", "o'clock"), ("2", "")];
        let keys = keys.map(|(a, b)| [null, Value::Text(b.as_bytes()), Value::Text(a.as_bytes())]);
        let keys = keys.map(|values| Row::from_values(values.into_iter()));
        assert_eq!(
            keys_condition(&schema, &keys).unwrap(),
            " WHERE (\"a\", \"b\") IN (('1', 'o''clock'), ('2', ''))"
        );
        range.from = bound("1", "");
        assert!(condition(&schema, &range).starts_with(" WHERE (\"a\", \"b\") >= ('1', '') AND "));
    }
}
