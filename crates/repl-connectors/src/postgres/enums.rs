//! The enum types that the values of tables are made of. No message of the stream tells that a label was
//! added, and a replica that lacks one refuses the value.

use repl_core::schema::TableName;
use sqlx::PgConnection;

use super::catalog_error::from_sqlx;
use crate::seam::{EnumType, Result};

/// Reached from the columns through arrays, domains, ranges and attributes.
const ENUMS: &str = "
    WITH RECURSIVE reached(oid) AS (
        SELECT a.atttypid
          FROM unnest($1::text[], $2::text[]) g(schema, name)
          JOIN pg_namespace n ON n.nspname = g.schema
          JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = g.name
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT n.oid FROM reached r JOIN pg_type t ON t.oid = r.oid
         CROSS JOIN LATERAL (
            SELECT t.typelem AS oid WHERE t.typelem <> 0 AND t.typcategory = 'A'
            UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL SELECT b.atttypid FROM pg_attribute b
                       WHERE t.typtype = 'c' AND b.attrelid = t.typrelid AND b.attnum > 0
                         AND NOT b.attisdropped
            UNION ALL SELECT g.rngsubtype FROM pg_range g
                       WHERE t.oid IN (g.rngtypid, g.rngmultitypid)) n)
    SELECT format_type(t.oid, NULL), ARRAY(SELECT e.enumlabel::text FROM pg_enum e
                                            WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
      FROM reached r JOIN pg_type t ON t.oid = r.oid
     WHERE t.typtype = 'e'
     ORDER BY 1";

/// Those of `tables`, as they are now.
///
/// # Errors
/// When the catalog cannot be read.
pub(super) async fn enums(
    connection: &mut PgConnection,
    tables: &[TableName],
) -> Result<Vec<EnumType>> {
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let found: Vec<(String, Vec<String>)> = sqlx::query_as(ENUMS)
        .bind(schemas)
        .bind(names)
        .fetch_all(connection)
        .await
        .map_err(|e| from_sqlx(&e, "reading the enum types"))?;
    let made = |(name, labels)| EnumType { name, labels };
    Ok(found.into_iter().map(made).collect())
}
