//! What the replica's catalog says of a table we write to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::row::{Row, Value};
use repl_core::schema::{Column, TableName, quote_identifier};

use super::meddling::{Meddling, meddling};
use crate::postgres::composites::{self, composites_of};
use crate::postgres::wire::{PgClient, PipelineError, TextRow};
use crate::seam::{ConnectorError, Result};

/// A column as the replica has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplicaColumn {
    pub(super) name: String,
    /// Type without length, for casts: an explicit cast to `varchar(3)` would cut silently.
    pub(super) cast: String,
    /// Type with length, as declared.
    pub(super) declared: String,
    /// Arrays of the type can be passed to unnest; arrays and composites, which unnest would take
    /// apart, are passed as text.
    pub(super) in_arrays: bool,
    /// Delimiter of the type's array literals.
    pub(super) delimiter: u8,
    pub(super) not_null: bool,
    /// It gets a value by itself: default or identity.
    pub(super) has_default: bool,
    pub(super) generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: can be inserted, not updated.
    pub(super) identity_always: bool,
    /// The composite types its values are made of.
    pub(super) composites: Option<String>,
}

/// A unique index that can identify rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UniqueIndex {
    pub(super) columns: Vec<String>,
    /// Qualified equality operators of the columns, e.g. `OPERATOR(pg_catalog.=)`.
    pub(super) equals: Vec<String>,
}

/// A deferrable unique or exclusion constraint. The server does not check it for our session
/// (`session_replication_role = replica` turns off the triggers that would), so we do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deferrable {
    pub(super) name: String,
    /// Indexed columns or expressions.
    pub(super) expressions: Vec<String>,
    /// The columns' names where all are plain columns.
    pub(super) plain: Option<Vec<String>>,
    /// Operators that must not hold between two rows for all expressions.
    pub(super) operators: Vec<String>,
    pub(super) predicate: Option<String>,
    /// NULLS NOT DISTINCT.
    pub(super) nulls_equal: bool,
}

/// A table of the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Catalog {
    pub(super) oid: String,
    /// `pg_class.relkind`: `r` table, `p` partitioned table, others are not ours.
    pub(super) kind: String,
    /// The role from which row security hides rows: ours.
    pub(super) hidden_from: Option<String>,
    /// The server's counters tell how many rows were put into it.
    pub(super) countable: bool,
    pub(super) columns: Vec<ReplicaColumn>,
    pub(super) unique: Vec<UniqueIndex>,
    pub(super) deferrable: Vec<Deferrable>,
    /// What acts on replicated rows before they are written.
    pub(super) meddling: Vec<Meddling>,
}

/// The table of the schema `$1` and the name `$2`, as a condition on `c`; the queries below go out
/// together, so none can use what another finds.
macro_rules! the_table {
    ($($select:tt)*) => {
        concat!(
            "WITH c AS (SELECT c.oid, c.relkind, c.relam FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1::text AND c.relname = $2::text) ",
            $($select)*
        )
    };
}

/// Tables of the server's own access method (its OID is fixed) count the rows put into them.
const CLASS: &str = the_table!(
    "SELECT c.oid, c.relkind, CASE WHEN pg_catalog.row_security_active(c.oid) \
    THEN current_user END, (c.relkind = 'p' OR c.relam = 2) AND NOT EXISTS ( \
    SELECT FROM pg_catalog.pg_partition_tree(c.oid) p \
    JOIN pg_catalog.pg_class l ON l.oid = p.relid WHERE p.isleaf AND l.relam <> 2) FROM c"
);

const MEDDLING: &str = the_table!(concat!(
    meddling!(
        "SELECT oid FROM c UNION SELECT p.relid FROM c, pg_catalog.pg_partition_tree(c.oid) p"
    ),
    " ORDER BY 1, 2, 3"
));

const COLUMNS: &str = the_table!(
    "SELECT a.attname, pg_catalog.format_type(a.atttypid, -1), \
    pg_catalog.format_type(a.atttypid, a.atttypmod), \
    t.typarray <> 0 AND t.typcategory NOT IN ('A', 'C'), t.typdelim, a.attnotnull, \
    a.atthasdef OR a.attidentity <> '', a.attgenerated <> '', a.attidentity = 'a', ",
    composites_of!(),
    " FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
    WHERE a.attrelid = (SELECT oid FROM c) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
);

