//! Reading a source at one exact cut, and the statements that make its tables elsewhere.

use async_trait::async_trait;
use repl_core::convert::ddl::TableDescription;
use repl_core::copy::{KeyBound, KeyRange};
use repl_core::cut::Cut;
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema};
use repl_core::select::Selection;
use repl_core::{ErrorKind, SourcePosition};

use super::{BulkForm, BulkInto, BulkPiece, ConnectorError, EnumType, Result, SourceTable};

/// Makes exact cuts of the source.
#[async_trait]
pub trait SnapshotSource: Send + Sync {
    /// Takes a snapshot and tells which transactions it contains.
    ///
    /// # Errors
    /// When the source refuses.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>>;

    /// Statements (in [`TableDdl::create`], each tolerating that the column is there) that add to
    /// `target` those columns of `schema` whose value in rows written before they were added is
    /// known exactly. Columns of which it is not are left out.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn added_columns(&self, schema: &TableSchema, target: &TableName) -> Result<TableDdl>;

    /// The enum types that values of these tables are made of, as they are now.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn enums(&self, _tables: &[TableName]) -> Result<Vec<EnumType>> {
        Ok(Vec::new())
    }

    /// The selected tables as they are now, for checks before anything runs: nothing is changed at
    /// the source, and the schemas are not numbered.
    ///
    /// # Errors
    /// When the source cannot be reached or captured from.
    async fn tables(&self, selection: &Selection) -> Result<Vec<SourceTable>>;

    /// A position behind everything that is committed at the source now, as text that sorts among
    /// those of the log.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn end(&self) -> Result<SourcePosition>;

    /// The position that a client of the source names by this text.
    ///
    /// # Errors
    /// When it is no position of this engine.
    fn position_of(&self, token: &str) -> Result<SourcePosition>;

    /// Whether rows of this table can be read by their keys ([`Snapshot::open_keys`]).
    fn reads_keys(&self, _table: &TableName) -> bool {
        false
    }

    /// Whether a log that holds everything up to the position `logged` holds what was committed up
    /// to `wanted`, which [`SnapshotSource::end`] or [`SnapshotSource::position_of`] told.
    fn has_reached(&self, logged: &SourcePosition, wanted: &SourcePosition) -> bool;
}

/// One exact cut of the source, held open while tables are read from it.
#[async_trait]
pub trait Snapshot: Send {
    /// What the snapshot contains.
    fn cut(&self) -> Cut;

    /// The statements that make `table` at a replica of the same engine under the name `target`.
    ///
    /// # Errors
    /// When the table is gone or cannot be described.
    async fn ddl(&mut self, table: &TableName, target: &TableName) -> Result<TableDdl>;

    /// Describes `table` for a replica of another engine, in the source's own words. Its columns
    /// that are not generated are those of the schema [`Snapshot::open`] returns.
    ///
    /// # Errors
    /// When the table is gone or cannot be described.
    async fn describe(&mut self, table: &TableName) -> Result<TableDescription>;

    /// Starts reading a table's rows; returns the shape of the images and an estimate of the rows.
    /// The names of the columns, in order, are those of the schema.
    ///
    /// # Errors
    /// When the table is gone.
    async fn open(&mut self, table: &TableName) -> Result<(TableSchema, Option<u64>)>;

    /// The next rows of the opened table, a bounded number of bytes; empty at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn next_rows(&mut self) -> Result<Vec<Row>>;

    /// Starts reading the opened rows in a form that a loader of the same engine takes as it is; none
    /// where it has to be [`Snapshot::next_rows`]. To be called before the first of them.
    ///
    /// # Errors
    /// When the connection breaks, or the table was altered meanwhile.
    async fn begin_bulk(&mut self, _into: &BulkInto<'_>) -> Result<Option<BulkForm>> {
        Ok(None)
    }

