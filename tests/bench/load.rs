//! What is written on the primary.

use anyhow::Result;
use repl_tests::pg::PgServer;

use crate::cluster::Cluster;

/// The table of all loads but pgbench's.
pub const ITEMS: &str = "items";

/// Its definition, and what writes into it. The procedures commit as they go, in one session and
/// without waiting for the disk: how the backlog came about is not what is measured.
const ITEMS_SQL: &str = "
CREATE TABLE items (id bigint PRIMARY KEY, k integer NOT NULL, v text NOT NULL);
CREATE PROCEDURE insert_items(first bigint, transactions integer, size integer)
LANGUAGE plpgsql AS $$
BEGIN
    FOR number IN 0 .. transactions - 1 LOOP
        INSERT INTO items
        SELECT first + number::bigint * size + row, row, md5((first + number + row)::text)
        FROM generate_series(0, size - 1) AS row;
        COMMIT;
    END LOOP;
END $$;
CREATE PROCEDURE update_items(range bigint, transactions integer, size integer)
LANGUAGE plpgsql AS $$
DECLARE
    -- Drawn before the statement: a volatile function within it would read the whole table.
    wanted bigint;
BEGIN
    FOR number IN 1 .. transactions LOOP
        FOR row IN 1 .. size LOOP
            wanted := (random() * (range - 1))::bigint;
            UPDATE items SET k = k + 1, v = md5(number::text) WHERE id = wanted;
        END LOOP;
        COMMIT;
    END LOOP;
END $$;";

/// Makes the table everywhere.
///
/// # Errors
/// When a statement fails.
pub fn create_items(cluster: &Cluster) -> Result<()> {
    cluster.execute_everywhere(ITEMS_SQL)
}

/// Inserts `transactions` transactions of `size` rows, ids from `first` upwards.
///
/// # Errors
/// When the primary fails.
pub fn insert_items(primary: &PgServer, first: u64, transactions: u64, size: u64) -> Result<()> {
    primary.execute(&format!(
        "SET synchronous_commit = off; CALL insert_items({first}, {transactions}, {size})"
    ))
}

/// Updates `size` random rows of the first `range` in each of `transactions` transactions.
///
/// # Errors
/// When the primary fails.
pub fn update_items(primary: &PgServer, range: u64, transactions: u64, size: u64) -> Result<()> {
    primary.execute(&format!(
        "SET synchronous_commit = off; CALL update_items({range}, {transactions}, {size})"
    ))
}

/// pgbench's tables.
pub const PGBENCH: [&str; 4] = [
    "pgbench_accounts",
    "pgbench_branches",
    "pgbench_history",
    "pgbench_tellers",
];

/// Makes pgbench's tables everywhere and fills them on the primary.
///
/// # Errors
/// When pgbench fails.
pub fn create_pgbench(cluster: &Cluster, scale: u64) -> Result<()> {
    for server in cluster.servers() {
        server.pgbench(&["-i", "-q", "-I", "dtp"])?;
    }
    // The history has no key. It is only inserted into, so this changes nothing for either side,
    // but whoever might have to update it demands to be told how.
    cluster.execute_everywhere("ALTER TABLE pgbench_history REPLICA IDENTITY FULL")?;
    let scale = scale.to_string();
    cluster
        .primary
        .pgbench(&["-i", "-q", "-I", "g", "-s", &scale])?;
    cluster.primary.execute("VACUUM ANALYZE")
}

/// Runs `transactions` TPC-B transactions from 4 clients.
///
/// # Errors
/// When a client fails.
pub fn run_pgbench(primary: &PgServer, transactions: u64) -> Result<()> {
    primary.execute("ALTER ROLE postgres SET synchronous_commit = off")?;
    let each = (transactions / 4).to_string();
    let run = primary.pgbench(&["-n", "-c4", "-j2", "-t", &each]);
    primary.execute("ALTER ROLE postgres RESET synchronous_commit")?;
    run.map(drop)
}
