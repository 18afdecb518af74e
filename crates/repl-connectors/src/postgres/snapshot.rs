//! Exact cuts of a PostgreSQL primary: a REPEATABLE READ snapshot and the transactions it shows.
//!
//! No slot, no lock, no pause: `pg_current_snapshot()` tells which transactions are in it, and the
//! log knows each transaction's id.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use repl_core::codec::put_u64;
use repl_core::convert::ddl::TableDescription;
use repl_core::copy::KeyRange;
use repl_core::cut::{Cut, VisibleTransactions};
use repl_core::row::{Row, Value, put_value};
use repl_core::schema::{TableName, TableSchema, quote_identifier};
use repl_core::select::Selection;
use repl_core::{ErrorKind, SourcePosition};
use sqlx::PgConnection;

use super::admin::Admin;
use super::bulk::{self, BulkRead};
use super::catalog::{self, CatalogTable};
use super::ddl;
use super::describe;
use super::divide;
use super::enums;
use super::frozen;
use super::hidden;
use super::lsn::Lsn;
use super::settings::{self, Session};
use super::target::PgTarget;
use super::wire::{PgClient, PgLook};
use crate::answer::answered;
use crate::seam::{
    BulkForm, BulkInto, BulkPiece, ConnectorError, Division, EnumType, GeneratedDdl, PartSize,
    Result, Snapshot, SnapshotSource, SourceTable, TableDdl,
};

/// Rows are handed on in pieces of about this size, bytes.
pub(super) const PIECE_BYTES: usize = 256 * 1024;

/// Begins a snapshot's transaction. No lock is waited for without end, that of a table whose size is asked
/// for included (see [`PgSnapshot::hold`]).
fn begin() -> String {
    format!("SET lock_timeout = '{LOCK_WAIT_S}s'; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
}

/// Takes snapshots of one primary, each over connections of its own.
pub struct PgSnapshots {
    target: PgTarget,
}

impl PgSnapshots {
    /// Snapshots of this server.
    pub fn new(target: PgTarget) -> Self {
        PgSnapshots { target }
    }
}

#[async_trait]
impl SnapshotSource for PgSnapshots {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let look = PgLook::server(&self.target);
        let mut admin = Admin::connect(&self.target, "", "").await?;
        let mut client = settings::connect(&self.target, Session::Reader).await?;
        client.simple(&begin()).await?;
        let rows = client.simple("SELECT pg_current_snapshot()::text").await?;
        // Read after the snapshot was taken: whatever it shows was committed before this position.
        let end = client
            .simple("SELECT pg_current_wal_insert_lsn()::text")
            .await?;
        let visible = visible(&single(rows)?, &single(end)?)?;
        // Moves the WAL past the horizon, so that an idle primary does not leave the copy unjoined.
        answered(admin.prompt_heartbeat(), &look).await?;
        Ok(Box::new(PgSnapshot {
            target: self.target.clone(),
            client,
            catalog: Some(admin.connection),
            exported: None,
            visible,
            ready: None,
            opened: None,
            bulk: None,
        }))
    }

    async fn added_columns(&self, schema: &TableSchema, target: &TableName) -> Result<TableDdl> {
        let mut admin = Admin::connect(&self.target, "", "").await?;
        let described = ddl::added_columns(&mut admin.connection, schema, target);
        answered(described, &PgLook::server(&self.target)).await
    }

    async fn enums(&self, tables: &[TableName]) -> Result<Vec<EnumType>> {
        let mut admin = Admin::connect(&self.target, "", "").await?;
        let read = enums::enums(&mut admin.connection, tables);
        answered(read, &PgLook::server(&self.target)).await
    }

    async fn tables(&self, selection: &Selection) -> Result<Vec<SourceTable>> {
        let mut admin = Admin::connect(&self.target, "", "").await?;
        let work = async {
            admin.preflight().await?;
            catalog::tables(&mut admin.connection, selection, None).await
        };
        let tables = answered(work, &PgLook::server(&self.target)).await?;
        let shown = tables.iter().map(CatalogTable::to_source);
        Ok(shown.collect())
    }

    async fn end(&self) -> Result<SourcePosition> {
        let mut admin = Admin::connect(&self.target, "", "").await?;
        let work = async {
            let end = admin.insert_position().await?;
            // What lies behind the last commit is told by a keepalive only once there is more.
            admin.heartbeat().await?;
            Ok(end.position())
        };
        answered(work, &PgLook::server(&self.target)).await
    }

    fn position_of(&self, token: &str) -> Result<SourcePosition> {
        let lsn = Lsn::parse(token.trim()).ok_or_else(|| {
            ConnectorError::new(ErrorKind::Configuration, format!("{token:?} is not an LSN"))
                .advice("take it after the COMMIT by: SELECT pg_current_wal_insert_lsn()")
        })?;
        Ok(lsn.position())
    }

    fn reads_keys(&self, _table: &TableName) -> bool {
        true
    }

    fn has_reached(&self, logged: &SourcePosition, wanted: &SourcePosition) -> bool {
        has_reached(logged, wanted)
    }
}

