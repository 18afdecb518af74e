//! The stream's messages as records of the log.

use repl_core::ErrorKind;
use repl_core::change::RowOp;
use repl_core::failpoint;
use repl_core::record::TxHeader;
use repl_core::schema::{SchemaId, TableName, TableSchema};
use tokio::time::Instant;

use super::{FLUSH_INTERVAL, Stream, injected, protocol};
use crate::postgres::admin::Admin;
use crate::postgres::capture::within;
use crate::postgres::catalog;
use crate::postgres::composites;
use crate::postgres::images::{announced, put_tuple, same_shape};
use crate::postgres::lsn::Lsn;
use crate::postgres::pgoutput::{Message, OldTuple, Relation, Tuple};
use crate::seam::{CapturePort, ConnectorError, Result};

/// A table the stream has announced.
pub(super) struct Table {
    schema: SchemaId,
    columns: usize,
    name: TableName,
    /// Its shape, where values are of composite types.
    composite: Option<TableSchema>,
}

/// The transaction that is being received.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) open: bool,
    xid: u32,
    pub(super) committed_us: i64,
    header: Option<TxHeader>,
    /// Already in the log: only compared.
    known: bool,
    /// Tables whose composite types were looked at for this transaction.
    looked: Vec<u32>,
    rows: u64,
}

impl Stream {
    pub(super) async fn message(
        &mut self,
        message: Message<'_>,
        admin: &mut Admin,
        port: &mut CapturePort,
    ) -> Result<()> {
        if let Message::Insert { relation, .. }
        | Message::Update { relation, .. }
        | Message::Delete { relation, .. } = &message
        {
            self.look_at_composites(*relation, admin, port).await?;
        }
        match message {
            Message::Insert { relation, new } => {
                self.row_change(port, relation, RowOp::Insert, None, Some(new))
            }
            Message::Update { relation, old, new } => {
                let (op, old) = match old {
                    None => (RowOp::Update, None),
                    Some(OldTuple::Key(old)) => (RowOp::UpdateWithKey, Some(old)),
                    Some(OldTuple::Full(old)) => (RowOp::UpdateWithFull, Some(old)),
                };
                self.row_change(port, relation, op, old, Some(new))
            }
            Message::Delete { relation, old } => match old {
                OldTuple::Key(old) => {
                    self.row_change(port, relation, RowOp::DeleteByKey, Some(old), None)
                }
                OldTuple::Full(old) => {
                    self.row_change(port, relation, RowOp::DeleteByFull, Some(old), None)
                }
            },
            Message::Begin {
                commit,
                time_us,
                xid,
            } => {
                // A commit record that starts at or past the log's end is news.
                self.passed(commit)?;
                let header = TxHeader {
                    txid: u64::from(xid),
                    commit_time_us: time_us,
                    origin: String::new(),
                };
                self.transaction = Transaction {
                    open: true,
                    xid,
                    committed_us: time_us,
                    header: Some(header),
                    known: self.overlap.is_open(),
                    looked: Vec::new(),
                    rows: 0,
                };
                Ok(())
            }
            Message::Commit { end } => self.commit(end, port),
            Message::Origin(name) => {
                if let Some(header) = &mut self.transaction.header {
                    header.origin = name.to_owned();
                }
                Ok(())
            }
            Message::Relation(relation) => self.relation(&relation, admin, port).await,
            Message::Truncate {
                relations,
                restart_identity,
            } => self.truncate(port, &relations, restart_identity),
            Message::Logical { .. } | Message::Type => Ok(()),
        }
    }

    /// Begins the log's transaction with its first change: one without changes leaves no trace.
    fn ensure_begun(&mut self, port: &mut CapturePort) -> Result<bool> {
        if !self.transaction.open {
            return Err(protocol("a change outside a transaction"));
        }
        self.transaction.rows += 1;
        if self.transaction.known {
            return Ok(false);
        }
        if let Some(header) = self.transaction.header.take() {
            port.writer.begin(header)?;
        }
        Ok(true)
    }

    fn row_change(
        &mut self,
        port: &mut CapturePort,
        relation: u32,
        op: RowOp,
        old: Option<Tuple<'_>>,
        new: Option<Tuple<'_>>,
    ) -> Result<()> {
        if !self.ensure_begun(port)? {
            return Ok(());
        }
        let table = self
            .tables
            .get(&relation)
            .ok_or_else(|| protocol("a change of a table that was not announced"))?;
        let mut change = port.writer.change();
        change.row_op(op, table.schema);
        for tuple in [old, new].into_iter().flatten() {
            if tuple.size() > self.max_row_bytes {
                return Err(too_large(&table.name, tuple.size(), self.max_row_bytes));
            }
            if tuple.columns() != table.columns {
                return Err(protocol("a row image of another width than announced"));
            }
            put_tuple(&mut change, tuple);
        }
        port.writer.changed()?;
        Ok(())
    }

