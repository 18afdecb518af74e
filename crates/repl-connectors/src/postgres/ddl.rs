//! The statements that make a table at a replica as it is at the primary.
//!
//! Everything is read from the catalog in PostgreSQL's own words (`pg_get_expr`,
//! `pg_get_constraintdef`, `pg_get_indexdef`, `format_type`), with an empty `search_path` so that
//! every name is qualified.

use repl_core::ErrorKind;
use repl_core::schema::{TableName, TableSchema, quote_identifier};
use sqlx::{PgConnection, Row};

use super::catalog_error::from_sqlx;
use super::types;
use crate::seam::{ConnectorError, ForeignKeyDdl, GeneratedDdl, Result, TableDdl};

/// Describes `table` under the name `target`.
///
/// # Errors
/// When the table is gone or the catalog cannot be read.
pub async fn table_ddl(
    connection: &mut PgConnection,
    table: &TableName,
    target: &TableName,
) -> Result<TableDdl> {
    let oid = table_oid(connection, table).await?;
    let mut ddl = TableDdl::default();
    ddl.before.push(create_schema(&target.schema));
    for (extension, schema) in extensions_of_periods(connection, oid).await? {
        ddl.before.push(create_schema(&schema));
        ddl.before.push(format!(
            "CREATE EXTENSION IF NOT EXISTS {} SCHEMA {}",
            quote_identifier(&extension),
            quote_identifier(&schema)
        ));
    }
    types::user_types(connection, oid, &mut ddl.before).await?;
    sequences(connection, oid, target, &mut ddl).await?;
    match partition_of(connection, oid).await? {
        Some((parent, bound)) => {
            let parent_target = TableName::new(target.schema.clone(), parent.1.name.clone());
            parent_table(connection, parent.0, &parent_target, &mut ddl.before).await?;
            ddl.create.push(format!(
                "CREATE TABLE {} PARTITION OF {} {bound}",
                target.quoted(),
                parent_target.quoted()
            ));
        }
        None => ddl
            .create
            .push(create_table(connection, oid, target, "").await?),
    }
    // Needed once this replica is the primary, or feeds another.
    if is_full_identity(connection, oid).await? {
        let sql = format!("ALTER TABLE {} REPLICA IDENTITY FULL", target.quoted());
        ddl.create.push(sql);
    }
    let (key, others) = constraints_and_indexes(connection, oid, target).await?;
    ddl.key = key;
    ddl.after.splice(0..0, others);
    ddl.foreign_keys = foreign_keys(connection, oid, target).await?;
    ddl.generated = generated(connection, oid).await?;
    Ok(ddl)
}

/// The extensions without which keys `WITHOUT OVERLAPS` (PostgreSQL 18) cannot be made: the operator
/// classes of their plain columns (`btree_gist`).
async fn extensions_of_periods(
    connection: &mut PgConnection,
    oid: i64,
) -> Result<Vec<(String, String)>> {
    sqlx::query_as(
        "SELECT DISTINCT e.extname::text, n.nspname::text
           FROM pg_index i CROSS JOIN unnest(i.indclass::oid[]) AS o(class)
           JOIN pg_depend d ON d.classid = 'pg_opclass'::regclass AND d.objid = o.class
            AND d.deptype = 'e'
           JOIN pg_extension e ON e.oid = d.refobjid
           JOIN pg_namespace n ON n.oid = e.extnamespace
          WHERE i.indrelid = $1::oid AND i.indisunique AND i.indisexclusion",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "looking for the extensions of a table's keys"))
}

async fn is_full_identity(connection: &mut PgConnection, oid: i64) -> Result<bool> {
    sqlx::query_scalar("SELECT relreplident = 'f' FROM pg_class WHERE oid = $1::oid")
        .bind(oid)
        .fetch_one(connection)
        .await
        .map_err(|e| from_sqlx(&e, "looking for a table's replica identity"))
}

pub(super) async fn table_oid(connection: &mut PgConnection, table: &TableName) -> Result<i64> {
    sqlx::query_scalar(
        "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_optional(connection)
    .await
    .map_err(|e| from_sqlx(&e, "looking for a table"))?
    .ok_or_else(|| {
        ConnectorError::new(
            ErrorKind::Transient,
            format!("table {table} is gone from the primary"),
        )
        .table(table.to_string())
    })
}

/// `CREATE SCHEMA IF NOT EXISTS` asks for the privilege even when the schema is there.
fn create_schema(schema: &str) -> String {
    guarded(
        &format!(
            "to_regnamespace({}) IS NULL",
            literal(&quote_identifier(schema))
        ),
        &format!("CREATE SCHEMA {}", quote_identifier(schema)),
    )
}

/// `statement`, run only if `condition` holds.
pub(super) fn guarded(condition: &str, statement: &str) -> String {
    // The tag must not occur in what it encloses, which may hold any identifier.
    let mut tag = "repl".to_owned();
    while statement.contains(&format!("${tag}$")) || condition.contains(&format!("${tag}$")) {
        tag.push('x');
    }
    format!("DO ${tag}$ BEGIN IF {condition} THEN {statement}; END IF; END ${tag}$")
}

/// A string literal.
pub(super) fn literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text)
        .trim_start()
        .to_owned()
}

