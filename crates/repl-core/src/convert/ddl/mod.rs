//! Tables at a replica of another engine.
//!
//! A source describes its table as a [`TableDescription`]; [`ddl`] writes the statements that make
//! it at the target of a [`TablePlan`]. What has an equal there is translated; what has not is left
//! out and named in the notes, because a constraint or default that means something else would be
//! worse than none: the rows arrive as the source made them either way.

mod default;
mod expression;
mod generate;
mod translate;

use super::{ConvertOptions, Engine, Refusal, TablePlan};
use crate::schema::{TableName, TableSchema, TypeDetail};

/// A table as its source describes it. Expressions and types are in the source's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDescription {
    /// The source.
    pub engine: Engine,
    /// Name at the source.
    pub table: TableName,
    /// All columns in their order, generated ones included.
    pub columns: Vec<ColumnDescription>,
    /// Columns of the primary key; empty where there is none.
    pub primary_key: Vec<String>,
    /// Unique constraints.
    pub uniques: Vec<UniqueDescription>,
    /// Indexes that do not stand behind the constraints above.
    pub indexes: Vec<IndexDescription>,
    /// Check constraints.
    pub checks: Vec<CheckDescription>,
    /// Foreign keys.
    pub foreign_keys: Vec<ForeignKeyDescription>,
}

/// A column of a described table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnDescription {
    /// Name, unquoted.
    pub name: String,
    /// Type, with modifiers.
    pub type_name: String,
    /// What the type's name does not tell.
    pub detail: Option<TypeDetail>,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// The default's expression.
    pub default: Option<String>,
    /// The expression of a generated column, and whether its values are stored.
    pub generated: Option<(String, bool)>,
    /// Numbered by the engine: IDENTITY, `serial`, AUTO_INCREMENT, or SQLite's row number.
    pub identity: bool,
}

/// A unique constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UniqueDescription {
    /// Name; empty where it has none.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Two NULLs are equal (PostgreSQL's NULLS NOT DISTINCT).
    pub nulls_equal: bool,
}

/// An index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexDescription {
    /// Name.
    pub name: String,
    /// Its columns; empty where it is over an expression.
    pub columns: Vec<String>,
    /// Whether it keeps rows apart.
    pub unique: bool,
    /// The predicate of a partial index.
    pub predicate: Option<String>,
    /// The method, where it is not an ordinary ordered index (`gin`, `gist` …).
    pub method: Option<String>,
}

/// A check constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckDescription {
    /// Name; empty where it has none.
    pub name: String,
    /// The condition, without the word CHECK.
    pub expression: String,
}

/// What a foreign key does when its target goes or changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignKeyAction {
    /// Refuse, at the end.
    #[default]
    NoAction,
    /// Refuse, at once.
    Restrict,
    /// Follow.
    Cascade,
    /// Become NULL.
    SetNull,
    /// Become the default.
    SetDefault,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKeyDescription {
    /// Name; empty where it has none.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The table it refers to, by its name at the source.
    pub refers: TableName,
    /// The columns it refers to; empty for that table's primary key.
    pub referred_columns: Vec<String>,
    /// When the target changes.
    pub on_update: ForeignKeyAction,
    /// When the target goes.
    pub on_delete: ForeignKeyAction,
    /// Checked at the end of the transaction.
    pub deferred: bool,
}

/// The statements that make a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GeneratedDdl {
    /// Before the table; each tolerates that its object is there already.
    pub before: Vec<String>,
    /// The table.
    pub create: Vec<String>,
    /// After the rows were loaded, where it can wait until then: the primary key.
    pub key: Vec<String>,
    /// After it: other keys and indexes that can wait.
    pub after: Vec<String>,
    /// After all tables were made. Empty for SQLite, which knows foreign keys only as parts of
    /// `CREATE TABLE`.
    pub foreign_keys: Vec<GeneratedForeignKey>,
    /// What was left out, and why: one sentence each.
    pub notes: Vec<String>,
}

/// A foreign key's statement, complete once the target's name at the replica is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedForeignKey {
    /// The table it refers to, by its name at the source.
    pub refers: TableName,
    /// Statement up to that table's quoted name.
    pub head: String,
    /// Statement after it.
    pub tail: String,
}

impl TableDescription {
    /// Columns of each key whose text and binary columns need a bounded length at MySQL: pass them
    /// to [`TablePlan::with_keys`].
    pub fn keys(&self) -> Vec<Vec<String>> {
        let primary = std::iter::once(&self.primary_key).filter(|key| !key.is_empty());
        let uniques = self.uniques.iter().map(|unique| &unique.columns);
        let indexes = self
            .indexes
            .iter()
            .filter(|index| index.unique && index.is_plain())
            .map(|index| &index.columns);
        let foreign = self.foreign_keys.iter().map(|key| &key.columns);
        primary
            .chain(uniques)
            .chain(indexes)
            .chain(foreign)
            .cloned()
            .collect()
    }

    /// Plans the conversion of the table's rows, whose shape is `schema`.
    ///
    /// # Errors
    /// Everything that cannot be carried.
    pub fn plan(
        &self,
        schema: &TableSchema,
        target: Engine,
        options: &ConvertOptions,
    ) -> Result<TablePlan, Vec<Refusal>> {
        TablePlan::with_keys(schema, target, options, &self.keys())
    }
}

impl IndexDescription {
    fn is_plain(&self) -> bool {
        self.predicate.is_none() && self.method.is_none() && !self.columns.is_empty()
    }
}

/// The statements that make the described table as `target`. `replica_name` gives the name at the
/// replica of a table a foreign key refers to.
///
/// # Errors
/// Names that the target does not keep as they are.
pub fn ddl(
    description: &TableDescription,
    plan: &TablePlan,
    target: &TableName,
    replica_name: &dyn Fn(&TableName) -> TableName,
) -> Result<GeneratedDdl, Vec<Refusal>> {
    generate::generate(description, plan, target, replica_name)
}

#[cfg(test)]
pub(in crate::convert) fn tests_parse(text: &str) -> Option<()> {
    expression::parse(text, Engine::Postgres).map(|_| ())
}
