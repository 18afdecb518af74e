//! What a replica holds, read without disturbing it.

use async_trait::async_trait;
use repl_core::row::Row;
use repl_core::schema::TableName;
use tokio::sync::{mpsc, oneshot};

use crate::seam::{ConnectorError, GeneratedDdl, ReplicaState, Result};

/// Pieces of rows read ahead.
const AHEAD: usize = 2;

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
    /// As [`repl_core::schema::Column::composites`].
    pub composites: Option<String>,
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

    /// In how many rows each of these columns, if the replica has it, differs from what the source's
    /// expression gives for the row; those that do not are left out. Nothing where the replica's engine
    /// does not take the source's words.
    ///
    /// # Errors
    /// When an expression cannot be computed here or the connection breaks.
    async fn miscomputed(
        &mut self,
        _table: &TableName,
        _generated: &[GeneratedDdl],
    ) -> Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }

    /// Closes the view in good order. Dropping it does as well, but some servers complain of it in
    /// their log.
    async fn end(&mut self) {}
}

/// Where a reader puts the rows it reads: pieces of them, an empty one at the end.
pub(crate) type Pieces = mpsc::Sender<Result<Vec<Row>>>;

/// The asking side of a reader that owns its connection and answers one question after the other.
pub(crate) struct Asking<A> {
    asks: mpsc::Sender<A>,
    rows: Option<mpsc::Receiver<Result<Vec<Row>>>>,
    /// What to say when the reader has ended.
    gone: fn() -> ConnectorError,
}

impl<A> Asking<A> {
    /// A reader's two sides: the asking one, and the questions it is asked.
    pub(crate) fn new(gone: fn() -> ConnectorError) -> (Self, mpsc::Receiver<A>) {
        let (asks, asked) = mpsc::channel(1);
        let rows = None;
        (Asking { asks, rows, gone }, asked)
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T>>) -> A,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let asked = self.asks.send(make(reply)).await;
        asked.map_err(|_| (self.gone)())?;
        answer.await.map_err(|_| (self.gone)())?
    }

    /// Has rows read from now on.
    pub(crate) async fn open(&mut self, make: impl FnOnce(Pieces) -> A) -> Result<()> {
        let (pieces, rows) = mpsc::channel(AHEAD);
        let asked = self.asks.send(make(pieces)).await;
        asked.map_err(|_| (self.gone)())?;
        self.rows = Some(rows);
        Ok(())
    }

    /// The next rows of what was opened; empty at the end.
    pub(crate) async fn next_rows(&mut self) -> Result<Vec<Row>> {
        let Some(rows) = &mut self.rows else {
            return Ok(Vec::new());
        };
        let piece = rows.recv().await.unwrap_or_else(|| Err((self.gone)()));
        if !matches!(&piece, Ok(rows) if !rows.is_empty()) {
            self.rows = None;
        }
        piece
    }

    /// Wants no more of what was opened: a read in progress ends when nobody takes its rows.
    pub(crate) fn stop(&mut self) {
        self.rows = None;
    }
}