/// Strategy 3 of a btree operator class is its equality. A key `WITHOUT OVERLAPS` (PostgreSQL 18) is a
/// GiST index, under which rows that are equal overlap: the types' own equality tells them apart.
const UNIQUE: &str = the_table!(
    "SELECT i.indexrelid, a.attname, on_.nspname, op.oprname \
    FROM pg_catalog.pg_index i \
    CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) \
        WITH ORDINALITY AS k(attnum, opclass, position) \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
    JOIN pg_catalog.pg_opclass own ON own.oid = k.opclass \
    JOIN pg_catalog.pg_opclass oc ON oc.opcmethod = 403 AND (oc.oid = own.oid OR \
        i.indisexclusion AND oc.opcdefault AND oc.opcintype = own.opcintype) \
    JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3 \
        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype \
    JOIN pg_catalog.pg_operator op ON op.oid = ao.amopopr \
    JOIN pg_catalog.pg_namespace on_ ON on_.oid = op.oprnamespace \
    WHERE i.indrelid = (SELECT oid FROM c) AND i.indisunique AND i.indimmediate AND i.indisvalid \
        AND i.indpred IS NULL AND i.indexprs IS NULL AND k.position <= i.indnkeyatts \
    ORDER BY i.indisprimary DESC, i.indexrelid, k.position"
);

/// `indnullsnotdistinct` exists from PostgreSQL 15 on.
const DEFERRABLE: &str = the_table!(
    "SELECT con.conname, \
    pg_catalog.pg_get_indexdef(i.indexrelid, k.n, false), a.attname, on_.nspname, op.oprname, \
    pg_catalog.pg_get_expr(i.indpred, i.indrelid), \
    coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) \
    FROM pg_catalog.pg_constraint con \
    JOIN pg_catalog.pg_index i ON i.indexrelid = con.conindid \
    CROSS JOIN LATERAL pg_catalog.generate_series(1, i.indnkeyatts) AS k(n) \
    JOIN pg_catalog.pg_opclass oc ON oc.oid = i.indclass[k.n - 1] \
    LEFT JOIN pg_catalog.pg_attribute a \
        ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1] AND a.attnum > 0 \
    LEFT JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3 \
        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype \
    JOIN pg_catalog.pg_operator op ON op.oid = coalesce(con.conexclop[k.n], ao.amopopr) \
    JOIN pg_catalog.pg_namespace on_ ON on_.oid = op.oprnamespace \
    WHERE con.conrelid = (SELECT oid FROM c) AND con.condeferrable AND con.contype IN ('p', 'u', 'x') \
    ORDER BY con.oid, k.n"
);

impl Catalog {
    /// Reads a table's entry; none when there is no such table.
    pub(super) async fn read(
        client: &mut PgClient,
        table: &TableName,
    ) -> Result<Option<Catalog>, PipelineError> {
        let name = [Some(table.schema.as_str()), Some(table.name.as_str())];
        let [class, columns, unique, deferrable, meddling] = client
            .query_all([CLASS, COLUMNS, UNIQUE, DEFERRABLE, MEDDLING], &name)
            .await?;
        let Some(class) = class.first() else {
            return Ok(None);
        };
        Ok(Some(Catalog {
            oid: field(class, 0).to_owned(),
            kind: field(class, 1).to_owned(),
            hidden_from: class.get(2).cloned().flatten(),
            countable: flag(class, 3),
            columns: columns.iter().map(column).collect(),
            unique: unique_indexes(&unique),
            deferrable: deferrables(&deferrable),
            meddling: meddling.iter().map(Meddling::new).collect(),
        }))
    }

    pub(super) fn column(&self, name: &str) -> Option<&ReplicaColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The table's name where its rows are to be found: those of tables that inherit from it belong to
    /// tables of their own, those of partitions to it.
    pub(super) fn own_rows(&self, table: &TableName) -> String {
        match self.kind.as_str() {
            "p" => table.quoted(),
            _ => format!("ONLY {}", table.quoted()),
        }
    }

    /// The unique index over exactly these columns, in any order.
    pub(super) fn unique_over(&self, names: &[&str]) -> Option<&UniqueIndex> {
        self.unique.iter().find(|index| {
            index.columns.len() == names.len()
                && index
                    .columns
                    .iter()
                    .all(|column| names.contains(&column.as_str()))
        })
    }
}

pub(super) fn field(row: &TextRow, at: usize) -> &str {
    row.get(at).and_then(Option::as_deref).unwrap_or_default()
}

fn flag(row: &TextRow, at: usize) -> bool {
    field(row, at) == "t"
}

fn operator(schema: &str, name: &str) -> String {
    format!("OPERATOR({}.{name})", quote_identifier(schema))
}

