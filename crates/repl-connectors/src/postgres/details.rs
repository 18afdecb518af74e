//! What the names of types do not tell, for the schemas in the log and for other engines.

use std::collections::HashMap;

use repl_core::schema::TypeDetail;
use sqlx::{PgConnection, Row};

use super::catalog_error::from_sqlx;
use crate::seam::Result;

/// A type as a column has it: OID and modifier (-1 for none).
pub(super) type TypeKey = (u32, i32);

/// The given types and those their domains stand on, as far as there is something to tell. An
/// array is told from `int2vector` and its like by its element, which names it as its array type;
/// the modifier of an array is its element's.
const DETAILS: &str = "
    WITH RECURSIVE reached(oid, modifier) AS (
        SELECT oid::oid, modifier FROM unnest($1::int8[], $2::int4[]) given(oid, modifier)
        UNION
        SELECT t.typbasetype, t.typtypmod FROM reached r JOIN pg_type t ON t.oid = r.oid
         WHERE t.typtype = 'd')
    SELECT r.oid::int8 AS oid, r.modifier,
           t.typtype::text AS kind, t.typbasetype::int8 AS base, t.typtypmod AS base_modifier,
           CASE t.typtype
                WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
                WHEN 'b' THEN format_type(t.typelem, r.modifier)
                ELSE (SELECT format_type(g.rngsubtype, NULL) FROM pg_range g
                       WHERE t.oid IN (g.rngtypid, g.rngmultitypid)) END AS inner_type,
           CASE t.typtype
                WHEN 'e' THEN ARRAY(SELECT l.enumlabel::text FROM pg_enum l
                                     WHERE l.enumtypid = t.oid ORDER BY l.enumsortorder)
                ELSE ARRAY(SELECT a.attname::text FROM pg_attribute a
                            WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                            ORDER BY a.attnum) END AS names,
           ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
                  WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                  ORDER BY a.attnum) AS types
      FROM reached r JOIN pg_type t ON t.oid = r.oid
     WHERE t.typtype IN ('e', 'd', 'c', 'r', 'm')
        OR (t.typtype = 'b' AND EXISTS (SELECT FROM pg_type e
                                         WHERE e.oid = t.typelem AND e.typarray = t.oid))";

struct RawType {
    kind: String,
    base: TypeKey,
    inner: Option<String>,
    names: Vec<String>,
    types: Vec<String>,
}

/// The details of these types, in their order; none for plain types, and for those that were
/// dropped. One query, whatever their number.
///
/// # Errors
/// When the catalog cannot be read.
pub(super) async fn details(
    connection: &mut PgConnection,
    types: &[TypeKey],
) -> Result<Vec<Option<TypeDetail>>> {
    if types.is_empty() {
        return Ok(Vec::new());
    }
    let oids: Vec<i64> = types.iter().map(|(oid, _)| i64::from(*oid)).collect();
    let modifiers: Vec<i32> = types.iter().map(|(_, modifier)| *modifier).collect();
    let rows = sqlx::query(DETAILS)
        .bind(oids)
        .bind(modifiers)
        .fetch_all(connection)
        .await
        .map_err(|e| from_sqlx(&e, "reading the columns' types"))?;
    let read = |row: &sqlx::postgres::PgRow| -> sqlx::Result<(TypeKey, RawType)> {
        let oid = |column: &str| row.try_get::<i64, _>(column).map(|oid| oid as u32);
        Ok((
            (oid("oid")?, row.try_get("modifier")?),
            RawType {
                kind: row.try_get("kind")?,
                base: (oid("base")?, row.try_get("base_modifier")?),
                inner: row.try_get("inner_type")?,
                names: row.try_get("names")?,
                types: row.try_get("types")?,
            },
        ))
    };
    let raw = rows
        .iter()
        .map(read)
        .collect::<sqlx::Result<HashMap<_, _>>>()
        .map_err(|e| from_sqlx(&e, "reading the columns' types"))?;
    Ok(types.iter().map(|key| detail(&raw, key)).collect())
}

/// Domains stand on types that were there before them, so this ends.
fn detail(raw: &HashMap<TypeKey, RawType>, key: &TypeKey) -> Option<TypeDetail> {
    let found = raw.get(key)?;
    let inner = || found.inner.clone();
    Some(match found.kind.as_str() {
        "e" => TypeDetail::Enum {
            labels: found.names.clone(),
        },
        "d" => TypeDetail::Domain {
            base: inner()?,
            detail: detail(raw, &found.base).map(Box::new),
        },
        "c" => TypeDetail::Composite {
            fields: found
                .names
                .iter()
                .cloned()
                .zip(found.types.clone())
                .collect(),
        },
        "b" => TypeDetail::Array { element: inner()? },
        _ => TypeDetail::Range { subtype: inner()? },
    })
}
