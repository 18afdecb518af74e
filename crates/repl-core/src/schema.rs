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
    /// What the type's name alone does not tell; none for the engine's own plain types, and in
    /// records written before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<TypeDetail>,
    /// The composite types the values are made of, as JSON: name, and name and type of each attribute, in
    /// order. A value's text names none of them. None where there is no such type, and in records written
    /// before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composites: Option<String>,
}

impl Column {
    /// A column whose type's name says everything.
    pub fn new(
        name: impl Into<String>,
        type_name: impl Into<String>,
        type_id: u32,
        nullable: bool,
    ) -> Self {
        Column {
            name: name.into(),
            type_name: type_name.into(),
            type_id,
            nullable,
            detail: None,
            composites: None,
        }
    }

    /// This column with what its type's name does not tell.
    #[must_use]
    pub fn with_detail(mut self, detail: TypeDetail) -> Self {
        self.detail = Some(detail);
        self
    }
}

/// What stands behind the name of a type. Type names are the source's own words, with modifiers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeDetail {
    /// One of these labels, in the type's order.
    Enum {
        /// The labels.
        labels: Vec<String>,
    },
    /// Another type with constraints.
    Domain {
        /// Name of the type it stands on.
        base: String,
        /// What that type's name does not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<Box<TypeDetail>>,
    },
    /// An array of any dimension.
    Array {
        /// Name of the element's type.
        element: String,
    },
    /// Named fields.
    Composite {
        /// Name and type of each field.
        fields: Vec<(String, String)>,
    },
    /// A range or multirange.
    Range {
        /// Name of the type of its bounds.
        subtype: String,
    },
}

/// A column whose values the source computes from the row's others and does not send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedColumn {
    /// Name, unquoted.
    pub name: String,
    /// The type in the source's own words.
    pub type_name: String,
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

/// One version of a table's shape. Columns are those whose values the source sends; generated ones
/// are listed apart.
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
    /// Columns the source computes; none in records written before they were recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generated: Vec<GeneratedColumn>,
}

impl TableSchema {
    /// Key columns; empty when the whole row is the identity.
    pub fn key_columns(&self) -> &[usize] {
        match &self.identity {
            Identity::Key(columns) => columns,
            Identity::FullRow => &[],
        }
    }

    /// Names of the key columns, in the key's order.
    pub fn key_names(&self) -> impl Iterator<Item = &str> {
        let names = |&at: &usize| self.columns[at].name.as_str();
        self.key_columns().iter().map(names)
    }

    /// True when both describe the same shape, whatever their version number.
    pub fn same_shape(&self, other: &TableSchema) -> bool {
        self.engine == other.engine
            && self.table == other.table
            && self.incarnation == other.incarnation
            && self.columns == other.columns
            && self.identity == other.identity
            && self.generated == other.generated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_recorded_without_detail_are_read_and_written_as_they_were() {
        let old = r#"{"name":"a","type_name":"text","type_id":25,"nullable":true}"#;
        let column: Column = serde_json::from_str(old).unwrap();
        assert_eq!(column, Column::new("a", "text", 25, true));
        assert_eq!(serde_json::to_string(&column).unwrap(), old);
        let labels = vec!["x".to_owned()];
        let column = column.with_detail(TypeDetail::Enum { labels });
        let text = serde_json::to_string(&column).unwrap();
        assert_eq!(serde_json::from_str::<Column>(&text).unwrap(), column);
    }

    #[test]
    fn identifiers_are_data() {
        let name = TableName::new("a\"b", "Robert'); DROP TABLE x;--");
        assert_eq!(name.quoted(), "\"a\"\"b\".\"Robert'); DROP TABLE x;--\"");
    }
}