/// `CREATE TABLE` with its columns; `tail` follows the closing parenthesis.
async fn create_table(
    connection: &mut PgConnection,
    oid: i64,
    target: &TableName,
    tail: &str,
) -> Result<String> {
    let rows = sqlx::query(
        "SELECT quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                || CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
                        THEN ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                        ELSE '' END
                || CASE WHEN a.attgenerated = 's'
                        THEN ' GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid) || ') STORED'
                        WHEN a.attgenerated = 'v'
                        THEN ' GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid) || ')'
                        WHEN a.attidentity = 'a' THEN ' GENERATED ALWAYS AS IDENTITY'
                        WHEN a.attidentity = 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY'
                        WHEN d.adbin IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)
                        ELSE '' END
                || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END AS definition
           FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
           LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
           LEFT JOIN pg_collation co ON co.oid = a.attcollation
           LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
          WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
          ORDER BY a.attnum",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing a table"))?;
    let columns = texts(&rows, "definition")?;
    Ok(format!(
        "CREATE TABLE {} ({}){tail}",
        target.quoted(),
        columns.join(", ")
    ))
}

/// `ALTER TABLE … ADD COLUMN` for the columns of `schema` whose value in older rows is known: NULL,
/// or the constant PostgreSQL keeps for a column that was added with a default
/// (`attmissingval`). Generated columns and volatile defaults rewrite the table unseen.
pub(super) async fn added_columns(
    connection: &mut PgConnection,
    schema: &TableSchema,
    target: &TableName,
) -> Result<TableDdl> {
    let names: Vec<String> = schema
        .columns
        .iter()
        .map(|column| column.name.clone())
        .collect();
    let rows = sqlx::query(
        "SELECT format('ADD COLUMN IF NOT EXISTS %I %s%s%s', a.attname,
                       format_type(a.atttypid, a.atttypmod),
                       CASE WHEN a.atthasmissing
                            THEN format(' DEFAULT %L', (a.attmissingval::text::text[])[1]) ELSE '' END,
                       CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END) AS addition,
                CASE WHEN NOT a.atthasmissing THEN ''
                     WHEN d.adbin IS NULL THEN format('ALTER COLUMN %I DROP DEFAULT', a.attname)
                     ELSE format('ALTER COLUMN %I SET DEFAULT %s', a.attname,
                                 pg_get_expr(d.adbin, d.adrelid)) END AS default_now
           FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = ANY($3) AND NOT a.attisdropped
            AND a.attgenerated = '' AND a.attidentity = ''
            AND (a.atthasmissing OR (d.adbin IS NULL AND NOT a.attnotnull))
          ORDER BY a.attnum",
    )
    .bind(&schema.table.schema)
    .bind(&schema.table.name)
    .bind(&names)
    .fetch_all(&mut *connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing added columns"))?;
    let mut ddl = TableDdl::default();
    if !schema.generated.is_empty() {
        let oid = table_oid(connection, &schema.table).await?;
        ddl.generated = generated(connection, oid).await?;
    }
    if !rows.is_empty() {
        let oid = table_oid(connection, &schema.table).await?;
        types::user_types(connection, oid, &mut ddl.before).await?;
    }
    for (addition, default) in texts(&rows, "addition")?
        .iter()
        .zip(&texts(&rows, "default_now")?)
    {
        ddl.create
            .push(format!("ALTER TABLE {} {addition}", target.quoted()));
        if !default.is_empty() {
            ddl.create
                .push(format!("ALTER TABLE {} {default}", target.quoted()));
        }
    }
    Ok(ddl)
}

