//! What the replica's catalog says of a table we write to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mysql_async::Row as ServerRow;
use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::row::{Row, Value};
use repl_core::schema::TableName;

use super::session::Session;
use super::sql::{quote, quote_table};
pub(super) use crate::mysql::admin::optional;
use crate::seam::{ConnectorError, Result};

/// How values of a column are passed and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Integer,
    Decimal {
        precision: u64,
        scale: u64,
    },
    Float,
    Double,
    Bit,
    Text,
    Binary,
    /// MySQL's own JSON type; MariaDB's is a text.
    Json,
    Date,
    DateTime,
    Time,
    Other,
}

/// A column as the replica has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplicaColumn {
    pub(super) name: String,
    pub(super) class: Class,
    /// `enum` or `set`: their members are distinct under the column's collation by definition.
    pub(super) listed: bool,
    /// Type with length, as declared.
    pub(super) declared: String,
    pub(super) charset: Option<String>,
    pub(super) collation: Option<String>,
    pub(super) not_null: bool,
    /// It gets a value by itself: default or AUTO_INCREMENT.
    pub(super) has_default: bool,
    pub(super) auto_increment: bool,
    pub(super) generated: bool,
    /// ON UPDATE CURRENT_TIMESTAMP.
    pub(super) on_update: bool,
}

/// A unique index over whole columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UniqueIndex {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
}

/// A table of the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Catalog {
    /// `BASE TABLE`, `SYSTEM VERSIONED`; others are not ours.
    pub(super) kind: String,
    pub(super) engine: String,
    pub(super) columns: Vec<ReplicaColumn>,
    pub(super) unique: Vec<UniqueIndex>,
    /// Columns that are whole parts of any index: their length is bounded by the engine.
    pub(super) indexed: BTreeSet<String>,
    /// Triggers that do not look at our session variable.
    pub(super) triggers: Vec<String>,
}

const TABLE: &str = "SELECT TABLE_TYPE, COALESCE(ENGINE, '') FROM information_schema.TABLES \
    WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
const COLUMNS: &str = "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, \
    COLLATION_NAME, IS_NULLABLE, COLUMN_DEFAULT IS NOT NULL, EXTRA, \
    COALESCE(NUMERIC_PRECISION, 0), COALESCE(NUMERIC_SCALE, 0) \
    FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? \
    ORDER BY ORDINAL_POSITION";
/// An index over part of a column or an expression shows as one with a NULL name.
const INDEXES: &str = "SELECT INDEX_NAME, IF(SUB_PART IS NULL, COLUMN_NAME, NULL), NON_UNIQUE \
    FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? \
    AND INDEX_TYPE = 'BTREE' ORDER BY INDEX_NAME <> 'PRIMARY', INDEX_NAME, \
    SEQ_IN_INDEX";
const TRIGGERS: &str = "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS \
    WHERE EVENT_OBJECT_SCHEMA = ? AND EVENT_OBJECT_TABLE = ? \
    AND LOCATE('@repl_daemon_apply', LOWER(CAST(ACTION_STATEMENT AS CHAR))) = 0 \
    ORDER BY TRIGGER_NAME";

/// Column `at` of a result's row as text; empty when NULL.
pub(super) fn text(row: &ServerRow, at: usize) -> String {
    optional(row, at).unwrap_or_default()
}

impl Session {
    /// Reads a table's entry; none when there is no such table.
    pub(super) async fn catalog(&mut self, table: &TableName) -> Result<Option<Catalog>> {
        let name = || -> Vec<mysql_async::Value> {
            vec![table.schema.as_str().into(), table.name.as_str().into()]
        };
        let found = self.rows(TABLE, name()).await?;
        let Some(found) = found.first() else {
            return Ok(None);
        };
        let columns = self.rows(COLUMNS, name()).await?;
        let mut unique: BTreeMap<String, Option<Vec<String>>> = BTreeMap::new();
        let mut indexed = BTreeSet::new();
        for row in self.rows(INDEXES, name()).await? {
            indexed.extend(optional(&row, 1));
            if text(&row, 2) != "0" {
                continue;
            }
            let index = unique
                .entry(text(&row, 0))
                .or_insert_with(|| Some(Vec::new()));
            match (index.as_mut(), optional(&row, 1)) {
                (Some(columns), Some(column)) => columns.push(column),
                _ => *index = None,
            }
        }
        let mut unique: Vec<UniqueIndex> = unique
            .into_iter()
            .filter_map(|(name, columns)| columns.map(|columns| UniqueIndex { name, columns }))
            .collect();
        unique.sort_by_key(|index| index.name != "PRIMARY");
        let triggers = self.rows(TRIGGERS, name()).await?;
        Ok(Some(Catalog {
            kind: text(found, 0),
            engine: text(found, 1),
            columns: columns.iter().map(column).collect(),
            unique,
            indexed,
            triggers: triggers.iter().map(|row| text(row, 0)).collect(),
        }))
    }
}

