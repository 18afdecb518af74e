//! A table of the primary for replicas of another engine.
//!
//! Everything is read from the catalog in PostgreSQL's own words, with an empty `search_path` so
//! that names are qualified. What a description has no place for is left out where a replica
//! without it only allows more than the primary: exclusion constraints, MATCH FULL, and checks and
//! foreign keys that are NOT VALID, which existing rows need not meet.

use repl_core::convert::Engine;
use repl_core::convert::ddl::{
    CheckDescription, ColumnDescription, ForeignKeyAction, ForeignKeyDescription, IndexDescription,
    TableDescription, UniqueDescription,
};
use repl_core::schema::TableName;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::catalog_error::from_sqlx;
use super::ddl::table_oid;
use super::details::{TypeKey, details};
use crate::seam::Result;

/// Appended, as a comment of the language itself, to expressions that compare columns under a
/// nondeterministic collation: no other engine's equal of the bare expression means the same, and
/// the expression does not show it.
const LOOSE: &str = " /* under a collation that takes different strings for equal */";

/// A column without a default of its own has its domain's. Dependencies of a generated column are
/// those of its expression from PostgreSQL 15 on, those of the column before.
const COLUMNS: &str = "
    SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type_name,
           a.atttypid::int8 AS type_id, a.atttypmod AS modifier, a.attnotnull AS not_null,
           a.attgenerated::text AS generated, a.attidentity <> '' AS identity,
           coalesce(pg_get_expr(d.adbin, d.adrelid),
                    CASE WHEN a.attidentity = '' THEN pg_get_expr(t.typdefaultbin, 0) END)
               AS expression,
           EXISTS (SELECT FROM pg_depend p JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S'
                     JOIN pg_depend o ON o.classid = 'pg_class'::regclass AND o.objid = s.oid
                    WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
                      AND p.refclassid = 'pg_class'::regclass
                      AND o.refclassid = 'pg_class'::regclass AND o.deptype = 'a'
                      AND o.refobjid = a.attrelid AND o.refobjsubid = a.attnum) AS serial,
           a.attgenerated <> '' AND EXISTS (
                   SELECT FROM pg_depend p JOIN pg_attribute u
                            ON u.attrelid = p.refobjid AND u.attnum = p.refobjsubid
                     JOIN pg_collation l ON l.oid = u.attcollation
                    WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = a.attrelid
                      AND NOT l.collisdeterministic
                      AND ((p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid)
                        OR (p.classid = 'pg_class'::regclass AND p.objid = a.attrelid
                            AND p.objsubid = a.attnum))) AS loose
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

/// NULLS NOT DISTINCT came with PostgreSQL 15: read through JSON, the column may be missing.
const INDEXES: &str = "
    SELECT x.relname::text AS name, m.amname::text AS method, i.indisunique AS is_unique,
           coalesce(k.contype::text, '') AS constraint_type,
           coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) AS nulls_equal,
           pg_get_expr(i.indpred, i.indrelid) AS predicate,
           CASE WHEN 0 = ANY(i.indkey[0:i.indnkeyatts - 1]) THEN ARRAY[]::text[]
                ELSE ARRAY(SELECT a.attname::text
                             FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY
                                      u(number, place)
                             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.number
                            ORDER BY u.place) END AS columns
      FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
      LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
     WHERE i.indrelid = $1::oid AND i.indisvalid
     ORDER BY x.relname";

const CHECKS: &str = "
    SELECT k.conname::text AS name, pg_get_expr(k.conbin, k.conrelid) AS expression,
           EXISTS (SELECT FROM pg_attribute a JOIN pg_collation l ON l.oid = a.attcollation
                    WHERE a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)
                      AND NOT l.collisdeterministic) AS loose
      FROM pg_constraint k
     WHERE k.conrelid = $1::oid AND k.contype = 'c' AND k.convalidated
     ORDER BY k.conname";

/// A reference to a partitioned table stands once for that table, which has no rows and no equal
/// at a replica, and once more for each of its partitions: both are left out. ON DELETE SET … of
/// some of the columns (PostgreSQL 15) has no equal: the replica refuses instead.
const FOREIGN_KEYS: &str = "
    SELECT k.conname::text AS name, n.nspname::text AS schema, r.relname::text AS refers,
           k.condeferred AS deferred, k.confupdtype::text AS on_update,
           CASE WHEN to_jsonb(k) ->> 'confdelsetcols' IS NULL THEN k.confdeltype::text
                ELSE 'a' END AS on_delete,
           ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
                   JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
                  ORDER BY u.place) AS columns,
           ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(number, place)
                   JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number
                  ORDER BY u.place) AS referred_columns
      FROM pg_constraint k JOIN pg_class r ON r.oid = k.confrelid
      JOIN pg_namespace n ON n.oid = r.relnamespace
     WHERE k.conrelid = $1::oid AND k.contype = 'f' AND k.convalidated AND r.relkind = 'r'
       AND NOT EXISTS (SELECT FROM pg_constraint p
                        WHERE p.oid = k.conparentid AND p.conrelid = k.conrelid)
     ORDER BY k.conname";

/// Describes `table` as it is now.
///
/// # Errors
/// When the table is gone or the catalog cannot be read.
pub(super) async fn describe(
    connection: &mut PgConnection,
    table: &TableName,
) -> Result<TableDescription> {
    let oid = table_oid(connection, table).await?;
    let mut description = TableDescription {
        engine: Engine::Postgres,
        table: table.clone(),
        columns: columns(connection, oid).await?,
        primary_key: Vec::new(),
        uniques: Vec::new(),
        indexes: Vec::new(),
        checks: read(connection, CHECKS, oid, check).await?,
        foreign_keys: read(connection, FOREIGN_KEYS, oid, foreign_key).await?,
    };
    for index in read(connection, INDEXES, oid, raw_index).await? {
        place(index, &mut description);
    }
    Ok(description)
}

