//! What copying a table asks of an engine, and what it tells of it.

use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::copy::PartialCopy;
use repl_core::schema::TableName;

use super::{ConnectorError, CopiedTable, Snapshot, TableDdl};

/// What a copy does with rows that the replica's table holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing: they are somebody else's, and the copy is refused.
    Refuse,
    /// Replaces them all in one transaction: readers see the old ones until it commits.
    Replace,
    /// Writes what differs only, and readers never miss a row that stays. Without a key to compare
    /// by, all rows are replaced in one transaction.
    Compare,
}

/// Why a table is not copied into one that holds rows already, which this group has not copied. `feeding`
/// are other groups that have a table of this name in the same database.
pub(crate) fn holds_rows(route: &Route, feeding: &[String]) -> ConnectorError {
    let (table, source) = (&route.target, &route.schema.table);
    let (message, advice) = match feeding {
        [] => (
            format!("the replica's table {table} already holds rows, which this group has not copied"),
            format!(
                "look whose they are, and decide. If the primary's are to take their place (what it has not is \
                 deleted): replctl resync <replica> --tables {source}. If they are needed: exclude the table \
                 (tables.exclude), or give the replica another database"
            ),
        ),
        groups => (
            format!(
                "the replica's table {table} already holds rows: replication group {} feeds it",
                groups.join(", ")
            ),
            "two groups cannot feed one table: give this one another database (the node's url), other names there \
             (tables.rename), or exclude the table (tables.exclude)"
                .to_owned(),
        ),
    };
    ConnectorError::new(ErrorKind::Conflict, message)
        .table(table.to_string())
        .advice(advice)
}

/// What a load did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Rows read from the source.
    pub rows: u64,
    /// What was written where rows were compared; none where all of them were.
    pub written: Option<Written>,
}

impl Loaded {
    /// All rows were written.
    pub fn all(rows: u64) -> Self {
        let written = None;
        Loaded { rows, written }
    }
}

/// Rows written because they differed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows the replica lacked.
    pub inserted: u64,
    /// Rows that were different.
    pub updated: u64,
    /// Rows the source lacks.
    pub deleted: u64,
}

impl Written {
    /// The counts where different rows were deleted and inserted again instead of being updated.
    #[must_use]
    pub fn replaced(self) -> Self {
        let inserted = self.inserted.saturating_sub(self.updated);
        Written { inserted, ..self }
    }
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }
}

/// How a table to copy is made.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    /// Shape and target name.
    pub route: &'a Route,
    /// Statements.
    pub ddl: &'a TableDdl,
    /// Whether an absent table may be made.
    pub create: bool,
    /// What is done with rows that are there.
    pub existing: Existing,
}

/// One part of a table's copy.
pub struct LoadPart<'a> {
    /// Shape and target name.
    pub route: &'a Arc<Route>,
    /// The copy it belongs to.
    pub copy: &'a PartialCopy,
    /// Its number.
    pub part: u32,
    /// The rows: `snapshot.next_rows()` of the opened range.
    pub rows: &'a mut dyn Snapshot,
    /// Told the number of rows read so far, for progress.
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
}

/// One table's load.
pub struct Load<'a> {
    /// Shape and target name.
    pub route: &'a Route,
    /// How to make the table.
    pub ddl: &'a TableDdl,
    /// Whether an absent table may be made.
    pub create: bool,
    /// What is done with rows that are there.
    pub existing: Existing,
    /// The registry entry to write.
    pub copied: &'a CopiedTable,
    /// The rows: `snapshot.next_rows()` of the opened table.
    pub rows: &'a mut dyn Snapshot,
    /// Told the number of rows read so far, for progress.
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
}

/// What a table inherits from, all by their names at the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherits {
    /// The table.
    pub table: TableName,
    /// Tables it inherits from.
    pub parents: Vec<TableName>,
}