fn column(row: &ServerRow) -> ReplicaColumn {
    let extra = text(row, 7).to_ascii_lowercase();
    let data_type = text(row, 1).to_ascii_lowercase();
    let auto_increment = extra.contains("auto_increment");
    ReplicaColumn {
        name: text(row, 0),
        class: class(&data_type, row),
        listed: matches!(data_type.as_str(), "enum" | "set"),
        declared: text(row, 2),
        charset: optional(row, 3),
        collation: optional(row, 4),
        not_null: text(row, 5) == "NO",
        has_default: text(row, 6) == "1" || auto_increment,
        auto_increment,
        // Not `DEFAULT_GENERATED`, which is a default by an expression.
        generated: ["virtual", "stored", "persistent"]
            .iter()
            .any(|word| extra.contains(word)),
        on_update: extra.contains("on update"),
    }
}

fn class(data_type: &str, row: &ServerRow) -> Class {
    let number = |at: usize| text(row, at).parse().unwrap_or(0);
    match data_type {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => Class::Integer,
        "decimal" => Class::Decimal {
            precision: number(8),
            scale: number(9),
        },
        "float" => Class::Float,
        "double" => Class::Double,
        "bit" => Class::Bit,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" => {
            Class::Text
        }
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Class::Binary,
        "json" => Class::Json,
        "date" => Class::Date,
        "datetime" | "timestamp" => Class::DateTime,
        "time" => Class::Time,
        _ => Class::Other,
    }
}

impl Catalog {
    /// The column of this name; names of columns do not differ by case here.
    pub(super) fn column(&self, name: &str) -> Option<&ReplicaColumn> {
        let exact = self.columns.iter().find(|column| column.name == name);
        exact.or_else(|| {
            self.columns
                .iter()
                .find(|column| column.name.to_lowercase() == name.to_lowercase())
        })
    }

    /// A unique index over exactly these columns, in any order.
    pub(super) fn unique_over(&self, columns: &[&str]) -> Option<&UniqueIndex> {
        let mut wanted: Vec<String> = columns.iter().map(|name| name.to_lowercase()).collect();
        wanted.sort_unstable();
        self.unique.iter().find(|index| {
            let mut own: Vec<String> = index.columns.iter().map(|n| n.to_lowercase()).collect();
            own.sort_unstable();
            own == wanted
        })
    }
}

/// A route with the replica's side of it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) route: Arc<Route>,
    /// Quoted name.
    pub(super) name: String,
    /// The replica's columns in the order of the row images, then those only the replica has
    /// (generated ones left out).
    pub(super) columns: Vec<ReplicaColumn>,
    /// How many of them are in the images.
    pub(super) sent: usize,
    /// Indexes of the key's columns; empty when the whole row is the identity.
    pub(super) key: Vec<usize>,
    /// Quoted name of the unique index over the key.
    pub(super) index: String,
}

impl Target {
    pub(super) fn new(route: &Arc<Route>, catalog: &Catalog) -> Result<Target> {
        super::fit::check(route, catalog)?;
        let mut columns = Vec::new();
        for column in &route.schema.columns {
            columns.extend(catalog.column(&column.name).cloned());
        }
        let sent = columns.len();
        let own = |column: &&ReplicaColumn| {
            !column.generated && !columns[..sent].iter().any(|c| c.name == column.name)
        };
        let extra: Vec<ReplicaColumn> = catalog.columns.iter().filter(own).cloned().collect();
        columns.extend(extra);
        let key = route.schema.key_columns().to_vec();
        let names: Vec<&str> = key.iter().map(|&at| columns[at].name.as_str()).collect();
        let index = match catalog.unique_over(&names) {
            Some(index) => quote(&index.name),
            None => String::new(),
        };
        Ok(Target {
            route: Arc::clone(route),
            name: quote_table(&route.target),
            columns,
            sent,
            key,
            index,
        })
    }

    /// The key of a row for the operator: `id=5`.
    pub(super) fn key_text(&self, row: &Row) -> Option<String> {
        let values = row.to_vec().ok()?;
        let parts: Vec<String> = self
            .key
            .iter()
            .filter_map(|&at| Some((self.columns.get(at)?, values.get(at)?)))
            .map(|(column, value)| format!("{}={}", column.name, shown(*value)))
            .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Values of a row image, as many as the table's shape says.
    pub(super) fn values<'a>(&self, row: &'a Row) -> Result<Vec<Value<'a>>> {
        let values = row.to_vec()?;
        if values.len() != self.sent {
            return Err(ConnectorError::new(
                ErrorKind::Internal,
                format!(
                    "a row image of {} has {} columns instead of {}",
                    self.route.target,
                    values.len(),
                    self.sent
                ),
            ));
        }
        Ok(values)
    }

    /// Whether the table numbers rows by itself.
    pub(super) fn auto_increment(&self) -> bool {
        self.columns.iter().any(|column| column.auto_increment)
    }
}

fn shown(value: Value<'_>) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Unchanged => "(unchanged)".into(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => String::from_utf8_lossy(text).chars().take(100).collect(),
        Value::Blob(bytes) => {
            let hex: String = bytes.iter().take(50).map(|b| format!("{b:02x}")).collect();
            format!("x'{hex}'")
        }
    }
}
