//! Inserts into a table without a key: row images do not hide a second application here.

use anyhow::{Result, ensure};

use super::{Load, fixture};
use crate::pg::{PgBench, PgServer};

const SCRIPTS: [(&str, u32); 1] = [("keyless_insert.sql", 1)];

/// Makes the table `public.keyless_events`.
///
/// # Errors
/// When a statement fails.
pub fn create(server: &PgServer) -> Result<()> {
    server.execute_file(&fixture("keyless_schema.sql"))
}

/// Runs the load to its end.
///
/// # Errors
/// When a client fails.
pub fn run(server: &PgServer, load: Load) -> Result<()> {
    load.run(server, &SCRIPTS)
}

/// Starts the load in the background.
///
/// # Errors
/// When pgbench cannot be started.
pub fn spawn(server: &PgServer, load: Load) -> Result<PgBench> {
    load.spawn(server, &SCRIPTS)
}

/// Installs on a replica a trigger that counts every insert into `table` made from now on, also
/// by sessions in replica role (ENABLE ALWAYS). It counts what was executed and committed, hence
/// also a change that was applied twice and hidden by a later one.
///
/// # Errors
/// When a statement fails.
pub fn install_audit(replica: &PgServer, table: &str) -> Result<()> {
    replica.execute(&format!(
        "CREATE SCHEMA IF NOT EXISTS repl_audit;
         CREATE TABLE IF NOT EXISTS repl_audit.seen (tbl text, op text, at_txid bigint);
         GRANT USAGE ON SCHEMA repl_audit TO PUBLIC;
         GRANT INSERT ON repl_audit.seen TO PUBLIC;
         CREATE OR REPLACE FUNCTION repl_audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
           INSERT INTO repl_audit.seen
           VALUES (TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME, TG_OP, txid_current());
           RETURN NULL;
         END $$;
         DROP TRIGGER IF EXISTS audit_test ON {table};
         CREATE TRIGGER audit_test AFTER INSERT OR UPDATE OR DELETE ON {table}
           FOR EACH ROW EXECUTE FUNCTION repl_audit.note();
         ALTER TABLE {table} ENABLE ALWAYS TRIGGER audit_test;"
    ))
}

/// Rows the audit trigger of `table` has seen for `operation` (`INSERT`, `UPDATE`, `DELETE`).
///
/// # Errors
/// When the query fails.
pub fn audited(replica: &PgServer, table: &str, operation: &str) -> Result<i64> {
    replica.query_i64(&format!(
        "SELECT count(*) FROM repl_audit.seen WHERE tbl = '{table}' AND op = '{operation}'"
    ))
}

/// Checks that no event is there twice and that every batch is whole (1 to 5 rows, as inserted).
///
/// # Errors
/// When a row was applied twice or a transaction in part.
pub fn check_snapshot(server: &PgServer) -> Result<()> {
    let text = server.query(
        "SELECT (SELECT count(*) FROM (SELECT FROM public.keyless_events
                  GROUP BY batch, part HAVING count(*) > 1) d),
                (SELECT count(*) FROM (SELECT FROM public.keyless_events
                  GROUP BY batch HAVING count(*) <> max(parts)) t)",
    )?;
    ensure!(
        text == "0|0",
        "{}: events applied twice | batches in part: {text}",
        server.name()
    );
    Ok(())
}
