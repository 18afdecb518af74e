//! User-defined collations that a table or type needs at the replica.

use repl_core::ErrorKind;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::catalog_error::from_sqlx;
use super::ddl::{guarded, literal, texts};
use crate::seam::{ConnectorError, Result};

/// What the collations of `of` are needed by.
#[derive(Clone, Copy)]
pub(super) enum Needed {
    /// A table or a composite type's row: columns, indexes, constraints and expressions.
    ByRelation(i64),
    /// A domain or a range.
    ByType(i64),
}

/// Everything whose dependencies may name a collation. A dependency on the database's default
/// collation is not recorded, and those of `pg_catalog` are the server's own.
const COLLATIONS: &str = "WITH object(class, id) AS (
        SELECT 'pg_class'::regclass, $1::oid
        UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = $1::oid
        UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = $1::oid
        UNION ALL SELECT 'pg_type'::regclass, $2::oid
        UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint
                   WHERE conrelid = $1::oid AND $1::oid <> 0 OR contypid = $2::oid AND $2::oid <> 0)
    SELECT DISTINCT quote_ident(n.nspname) AS schema,
           quote_ident(n.nspname) || '.' || quote_ident(c.collname) AS name,
           c.collprovider::text AS provider, c.collisdeterministic AS deterministic,
           c.collcollate::text AS lc_collate, c.collctype::text AS lc_ctype,
           -- Three names in as many versions.
           coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale',
                    c.collcollate::text) AS locale,
           to_jsonb(c) ->> 'collicurules' AS rules
      FROM object o JOIN pg_depend d ON d.classid = o.class AND d.objid = o.id
                                    AND d.refclassid = 'pg_collation'::regclass
      JOIN pg_collation c ON c.oid = d.refobjid
      JOIN pg_namespace n ON n.oid = c.collnamespace
     WHERE n.nspname <> 'pg_catalog'
     ORDER BY name";

/// Appends statements that make them where absent.
///
/// # Errors
/// When the catalog cannot be read, or a collation's provider is unknown.
pub(super) async fn collations(
    connection: &mut PgConnection,
    needed: Needed,
    statements: &mut Vec<String>,
) -> Result<()> {
    let (relation, of_type) = match needed {
        Needed::ByRelation(oid) => (oid, 0),
        Needed::ByType(oid) => (0, oid),
    };
    let rows = sqlx::query(COLLATIONS)
        .bind(relation)
        .bind(of_type)
        .fetch_all(connection)
        .await
        .map_err(|e| reading(&e))?;
    let (schemas, names) = (texts(&rows, "schema")?, texts(&rows, "name")?);
    for (index, row) in rows.iter().enumerate() {
        let (schema, name) = (&schemas[index], &names[index]);
        statements.push(guarded(
            &format!("to_regnamespace({}) IS NULL", literal(schema)),
            &format!("CREATE SCHEMA {schema}"),
        ));
        statements.push(guarded(
            &format!("to_regcollation({}) IS NULL", literal(name)),
            &format!("CREATE COLLATION {name} ({})", definition(row, name)?),
        ));
    }
    Ok(())
}

fn definition(row: &PgRow, name: &str) -> Result<String> {
    let provider = text(row, "provider")?.unwrap_or_default();
    let mut definition = match provider.as_str() {
        "i" => format!("PROVIDER = icu, LOCALE = {}", quoted(row, "locale")?),
        "b" => format!("PROVIDER = builtin, LOCALE = {}", quoted(row, "locale")?),
        "c" => {
            let (order, kind) = (quoted(row, "lc_collate")?, quoted(row, "lc_ctype")?);
            format!("PROVIDER = libc, LC_COLLATE = {order}, LC_CTYPE = {kind}")
        }
        other => {
            let what = format!("collation {name} has a provider of unknown kind {other:?}");
            return Err(ConnectorError::new(ErrorKind::Schema, what)
                .advice("make the collation at the replica yourself"));
        }
    };
    if let Some(rules) = text(row, "rules")? {
        definition.push_str(&format!(", RULES = {}", literal(&rules)));
    }
    let deterministic: bool = row.try_get("deterministic").map_err(|e| reading(&e))?;
    if !deterministic {
        definition.push_str(", DETERMINISTIC = false");
    }
    Ok(definition)
}

fn text(row: &PgRow, column: &str) -> Result<Option<String>> {
    row.try_get(column).map_err(|e| reading(&e))
}

fn quoted(row: &PgRow, column: &str) -> Result<String> {
    Ok(literal(&text(row, column)?.unwrap_or_default()))
}

fn reading(error: &sqlx::Error) -> ConnectorError {
    from_sqlx(error, "describing collations")
}
