//! What a replica is asked to do: steps made of whole source transactions.

use std::sync::Arc;

use crate::change::Change;
use crate::codec::Malformed;
use crate::row::Row;
use crate::schema::{TableName, TableSchema};

/// A source table as one replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Shape of the row images.
    pub schema: Arc<TableSchema>,
    /// Name at the replica.
    pub target: TableName,
}

/// One step of a target transaction; steps are applied in order.
#[derive(Clone, Debug)]
pub enum Step {
    /// Net changes of several tables, free of each other's order because foreign keys and user
    /// triggers do not act on the applying session.
    Net(Vec<NetTable>),
    /// Changes one by one in the source's order: the fallback when set-wise application failed or
    /// is not possible.
    Ordered(Vec<(Arc<Route>, Change)>),
    /// Tables emptied together.
    Truncate {
        /// The tables.
        tables: Vec<Arc<Route>>,
        /// RESTART IDENTITY was given.
        restart_identity: bool,
    },
}

/// The net effect of a step on one table. Deletes come first, then updates, then inserts; a key
/// occurs in at most one of the three.
#[derive(Clone, Debug)]
pub struct NetTable {
    /// The table.
    pub route: Arc<Route>,
    /// Images whose key columns name the rows to delete.
    pub deletes: Vec<Row>,
    /// New images of rows that exist; columns may be [`crate::row::Value::Unchanged`], key columns
    /// never are.
    pub updates: Vec<Row>,
    /// Complete images of rows that do not exist.
    pub inserts: Vec<Row>,
    /// For tables without a key: full images and how many equal rows to add (positive) or remove
    /// (negative).
    pub multiset: Vec<(Row, i64)>,
    /// Rows of the table may be newer than the stream ([`crate::copy`]): a delete removes the row
    /// if it is there, a complete image replaces it, an incomplete one changes it if it is there.
    /// Keyed tables only.
    pub settling: bool,
}

impl NetTable {
    /// An empty net change of the table.
    pub fn new(route: Arc<Route>) -> Self {
        NetTable {
            route,
            deletes: Vec::new(),
            updates: Vec::new(),
            inserts: Vec::new(),
            multiset: Vec::new(),
            settling: false,
        }
    }

    /// The rows to be there, told apart for a table that is settling: complete images (inserts and
    /// updates), and updates that leave columns out.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn complete_and_partial(&self) -> Result<(Vec<Row>, Vec<Row>), Malformed> {
        let (mut complete, mut partial) = (self.inserts.clone(), Vec::new());
        for row in &self.updates {
            let list = if row.has_unchanged()? {
                &mut partial
            } else {
                &mut complete
            };
            list.push(row.clone());
        }
        Ok((complete, partial))
    }

    /// True when nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty()
            && self.updates.is_empty()
            && self.inserts.is_empty()
            && self.multiset.is_empty()
    }
}