/// The columns the primary generates.
pub(super) async fn generated(
    connection: &mut PgConnection,
    oid: i64,
) -> Result<Vec<GeneratedDdl>> {
    let rows = sqlx::query(
        "SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type_name,
                pg_get_expr(d.adbin, d.adrelid) AS expression, a.attgenerated = 's' AS stored
           FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated <> ''
          ORDER BY a.attnum",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing generated columns"))?;
    let read = |row: &sqlx::postgres::PgRow| -> sqlx::Result<GeneratedDdl> {
        Ok(GeneratedDdl {
            name: row.try_get("name")?,
            type_name: row.try_get("type_name")?,
            expression: row.try_get("expression")?,
            stored: row.try_get("stored")?,
        })
    };
    rows.iter()
        .map(|row| read(row).map_err(|e| from_sqlx(&e, "describing generated columns")))
        .collect()
}

/// Parent and bound of a partition.
async fn partition_of(
    connection: &mut PgConnection,
    oid: i64,
) -> Result<Option<((i64, TableName), String)>> {
    let row = sqlx::query(
        "SELECT p.oid::int8 AS oid, n.nspname::text AS schema, p.relname::text AS name,
                pg_get_expr(c.relpartbound, c.oid) AS bound
           FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
           JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace n ON n.oid = p.relnamespace
          WHERE c.oid = $1::oid AND c.relispartition",
    )
    .bind(oid)
    .fetch_optional(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing a partition"))?;
    let Some(row) = row else { return Ok(None) };
    let read = |e: sqlx::Error| from_sqlx(&e, "describing a partition");
    let name = TableName::new(
        row.try_get::<String, _>("schema").map_err(read)?,
        row.try_get::<String, _>("name").map_err(read)?,
    );
    let oid = row.try_get("oid").map_err(read)?;
    Ok(Some(((oid, name), row.try_get("bound").map_err(read)?)))
}

/// Makes the partitioned parent, and its own parents, if absent. It keeps the primary's name in
/// the partition's target schema.
async fn parent_table(
    connection: &mut PgConnection,
    oid: i64,
    target: &TableName,
    before: &mut Vec<String>,
) -> Result<()> {
    let key: String = sqlx::query_scalar("SELECT pg_get_partkeydef($1::oid)")
        .bind(oid)
        .fetch_one(&mut *connection)
        .await
        .map_err(|e| from_sqlx(&e, "describing a partitioned table"))?;
    types::user_types(connection, oid, before).await?;
    let tail = format!(" PARTITION BY {key}");
    let create = match partition_of(connection, oid).await? {
        Some((parent, bound)) => {
            let parent_target = TableName::new(target.schema.clone(), parent.1.name.clone());
            Box::pin(parent_table(connection, parent.0, &parent_target, before)).await?;
            format!(
                "CREATE TABLE {} PARTITION OF {} {bound}{tail}",
                target.quoted(),
                parent_target.quoted()
            )
        }
        None => create_table(connection, oid, target, &tail).await?,
    };
    let mut statements = vec![create];
    let (key, others) = constraints_and_indexes(connection, oid, target).await?;
    statements.extend(key.into_iter().chain(others));
    let absent = format!("to_regclass({}) IS NULL", literal(&target.quoted()));
    before.push(guarded(&absent, &statements.join("; ")));
    Ok(())
}

/// Sequences that defaults refer to, made before the table and given to it afterwards.
async fn sequences(
    connection: &mut PgConnection,
    oid: i64,
    target: &TableName,
    ddl: &mut TableDdl,
) -> Result<()> {
    let rows = sqlx::query(
        "SELECT DISTINCT quote_ident(n.nspname) AS schema,
                quote_ident(n.nspname) || '.' || quote_ident(s.relname) AS name,
                format('AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s',
                       format_type(q.seqtypid, NULL), q.seqincrement, q.seqmin, q.seqmax, q.seqstart,
                       q.seqcache, CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END) AS options,
                (SELECT quote_ident(a.attname) FROM pg_depend o JOIN pg_attribute a
                     ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
                  WHERE o.classid = 'pg_class'::regclass AND o.objid = s.oid AND o.deptype = 'a'
                    AND o.refobjid = $1::oid LIMIT 1) AS owner
           FROM pg_attrdef d
           JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
                           AND p.refclassid = 'pg_class'::regclass
           JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S'
           JOIN pg_sequence q ON q.seqrelid = s.oid
           JOIN pg_namespace n ON n.oid = s.relnamespace
          WHERE d.adrelid = $1::oid
          ORDER BY 2",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing sequences"))?;
    let names = texts(&rows, "name")?;
    let schemas = texts(&rows, "schema")?;
    let options = texts(&rows, "options")?;
    for (index, row) in rows.iter().enumerate() {
        let (name, schema) = (&names[index], &schemas[index]);
        ddl.before.push(guarded(
            &format!("to_regnamespace({}) IS NULL", literal(schema)),
            &format!("CREATE SCHEMA {schema}"),
        ));
        ddl.before.push(guarded(
            &format!("to_regclass({}) IS NULL", literal(name)),
            &format!("CREATE SEQUENCE {name} {}", options[index]),
        ));
        let owner: Option<String> = row
            .try_get("owner")
            .map_err(|e| from_sqlx(&e, "describing sequences"))?;
        // Ownership needs both in one schema; elsewhere the sequence simply stays on its own.
        if let Some(column) = owner.filter(|_| *schema == quote_ident_like(&target.schema)) {
            ddl.after.push(format!(
                "ALTER SEQUENCE {name} OWNED BY {}.{column}",
                target.quoted()
            ));
        }
    }
    Ok(())
}