/// Runs one of the queries above for the table and reads its rows.
async fn read<T>(
    connection: &mut PgConnection,
    query: &'static str,
    oid: i64,
    row: fn(&PgRow) -> sqlx::Result<T>,
) -> Result<Vec<T>> {
    let failed = |e: sqlx::Error| from_sqlx(&e, "describing a table");
    let rows = sqlx::query(query)
        .bind(oid)
        .fetch_all(connection)
        .await
        .map_err(failed)?;
    rows.iter().map(|r| row(r).map_err(failed)).collect()
}

async fn columns(connection: &mut PgConnection, oid: i64) -> Result<Vec<ColumnDescription>> {
    let columns = read(connection, COLUMNS, oid, column).await?;
    let types: Vec<TypeKey> = columns.iter().map(|(key, _)| *key).collect();
    let details = details(connection, &types).await?;
    Ok(columns
        .into_iter()
        .zip(details)
        .map(|((_, column), detail)| ColumnDescription { detail, ..column })
        .collect())
}

fn column(row: &PgRow) -> sqlx::Result<(TypeKey, ColumnDescription)> {
    let key = (
        row.try_get::<i64, _>("type_id")? as u32,
        row.try_get("modifier")?,
    );
    let generation: String = row.try_get("generated")?;
    let mut expression: Option<String> = row.try_get("expression")?;
    let generated = if generation.is_empty() {
        None
    } else {
        let expression = expression.take().unwrap_or_default();
        let loose = row.try_get("loose")?;
        Some((marked(expression, loose), generation == "s"))
    };
    let drawn = |default: &String| default.starts_with("nextval(");
    let serial = row.try_get::<bool, _>("serial")? && expression.as_ref().is_some_and(drawn);
    let column = ColumnDescription {
        name: row.try_get("name")?,
        type_name: row.try_get("type_name")?,
        detail: None,
        nullable: !row.try_get::<bool, _>("not_null")?,
        default: expression,
        generated,
        identity: serial || row.try_get("identity")?,
    };
    Ok((key, column))
}

fn marked(expression: String, loose: bool) -> String {
    if loose {
        expression + LOOSE
    } else {
        expression
    }
}

struct RawIndex {
    index: IndexDescription,
    method: String,
    /// `p`rimary key, `u`nique, e`x`clusion; empty for an index of its own.
    constraint: String,
    nulls_equal: bool,
}

fn raw_index(row: &PgRow) -> sqlx::Result<RawIndex> {
    Ok(RawIndex {
        index: IndexDescription {
            name: row.try_get("name")?,
            columns: row.try_get("columns")?,
            unique: row.try_get("is_unique")?,
            predicate: row.try_get("predicate")?,
            method: None,
        },
        method: row.try_get("method")?,
        constraint: row.try_get("constraint_type")?,
        nulls_equal: row.try_get("nulls_equal")?,
    })
}

/// Puts an index where it belongs. A key WITHOUT OVERLAPS (PostgreSQL 18) has a method of its own
/// and is no unique key of its columns.
fn place(raw: RawIndex, description: &mut TableDescription) {
    let ordered = raw.method == "btree";
    let mut index = raw.index;
    let plain_nulls_equal = raw.nulls_equal
        && raw.constraint.is_empty()
        && index.predicate.is_none()
        && !index.columns.is_empty();
    match raw.constraint.as_str() {
        "p" if ordered => description.primary_key = index.columns,
        "u" if ordered => description.uniques.push(UniqueDescription {
            name: index.name,
            columns: index.columns,
            nulls_equal: raw.nulls_equal,
        }),
        _ if plain_nulls_equal => description.uniques.push(UniqueDescription {
            name: index.name,
            columns: index.columns,
            nulls_equal: true,
        }),
        constraint => {
            let special = !ordered || constraint == "x";
            let behind = if constraint.is_empty() {
                ""
            } else {
                " behind a constraint"
            };
            index.method = special.then(|| format!("{}{behind}", raw.method));
            description.indexes.push(index);
        }
    }
}

fn check(row: &PgRow) -> sqlx::Result<CheckDescription> {
    Ok(CheckDescription {
        name: row.try_get("name")?,
        expression: marked(row.try_get("expression")?, row.try_get("loose")?),
    })
}

fn foreign_key(row: &PgRow) -> sqlx::Result<ForeignKeyDescription> {
    let action = |column: &str| -> sqlx::Result<ForeignKeyAction> {
        let letter: String = row.try_get(column)?;
        Ok(match letter.as_str() {
            "r" => ForeignKeyAction::Restrict,
            "c" => ForeignKeyAction::Cascade,
            "n" => ForeignKeyAction::SetNull,
            "d" => ForeignKeyAction::SetDefault,
            _ => ForeignKeyAction::NoAction,
        })
    };
    Ok(ForeignKeyDescription {
        name: row.try_get("name")?,
        columns: row.try_get("columns")?,
        refers: TableName::new(
            row.try_get::<String, _>("schema")?,
            row.try_get::<String, _>("refers")?,
        ),
        referred_columns: row.try_get("referred_columns")?,
        on_update: action("on_update")?,
        on_delete: action("on_delete")?,
        deferred: row.try_get("deferred")?,
    })
}
