//! The primary's tables as its catalog describes them.

use std::sync::Arc;

use repl_core::record::History;
use repl_core::schema::{
    Column, GeneratedColumn, Identity, SchemaId, TableName, TableSchema, TypeDetail,
};
use repl_core::select::Selection;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::catalog_error::from_sqlx;
use super::composites::composites_of;
use super::details::{TypeKey, details};
use super::hidden;
use crate::seam::{Result, SourceTable};

/// A table with what capture needs to know of it.
#[derive(Clone, Debug)]
pub struct CatalogTable {
    /// Shape; its id is not assigned yet.
    pub schema: TableSchema,
    /// Why it cannot be captured; empty when it can.
    pub refusal: String,
    /// The statement that mends it.
    pub remedy: String,
    /// The role from which row security hides rows of it: ours.
    pub hidden_from: Option<String>,
    /// By what the publication covers it; empty when it does not.
    pub coverage: String,
    /// Why its rows cannot be copied yet; empty when they can.
    pub waits: String,
    /// Tables it inherits from.
    pub parents: Vec<TableName>,
}

impl CatalogTable {
    /// The table as the board shows it; a table that is refused without its schema.
    pub fn to_source(&self) -> SourceTable {
        let fit = self.refusal.is_empty();
        // What the stream delivers is not filtered: such a table is captured, and not copied.
        let hidden = self.hidden_from.as_deref().filter(|_| fit);
        SourceTable {
            name: self.schema.table.clone(),
            incarnation: self.schema.incarnation.clone(),
            schema: fit.then(|| Arc::new(self.schema.clone())),
            refusal: hidden.map_or_else(|| self.refusal.clone(), hidden::reason),
            remedy: hidden.map_or_else(|| self.remedy.clone(), hidden::remedy),
            coverage: self.coverage.clone(),
            waits: self.waits.clone(),
            parents: self.parents.clone(),
        }
    }

    /// Whether it could be captured, and is not in the publication.
    pub fn is_unpublished(&self) -> bool {
        self.refusal.is_empty() && self.coverage.is_empty()
    }

    /// Calls its incarnation what the log calls it.
    pub fn rename_incarnation(&mut self, history: Option<&History>) {
        if let Some(history) = history {
            self.schema.incarnation = history.incarnation(&self.schema.incarnation);
        }
    }
}

/// Name of the schema that holds the daemon's own tables; never replicated.
pub const OWN_SCHEMA: &str = "repl";

// Nothing here may want a lock on a table, as pg_get_replica_identity_index would: a withheld commit
// keeps the strongest there is, and waits for the capture, which reads this.
const TABLES: &str = "
    SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name,
           c.relpersistence::text AS persistence, c.relreplident::text AS identity,
           (SELECT i.indexrelid::int8 FROM pg_index i
             WHERE i.indrelid = c.oid AND i.indislive AND i.indisvalid AND i.indisunique
               AND i.indimmediate AND i.indpred IS NULL
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                       WHEN 'i' THEN i.indisreplident END) AS identity_index,
           u.oid AS unique_index, u.name AS unique_index_name,
           ARRAY(SELECT json_build_array(pn.nspname, p.relname)::text
                   FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent
                   JOIN pg_namespace pn ON pn.oid = p.relnamespace
                  WHERE h.inhrelid = c.oid AND NOT c.relispartition ORDER BY h.inhseqno) AS parents,
           CASE WHEN row_security_active(c.oid) THEN current_user::text END AS hidden_from,
           (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
             WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
             LIMIT 1) AS extension
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN LATERAL (
            SELECT i.indexrelid::int8 AS oid, x.relname::text AS name
              FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
               AND i.indpred IS NULL AND i.indexprs IS NULL
               AND NOT EXISTS (SELECT FROM unnest(i.indkey[0:i.indnkeyatts - 1]) k
                               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k
                               WHERE NOT a.attnotnull)
             ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1) u ON true
     WHERE c.relkind = 'r' AND c.relpersistence <> 't'
       AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
       AND ($1::int8 IS NULL OR c.oid = $1::int8)
     ORDER BY 2, 3";

/// What selects the tables in it.
const EVERY: &str = "($1::int8 IS NULL OR c.oid = $1::int8)";