fn has_reached(logged: &SourcePosition, wanted: &SourcePosition) -> bool {
    let [logged, wanted] = [logged, wanted].map(Lsn::from_position);
    wanted.is_some() && logged >= wanted
}

/// Longest wait for a table that is to be read, seconds.
const LOCK_WAIT_S: u32 = 10;

struct PgSnapshot {
    target: PgTarget,
    client: PgClient,
    /// Outside the snapshot: describes tables as they are now. A table altered in between makes
    /// its COPY fail, and is copied again from a later snapshot. Further readers have none.
    catalog: Option<PgConnection>,
    /// Name under which further readers find the snapshot.
    exported: Option<String>,
    visible: VisibleTransactions,
    /// The table or range to be read, until the reading begins.
    ready: Option<Ready>,
    /// Number of columns of what is being read as rows.
    opened: Option<usize>,
    bulk: Option<BulkRead>,
}

/// A table or range whose rows are read next.
struct Ready {
    schema: TableSchema,
    /// What selects them.
    query: String,
}

#[async_trait]
impl Snapshot for PgSnapshot {
    fn cut(&self) -> Cut {
        Cut::Transactions(self.visible.clone())
    }

    async fn ddl(&mut self, table: &TableName, target: &TableName) -> Result<TableDdl> {
        let look = PgLook::server(&self.target);
        answered(ddl::table_ddl(self.catalog()?, table, target), &look).await
    }

    async fn generated(&mut self, table: &TableName) -> Result<Vec<GeneratedDdl>> {
        let catalog = self.catalog()?;
        let oid = ddl::table_oid(catalog, table).await?;
        ddl::generated(catalog, oid).await
    }

    async fn describe(&mut self, table: &TableName) -> Result<TableDescription> {
        let look = PgLook::server(&self.target);
        answered(describe::describe(self.catalog()?, table), &look).await
    }

    async fn open(&mut self, table: &TableName) -> Result<(TableSchema, Option<u64>)> {
        let look = PgLook::server(&self.target);
        let (schema, estimate) = answered(shape(self.catalog()?, table), &look).await?;
        self.open_range(&schema, &KeyRange::default()).await?;
        Ok((schema, estimate))
    }

    async fn share(&mut self) -> Result<Option<Box<dyn Snapshot>>> {
        let exported = match &self.exported {
            Some(name) => name.clone(),
            None => single(self.client.simple("SELECT pg_export_snapshot()").await?)?,
        };
        self.exported = Some(exported.clone());
        let mut client = settings::connect(&self.target, Session::Reader).await?;
        client.simple(&begin()).await?;
        client
            .simple(&format!(
                "SET TRANSACTION SNAPSHOT {}",
                ddl::literal(&exported)
            ))
            .await?;
        Ok(Some(Box::new(PgSnapshot {
            target: self.target.clone(),
            client,
            catalog: None,
            exported: Some(exported),
            visible: self.visible.clone(),
            ready: None,
            opened: None,
            bulk: None,
        })))
    }