/// `quote_ident`'s form: quoted only where needed.
fn quote_ident_like(name: &str) -> String {
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.as_bytes()[0].is_ascii_digit();
    if plain {
        name.to_owned()
    } else {
        quote_identifier(name)
    }
}

/// Primary key; then unique, exclusion and check constraints and the other indexes. What a
/// partition inherits from its parent is left out; a child of an ordinary table is made by itself, with
/// everything it has to have before it can inherit.
async fn constraints_and_indexes(
    connection: &mut PgConnection,
    oid: i64,
    target: &TableName,
) -> Result<(Vec<String>, Vec<String>)> {
    let rows = sqlx::query(
        "SELECT contype = 'p' AS is_key,
                'ADD CONSTRAINT ' || quote_ident(conname) || ' ' || pg_get_constraintdef(oid)
                    AS definition
           FROM pg_constraint
          WHERE conrelid = $1::oid AND contype IN ('p', 'u', 'x', 'c') AND conparentid = 0
            AND (coninhcount = 0 OR NOT (SELECT relispartition FROM pg_class WHERE oid = conrelid))
          ORDER BY array_position(ARRAY['p', 'u', 'x', 'c'], contype::text), conname",
    )
    .bind(oid)
    .fetch_all(&mut *connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing constraints"))?;
    let (mut key, mut statements) = (Vec::new(), Vec::new());
    for (row, definition) in rows.iter().zip(texts(&rows, "definition")?) {
        let is_key: bool = row
            .try_get("is_key")
            .map_err(|e| from_sqlx(&e, "describing constraints"))?;
        let list = if is_key { &mut key } else { &mut statements };
        list.push(format!("ALTER TABLE {} {definition}", target.quoted()));
    }
    let rows = sqlx::query(
        "SELECT CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END AS uniqueness,
                quote_ident(c.relname) AS name,
                pg_get_indexdef(i.indexrelid) AS definition,
                format('CREATE %sINDEX %s ON %s%s.%s USING ',
                       CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, quote_ident(c.relname),
                       CASE WHEN t.relkind = 'p' THEN 'ONLY ' ELSE '' END,
                       quote_ident(n.nspname), quote_ident(t.relname)) AS head
           FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
           JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
          WHERE i.indrelid = $1::oid AND i.indisvalid AND NOT c.relispartition
            AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid
                              AND k.contype IN ('p', 'u', 'x'))
          ORDER BY c.relname",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing indexes"))?;
    let (uniqueness, names) = (texts(&rows, "uniqueness")?, texts(&rows, "name")?);
    let (definitions, heads) = (texts(&rows, "definition")?, texts(&rows, "head")?);
    for index in 0..rows.len() {
        let Some(rest) = definitions[index].strip_prefix(heads[index].as_str()) else {
            return Err(ConnectorError::new(
                ErrorKind::Internal,
                format!("index {} has a definition of unknown form", names[index]),
            ));
        };
        statements.push(format!(
            "CREATE {}INDEX {} ON {} USING {rest}",
            uniqueness[index],
            names[index],
            target.quoted()
        ));
    }
    Ok((key, statements))
}

