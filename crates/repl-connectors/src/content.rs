//! What a replica holds, read without disturbing it.

use async_trait::async_trait;
use repl_core::row::Row;
use repl_core::schema::TableName;

use crate::seam::{ReplicaState, Result};

/// Opens views of one replica's content.
#[async_trait]
pub trait ContentSource: Send + Sync {
    /// Opens a view over a connection of its own. It neither waits for the replica's applier nor
    /// makes it wait.
    ///
    /// # Errors
    /// When the replica cannot be reached, or was never attached.
    async fn content(&self) -> Result<Box<dyn Content>>;
}

/// A column of a replica's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentColumn {
    /// Name.
    pub name: String,
    /// The replica computes it by itself.
    pub generated: bool,
}

/// One consistent view of a replica: its checkpoint, its registry of copied tables and all its
/// rows, as of one instant.
#[async_trait]
pub trait Content: Send {
    /// What the replica says of itself, in this view.
    fn state(&self) -> &ReplicaState;

    /// The columns of a table; none at all when the replica has no such table.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn columns(&mut self, table: &TableName) -> Result<Vec<ContentColumn>>;

    /// The tables of a schema, views and the daemon's own tables left out.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn tables(&mut self, schema: &str) -> Result<Vec<TableName>>;

    /// Begins work on one table; what it locks is let go by [`Content::leave`].
    ///
    /// # Errors
    /// When the connection breaks.
    async fn enter(&mut self) -> Result<()>;

    /// Ends work on a table, after an error as well; false when what was read need not be what the
    /// view holds, because the table was emptied or rewritten in a way that views do not survive.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn leave(&mut self, table: &TableName) -> Result<bool>;

    /// Counts the rows of a table.
    ///
    /// # Errors
    /// When there is no such table or the connection breaks.
    async fn count(&mut self, table: &TableName) -> Result<u64>;

    /// Starts reading these columns of a table, in this order.
    ///
    /// # Errors
    /// When the table lacks one or the connection breaks.
    async fn open(&mut self, table: &TableName, columns: &[String]) -> Result<()>;

    /// The next rows of the opened table, a bounded number of bytes, their values in the classes
    /// the replica's applier takes; empty at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn next_rows(&mut self) -> Result<Vec<Row>>;

    /// Closes the view in good order. Dropping it does as well, but some servers complain of it in
    /// their log.
    async fn end(&mut self) {}
}