    fn truncate(
        &mut self,
        port: &mut CapturePort,
        relations: &[u32],
        restart_identity: bool,
    ) -> Result<()> {
        if !self.ensure_begun(port)? {
            return Ok(());
        }
        let schemas = relations
            .iter()
            .map(|oid| self.tables.get(oid).map(|table| table.schema))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| protocol("a truncation of a table that was not announced"))?;
        port.writer.change().truncate(&schemas, restart_identity);
        port.writer.changed()?;
        Ok(())
    }

    fn commit(&mut self, end: Lsn, port: &mut CapturePort) -> Result<()> {
        let transaction = std::mem::take(&mut self.transaction);
        // PostgreSQL 14 also sends transactions without changes; they are never logged, but their
        // commits may wait for us.
        if transaction.rows == 0 {
            return self.keepalive(end, false, port);
        }
        if transaction.known {
            failpoint::hit("pg.capture.before_compare").map_err(injected)?;
            let committed_us = transaction.committed_us;
            return self.overlap.matches(transaction.xid, committed_us, end);
        }
        failpoint::hit("pg.capture.before_append").map_err(injected)?;
        if self.pending.is_empty() {
            self.next_look = Instant::now() + FLUSH_INTERVAL;
        }
        let (seq, offset) = port.writer.commit(&end.position())?;
        self.logged = end;
        self.last = seq;
        self.pending.push_back((offset, end, seq));
        self.counters.0 += 1;
        self.counters.1 += transaction.rows;
        Ok(())
    }

    /// Before a transaction's first row of a table with values of composite types: nothing in the stream
    /// tells that one of them was altered, and a value does not either. What the catalog says now is at
    /// least as new as the row, which was committed before it arrived here.
    async fn look_at_composites(
        &mut self,
        relation: u32,
        admin: &mut Admin,
        port: &mut CapturePort,
    ) -> Result<()> {
        let table = self.tables.get(&relation);
        let Some(shape) = table.and_then(|table| table.composite.as_ref()) else {
            return Ok(());
        };
        if self.transaction.known || self.transaction.looked.contains(&relation) {
            return Ok(());
        }
        let types: Vec<u32> = shape.columns.iter().map(|column| column.type_id).collect();
        let now = composites::now(&mut admin.connection, &types);
        let now = within(port.limits.idle_timeout, "looking at types", now).await?;
        self.transaction.looked.push(relation);
        let mut altered = shape.clone();
        for (column, composites) in altered.columns.iter_mut().zip(now) {
            column.composites = composites;
        }
        if altered.columns != shape.columns {
            let schema = port.writer.schema(altered.clone())?;
            if let Some(table) = self.tables.get_mut(&relation) {
                table.schema = schema;
                table.composite = Some(altered);
            }
        }
        Ok(())
    }

    /// A table's shape: the catalog's if it is the same, so that types carry their names.
    async fn relation(
        &mut self,
        relation: &Relation<'_>,
        admin: &mut Admin,
        port: &mut CapturePort,
    ) -> Result<()> {
        let described = catalog::tables(&mut admin.connection, &port.selection, Some(relation.oid));
        let found = within(port.limits.idle_timeout, "describing a table", described).await?;
        let mut schema = match found.into_iter().next() {
            Some(table) if same_shape(&table, relation) => table.schema,
            // Altered again (or dropped) since: what the stream says is what its rows look like.
            altered => {
                let types: Vec<(u32, i32)> = relation
                    .columns
                    .iter()
                    .map(|column| (column.type_id, column.type_mod))
                    .collect();
                let named = catalog::announced_types(&mut admin.connection, &types);
                let types = within(port.limits.idle_timeout, "naming types", named).await?;
                announced(relation, types, altered.as_ref())
            }
        };
        if let Some(history) = &self.history {
            schema.incarnation = history.incarnation(&schema.incarnation);
        }
        let name = schema.table.clone();
        let columns = schema.columns.len();
        let composite = schema.columns.iter().any(|one| one.composites.is_some());
        let composite = composite.then(|| schema.clone());
        let schema = port.writer.schema(schema)?;
        self.tables.insert(
            relation.oid,
            Table {
                schema,
                columns,
                name,
                composite,
            },
        );
        Ok(())
    }
}

fn too_large(table: &TableName, size: usize, limit: usize) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Configuration,
        format!("a row of {size} bytes exceeds limits.max_row_bytes = {limit}"),
    )
    .table(table.to_string())
    .advice("raise limits.max_row_bytes (and the memory of the daemon) and restart it")
}