/// The tables that have a foreign key, each with the one it refers to.
pub(super) async fn references(
    connection: &mut PgConnection,
) -> Result<Vec<(TableName, TableName)>> {
    let pairs: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT DISTINCT hn.nspname::text, h.relname::text, tn.nspname::text, t.relname::text
           FROM pg_constraint k
           JOIN pg_class h ON h.oid = k.conrelid JOIN pg_namespace hn ON hn.oid = h.relnamespace
           JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
          WHERE k.contype = 'f' AND k.conparentid = 0 AND t.relkind = 'r'",
    )
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "looking for foreign keys"))?;
    let pair = |(schema, name, other_schema, other)| {
        (
            TableName::new(schema, name),
            TableName::new(other_schema, other),
        )
    };
    Ok(pairs.into_iter().map(pair).collect())
}

/// Foreign keys, NOT VALID: while tables are still joining the stream their rows need not fit yet,
/// and the applying session does not check them anyway; they bind whoever writes later.
async fn foreign_keys(
    connection: &mut PgConnection,
    oid: i64,
    target: &TableName,
) -> Result<Vec<ForeignKeyDdl>> {
    let rows = sqlx::query(
        "SELECT n.nspname::text AS schema, r.relname::text AS name,
                quote_ident(k.conname) AS constraint_name,
                (SELECT string_agg(CASE WHEN u.place = k.last THEN 'PERIOD ' ELSE '' END
                                   || quote_ident(a.attname), ', ' ORDER BY u.place)
                   FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
                   JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number) AS here,
                (SELECT string_agg(CASE WHEN u.place = k.last THEN 'PERIOD ' ELSE '' END
                                   || quote_ident(a.attname), ', ' ORDER BY u.place)
                   FROM unnest(k.confkey) WITH ORDINALITY u(number, place)
                   JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number) AS there,
                CASE k.confmatchtype WHEN 'f' THEN ' MATCH FULL' ELSE '' END
                || ' ON UPDATE ' || actions.name[position(k.confupdtype::text IN 'arcnd')]
                || ' ON DELETE ' || actions.name[position(k.confdeltype::text IN 'arcnd')]
                || CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END
                || CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END AS actions
           -- Its last column is a period, from PostgreSQL 18 on.
           FROM (SELECT k.*, CASE WHEN (to_jsonb(k) ->> 'conperiod')::bool
                                  THEN cardinality(k.conkey) END AS last
                   FROM pg_constraint k) k
           JOIN pg_class r ON r.oid = k.confrelid
           JOIN pg_namespace n ON n.oid = r.relnamespace,
                (SELECT ARRAY['NO ACTION', 'RESTRICT', 'CASCADE', 'SET NULL', 'SET DEFAULT']
                            AS name) actions
          WHERE k.conrelid = $1::oid AND k.contype = 'f' AND k.conparentid = 0 AND r.relkind = 'r'
          ORDER BY k.conname",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "describing foreign keys"))?;
    let column = |name: &str| texts(&rows, name);
    let (schemas, names) = (column("schema")?, column("name")?);
    let (constraints, actions) = (column("constraint_name")?, column("actions")?);
    let (here, there) = (column("here")?, column("there")?);
    Ok((0..rows.len())
        .map(|i| ForeignKeyDdl {
            refers: TableName::new(schemas[i].clone(), names[i].clone()),
            head: format!(
                "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES ",
                target.quoted(),
                constraints[i],
                here[i]
            ),
            tail: format!(" ({}){} NOT VALID", there[i], actions[i]),
        })
        .collect())
}

pub(super) fn texts(rows: &[sqlx::postgres::PgRow], column: &str) -> Result<Vec<String>> {
    rows.iter()
        .map(|row| row.try_get::<String, _>(column))
        .collect::<sqlx::Result<_>>()
        .map_err(|e| from_sqlx(&e, "reading the catalog"))
}
