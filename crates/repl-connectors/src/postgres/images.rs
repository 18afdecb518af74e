//! From the stream's row images and table shapes to the log's.

use repl_core::change::ChangeWriter;
use repl_core::row::Value;
use repl_core::schema::{Column, Identity, SchemaId, TableName, TableSchema, TypeDetail};

use super::catalog::CatalogTable;
use super::pgoutput::{Field, Relation, RelationColumn, Tuple};

/// Writes one row image behind the change being built.
pub(super) fn put_tuple(change: &mut ChangeWriter<'_>, tuple: Tuple<'_>) {
    let mut row = change.row(tuple.columns());
    for field in tuple.fields() {
        row.put(value(field));
    }
    row.finish();
}

/// A field as a value of the change model.
pub(super) fn value(field: Field<'_>) -> Value<'_> {
    match field {
        Field::Null => Value::Null,
        Field::Unchanged => Value::Unchanged,
        Field::Text(text) => Value::Text(text),
    }
}

/// Whether the catalog's present shape is the one the stream announced, the key included: the images
/// of rows before a change hold the columns that were the key then.
pub(super) fn same_shape(table: &CatalogTable, relation: &Relation<'_>) -> bool {
    table.schema.table.schema == relation.schema
        && table.schema.table.name == relation.name
        && table.schema.columns.len() == relation.columns.len()
        && table
            .schema
            .columns
            .iter()
            .zip(&relation.columns)
            .all(|(ours, theirs)| ours.name == theirs.name && ours.type_id == theirs.type_id)
        && same_key(table, relation)
}

fn same_key(table: &CatalogTable, relation: &Relation<'_>) -> bool {
    let key = table.schema.key_columns();
    let flagged = |(at, column): (usize, &RelationColumn<'_>)| column.key == key.contains(&at);
    // With whole images any key will do.
    relation.replica_identity == b'f' || relation.columns.iter().enumerate().all(flagged)
}

/// The shape the stream tells of, for a table that was altered again since. `types` holds the
/// columns' types in their order; what else the stream does not say is taken from `now`, the
/// catalog's present shape, for columns that are still the same. A column that is not is assumed
/// to hold no NULL: one that arrives all the same is refused by the replica itself.
pub(super) fn announced(
    relation: &Relation<'_>,
    types: Vec<(String, Option<TypeDetail>)>,
    now: Option<&CatalogTable>,
) -> TableSchema {
    let same = |name: &str, type_id: u32| {
        let columns = now.map(|table| table.schema.columns.as_slice());
        columns
            .unwrap_or_default()
            .iter()
            .find(|column| column.name == name && column.type_id == type_id)
    };
    let key: Vec<usize> = (0..relation.columns.len())
        .filter(|&index| relation.columns[index].key && relation.replica_identity != b'f')
        .collect();
    TableSchema {
        id: SchemaId(0),
        engine: "postgres".into(),
        table: TableName::new(relation.schema, relation.name),
        incarnation: relation.oid.to_string(),
        columns: relation
            .columns
            .iter()
            .zip(types)
            .map(|(column, (type_name, detail))| Column {
                name: column.name.to_owned(),
                type_name,
                type_id: column.type_id,
                nullable: same(column.name, column.type_id).is_some_and(|now| now.nullable),
                detail,
                composites: same(column.name, column.type_id)
                    .and_then(|now| now.composites.clone()),
            })
            .collect(),
        identity: if key.is_empty() {
            Identity::FullRow
        } else {
            Identity::Key(key)
        },
        generated: now.map_or_else(Vec::new, |table| table.schema.generated.clone()),
    }
}