const COLUMNS: &str = concat!(
    "
    SELECT a.attrelid::int8 AS oid, a.attnum::int4 AS number, a.attname::text AS name,
           format_type(a.atttypid, a.atttypmod) AS type_name, a.atttypid::int8 AS type_id,
           a.atttypmod AS modifier, a.attnotnull AS not_null,
           a.attgenerated <> '' AS generated, ",
    composites_of!(),
    " AS composites
      FROM pg_attribute a
     WHERE a.attrelid = ANY($1::int8[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attrelid, a.attnum"
);

const INDEX_COLUMNS: &str = "
    SELECT i.indexrelid::int8 AS oid, k.number::int4 AS number
      FROM pg_index i, unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(number, place)
     WHERE i.indexrelid = ANY($1::int8[]::oid[])
     ORDER BY i.indexrelid, k.place";

struct RawTable {
    oid: i64,
    name: TableName,
    persistence: String,
    identity: String,
    identity_index: Option<i64>,
    unique_index: Option<i64>,
    unique_index_name: Option<String>,
    extension: Option<String>,
    hidden_from: Option<String>,
    parents: Vec<TableName>,
}

struct RawColumn {
    oid: i64,
    number: i32,
    modifier: i32,
    generated: bool,
    column: Column,
}

/// The selected tables, in order of their names. With `only` just the table of that OID,
/// selected or not.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn tables(
    connection: &mut PgConnection,
    selection: &Selection,
    only: Option<u32>,
) -> Result<Vec<CatalogTable>> {
    let raw: Vec<RawTable> = raw_tables(connection, only)
        .await?
        .into_iter()
        .filter(|table| table.name.schema != OWN_SCHEMA)
        .filter(|table| only.is_some() || selection.selects(&table.name))
        // Tables of an extension belong to its CREATE EXTENSION, unless named literally.
        .filter(|table| {
            table.extension.is_none()
                || selection
                    .include
                    .iter()
                    .any(|p| p.is_literal() && p.matches(&table.name))
        })
        .collect();
    let oids: Vec<i64> = raw.iter().map(|table| table.oid).collect();
    let columns = raw_columns(connection, &oids).await?;
    let index_oids: Vec<i64> = raw
        .iter()
        .flat_map(|t| [t.identity_index, t.unique_index])
        .flatten()
        .collect();
    let index_columns = index_columns(connection, &index_oids).await?;
    Ok(raw
        .into_iter()
        .map(|table| describe(table, &columns, &index_columns))
        .collect())
}

async fn raw_tables(connection: &mut PgConnection, only: Option<u32>) -> Result<Vec<RawTable>> {
    // By the index, whatever plan is kept for it: the stream asks for each table that it meets.
    let sql = match only {
        Some(_) => TABLES.replace(EVERY, "c.oid = $1::int8::oid"),
        None => TABLES.to_owned(),
    };
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(only.map(i64::from))
        .fetch_all(connection)
        .await
        .map_err(|e| from_sqlx(&e, "reading the list of tables"))?;
    let read = |row: &sqlx::postgres::PgRow| -> sqlx::Result<RawTable> {
        Ok(RawTable {
            oid: row.try_get("oid")?,
            name: TableName::new(
                row.try_get::<String, _>("schema")?,
                row.try_get::<String, _>("name")?,
            ),
            persistence: row.try_get("persistence")?,
            identity: row.try_get("identity")?,
            identity_index: row.try_get("identity_index")?,
            unique_index: row.try_get("unique_index")?,
            unique_index_name: row.try_get("unique_index_name")?,
            extension: row.try_get("extension")?,
            hidden_from: row.try_get("hidden_from")?,
            parents: parents(&row.try_get::<Vec<String>, _>("parents")?),
        })
    };
    rows.iter()
        .map(|row| read(row).map_err(|e| from_sqlx(&e, "reading the list of tables")))
        .collect()
}

fn parents(names: &[String]) -> Vec<TableName> {
    let name = |text: &String| serde_json::from_str::<(String, String)>(text).ok();
    let names = names.iter().filter_map(name);
    names
        .map(|(schema, name)| TableName::new(schema, name))
        .collect()
}

async fn raw_columns(connection: &mut PgConnection, oids: &[i64]) -> Result<Vec<RawColumn>> {
    let rows = sqlx::query(COLUMNS)
        .bind(oids)
        .fetch_all(&mut *connection)
        .await
        .map_err(|e| from_sqlx(&e, "reading the columns"))?;
    let read = |row: &sqlx::postgres::PgRow| -> sqlx::Result<RawColumn> {
        Ok(RawColumn {
            oid: row.try_get("oid")?,
            number: row.try_get("number")?,
            modifier: row.try_get("modifier")?,
            generated: row.try_get("generated")?,
            column: Column {
                name: row.try_get("name")?,
                type_name: row.try_get("type_name")?,
                type_id: row.try_get::<i64, _>("type_id")? as u32,
                nullable: !row.try_get::<bool, _>("not_null")?,
                detail: None,
                composites: row.try_get("composites")?,
            },
        })
    };
    let mut columns = rows
        .iter()
        .map(|row| read(row).map_err(|e| from_sqlx(&e, "reading the columns")))
        .collect::<Result<Vec<RawColumn>>>()?;
    let types: Vec<TypeKey> = columns
        .iter()
        .map(|raw| (raw.column.type_id, raw.modifier))
        .collect();
    for (raw, detail) in columns.iter_mut().zip(details(connection, &types).await?) {
        raw.column.detail = detail;
    }
    Ok(columns)
}

async fn index_columns(connection: &mut PgConnection, oids: &[i64]) -> Result<Vec<(i64, i32)>> {
    let rows = sqlx::query(INDEX_COLUMNS)
        .bind(oids)
        .fetch_all(connection)
        .await
        .map_err(|e| from_sqlx(&e, "reading the indexes"))?;
    rows.iter()
        .map(|row| Ok((row.try_get("oid")?, row.try_get("number")?)))
        .collect::<sqlx::Result<_>>()
        .map_err(|e| from_sqlx(&e, "reading the indexes"))
}

/// Names of types and what the names do not tell; `???` for a type that was dropped.
///
/// # Errors
/// When the catalog cannot be read.
pub(super) async fn announced_types(
    connection: &mut PgConnection,
    types: &[TypeKey],
) -> Result<Vec<(String, Option<TypeDetail>)>> {
    let oids: Vec<i64> = types.iter().map(|(oid, _)| i64::from(*oid)).collect();
    let modifiers: Vec<i32> = types.iter().map(|(_, modifier)| *modifier).collect();
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT format_type(t.oid::oid, t.modifier)
           FROM unnest($1::int8[], $2::int4[]) WITH ORDINALITY t(oid, modifier, place)
          ORDER BY t.place",
    )
    .bind(oids)
    .bind(modifiers)
    .fetch_all(&mut *connection)
    .await
    .map_err(|e| from_sqlx(&e, "reading the names of types"))?;
    let details = details(connection, types).await?;
    Ok(names.into_iter().zip(details).collect())
}

