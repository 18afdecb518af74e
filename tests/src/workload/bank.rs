//! Transfers between accounts that live in three tables: the total is an invariant of every
//! snapshot, so a torn transaction on a replica shows.

use anyhow::{Result, ensure};

use super::{Load, fixture};
use crate::pg::{PgBench, PgServer};

const SCRIPTS: [(&str, u32); 2] = [("bank_transfer.sql", 9), ("bank_round.sql", 1)];

/// The sum over all accounts, in every snapshot after [`create`].
pub const TOTAL: i64 = 300_000;

/// Makes the tables: 100 accounts of 1,000 in each of `bank.a`, `bank.b` and `bank.c`.
///
/// # Errors
/// When a statement fails.
pub fn create(server: &PgServer) -> Result<()> {
    server.execute_file(&fixture("bank_schema.sql"))
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

/// Checks the invariants in one snapshot and returns the number of transfers it holds: the total,
/// and that the balance of the ledger (a table without a key) explains each table's sum.
///
/// # Errors
/// When the snapshot shows half a transaction.
pub fn check_snapshot(server: &PgServer) -> Result<i64> {
    let text = server.query(
        "WITH sums AS (
           SELECT 'a' AS bank, sum(balance) AS held FROM bank.a UNION ALL
           SELECT 'b', sum(balance) FROM bank.b UNION ALL
           SELECT 'c', sum(balance) FROM bank.c),
         moved AS (
           SELECT bank, coalesce((SELECT sum(amount) FROM bank.ledger WHERE target = bank), 0)
                      - coalesce((SELECT sum(amount) FROM bank.ledger WHERE origin = bank), 0) AS net
           FROM sums)
         SELECT sum(held), count(*) FILTER (WHERE held <> 100000 + net),
                (SELECT count(*) FROM bank.ledger)
         FROM sums JOIN moved USING (bank)",
    )?;
    let fields: Vec<&str> = text.split('|').collect();
    let [total, unexplained, transfers] = fields[..] else {
        anyhow::bail!("unexpected answer {text:?}");
    };
    ensure!(
        total == TOTAL.to_string() && unexplained == "0",
        "a snapshot of {} is no whole-transaction state: total {total} (must be {TOTAL}), \
         {unexplained} tables do not agree with the ledger of {transfers} transfers",
        server.name()
    );
    Ok(transfers.parse()?)
}
