//! Versioned table schemas, as the log records them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of one schema version within a log; never re-used.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SchemaId(pub u32);

/// A table's qualified name. SQLite tables live in schema `main`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// Schema (PostgreSQL) or database (`main` for SQLite).
    pub schema: String,
    /// Table.
    pub name: String,
}

impl TableName {
    /// Makes a name from its two parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName {
            schema: schema.into(),
            name: name.into(),
        }
    }

    /// The name quoted for SQL: both parts in double quotes, quotes doubled.
    pub fn quoted(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// Quotes an identifier as standard SQL (PostgreSQL, SQLite) does: double quotes, doubled inside.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// One column as the source declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// The type in the source's own words, e.g. `numeric(10,2)`, `"app"."mood"[]`, or SQLite's
    /// declared type (possibly empty).
    pub type_name: String,
    /// The source's number for the type (PostgreSQL OID), 0 where there is none.
    pub type_id: u32,
    /// Whether NULL is allowed.
    pub nullable: bool,
}

/// How a row is found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// By these columns (indexes into the columns), unique and never NULL.
    Key(Vec<usize>),
    /// By the whole row: equal rows are interchangeable, and each costs a scan of the table.
    FullRow,
}

/// One version of a table's shape. Only columns whose values the source sends are listed;
/// generated columns are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Version number within the log.
    pub id: SchemaId,
    /// Engine of the source: `postgres` or `sqlite`.
    pub engine: String,
    /// Name at the source.
    pub table: TableName,
    /// Changes when the table is dropped and made again under its name (PostgreSQL: OID); empty
    /// where the engine carries such a change through the stream itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub incarnation: String,
    /// Columns in the order of the row images.
    pub columns: Vec<Column>,
    /// How rows are identified.
    pub identity: Identity,
}

impl TableSchema {
    /// Key columns; empty when the whole row is the identity.
    pub fn key_columns(&self) -> &[usize] {
        match &self.identity {
            Identity::Key(columns) => columns,
            Identity::FullRow => &[],
        }
    }

    /// True when both describe the same shape, whatever their version number.
    pub fn same_shape(&self, other: &TableSchema) -> bool {
        self.engine == other.engine
            && self.table == other.table
            && self.incarnation == other.incarnation
            && self.columns == other.columns
            && self.identity == other.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_data() {
        let name = TableName::new("a\"b", "Robert'); DROP TABLE x;--");
        assert_eq!(name.quoted(), "\"a\"\"b\".\"Robert'); DROP TABLE x;--\"");
    }
}
