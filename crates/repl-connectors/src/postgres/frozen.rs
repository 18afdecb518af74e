//! Work on single tables within one snapshot.
//!
//! A transaction keeps the locks of all it has read, and a lock that is kept makes the
//! application's DDL wait, and everything behind that. So each table is read below a savepoint:
//! rolling back to it lets the locks go and keeps the snapshot.

use repl_core::ErrorKind;
use repl_core::schema::TableName;

use super::wire::PgClient;
use crate::seam::{ConnectorError, Result};

const SAVEPOINT: &str = "one_table";

/// Begins work on a table.
pub(super) async fn enter(client: &mut PgClient) -> Result<()> {
    client
        .simple(&format!("SAVEPOINT {SAVEPOINT}"))
        .await
        .map(drop)
}

/// Ends work on a table; false when it was rewritten since the snapshot was taken. TRUNCATE and the
/// like give a table a new file, in which an older snapshot finds nothing: the catalog's row of the
/// snapshot names the former file, the function the present one. As long as the table is locked
/// the file stays. A table that was made or dropped since has no file on one of the sides.
pub(super) async fn leave(client: &mut PgClient, table: &TableName) -> Result<bool> {
    let sql = format!(
        "SELECT c.relkind = 'p' OR c.relfilenode = pg_catalog.pg_relation_filenode(c.oid) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {}",
        literal(&table.schema),
        literal(&table.name)
    );
    // After an error of the work itself this fails too.
    let same = client.simple(&sql).await;
    let undo = format!("ROLLBACK TO SAVEPOINT {SAVEPOINT}; RELEASE SAVEPOINT {SAVEPOINT}");
    client.simple(&undo).await?;
    Ok(same.is_ok_and(|rows| matches!(rows.as_slice(), [row] if row[0].as_deref() == Some("t"))))
}

/// Counts a table's own rows; those of children belong to tables of their own, those of partitions
/// to the partitioned table `whole`.
pub(super) async fn count(client: &mut PgClient, table: &TableName, whole: bool) -> Result<u64> {
    let only = if whole { "" } else { "ONLY " };
    let sql = format!("SELECT pg_catalog.count(*) FROM {only}{}", table.quoted());
    let rows = client.simple(&sql).await?;
    let count = rows
        .first()
        .and_then(|row| row.first()?.as_deref()?.parse().ok());
    count.ok_or_else(|| {
        ConnectorError::new(ErrorKind::Internal, format!("no count of table {table}"))
    })
}

/// A text as SQL.
pub(super) fn literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text)
}