    async fn divide(&mut self, table: &TableName, part: PartSize) -> Result<Division> {
        let look = PgLook::server(&self.target);
        let (schema, estimate) = answered(shape(self.catalog()?, table), &look).await?;
        let bounds = divide::bounds(&mut self.client, &schema, estimate, part).await?;
        Ok(Division {
            schema,
            bounds,
            estimate,
        })
    }

    async fn open_range(&mut self, schema: &TableSchema, range: &KeyRange) -> Result<()> {
        self.select(schema, &divide::condition(schema, range)).await
    }

    async fn open_keys(&mut self, schema: &TableSchema, keys: &[Row]) -> Result<bool> {
        let condition = divide::keys_condition(schema, keys)?;
        self.select(schema, &condition).await?;
        Ok(true)
    }

    async fn begin_bulk(&mut self, into: &BulkInto<'_>) -> Result<Option<BulkForm>> {
        let Some(ready) = self
            .ready
            .take_if(|ready| into.engine == ready.schema.engine)
        else {
            return Ok(None);
        };
        let read = BulkRead::begin(&mut self.client, &ready.query, &ready.schema, into).await?;
        Ok(Some(self.bulk.insert(read).form))
    }

    async fn next_bulk(&mut self) -> Result<Option<BulkPiece>> {
        bulk::next_piece(&mut self.client, &mut self.bulk).await
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        if let Some(ready) = self.ready.take() {
            let sql = format!("COPY ({}) TO STDOUT", ready.query);
            self.client.copy_out(&sql).await?;
            self.opened = Some(ready.schema.columns.len());
        }
        next_rows(&mut self.client, &mut self.opened).await
    }

    async fn enter(&mut self) -> Result<()> {
        frozen::enter(&mut self.client).await
    }

    async fn leave(&mut self, table: &TableName) -> Result<bool> {
        (self.ready, self.opened, self.bulk) = (None, None, None);
        frozen::leave(&mut self.client, table).await
    }

    async fn count(&mut self, table: &TableName) -> Result<u64> {
        frozen::count(&mut self.client, table, false).await
    }

    async fn references(&mut self) -> Result<Option<Vec<(TableName, TableName)>>> {
        ddl::references(self.catalog()?).await.map(Some)
    }

    /// A commit waits for synchronous standbys after it was written to the WAL, and meanwhile its
    /// transaction counts as running. That of a prepared one is not the waiting session's own.
    async fn withheld(&mut self) -> Result<Vec<u64>> {
        let sql = "WITH waiting AS (SELECT backend_xid FROM pg_catalog.pg_stat_activity \
             WHERE wait_event = 'SyncRep') \
             SELECT backend_xid::text FROM waiting WHERE backend_xid IS NOT NULL UNION \
             SELECT transaction::text FROM pg_catalog.pg_prepared_xacts \
             WHERE EXISTS (SELECT 1 FROM waiting WHERE backend_xid IS NULL)";
        let rows = self.client.simple(sql).await?;
        let ids = rows
            .iter()
            .filter_map(|row| row.first()?.as_deref()?.parse::<u32>().ok());
        // The snapshot's own ids are 64 bits wide; these are their lower halves.
        let full = |id: u32| {
            let same = |running: &&u64| **running as u32 == id;
            self.visible.running.iter().find(same).copied()
        };
        Ok(ids.filter_map(full).collect())
    }

    async fn end(&mut self) {
        // The server drops the snapshot either way.
        let _ = self.client.simple("COMMIT").await;
    }
}

impl PgSnapshot {
    /// The rows of a table that meet the condition are read next.
    async fn select(&mut self, schema: &TableSchema, condition: &str) -> Result<()> {
        self.hold(&schema.table).await?;
        let columns: Vec<String> = schema
            .columns
            .iter()
            .map(|column| quote_identifier(&column.name))
            .collect();
        // ONLY: the rows of partitions and children belong to tables of their own.
        let query = format!(
            "SELECT {} FROM ONLY {}{}",
            columns.join(", "),
            schema.table.quoted(),
            condition
        );
        self.ready = Some(Ready {
            schema: schema.clone(),
            query,
        });
        Ok(())
    }

