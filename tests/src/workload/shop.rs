//! Customers, orders, order items and stock, tied by foreign keys with cascades.

use anyhow::{Result, ensure};

use super::{Load, fixture};
use crate::pg::{PgBench, PgServer};

const SCRIPTS: [(&str, u32); 4] = [
    ("shop_order.sql", 6),
    ("shop_change.sql", 3),
    ("shop_delete.sql", 1),
    ("shop_bulk.sql", 1),
];

/// The user tables, in an order that respects their foreign keys.
pub const TABLES: [&str; 4] = [
    "shop.stock",
    "shop.customers",
    "shop.orders",
    "shop.order_items",
];

/// Makes the tables and some stock and customers.
///
/// # Errors
/// When a statement fails.
pub fn create(server: &PgServer) -> Result<()> {
    server.execute_file(&fixture("shop_schema.sql"))
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

/// Checks what holds in every snapshot of the shop: each order's total is that of its items, and
/// nothing refers to a row that is not there.
///
/// # Errors
/// When the snapshot shows half a transaction.
pub fn check_snapshot(server: &PgServer) -> Result<()> {
    // One statement is one snapshot.
    let violations = server.query_i64(
        "SELECT (SELECT count(*) FROM shop.orders o WHERE total_cents <> (
                   SELECT coalesce(sum(quantity * price_cents), 0)
                   FROM shop.order_items i WHERE i.order_id = o.id))
              + (SELECT count(*) FROM shop.orders o
                 WHERE NOT EXISTS (SELECT FROM shop.customers c WHERE c.id = o.customer_id))
              + (SELECT count(*) FROM shop.order_items i
                 WHERE NOT EXISTS (SELECT FROM shop.orders o WHERE o.id = i.order_id))",
    )?;
    ensure!(
        violations == 0,
        "a snapshot of {} shows parts of transactions: {violations} violations",
        server.name()
    );
    Ok(())
}
