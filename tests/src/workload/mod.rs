//! Load with invariants: what a replica must satisfy at every moment, not only at the end.
//!
//! * [`shop`]: a multi-table foreign-key schema with cascades, many clients.
//! * [`bank`]: money moves between tables; the total never changes in any snapshot.
//! * [`keyless`]: inserts without a key, each row unique by content, and an audit trigger for
//!   replicas: a row applied twice shows.
//! * [`history`]: clients that record durably what the server answered to each commit.
//! * [`tpcb`]: pgbench's own.

pub mod bank;
pub mod history;
pub mod keyless;
pub mod shop;
pub mod tpcb;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::pg::{PgBench, PgServer};

/// Path of a file in `tests/fixtures`.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// How much load, for how long.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Concurrent clients.
    pub clients: u32,
    /// When the load ends.
    pub until: Until,
    /// Seed of the clients' random numbers.
    pub seed: u64,
}

/// The end of a load.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After this many transactions of each client.
    Transactions(u32),
    /// After this many seconds.
    Seconds(u32),
}

impl Load {
    /// A load with a fixed seed.
    #[must_use]
    pub fn new(clients: u32, until: Until) -> Self {
        Self {
            clients,
            until,
            seed: 20_240_229,
        }
    }

    fn arguments(self, scripts: &[(&str, u32)]) -> Vec<String> {
        let (flag, amount) = match self.until {
            Until::Transactions(count) => ("-t", count),
            Until::Seconds(seconds) => ("-T", seconds),
        };
        let mut arguments = vec![
            "-n".to_owned(),
            format!("-c{}", self.clients),
            "-j2".to_owned(),
        ];
        arguments.extend([flag.to_owned(), amount.to_string()]);
        arguments.push(format!("--random-seed={}", self.seed));
        for (script, weight) in scripts {
            arguments.push("-f".to_owned());
            arguments.push(format!("{}@{weight}", fixture(script).display()));
        }
        arguments
    }

    fn run(self, server: &PgServer, scripts: &[(&str, u32)]) -> Result<()> {
        let arguments = self.arguments(scripts);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        server.pgbench(&arguments).map(drop)
    }

    fn spawn(self, server: &PgServer, scripts: &[(&str, u32)]) -> Result<PgBench> {
        let arguments = self.arguments(scripts);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        server.spawn_pgbench(&arguments)
    }
}