    fn catalog(&mut self) -> Result<&mut PgConnection> {
        self.catalog.as_mut().ok_or_else(|| {
            let what = "a further reader of a snapshot was asked to describe a table";
            ConnectorError::new(ErrorKind::Internal, what)
        })
    }

    /// Keeps the table from being emptied or rewritten, and verifies that it was not since the
    /// snapshot was taken: those are seen at once by every snapshot, and older ones find it empty
    /// (documentation, "Caveats" of concurrency control). Not waited for without end: whoever holds
    /// the lock may be waiting for another reader of this snapshot, which the server cannot see, or be
    /// a commit that waits for the replica that is copied to.
    async fn hold(&mut self, table: &TableName) -> Result<()> {
        let name = table.quoted();
        let lock = format!("LOCK TABLE ONLY {name} IN ACCESS SHARE MODE");
        self.client.simple(&lock).await.map_err(|mut error| {
            error.table = Some(table.to_string());
            error
        })?;
        let rows = self
            .client
            .simple(&format!(
                "SELECT relfilenode = pg_relation_filenode(oid), row_security_active(oid) \
                 FROM pg_class WHERE oid = {}::regclass",
                ddl::literal(&name)
            ))
            .await?;
        let hidden = rows.first().and_then(|row| row.get(1)?.as_deref()) == Some("t");
        if hidden {
            return Err(hidden::error("the primary's", table, &self.target.user));
        }
        if single(rows)? == "t" {
            return Ok(());
        }
        Err(ConnectorError::new(
            ErrorKind::Transient,
            format!("table {table} was emptied or rewritten while it was to be copied"),
        )
        .table(table.to_string()))
    }
}