fn column(row: &TextRow) -> ReplicaColumn {
    ReplicaColumn {
        name: field(row, 0).to_owned(),
        cast: field(row, 1).to_owned(),
        declared: field(row, 2).to_owned(),
        in_arrays: flag(row, 3),
        delimiter: field(row, 4).bytes().next().unwrap_or(b','),
        not_null: flag(row, 5),
        has_default: flag(row, 6),
        generated: flag(row, 7),
        identity_always: flag(row, 8),
        composites: row.get(9).cloned().flatten(),
    }
}

fn unique_indexes(rows: &[TextRow]) -> Vec<UniqueIndex> {
    let mut found: Vec<(&str, UniqueIndex)> = Vec::new();
    for row in rows {
        let index = field(row, 0);
        if found.last().is_none_or(|(last, _)| *last != index) {
            let empty = UniqueIndex {
                columns: Vec::new(),
                equals: Vec::new(),
            };
            found.push((index, empty));
        }
        if let Some((_, unique)) = found.last_mut() {
            unique.columns.push(field(row, 1).to_owned());
            unique.equals.push(operator(field(row, 2), field(row, 3)));
        }
    }
    found.into_iter().map(|(_, unique)| unique).collect()
}

fn deferrables(rows: &[TextRow]) -> Vec<Deferrable> {
    let mut found: Vec<Deferrable> = Vec::new();
    for row in rows {
        let name = field(row, 0);
        if found.last().is_none_or(|last| last.name != name) {
            found.push(Deferrable {
                name: name.to_owned(),
                expressions: Vec::new(),
                plain: Some(Vec::new()),
                operators: Vec::new(),
                predicate: row.get(5).cloned().flatten(),
                nulls_equal: flag(row, 6),
            });
        }
        let Some(constraint) = found.last_mut() else {
            continue;
        };
        constraint.expressions.push(field(row, 1).to_owned());
        constraint
            .operators
            .push(operator(field(row, 3), field(row, 4)));
        match (row.get(2).cloned().flatten(), &mut constraint.plain) {
            (Some(column), Some(plain)) => plain.push(column),
            _ => constraint.plain = None,
        }
    }
    found
}

/// Texts of statements by what they do and which columns they write.
type Statements = HashMap<(super::sql::Kind, Vec<bool>), Arc<str>>;

/// A table of the replica together with the source's shape of it: all that is needed to write.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) route: Arc<Route>,
    /// Quoted name, for what puts rows in.
    pub(super) name: String,
    /// The same for what finds rows.
    pub(super) own_rows: String,
    /// The replica's columns in the order of the row images.
    pub(super) columns: Vec<ReplicaColumn>,
    /// Key columns, as indexes of the images; empty when the whole row is the identity.
    pub(super) key: Vec<usize>,
    /// Equality operators of the key columns.
    pub(super) equals: Vec<String>,
    /// All columns of the replica that can be written, those the source does not have included.
    pub(super) writable: Vec<String>,
    /// No unique index over plain columns is known but the key's.
    pub(super) key_is_only_unique: bool,
    /// A column outside of the key cannot be updated, only inserted.
    pub(super) rewrite_updates: bool,
    pub(super) oid: String,
    pub(super) partitioned: bool,
    /// The server's counters tell how many rows were put into it.
    pub(super) countable: bool,
    pub(super) deferrable: Vec<Deferrable>,
    /// Statements by the columns they write.
    pub(super) statements: Mutex<Statements>,
}

impl Target {
    /// Joins the source's shape with the replica's catalog.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] when a column is missing.
    pub(super) fn new(route: &Arc<Route>, catalog: Catalog) -> Result<Target> {
        super::meddling::refuse(&route.target, &catalog.meddling)?;
        let schema = &route.schema;
        let mut columns = Vec::with_capacity(schema.columns.len());
        for column in &schema.columns {
            let found = catalog.column(&column.name).ok_or_else(|| {
                ConnectorError::new(
                    ErrorKind::Schema,
                    format!(
                        "the replica's table {} has no column \"{}\"",
                        route.target, column.name
                    ),
                )
                .table(route.target.to_string())
                .advice(format!(
                    "ALTER TABLE {} ADD COLUMN {} {}; then `replctl retry`",
                    route.target.quoted(),
                    quote_identifier(&column.name),
                    column.type_name
                ))
            })?;
            check_composites(route, column, found)?;
            columns.push(found.clone());
        }
        let key = schema.key_columns().to_vec();
        let names: Vec<&str> = key.iter().map(|&k| columns[k].name.as_str()).collect();
        let index = catalog.unique_over(&names);
        let equals = names.iter().map(|name| equality(index, name)).collect();
        let updatable = |at: usize, c: &ReplicaColumn| !c.identity_always || key.contains(&at);
        Ok(Target {
            name: route.target.quoted(),
            own_rows: catalog.own_rows(&route.target),
            rewrite_updates: !columns.iter().enumerate().all(|(at, c)| updatable(at, c)),
            columns,
            key,
            equals,
            writable: catalog
                .columns
                .iter()
                .filter(|column| !column.generated)
                .map(|column| column.name.clone())
                .collect(),
            partitioned: catalog.kind == "p",
            countable: catalog.countable,
            key_is_only_unique: catalog.unique.len() <= 1,
            oid: catalog.oid,
            deferrable: catalog.deferrable,
            route: Arc::clone(route),
            statements: Mutex::default(),
        })
    }

