//! The shape of a captured table, as its triggers record it.
//!
//! Layouts are kept in the primary beside the recorded changes, so that a change written by the
//! triggers of an earlier shape is still understood.

use repl_core::schema::{Column, Identity, SchemaId, TableName, TableSchema};
use serde::{Deserialize, Serialize};

use super::{ENGINE, MAIN};

/// Values an own column of `_repl_changes` can take besides the images; SQLite allows 2000
/// columns in a table.
const MOST_VALUE_COLUMNS: usize = 1_990;

/// One column that is replicated (generated ones are not).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayoutColumn {
    /// Name, unquoted.
    pub(super) name: String,
    /// Declared type, possibly empty.
    pub(super) type_name: String,
    /// Never NULL.
    pub(super) not_null: bool,
    /// The DEFAULT clause's expression.
    pub(super) default: Option<String>,
    /// Appended while the table was captured: rows written before it hold its default.
    #[serde(default)]
    pub(super) added: bool,
}

/// One term of a unique index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UniqueTerm {
    /// Name of the column, or of the row number.
    pub(super) column: String,
    /// Collation of the index, not of the column; none for row numbers.
    pub(super) collation: Option<String>,
    /// What REPLACE puts in place of NULL: the default of a NOT NULL column.
    pub(super) instead_of_null: Option<String>,
}

/// A unique index (or the row number) whose collisions the triggers record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unique {
    /// The terms; a row collides when all are equal and none is NULL.
    pub(super) terms: Vec<UniqueTerm>,
    /// Positions in the new image by which the capture recognises the row that was announced:
    /// those of the terms, or all columns where a term is a generated column.
    pub(super) announced_by: Vec<usize>,
}

/// How a trigger tells the row it fires for from all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RowMatch {
    /// By the row number under this name.
    Rowid(String),
    /// By the primary key of a WITHOUT ROWID table: name and collation of each column.
    Columns(Vec<(String, String)>),
}

/// The shape of one captured table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    /// Table name.
    pub(super) table: String,
    /// Replicated columns in declared order.
    pub(super) columns: Vec<LayoutColumn>,
    /// Positions of the identifying columns; empty when the whole row is the identity.
    pub(super) key: Vec<usize>,
    /// Name of the row number where no column is its alias. It is recorded after the new image,
    /// only to recognise announced rows.
    pub(super) hidden_rowid: Option<String>,
    /// See [`RowMatch`].
    pub(super) row_match: RowMatch,
    /// What REPLACE can collide on.
    pub(super) uniques: Vec<Unique>,
    /// A foreign key of the table refers to itself with an action on update: such actions are
    /// recorded before the change that caused them.
    pub(super) cascades_to_itself: bool,
}

impl Layout {
    /// Number of values of an old image.
    pub(super) fn before_width(&self) -> usize {
        if self.key.is_empty() {
            self.columns.len()
        } else {
            self.key.len()
        }
    }

    /// Number of values of a new image.
    pub(super) fn after_width(&self) -> usize {
        self.columns.len() + usize::from(self.hidden_rowid.is_some())
    }

    /// Columns that `_repl_changes` needs for this table.
    pub(super) fn width(&self) -> usize {
        let announced = self
            .uniques
            .iter()
            .map(|unique| unique.announced_by.len())
            .max()
            .unwrap_or(0);
        self.before_width() + self.after_width().max(1 + announced)
    }

    /// Whether the images fit into one row of `_repl_changes`.
    pub(super) fn fits(&self) -> bool {
        self.width() <= MOST_VALUE_COLUMNS
    }

    /// The qualified name.
    pub(super) fn table_name(&self) -> TableName {
        TableName::new(MAIN, &self.table)
    }

    /// The neutral schema; its number is assigned by the log.
    pub(super) fn schema(&self, incarnation: &str) -> TableSchema {
        let columns = self
            .columns
            .iter()
            .map(|column| Column::new(&column.name, &column.type_name, 0, !column.not_null))
            .collect();
        let identity = if self.key.is_empty() {
            Identity::FullRow
        } else {
            Identity::Key(self.key.clone())
        };
        TableSchema {
            id: SchemaId(0),
            engine: ENGINE.to_owned(),
            table: self.table_name(),
            incarnation: incarnation.to_owned(),
            columns,
            identity,
            generated: Vec::new(),
        }
    }

    /// Notes which columns were appended since `older`.
    pub(super) fn inherit(&mut self, older: &Layout) {
        let renamed_in_place = self.extends(older);
        for (at, column) in self.columns.iter_mut().enumerate() {
            let by_name = older
                .columns
                .iter()
                .find(|former| former.name == column.name);
            let by_place = older.columns.get(at).filter(|_| renamed_in_place);
            column.added = by_name.or(by_place).is_none_or(|former| former.added);
        }
    }

    /// Whether `self` is `older` with columns renamed or appended and nothing else that matters to
    /// the images.
    pub(super) fn extends(&self, older: &Layout) -> bool {
        self.columns.len() >= older.columns.len()
            && self
                .columns
                .iter()
                .zip(&older.columns)
                .all(|(new, old)| new.type_name.eq_ignore_ascii_case(&old.type_name))
    }
}
