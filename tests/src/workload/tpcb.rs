//! pgbench's TPC-B-like transaction: hot rows, an insert without a key.

use anyhow::Result;

use super::Load;
use crate::pg::{PgBench, PgServer};

/// Makes and fills pgbench's tables at `scale` (100,000 accounts each).
///
/// # Errors
/// When pgbench fails.
pub fn create(server: &PgServer, scale: u32) -> Result<()> {
    server
        .pgbench(&["-i", "-q", "-s", &scale.to_string()])
        .map(drop)
}

/// Runs the load to its end.
///
/// # Errors
/// When a client fails.
pub fn run(server: &PgServer, load: Load) -> Result<()> {
    let arguments = arguments(load);
    server
        .pgbench(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        .map(drop)
}

/// Starts the load in the background.
///
/// # Errors
/// When pgbench cannot be started.
pub fn spawn(server: &PgServer, load: Load) -> Result<PgBench> {
    let arguments = arguments(load);
    server.spawn_pgbench(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn arguments(load: Load) -> Vec<String> {
    load.arguments(&[])
}