    /// The next piece of what [`Snapshot::begin_bulk`] started, a bounded number of bytes; none at
    /// the end.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn next_bulk(&mut self) -> Result<Option<BulkPiece>> {
        let what = "rows were asked for in a form they are not read in";
        Err(ConnectorError::new(ErrorKind::Internal, what))
    }

    /// Another reader of the same cut, for reading in parallel; none where the engine has one only.
    ///
    /// # Errors
    /// When the connection cannot be made.
    async fn share(&mut self) -> Result<Option<Box<dyn Snapshot>>> {
        Ok(None)
    }

    /// The table's present shape, and where to divide it into ranges of its primary key, in the
    /// order that [`Snapshot::open_range`] follows: nowhere when it has no such key or is not larger
    /// than a part.
    ///
    /// # Errors
    /// When the table is gone.
    async fn divide(&mut self, table: &TableName, _part: PartSize) -> Result<Division> {
        let what = format!("table {table} cannot be divided");
        Err(ConnectorError::new(ErrorKind::Internal, what))
    }

    /// Starts reading the rows of a range. The images have the columns of `schema`, which is of a
    /// [`Division`] of this snapshot or of an earlier one.
    ///
    /// # Errors
    /// When the table is gone, was altered, or was emptied after the snapshot was taken.
    async fn open_range(&mut self, schema: &TableSchema, _range: &KeyRange) -> Result<()> {
        let what = format!("table {} cannot be read in parts", schema.table);
        Err(ConnectorError::new(ErrorKind::Internal, what))
    }

    /// Starts reading the rows under these keys, as far as there are any: images in the shape of `schema`,
    /// the table's present one, of which the key's columns count. Rows under keys that the source takes for the same
    /// may come too. False, with nothing opened, where one of the keys cannot be told to the source exactly.
    ///
    /// # Errors
    /// When the table is gone, was altered, or was emptied after the snapshot was taken.
    async fn open_keys(&mut self, schema: &TableSchema, _keys: &[Row]) -> Result<bool> {
        let what = format!("table {} cannot be read by keys", schema.table);
        Err(ConnectorError::new(ErrorKind::Internal, what))
    }

    /// Begins work on one table; what it locks is let go by [`Snapshot::leave`]. Without it the
    /// locks last as long as the snapshot.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn enter(&mut self) -> Result<()> {
        Ok(())
    }

    /// Ends work on a table, after an error as well; false when what was read need not be what the
    /// snapshot holds, because the table was emptied or rewritten in a way that snapshots do not
    /// survive.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn leave(&mut self, _table: &TableName) -> Result<bool> {
        Ok(true)
    }

    /// The columns of a table that the source generates; none where a replica could not compute them by
    /// the same words.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn generated(&mut self, _table: &TableName) -> Result<Vec<GeneratedDdl>> {
        Ok(Vec::new())
    }

    /// Counts the rows of a table.
    ///
    /// # Errors
    /// When the table is gone or the connection breaks.
    async fn count(&mut self, table: &TableName) -> Result<u64> {
        self.open(table).await?;
        let mut count = 0;
        loop {
            match self.next_rows().await?.len() as u64 {
                0 => return Ok(count),
                rows => count += rows,
            }
        }
    }

    /// The tables that have a foreign key, each with the one it refers to; none where it is not cheaper to
    /// ask than to describe every table.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn references(&mut self) -> Result<Option<Vec<(TableName, TableName)>>> {
        Ok(None)
    }

    /// Source ids of transactions that are committed, and may be in the log, but that the snapshot
    /// does not show because the source withholds their commit.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn withheld(&mut self) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }

    /// Ends the snapshot in good order. Dropping it does as well, but some servers complain of it
    /// in their log.
    async fn end(&mut self) {}
}

/// Why `table` cannot be read in the shape it is asked for in.
pub(crate) fn altered(table: &TableName) -> ConnectorError {
    let what = format!("table {table} was altered while it was to be copied");
    ConnectorError::new(ErrorKind::Transient, what)
}

/// How large the parts of a table should be.
#[derive(Clone, Copy, Debug)]
pub struct PartSize {
    /// Rows.
    pub rows: u64,
    /// Bytes at the source.
    pub bytes: u64,
}

/// How a large table is copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Division {
    /// Present shape.
    pub schema: TableSchema,
    /// Where the parts meet, ascending.
    pub bounds: Vec<KeyBound>,
    /// Rows in the table, as far as known.
    pub estimate: Option<u64>,
}

/// Statements that make a table. All identifiers are already quoted for the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDdl {
    /// Before the table: schemas, types, sequences; each tolerates being there already.
    pub before: Vec<String>,
    /// The table itself.
    pub create: Vec<String>,
    /// After the rows were loaded, where it can wait until then: the primary key.
    pub key: Vec<String>,
    /// After it: unique constraints, indexes, check constraints, ownership of sequences.
    pub after: Vec<String>,
    /// After all tables were made: foreign keys.
    pub foreign_keys: Vec<ForeignKeyDdl>,
    /// The columns that the source generates, for saying how to make them.
    pub generated: Vec<GeneratedDdl>,
}

/// A generated column, in words that a replica of the source's engine takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedDdl {
    /// Name, unquoted.
    pub name: String,
    /// Type, with modifiers.
    pub type_name: String,
    /// The expression.
    pub expression: String,
    /// Its values are stored.
    pub stored: bool,
}

impl GeneratedDdl {
    /// What follows the name in a `CREATE TABLE`.
    pub fn definition(&self) -> String {
        let stored = if self.stored { " STORED" } else { "" };
        format!(
            "{} GENERATED ALWAYS AS ({}){stored}",
            self.type_name, self.expression
        )
    }
}

/// A foreign key whose statement is complete once the referenced table's name at the replica is
/// known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKeyDdl {
    /// The table referred to, by its name at the source.
    pub refers: TableName,
    /// Statement up to the referenced table's name.
    pub head: String,
    /// Statement after it.
    pub tail: String,
}

impl ForeignKeyDdl {
    /// The statement, for the name the replica gives the referenced table.
    pub fn statement(&self, referenced: &TableName) -> String {
        format!("{}{}{}", self.head, referenced.quoted(), self.tail)
    }
}