async fn shape(
    connection: &mut PgConnection,
    table: &TableName,
) -> Result<(TableSchema, Option<u64>)> {
    // What the planner does: the density last counted, over as many pages as there are now.
    let found: Option<(i64, f64)> = sqlx::query_as(
        "SELECT c.oid::int8,
                CASE WHEN c.reltuples < 0 THEN -1
                     WHEN c.relpages = 0 THEN c.reltuples
                     ELSE c.reltuples / c.relpages * (pg_relation_size(c.oid)
                          / current_setting('block_size')::int8) END::float8
           FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(|e| super::catalog_error::from_sqlx(&e, "looking for a table to copy"))?;
    let gone = || {
        ConnectorError::new(
            ErrorKind::Transient,
            format!("table {table} is gone from the primary"),
        )
        .table(table.to_string())
    };
    let (oid, estimate) = found.ok_or_else(gone)?;
    let tables = catalog::tables(connection, &Selection::default(), Some(oid as u32)).await?;
    let described = tables.into_iter().next().ok_or_else(gone)?;
    Ok((
        described.schema,
        (estimate >= 0.0).then_some(estimate as u64),
    ))
}

fn single(rows: Vec<Vec<Option<String>>>) -> Result<String> {
    rows.into_iter()
        .flatten()
        .flatten()
        .next()
        .ok_or_else(|| ConnectorError::new(ErrorKind::Internal, "the primary returned no snapshot"))
}

/// Reads `xmin:xmax:id,id…` and the position.
fn visible(snapshot: &str, end: &str) -> Result<VisibleTransactions> {
    let parse = || {
        let mut parts = snapshot.splitn(3, ':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let running = parts
            .next()?
            .split(',')
            .filter(|id| !id.is_empty())
            .map(|id| id.parse().ok())
            .collect::<Option<Vec<u64>>>()?;
        let horizon = Lsn::parse(end)?.position().0;
        Some(VisibleTransactions {
            xmin,
            xmax,
            running,
            horizon,
        })
    };
    parse().ok_or_else(|| {
        ConnectorError::new(
            ErrorKind::Internal,
            format!("the primary described its snapshot as `{snapshot}` at `{end}`"),
        )
    })
}

/// The next rows of a running COPY of `opened` columns, all in one buffer; `opened` becomes none at
/// its end.
pub(super) async fn next_rows(
    client: &mut PgClient,
    opened: &mut Option<usize>,
) -> Result<Vec<Row>> {
    let Some(columns) = *opened else {
        return Ok(Vec::new());
    };
    let mut lines = BytesMut::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
    let mut count = 0;
    let end = client.take_copy_data(&mut lines, PIECE_BYTES, &mut count);
    if end.await?.is_some() {
        *opened = None;
    }
    let mut buffer = Vec::with_capacity(lines.len() + lines.len() / 4);
    let mut ends = Vec::with_capacity(count as usize);
    // Within a line a line's end is escaped.
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        parse_line(line, columns, &mut buffer)?;
        ends.push(buffer.len());
    }
    let buffer = Bytes::from(buffer);
    let mut start = 0;
    let row = |end| Row::from_encoded(buffer.slice(std::mem::replace(&mut start, end)..end));
    Ok(ends.into_iter().map(row).collect())
}

/// Decodes one line of COPY's text format (documentation of COPY, "Text Format").
fn parse_line(line: &[u8], columns: usize, out: &mut Vec<u8>) -> Result<()> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    put_u64(out, columns as u64);
    let mut text = Vec::new();
    let mut count = 0;
    if columns > 0 {
        for field in line.split(|&byte| byte == b'\t') {
            count += 1;
            if field == b"\\N" {
                put_value(out, Value::Null);
            } else if field.contains(&b'\\') {
                unescape(field, &mut text);
                put_value(out, Value::Text(&text));
            } else {
                put_value(out, Value::Text(field));
            }
        }
    }
    if count != columns {
        return Err(ConnectorError::new(
            ErrorKind::Internal,
            format!("COPY sent {count} columns instead of {columns}"),
        ));
    }
    Ok(())
}

fn unescape(field: &[u8], text: &mut Vec<u8>) {
    text.clear();
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        text.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(&other) => other,
            None => b'\\',
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_compared_as_numbers() {
        let of = |text: &str| SourcePosition(text.into());
        let reached = |logged: &str, wanted: &str| has_reached(&of(logged), &of(wanted));
        assert!(reached("00000001/00000000", "0/FFFFFFFF"));
        assert!(reached("0000000A/00000000", "9/0") && !reached("00000009/00000000", "A/0"));
        assert!(reached("00000016/B374D848", "16/B374D848"));
        assert!(!reached("00000016/B374D847", "16/B374D848"));
        assert!(!reached("", "0/1") && !reached("00000001/00000000", ""));
    }

    #[test]
    fn copy_lines_are_unescaped() {
        let parse = |line: &[u8], columns| {
            let mut out = Vec::new();
            parse_line(line, columns, &mut out).map(|()| Row::from_encoded(Bytes::from(out)))
        };
        let row = parse(b"a\\tb\\\\\\n\t\\N\t\tx\n", 4).unwrap();
        assert_eq!(
            row.to_vec().unwrap(),
            [
                Value::Text(b"a\tb\\\n"),
                Value::Null,
                Value::Text(b""),
                Value::Text(b"x")
            ]
        );
        assert!(parse(b"a\n", 2).is_err());
        assert!(parse(b"\n", 0).unwrap().to_vec().unwrap().is_empty());
    }

    #[test]
    fn snapshots_are_read() {
        let v = visible("10:20:10,15", "0/FF").unwrap();
        assert_eq!((v.xmin, v.xmax, v.running), (10, 20, vec![10, 15]));
        assert_eq!(v.horizon, "00000000/000000FF");
        assert!(visible("10:20:", "0/1").unwrap().running.is_empty());
        assert!(visible("10", "0/1").is_err());
    }
}
