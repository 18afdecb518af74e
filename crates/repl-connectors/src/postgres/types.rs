//! User-defined types a table needs at the replica: enums, domains, composites and ranges, with the
//! collations they and the table need.

use std::collections::HashSet;

use sqlx::{PgConnection, Row};

use super::catalog_error::from_sqlx;
use super::collations::{Needed, collations};
use super::ddl::{guarded, literal, texts};
use crate::seam::Result;

/// One type, in the catalog's words.
struct UserType {
    oid: i64,
    /// Qualified and quoted.
    name: String,
    schema: String,
    /// `e`num, `d`omain, `c`omposite, `r`ange.
    kind: String,
    /// Extension it belongs to.
    extension: Option<String>,
}

/// Appends statements that make, where absent, the types and collations the columns of `table`
/// need, those they are built from first.
///
/// # Errors
/// When the catalog cannot be read.
pub(super) async fn user_types(
    connection: &mut PgConnection,
    table: i64,
    statements: &mut Vec<String>,
) -> Result<()> {
    let mut seen = HashSet::new();
    collations(connection, Needed::ByRelation(table), statements).await?;
    for oid in column_types(connection, table).await? {
        add(connection, oid, &mut seen, statements).await?;
    }
    Ok(())
}

async fn column_types(connection: &mut PgConnection, relation: i64) -> Result<Vec<i64>> {
    sqlx::query_scalar(
        "SELECT DISTINCT a.atttypid::int8 FROM pg_attribute a
          WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .bind(relation)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing types"))
}

/// The user type behind `oid`, through arrays and multiranges; none for built-in types. A domain
/// over an array has the array's category, but is a type of its own.
async fn lookup(connection: &mut PgConnection, oid: i64) -> Result<Option<UserType>> {
    let row = sqlx::query(
        "WITH RECURSIVE base AS (
             SELECT t.oid, t.typtype, t.typelem, t.typcategory FROM pg_type t WHERE t.oid = $1::oid
             UNION
             SELECT t.oid, t.typtype, t.typelem, t.typcategory FROM base b JOIN pg_type t ON t.oid =
                 CASE WHEN b.typcategory = 'A' AND b.typtype = 'b' THEN b.typelem
                      WHEN b.typtype = 'm' THEN (SELECT r.rngtypid FROM pg_range r
                                                  WHERE r.rngmultitypid = b.oid)
                 END)
         SELECT t.oid::int8 AS oid, quote_ident(n.nspname) AS schema,
                quote_ident(n.nspname) || '.' || quote_ident(t.typname) AS name,
                t.typtype::text AS kind,
                (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                  WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                  LIMIT 1) AS extension
           FROM base b JOIN pg_type t ON t.oid = b.oid
           JOIN pg_namespace n ON n.oid = t.typnamespace
          WHERE NOT (b.typcategory = 'A' AND b.typtype = 'b') AND b.typtype <> 'm'
            AND n.nspname NOT IN ('pg_catalog', 'information_schema')
          LIMIT 1",
    )
    .bind(oid)
    .fetch_optional(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing a type"))?;
    let Some(row) = row else { return Ok(None) };
    let read = |e: sqlx::Error| from_sqlx(&e, "describing a type");
    Ok(Some(UserType {
        oid: row.try_get("oid").map_err(read)?,
        name: row.try_get("name").map_err(read)?,
        schema: row.try_get("schema").map_err(read)?,
        kind: row.try_get("kind").map_err(read)?,
        extension: row.try_get("extension").map_err(read)?,
    }))
}

async fn add(
    connection: &mut PgConnection,
    oid: i64,
    seen: &mut HashSet<i64>,
    statements: &mut Vec<String>,
) -> Result<()> {
    let Some(found) = lookup(connection, oid).await? else {
        return Ok(());
    };
    if !seen.insert(found.oid) {
        return Ok(());
    }
    let absent = format!("to_regtype({}) IS NULL", literal(&found.name));
    if let Some(extension) = &found.extension {
        let text = format!(
            "type {} is missing: run CREATE EXTENSION {} on the replica",
            found.name,
            repl_core::schema::quote_identifier(extension)
        );
        statements.push(guarded(
            &absent,
            &format!(
                "RAISE EXCEPTION USING MESSAGE = {}, ERRCODE = '42704'",
                literal(&text)
            ),
        ));
        return Ok(());
    }
    collations(connection, Needed::ByType(found.oid), statements).await?;
    let create = match found.kind.as_str() {
        "e" => Some(create_enum(connection, &found).await?),
        "d" => Some(create_domain(connection, &found, seen, statements).await?),
        "c" => Some(create_composite(connection, &found, seen, statements).await?),
        "r" => Some(create_range(connection, &found, seen, statements).await?),
        _ => None,
    };
    if let Some(create) = create {
        statements.push(guarded(
            &format!("to_regnamespace({}) IS NULL", literal(&found.schema)),
            &format!("CREATE SCHEMA {}", found.schema),
        ));
        statements.push(guarded(&absent, &create));
    }
    Ok(())
}

async fn create_enum(connection: &mut PgConnection, of: &UserType) -> Result<String> {
    let rows = sqlx::query(
        "SELECT quote_literal(enumlabel) AS label FROM pg_enum WHERE enumtypid = $1::oid
          ORDER BY enumsortorder",
    )
    .bind(of.oid)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing an enum"))?;
    Ok(format!(
        "CREATE TYPE {} AS ENUM ({})",
        of.name,
        texts(&rows, "label")?.join(", ")
    ))
}

async fn create_domain(
    connection: &mut PgConnection,
    of: &UserType,
    seen: &mut HashSet<i64>,
    statements: &mut Vec<String>,
) -> Result<String> {
    let read = |e: sqlx::Error| from_sqlx(&e, "describing a domain");
    let row = sqlx::query(
        "SELECT t.typbasetype::int8 AS base,
                format_type(t.typbasetype, t.typtypmod)
                || CASE WHEN t.typcollation <> 0 AND t.typcollation <> b.typcollation
                        THEN ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                        ELSE '' END
                || coalesce(' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), '')
                || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
                || coalesce((SELECT string_agg(' CONSTRAINT ' || quote_ident(k.conname) || ' '
                                               || pg_get_constraintdef(k.oid), '' ORDER BY k.conname)
                               FROM pg_constraint k
                              WHERE k.contypid = t.oid AND k.contype = 'c'), '') AS definition
           FROM pg_type t JOIN pg_type b ON b.oid = t.typbasetype
           LEFT JOIN pg_collation co ON co.oid = t.typcollation
           LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
          WHERE t.oid = $1::oid",
    )
    .bind(of.oid)
    .fetch_one(&mut *connection)
    .await
    .map_err(read)?;
    let base: i64 = row.try_get("base").map_err(read)?;
    Box::pin(add(connection, base, seen, statements)).await?;
    let definition: String = row.try_get("definition").map_err(read)?;
    Ok(format!("CREATE DOMAIN {} AS {definition}", of.name))
}

async fn create_composite(
    connection: &mut PgConnection,
    of: &UserType,
    seen: &mut HashSet<i64>,
    statements: &mut Vec<String>,
) -> Result<String> {
    let read = |e: sqlx::Error| from_sqlx(&e, "describing a composite type");
    let rows = sqlx::query(
        "SELECT a.atttypid::int8 AS type_id,
                quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                || CASE WHEN a.attcollation <> 0 AND a.attcollation <> b.typcollation
                        THEN ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                        ELSE '' END AS definition,
                t.typrelid::int8 AS relation
           FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
           JOIN pg_type b ON b.oid = a.atttypid
           LEFT JOIN pg_collation co ON co.oid = a.attcollation
           LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
          WHERE t.oid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .bind(of.oid)
    .fetch_all(&mut *connection)
    .await
    .map_err(read)?;
    if let Some(row) = rows.first() {
        let relation = row.try_get("relation").map_err(read)?;
        collations(connection, Needed::ByRelation(relation), statements).await?;
    }
    for row in &rows {
        let part: i64 = row.try_get("type_id").map_err(read)?;
        Box::pin(add(connection, part, seen, statements)).await?;
    }
    Ok(format!(
        "CREATE TYPE {} AS ({})",
        of.name,
        texts(&rows, "definition")?.join(", ")
    ))
}

async fn create_range(
    connection: &mut PgConnection,
    of: &UserType,
    seen: &mut HashSet<i64>,
    statements: &mut Vec<String>,
) -> Result<String> {
    let read = |e: sqlx::Error| from_sqlx(&e, "describing a range type");
    let row = sqlx::query(
        "SELECT r.rngsubtype::int8 AS base,
                'SUBTYPE = ' || format_type(r.rngsubtype, NULL)
                || ', SUBTYPE_OPCLASS = ' || quote_ident(n.nspname) || '.' || quote_ident(o.opcname)
                || coalesce(', COLLATION = ' || quote_ident(cn.nspname) || '.'
                            || quote_ident(co.collname), '')
                || CASE WHEN r.rngsubdiff <> 0 THEN ', SUBTYPE_DIFF = ' || r.rngsubdiff::regproc::text
                        ELSE '' END
                || ', MULTIRANGE_TYPE_NAME = ' || quote_ident(mn.nspname) || '.'
                || quote_ident(m.typname) AS definition
           FROM pg_range r JOIN pg_opclass o ON o.oid = r.rngsubopc
           JOIN pg_namespace n ON n.oid = o.opcnamespace
           JOIN pg_type m ON m.oid = r.rngmultitypid JOIN pg_namespace mn ON mn.oid = m.typnamespace
           LEFT JOIN pg_collation co ON co.oid = r.rngcollation
           LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
          WHERE r.rngtypid = $1::oid",
    )
    .bind(of.oid)
    .fetch_one(&mut *connection)
    .await
    .map_err(read)?;
    let base: i64 = row.try_get("base").map_err(read)?;
    Box::pin(add(connection, base, seen, statements)).await?;
    let definition: String = row.try_get("definition").map_err(read)?;
    Ok(format!("CREATE TYPE {} AS RANGE ({definition})", of.name))
}