    /// The key of a row for the operator, shortened.
    pub(super) fn key_text(&self, row: &Row) -> Option<String> {
        const CHARACTERS: usize = 200;
        let values = row.to_vec().ok()?;
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let shown = if self.key.is_empty() { &all } else { &self.key };
        let mut text = String::new();
        for &column in shown {
            let value = match values.get(column)? {
                Value::Unchanged => continue,
                other => super::text::text_of(*other).ok()?,
            };
            if !text.is_empty() {
                text.push_str(", ");
            }
            let value = value.map_or("NULL".into(), |v| String::from_utf8_lossy(&v).into_owned());
            text.push_str(&format!("{}={value}", self.columns[column].name));
            if text.chars().count() > CHARACTERS {
                return Some(text.chars().take(CHARACTERS).chain(['…']).collect());
            }
        }
        Some(text)
    }
}

/// Whether the types a column's values are made of are the primary's: a value tells none of them.
///
/// # Errors
/// [`ErrorKind::Schema`] with the statements that make them so.
pub(super) fn check_composites(route: &Route, column: &Column, here: &ReplicaColumn) -> Result<()> {
    let Some(wanted) = &column.composites else {
        return Ok(());
    };
    let (wanted, here) = (
        composites::parse(wanted),
        composites::parse(here.composites.as_deref().unwrap_or_default()),
    );
    let statements = composites::statements(&wanted, &here);
    if statements.is_empty() {
        return Ok(());
    }
    let table = &route.target;
    Err(ConnectorError::new(
        ErrorKind::Schema,
        format!(
            "the replica's table {table} has column {} of a composite type whose attributes are \
             others than at the primary: values would land in other attributes",
            quote_identifier(&column.name)
        ),
    )
    .table(table.to_string())
    .advice(format!(
        "{}; then, since rows written while the type was altered may have either form: replctl resync \
         <replica> --tables {}",
        statements.join("; "),
        route.schema.table
    )))
}

/// Equality of a key column: that of its unique index, or the built-in one.
fn equality(index: Option<&UniqueIndex>, column: &str) -> String {
    index
        .and_then(|index| {
            let at = index.columns.iter().position(|name| name == column)?;
            index.equals.get(at).cloned()
        })
        .unwrap_or_else(|| "=".into())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use repl_core::schema::{Identity, SchemaId, TableSchema};

    use super::*;

    /// Table `s.t` of the key `a` and the column `b`, which is perhaps one that cannot be updated.
    pub(in crate::postgres::apply) fn target(kind: &str, identity_always: bool) -> Target {
        let schema = TableSchema {
            id: SchemaId(1),
            engine: "postgres".into(),
            table: TableName::new("s", "t"),
            incarnation: String::new(),
            columns: ["a", "b"]
                .map(|name| Column::new(name, "integer", 23, false))
                .into(),
            identity: Identity::Key(vec![0]),
            generated: Vec::new(),
        };
        let column = |name: &str, identity_always| ReplicaColumn {
            name: name.into(),
            cast: "integer".into(),
            declared: "integer".into(),
            in_arrays: true,
            delimiter: b',',
            not_null: true,
            has_default: false,
            generated: false,
            identity_always,
            composites: None,
        };
        let catalog = Catalog {
            oid: "1".into(),
            kind: kind.into(),
            hidden_from: None,
            countable: true,
            meddling: Vec::new(),
            columns: vec![column("a", false), column("b", identity_always)],
            unique: Vec::new(),
            deferrable: Vec::new(),
        };
        let route = Arc::new(Route {
            schema: Arc::new(schema),
            target: TableName::new("s", "t"),
        });
        Target::new(&route, catalog).unwrap()
    }
}