fn describe(table: RawTable, columns: &[RawColumn], index_columns: &[(i64, i32)]) -> CatalogTable {
    let all = columns.iter().filter(|column| column.oid == table.oid);
    let (generated, own): (Vec<&RawColumn>, Vec<&RawColumn>) =
        all.partition(|column| column.generated);
    let generated = generated.iter().map(|raw| GeneratedColumn {
        name: raw.column.name.clone(),
        type_name: raw.column.type_name.clone(),
    });
    let places = |index: i64| -> Option<Vec<usize>> {
        index_columns
            .iter()
            .filter(|(oid, _)| *oid == index)
            .map(|(_, number)| own.iter().position(|column| column.number == *number))
            .collect()
    };
    // With REPLICA IDENTITY FULL every column arrives, so any unique index can identify rows.
    let index = match table.identity.as_str() {
        "f" => table.unique_index,
        _ => table.identity_index,
    };
    let identity = index.and_then(places).filter(|key| !key.is_empty());
    let (refusal, remedy) = refusal(&table, identity.is_some());
    CatalogTable {
        schema: TableSchema {
            id: SchemaId(0),
            engine: "postgres".into(),
            table: table.name,
            incarnation: table.oid.to_string(),
            columns: own.iter().map(|column| column.column.clone()).collect(),
            identity: identity.map_or(Identity::FullRow, Identity::Key),
            generated: generated.collect(),
        },
        refusal,
        remedy,
        hidden_from: table.hidden_from,
        coverage: String::new(),
        waits: String::new(),
        parents: table.parents,
    }
}

fn refusal(table: &RawTable, identified: bool) -> (String, String) {
    let name = table.name.quoted();
    if table.persistence == "u" {
        return (
            "the table is UNLOGGED: PostgreSQL does not write its changes to the log".into(),
            format!("ALTER TABLE {name} SET LOGGED;"),
        );
    }
    match table.identity.as_str() {
        "f" => (String::new(), String::new()),
        _ if identified => (String::new(), String::new()),
        "n" => (
            "REPLICA IDENTITY NOTHING: updates and deletes do not say which row they change".into(),
            format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT;"),
        ),
        _ => (
            "no primary key or other replica identity: once published, PostgreSQL would refuse \
             the application's UPDATE and DELETE on it"
                .into(),
            match &table.unique_index_name {
                Some(index) => format!(
                    "ALTER TABLE {name} REPLICA IDENTITY USING INDEX {};  -- or ADD PRIMARY KEY",
                    repl_core::schema::quote_identifier(index)
                ),
                None => format!("ALTER TABLE {name} REPLICA IDENTITY FULL;  -- or ADD PRIMARY KEY"),
            },
        ),
    }
}
